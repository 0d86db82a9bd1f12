"""The JSON Lines of the lighthouse moment retrieval family: Clotho-Moment, UnAV-100, CASTELLA, TUT 2017.

    {"qid": "--0w_1", "query": "A car horn blares", "duration": 299, "vid": "--0w", "relevant_windows": [[27, 28]]}

Other keys (`fg_dB`, `saliency_scores`, ...) are ignored.
"""

from collections.abc import Iterator

from processing.text_files import read_json_lines
from recipes.data.clip import AnnotatedClip, events_of_pairs, make_clip, require_keys, require_text

LIGHTHOUSE_KEYS = ("qid", "query", "duration", "vid", "relevant_windows")


def read_moment_retrieval(path) -> Iterator[AnnotatedClip]:
    """Yield a grounding clip for every query, with the windows, if any, as events.

    Windows that end after `duration`, as in CASTELLA and UnAV-100, are kept.

    Raises:
        ValueError: a malformed line.
    """
    for where, item in read_json_lines(path):
        require_keys(item, LIGHTHOUSE_KEYS, where)
        query, audio = (require_text(item, key, where) for key in ("query", "vid"))
        events = events_of_pairs(item["relevant_windows"], query, f"{where}, relevant_windows")
        yield make_clip(where, item["qid"], events, audio, item["duration"], query=query)
