"""`split_tiers`: events as tiers without overlap, which Praat and ELAN want."""

import heapq
from collections.abc import Iterable


def split_tiers(events: Iterable) -> list[tuple[str, list]]:
    """Return `(name, events)` of tiers in which no two events overlap; each has the events of one label.

    A tier is named as its label; where events of a label overlap, there are further tiers with a number behind,
    `dog`, `dog 2`. Names are unique, and tiers in order of their first events. Events without length count as overlap
    of others at the same time.
    """
    by_label = {}
    for event in sorted(events):
        by_label.setdefault(event.event_label, []).append(event)
    used, tiers = set(), []
    for label, mine in by_label.items():
        rows, ends, number = [], [], 1
        for event in mine:
            is_free = ends and (ends[0][0] < event.onset or (ends[0][0] == event.onset < event.offset))
            row = heapq.heappop(ends)[1] if is_free else len(rows)
            if row == len(rows):
                rows.append([])
            rows[row].append(event)
            heapq.heappush(ends, (event.offset, row))
        for row in rows:
            name = label
            while name in used or (number > 1 and name in by_label):
                number += 1
                name = f"{label} {number}"
            used.add(name)
            tiers.append((name, row))
    return tiers


def needs_label(event, file: str, kind: str, refused: str = "", names: str = "") -> str:
    """Return the label of an event if a format can hold it.

    Raises:
        ValueError: it is blank, or has one of the characters `refused`, which are called `names`.
    """
    label = event.event_label
    if not label.strip():
        raise ValueError(f"{file!r} has the label {label!r}, but {kind} cannot hold blank labels; name the event.")
    if any(character in label for character in refused):
        raise ValueError(f"{file!r} has the label {label!r}, but {kind} cannot hold {names}; replace them.")
    return label


def whole_milliseconds(event, file: str, kind: str) -> tuple[int, int]:
    """Return onset and offset rounded to milliseconds, for formats that have no finer times.

    Raises:
        ValueError: the two are equal; such formats have no events without length.
    """
    onset, offset = round(1000 * event.onset), round(1000 * event.offset)
    if onset == offset:
        raise ValueError(
            f"{file!r} has an event from {event.onset} to {event.offset} s, but {kind} needs at least a millisecond; "
            "lengthen or drop it."
        )
    return onset, offset
