"""Which label every time of an answer belongs to."""

import re

from processing.answer_text import NO_EVENTS, unescape_label

_LABEL = re.compile(r"(?:^|; )((?:[^\\:;]|\\.)+): ")
_TIME_TOKEN = re.compile(r"<[0-9]+\.[0-9]+>")


def label_places(answer, event_label=None):
    """Return `[(position, label)]`: where an answer in ticks says a time, or that there is none, and of which label.

    Positions count characters. In detection the label stands before its times. In grounding the question named it.

    Args:
        answer: what [`format_events`] writes with `answer_format="ticks"`.
        event_label: the label that a grounding question means; `None` for detection.
    """
    if event_label is not None:
        starts = [0] if answer == NO_EVENTS else [match.start() for match in _TIME_TOKEN.finditer(answer)]
        return [(start, event_label) for start in starts]
    named = [(match.end(), unescape_label(match[1])) for match in _LABEL.finditer(answer)]
    places = []
    for match in _TIME_TOKEN.finditer(answer):
        before = [label for end, label in named if end <= match.start()]
        if before:
            places.append((match.start(), before[-1]))
    return places
