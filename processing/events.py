"""`Event`: something that sounds from an onset to an offset, in seconds."""

import math
import numbers
import sys
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

# Zero-width space, word joiner, byte order mark, soft hyphen.
_INVISIBLE = dict.fromkeys((0x200B, 0x2060, 0xFEFF, 0xAD))


def clip_events(events: Iterable["Event"], duration: float) -> list["Event"]:
    """Cut events at the end of a recording and drop those that start there or later.

    Args:
        events: events in seconds from the start of the recording.
        duration: length of the recording in seconds.

    Raises:
        ValueError: `duration` is negative or not finite.
    """
    duration = _seconds("duration", duration)
    if duration < 0:
        raise ValueError(f"duration is {duration} s; give the length of the recording, zero or more seconds.")
    return [
        Event(event.onset, min(event.offset, duration), event.event_label, event.score)
        for event in events
        if event.onset < duration
    ]


def shift_events(events: Iterable["Event"], seconds: float) -> list["Event"]:
    """Move events by `seconds`, later if positive.

    Raises:
        ValueError: an event would start before 0 s, or `seconds` is not finite.
    """
    seconds = _seconds("seconds", seconds)
    events = list(events)
    earliest = min((event.onset for event in events), default=0.0)
    if events and earliest + seconds < 0:
        raise ValueError(
            f"seconds is {seconds}, which would move an onset at {earliest} s before 0; shift by {-earliest} or more."
        )
    return [Event(event.onset + seconds, event.offset + seconds, event.event_label, event.score) for event in events]


def normalize_label(label: str) -> str:
    """Return a label in the form in which labels are compared: Unicode NFC, single spaces, none at the ends.

    [`Event`] normalizes its label, so labels that look equal are equal; case, hyphens and underscores are kept.
    """
    label = label if label.isascii() else unicodedata.normalize("NFC", label.translate(_INVISIBLE))
    return " ".join(label.split())


def _seconds(name: str, value: Any) -> float:
    # Real covers NumPy scalars; bool is a Real too, but True is never meant as one second.
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ValueError(f"{name} is {value!r} ({type(value).__name__}); give a number of seconds.")
    try:
        value = float(value)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}; give a finite number of seconds.")
    # Adding 0.0 turns -0.0 into 0.0, which would otherwise be written with a minus sign.
    return value + 0.0


@dataclass(frozen=True, order=True, slots=True)
class Event:
    """One sound event. Events compare, sort and hash by onset, offset and label; the score is ignored.

    Args:
        onset: start in seconds, zero or more.
        offset: end in seconds, not before the onset.
        event_label: a class name, a query or a caption; see [`normalize_label`].
        score: confidence, higher is more certain; `None` if there is none.

    Raises:
        ValueError: a time is not finite, the order is not 0 <= onset <= offset, or a type is wrong.
    """

    onset: float
    offset: float
    event_label: str = ""
    score: float | None = field(default=None, compare=False)

    def __post_init__(self):
        onset, offset = _seconds("onset", self.onset), _seconds("offset", self.offset)
        if onset < 0:
            raise ValueError(f"onset is {onset} s; an event starts at 0 s or later, so clip or shift it first.")
        if offset < onset:
            raise ValueError(f"offset is {offset} s, before the onset at {onset} s; swap or drop such an event.")
        if not isinstance(self.event_label, str):
            raise ValueError(f"event_label is {self.event_label!r}; give a string, '' for none.")
        object.__setattr__(self, "onset", onset)
        object.__setattr__(self, "offset", offset)
        # Large data sets have few distinct labels, so keep one copy of each.
        object.__setattr__(self, "event_label", sys.intern(normalize_label(self.event_label)))
        if self.score is not None:
            object.__setattr__(self, "score", _score(self.score))

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.offset - self.onset

    def as_dict(self) -> dict[str, Any]:
        """Return `{"onset", "offset", "event_label", "score"}`, ready for JSON."""
        return {"onset": self.onset, "offset": self.offset, "event_label": self.event_label, "score": self.score}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Event":
        """Build an event from what [`Event.as_dict`] returns; label and score may be missing.

        Raises:
            ValueError: `onset` or `offset` is missing, a key is unknown, or a value is wrong.
        """
        missing = [key for key in ("onset", "offset") if key not in values]
        unknown = [key for key in values if key not in ("onset", "offset", "event_label", "score")]
        if missing or unknown:
            raise ValueError(
                f"values has keys {list(values)}: missing {missing}, unknown {unknown}; give onset and offset in "
                "seconds and, if known, event_label and score."
            )
        return cls(**values)


def _score(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ValueError(f"score is {value!r}; give a finite number, or None for no score.")
    return float(value)
