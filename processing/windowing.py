"""Split long recordings into overlapping windows, and merge the windows' answers.

A window overlaps its neighbours on both sides (its strides) and is trusted in its core, which is what remains; the
cores tile the recording. At the border of two windows:

- Events of one label that both windows report in their overlap are one event: best agreement first, one to one. So are
  pieces that the edges of the windows have cut and that meet there.
- A joined event follows the earlier window up to the border of the cores, and the later window from there on.
- An event that only one window reports is kept if its midpoint is in that window's core. If the window's edge cut it,
  it starts or ends at the border of the cores.

If each window reports exactly the events that it contains, cut at its edges, then merging restores the true events, for
windows and overlaps of any length. The only exception, which no rule can resolve: two events of one label that both
span the whole overlap of two windows, ends included (for windows that do not overlap: that touch or cross the border).
A tolerance applies to the ends of the overlap.
"""

import copy
import logging
import math
import numbers
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace

from .events import Event

logger = logging.getLogger(__name__)

# Seconds; the length that the embedded checkpoint was trained on.
DEFAULT_CHUNK_LENGTH_S = 10.0
# Overlap on each side as a fraction of the window, as in transformers' speech recognition pipeline.
DEFAULT_STRIDE = 1 / 6
# Most windows that a warning names.
MAX_NAMED = 8


@dataclass(frozen=True)
class Window:
    """A window of a recording, and the core in which it is trusted; times in seconds of the recording."""

    start: float
    end: float
    core_start: float
    core_end: float
    is_last: bool = False


@dataclass(frozen=True)
class WindowPlan:
    """The layout of windows, in seconds.

    Args:
        chunk_length_s: length of a window.
        stride_left, stride_right: overlap on either side, where a window is not trusted.
        whole_length_s: recordings of up to this length are one window.
        time_step: windows start at multiples of it; 0 for anywhere.
    """

    chunk_length_s: float
    stride_left: float
    stride_right: float
    whole_length_s: float
    time_step: float = 0.0

    def window(self, index: int) -> Window:
        """Return a window that is not the last one of its recording."""
        start = self._start(index)
        end = _tidy(start + self.chunk_length_s)
        return Window(start, end, self._core_start(index), self._core_start(index + 1))

    def last_window(self, index: int, duration: float) -> Window:
        """Return the last window of a recording; it starts early enough to be as long as the others."""
        if duration <= self.whole_length_s:
            return Window(0.0, duration, 0.0, duration, is_last=True)
        start = duration - self.chunk_length_s
        if self.time_step:
            start = _tidy(math.ceil(round(start / self.time_step, 6)) * self.time_step)
        start = min(max(start, 0.0), self._start(index))
        return Window(start, duration, self._core_start(index), duration, is_last=True)

    def split(self, duration: float) -> Iterator[Window]:
        """Yield the windows of a recording."""
        index = 0
        if duration > self.whole_length_s:
            while self.window(index).end < duration:
                yield self.window(index)
                index += 1
        yield self.last_window(index, duration)

    def _start(self, index):
        return _tidy(index * (self.chunk_length_s - self.stride_left - self.stride_right))

    def _core_start(self, index):
        return _tidy(self._start(index) + self.stride_left) if index else 0.0


def plan_windows(
    chunk_length_s: float | None = None,
    stride_length_s: float | tuple[float, float] | None = None,
    max_time: float = 30.0,
    time_step: float = 0.0,
) -> WindowPlan:
    """Check a user's window settings and fill in the defaults.

    Args:
        chunk_length_s: window length in seconds; shorter recordings are one window. By default recordings of up to
            `max_time` are one window, and longer ones are split into windows of 10 s, or `max_time` if that is shorter.
        stride_length_s: seconds of overlap on each side, one number or `(left, right)`, as in transformers' speech
            recognition pipeline; by default a sixth of the window.
        max_time: longest window in seconds.
        time_step: seconds; window length and strides are rounded to multiples of it, so that the times of all windows
            are on one grid.

    Raises:
        ValueError: a length that is not a number, a window longer than `max_time`, or strides that leave a core
            shorter than `time_step`.
    """
    whole = max_time if chunk_length_s is None else _seconds("chunk_length_s", chunk_length_s)
    if chunk_length_s is None:
        chunk_length_s = min(max_time, DEFAULT_CHUNK_LENGTH_S)
    if not 0 < chunk_length_s <= max_time:
        raise ValueError(
            f"chunk_length_s is {chunk_length_s:g}; give seconds, more than 0 and at most max_time, {max_time:g}."
        )
    if stride_length_s is None:
        stride_length_s = chunk_length_s * DEFAULT_STRIDE
    if isinstance(stride_length_s, numbers.Real):
        stride_length_s = (stride_length_s, stride_length_s)
    if not isinstance(stride_length_s, (list, tuple)) or len(stride_length_s) != 2:
        raise ValueError(f"stride_length_s is {stride_length_s!r}; give seconds, or the pair (left, right).")
    strides = [_seconds("stride_length_s", value) for value in stride_length_s]
    length = chunk_length_s
    if time_step:
        length = _tidy(math.floor(round(length / time_step, 6)) * time_step)
        strides = [_tidy(round(stride / time_step) * time_step) for stride in strides]
    if min(strides) < 0 or not length - sum(strides) >= max(time_step, 1e-6):
        raise ValueError(
            f"stride_length_s is {stride_length_s} but chunk_length_s is {chunk_length_s:g}; give strides of 0 or more "
            "seconds that leave something of the window between them."
        )
    return WindowPlan(length, strides[0], strides[1], whole, time_step)


class EventMerger:
    """Merge the events of windows one by one, as this module describes; only events that may continue are held.

    Args:
        tolerance: seconds. Events that come this close to an edge of their window count as cut by it; give the time
            step that the times were rounded to.
    """

    def __init__(self, tolerance: float = 0.0):
        self.tolerance = tolerance
        self._last: Window | None = None
        # From the last window: `(event, border from which its window is trusted, whether its onset is cut)`.
        self._open = []

    def add(self, window: Window, events: Iterable[Event] | None) -> list[Event]:
        """Take the answer of the next window and return the events that are complete.

        Args:
            window: windows must come in order of time.
            events: in seconds of the recording, within the window. `None` if there is no answer: the adjacent windows
                are then trusted to their ends, or to the middle of their overlap.
        """
        if events is None:
            return []
        border, partners = -math.inf, {}
        events = sorted(events)
        if self._last is not None:
            is_next = window.core_start == self._last.core_end
            border = window.core_start if is_next else (self._last.end + window.start) / 2
            partners = self._pair(events, window)
        finished = self._close(set(partners.values()), border)
        opened = []
        for index, event in enumerate(events):
            if index in partners:
                earlier, *trust = self._open[partners[index]]
                opened.append((_join(earlier, event, border), *trust))
            else:
                opened.append((event, border, event.onset <= window.start + self.tolerance))
        self._last, self._open = window, opened
        return finished

    def finish(self) -> list[Event]:
        """Return the events that are still open at the end of the recording."""
        finished = self._close(set(), math.inf)
        self._last, self._open = None, []
        return finished

    def state_dict(self) -> dict:
        """Return the state, ready for JSON."""
        opened = [[event.as_dict(), None if trust == -math.inf else trust, cut] for event, trust, cut in self._open]
        return {"last": self._last and asdict(self._last), "open": opened}

    def load_state_dict(self, state: dict):
        """Restore what [`EventMerger.state_dict`] returned."""
        self._last = state["last"] and Window(**state["last"])
        self._open = [
            (Event.from_dict(event), -math.inf if trust is None else trust, cut) for event, trust, cut in state["open"]
        ]

    def _close(self, continued: set[int], border: float) -> list[Event]:
        """Return the open events that do not continue, except those whose midpoint is in another window's core."""
        end = self._last.end if self._last else math.inf
        finished = []
        for index, (event, trusted_from, is_cut) in enumerate(self._open):
            if index in continued or not trusted_from <= (event.onset + event.offset) / 2 < border:
                continue
            onset = max(event.onset, trusted_from) if is_cut else event.onset
            is_cut = event.offset >= end - self.tolerance
            offset = min(event.offset, border) if is_cut else event.offset
            finished.append(Event(onset, offset, event.event_label, event.score))
        return finished

    def _pair(self, events: list[Event], window: Window) -> dict[int, int]:
        """Return which open event each event of a window continues, by index; best agreement first."""
        end = self._last.end if self._last else math.inf
        ranked = []
        for first, (earlier, *_) in enumerate(self._open):
            for second, later in enumerate(events):
                agreement = _agreement(earlier, later, window.start, end, self.tolerance)
                if agreement is not None:
                    ranked.append((-agreement, first, second))
        partners, taken = {}, set()
        for _, first, second in sorted(ranked):
            if second not in partners and first not in taken:
                partners[second] = first
                taken.add(first)
        return partners


def merge_windows(answers: Iterable[tuple[Window, Iterable[Event] | None]], tolerance: float = 0.0) -> Iterator[Event]:
    """Yield the events of a recording from its windows' answers as they end, unsorted; see [`EventMerger`].

    Args:
        answers: windows in order, each with its events in seconds of the recording, or `None` for no answer.
        tolerance: seconds, see [`EventMerger`].
    """
    merger = EventMerger(tolerance)
    for window, events in answers:
        yield from merger.add(window, events)
    yield from merger.finish()


def _agreement(earlier: Event, later: Event, start: float, end: float, tolerance: float) -> float | None:
    """Return how well two windows' events agree in their overlap `[start, end]`; `None` if they are two events.

    This is the intersection over union of their parts in the overlap; 0 for short events at nearly the same time; -1
    for pieces that meet, one of them cut.
    """
    if earlier.event_label != later.event_label:
        return None
    onsets = [max(event.onset, start) for event in (earlier, later)]
    offsets = [min(event.offset, end) for event in (earlier, later)]
    common = min(offsets) - max(onsets)
    if common > 0:
        return common / (max(offsets) - min(onsets))
    if max(abs(earlier.onset - later.onset), abs(earlier.offset - later.offset)) <= tolerance:
        return 0.0
    num_cuts = (earlier.offset >= end - tolerance) + (later.onset <= start + tolerance)
    return -1.0 if num_cuts and abs(later.onset - earlier.offset) <= num_cuts * tolerance else None


def _join(earlier: Event, later: Event, border: float) -> Event:
    onset = earlier.onset if earlier.onset < border else max(later.onset, border)
    offset = later.offset if later.offset > border else min(earlier.offset, border)
    scores = [event.score for event in (earlier, later) if event.score is not None]
    # The window that saw less of the event is less certain.
    return Event(onset, offset, later.event_label, max(scores, default=None))


class RecordingAnswers:
    """Collect a model's answers about the windows of one recording, for each query.

    Args:
        name: name of the recording in warnings.
        task: one of [`TASKS`].
        queries: `[None]` if the task takes no query.
        tolerance: seconds, see [`EventMerger`].
        min_score: drop events with a lower score; `None` keeps all.
    """

    def __init__(
        self, name: str, task: str, queries: list[str | None], tolerance: float, min_score: float | None = None
    ):
        self.name, self.task, self.queries, self.min_score = name, task, queries, min_score
        # For each query: what merges its events, those that are complete, its windows, and their frame scores.
        self._parts = [(EventMerger(tolerance), [], [], []) for _ in queries]

    def add(self, window: Window, answers: list[tuple]):
        """Take the next window's answers, one for each query.

        Args:
            answers: the text, its events in seconds of the window (`None` if it cannot be parsed), whether it was
                truncated, and its frame scores, if any.
        """
        for part, (text, events, truncated, *scores) in zip(self._parts, answers):
            merger, merged, windows, frames = part
            frames += [(window, *part) for part in scores]
            if events is not None:
                events = shift_to_recording(events, window)
            merged += merger.add(window, events)
            dicts = None if events is None else [event.as_dict() for event in events]
            times = {"start": window.start, "end": window.end}
            windows.append({**times, "text": text, "truncated": truncated, "events": dicts})

    def results(self, is_whole: bool = True) -> list[dict]:
        """Return a result for each query; after the last window, warn about truncated and unparseable answers."""
        return [self._result(query, *part, is_whole) for query, part in zip(self.queries, self._parts)]

    def _result(self, query, merger, events, windows, frames, is_whole):
        # A copy keeps open what further windows may change.
        events = sorted([*events, *(merger if is_whole else copy.copy(merger)).finish()])
        if self.min_score is not None:
            events = [event for event in events if event.score is None or event.score >= self.min_score]
        unread = [window for window in windows if window["events"] is None]
        cut = [window for window in windows if window["truncated"]]
        if is_whole:
            about = f"{len(windows)} answers" + (f" about {query!r}" if query else "")
            self._warn(unread, f"{about} cannot be parsed", "unknown")
            self._warn(cut, f"{about} ran out of room", "incomplete: raise max_new_tokens, or use shorter windows")
        if frames:
            from .frame_decoding import joined_scores  # loads torch
        return {
            "events": None if len(unread) == len(windows) else [event.as_dict() for event in events],
            "duration": windows[-1]["end"],
            "text": "\n".join(window["text"] for window in windows),
            "truncated": bool(cut),
            "windows": list(windows),
            **({"frame_scores": joined_scores(frames)} if frames else {}),
        }

    def _warn(self, some, what, how):
        if some:
            times = ", ".join(f"{window['start']:g}-{window['end']:g} s" for window in some[:MAX_NAMED])
            times += f" and {len(some) - MAX_NAMED} more" if len(some) > MAX_NAMED else ""
            first = some[0]["text"]
            logger.warning(
                "%s: %d of %s, for instance %r; the events of %s are %s.", self.name, len(some), what, first, times, how
            )


def batch_windows(pieces: Iterable[tuple], batch_size: int) -> Iterator[list[tuple]]:
    """Yield lists of windows with at most `batch_size` questions, but at least one window."""
    batch, size = [], 0
    try:
        for piece in pieces:
            num_questions = len(piece[0].queries)
            if batch and size + num_questions > batch_size:
                yield batch
                batch, size = [], 0
            batch.append(piece)
            size += num_questions
            if size >= batch_size:
                yield batch
                batch, size = [], 0
    except (ImportError, OSError, ValueError):
        # Recordings before an unreadable one still get their answers.
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def shift_to_recording(events, window):
    """Return events in seconds of the recording, free of floating-point noise."""
    if not window.start:
        return events
    shifted = []
    for event in events:
        onset, offset = (min(round(time + window.start, 9), window.end) for time in (event.onset, event.offset))
        shifted.append(replace(event, onset=onset, offset=offset))
    return shifted


def _tidy(seconds: float) -> float:
    """Round off the floating-point noise of a sum of decimals."""
    return round(seconds, 9)


def _seconds(name: str, value) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}; give a number of seconds.")
    return float(value)
