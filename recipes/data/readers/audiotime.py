"""AudioTime (github.com/zeyuxie29/AudioTime): clips made of AudioSet events, one JSON object for all.

    {"syn_1": {"event": {"Jackhammer": [[7.66, 10.0]]}, "caption": "..."}}

Its timestamp and ordering files hold intervals. The frequency files hold onsets and the duration files lengths instead:
reading them is an error.
"""

from collections.abc import Iterator

from recipes.data.clip import AnnotatedClip, events_of_pairs, make_clip, require_keys
from recipes.data.readers.json_stream import read_json_object


def read_audiotime(path) -> Iterator[AnnotatedClip]:
    """Yield a detection clip for every member, named by its key. The caption describes the whole clip and is ignored.

    Raises:
        ValueError: a malformed clip; the message names its position in the JSON.
    """
    for where, key, clip in read_json_object(path):
        require_keys(clip, ("event",), where)
        labels, events = clip["event"], []
        if not isinstance(labels, dict):
            raise ValueError(f"{where}.event is {labels!r}; give an object of labels and their intervals.")
        for label, intervals in labels.items():
            place = f"{where}.event[{label!r}]"
            if isinstance(intervals, list) and intervals and all(isinstance(time, int | float) for time in intervals):
                raise ValueError(
                    f"{place} is {intervals}, single numbers; the frequency and duration files of AudioTime have no "
                    "intervals, so load its timestamp or ordering files."
                )
            events += events_of_pairs(intervals, label, place)
        yield make_clip(where, key, events, key)
