"""`Event`: something that sounds from an onset to an offset, in seconds; and `TimeGrid`: the times that can be told.

Nothing but `TimeGrid` converts between seconds, audio frames and time tokens (ticks).
"""

import math
import numbers
import sys
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from functools import cached_property
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


def exact_fraction(value: float) -> Fraction:
    """Return the decimal number that a float is printed as: 0.04 is 1/25, not the nearest binary fraction."""
    return Fraction(repr(float(value)))


@dataclass(frozen=True)
class TimeGrid:
    """Map ticks to audio frames. All arithmetic is exact, so ticks do not drift, however long the clip.

    Tick `i` means `i * time_step` seconds and precedes audio frame `round(i * time_step * frame_rate)`.
    Ties round to even, as `round` does.

    Args:
        frame_rate: audio frames per second.
        time_step: seconds between ticks, one frame or longer.
        max_time: seconds of the longest clip; ticks lie in `[0, max_time)`.

    Raises:
        ValueError: a value is not a finite positive number, or `time_step` is shorter than one frame.
    """

    frame_rate: float = 25.0
    time_step: float = 0.04
    max_time: float = 30.0

    def __post_init__(self):
        for name in ("frame_rate", "time_step", "max_time"):
            value = getattr(self, name)
            is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
            if not is_number or not math.isfinite(value) or value <= 0:
                raise ValueError(f"{name} is {value!r}; give a finite number greater than 0.")
            object.__setattr__(self, name, float(value))
        # A frame rate such as 100 / 3 has no short decimal, so allow for rounding.
        if self._frames_per_tick < 1 - Fraction(1, 10**9):
            raise ValueError(
                f"time_step is {self.time_step:g} s, shorter than one frame of {1 / self.frame_rate:g} s at frame_rate "
                f"{self.frame_rate:g}; give {1 / self.frame_rate:g} or more."
            )

    @cached_property
    def _step(self) -> Fraction:
        return exact_fraction(self.time_step)

    @cached_property
    def _frames_per_tick(self) -> Fraction:
        return self._step * exact_fraction(self.frame_rate)

    @cached_property
    def num_ticks(self) -> int:
        """Number of ticks: every multiple of `time_step` in `[0, max_time)`."""
        return math.ceil(exact_fraction(self.max_time) / self._step)

    @cached_property
    def max_frames(self) -> int:
        """Number of frames that start before `max_time`."""
        return math.ceil(exact_fraction(self.max_time) * exact_fraction(self.frame_rate))

    @cached_property
    def decimals(self) -> int:
        """Number of decimals that write every multiple of `time_step` exactly, at least 2."""
        return max(2, -int(Decimal(repr(self.time_step)).normalize().as_tuple().exponent))

    def tick_seconds(self, tick: int) -> float:
        """Return the time of a tick in seconds: the float nearest to its decimal form."""
        return float(self._check_tick(tick) * self._step)

    def tick_text(self, tick: int) -> str:
        """Return a tick as text, such as `<0.04>`."""
        return f"<{self._spell(self._check_tick(tick))}>"

    def tick_tokens(self) -> list[str]:
        """Return all ticks as text, in order of time."""
        return [f"<{self._spell(tick)}>" for tick in range(self.num_ticks)]

    def tick_frame(self, tick: int) -> int:
        """Return the frame that a tick precedes.

        Strictly increasing in `tick`. If a step is not a whole number of frames, the last tick may point one past the
        last frame; it then occurs in no clip.
        """
        return round(self._check_tick(tick) * self._frames_per_tick)

    def interleave(self, num_frames: int, stride: int = 1) -> list[int]:
        """Return the sequence of ticks and frames of a clip: -1 for the next frame, `i >= 0` for tick `i`.

        Two frames with one tick each are `[0, -1, 1, -1]`; with `stride` 2 they are `[0, -1, -1]`.

        Args:
            num_frames: audio frames of the clip.
            stride: insert only every n-th tick, starting with the first.

        Raises:
            ValueError: `num_frames` is negative, not an integer, or exceeds `max_time`; `stride` is less than 1.
        """
        if isinstance(stride, bool) or not isinstance(stride, numbers.Integral) or stride < 1:
            raise ValueError(f"stride is {stride!r}; give a number of ticks, an integer of 1 or more.")
        if isinstance(num_frames, bool) or not isinstance(num_frames, numbers.Integral) or num_frames < 0:
            raise ValueError(f"num_frames is {num_frames!r}; give a number of frames, an integer of 0 or more.")
        if num_frames > self.max_frames:
            raise ValueError(
                f"num_frames is {num_frames}, but max_time of {self.max_time:g} s holds {self.max_frames} frames; "
                "split the recording or convert the checkpoint with a longer max_time."
            )
        order, tick = [], 0
        next_frame = 0
        for frame in range(num_frames):
            if frame == next_frame:
                order.append(tick)
                tick += stride
                next_frame = self.tick_frame(tick) if tick < self.num_ticks else -1
            order.append(-1)
        return order

    def seconds_to_tick(self, seconds: float) -> int:
        """Return the tick nearest to a time in seconds; times out of range give the first or the last tick."""
        return min(max(self._nearest(seconds), 0), self.num_ticks - 1)

    def seconds_to_text(self, seconds: float) -> str:
        """Return the snapped time as a decimal number, such as `1.24`."""
        return self._spell(self._nearest_multiple(seconds))

    def snap(self, seconds: float) -> float:
        """Return the multiple of `time_step` within `0 .. max_time` nearest to a time in seconds."""
        return float(self._nearest_multiple(seconds) * self._step)

    def _nearest_multiple(self, seconds: float) -> int:
        last = math.floor(exact_fraction(self.max_time) / self._step)
        return min(max(self._nearest(seconds), 0), last)

    def _nearest(self, seconds: float) -> int:
        return round(exact_fraction(_seconds("seconds", seconds)) / self._step)

    def _spell(self, multiple: int) -> str:
        # Integers, because a float with many digits would not print exactly.
        units = multiple * self._step * 10**self.decimals
        whole, rest = divmod(units.numerator, 10**self.decimals)
        return f"{whole}.{rest:0{self.decimals}d}"

    def _check_tick(self, tick: int) -> int:
        if isinstance(tick, bool) or not isinstance(tick, numbers.Integral) or not 0 <= tick < self.num_ticks:
            raise ValueError(f"tick is {tick!r}; give an integer from 0 to {self.num_ticks - 1}.")
        return int(tick)
