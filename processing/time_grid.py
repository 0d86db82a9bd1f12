"""`TimeGrid`: the only code that converts between seconds, audio frames and time tokens (ticks)."""

import math
import numbers
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import cached_property


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
        is_number = isinstance(seconds, numbers.Real) and not isinstance(seconds, bool)
        if not is_number or not math.isfinite(seconds):
            raise ValueError(f"seconds is {seconds!r}; give a finite number of seconds.")
        return round(exact_fraction(seconds) / self._step)

    def _spell(self, multiple: int) -> str:
        # Integers, because a float with many digits would not print exactly.
        units = multiple * self._step * 10**self.decimals
        whole, rest = divmod(units.numerator, 10**self.decimals)
        return f"{whole}.{rest:0{self.decimals}d}"

    def _check_tick(self, tick: int) -> int:
        if isinstance(tick, bool) or not isinstance(tick, numbers.Integral) or not 0 <= tick < self.num_ticks:
            raise ValueError(f"tick is {tick!r}; give an integer from 0 to {self.num_ticks - 1}.")
        return int(tick)
