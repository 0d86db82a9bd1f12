"""The JSON Lines of the lighthouse moment retrieval family: Clotho-Moment, UnAV-100, CASTELLA, TUT 2017.

    {"qid": "--0w_1", "query": "A car horn blares", "duration": 299, "vid": "--0w", "relevant_windows": [[27, 28]]}

Other keys (`fg_dB`, `saliency_scores`, ...) say nothing about times and are left out.
"""

from collections.abc import Iterator

from processing.text_files import check_duration, read_json_lines
from recipes.data.event_rows import make_events, make_row, require_keys, require_text, source_of

KEYS = ("qid", "query", "duration", "vid", "relevant_windows")


def read_moment_retrieval(path) -> Iterator[dict]:
    """Yield a grounding row for every query; its events are the windows, of which there may be none.

    Windows that end after `duration` are kept as they are; CASTELLA and UnAV-100 have some.

    Raises:
        ValueError: a malformed line.
    """
    for where, item in read_json_lines(path):
        require_keys(item, KEYS, where)
        if isinstance(item["qid"], bool) or not isinstance(item["qid"], int | str):
            raise ValueError(f"{where}: qid is {item['qid']!r}; give a string or an integer.")
        query, audio = (require_text(item, key, where) for key in ("query", "vid"))
        events = make_events(item["relevant_windows"], query, f"{where}, relevant_windows")
        duration = check_duration(item["duration"], where)
        source = source_of(path, "lighthouse")
        yield make_row(str(item["qid"]), audio, "grounding", events, source, duration, query)
