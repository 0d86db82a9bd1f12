"""`RecordingAnswers`: the answers about the windows of one recording, gathered to its results."""

import copy
import logging
from dataclasses import replace

from .answer_text import parse_events
from .events import Event, clip_events
from .frame_decoding import joined_scores
from .windowing import EventMerger, Window

logger = logging.getLogger(__name__)

# How many unreadable windows a warning names.
MAX_NAMED = 8


class RecordingAnswers:
    """Gather what a model answers about the windows of one recording, for each of its queries.

    Args:
        name: what warnings call the recording.
        task: what was asked, see [`TASKS`].
        queries: what was looked for; `[None]` where the task takes no query.
        tolerance: seconds, see [`EventMerger`].
        min_score: events of the recording whose score is lower are left out; `None` for none.
    """

    def __init__(
        self, name: str, task: str, queries: list[str | None], tolerance: float, min_score: float | None = None
    ):
        self.min_score = min_score
        self.name = name
        self.task = task
        self.queries = queries
        self._mergers = [EventMerger(tolerance) for _ in queries]
        self._events = [[] for _ in queries]
        self._windows = [[] for _ in queries]
        self._frames = [[] for _ in queries]

    def add(self, window: Window, answers: list[tuple]):
        """Take the next window's answers, one for each query: the text, its events, and its frame scores, if any."""
        parts = zip(self._mergers, self._events, self._windows, self._frames, answers)
        for merger, merged, windows, frames, (text, events, *scores) in parts:
            frames += [(window, *part) for part in scores]
            if events is not None:
                events = _shift(events, window)
            merged += merger.add(window, events)
            dicts = None if events is None else [event.as_dict() for event in events]
            windows.append({"start": window.start, "end": window.end, "text": text, "events": dicts})

    def results(self, is_whole: bool = True) -> list[dict]:
        """Return a result for each query, and warn of answers that cannot be read if that was the last window."""
        parts = zip(self.queries, self._mergers, self._events, self._windows, self._frames)
        return [self._result(*one, is_whole) for one in parts]

    def _result(self, query, merger, events, windows, frames, is_whole):
        # What more windows may change stays open.
        events = sorted([*events, *(merger if is_whole else copy.copy(merger)).finish()])
        if self.min_score is not None:
            events = [event for event in events if event.score is None or event.score >= self.min_score]
        unread = [window for window in windows if window["events"] is None]
        if unread and is_whole:
            times = ", ".join(f"{window['start']:g}-{window['end']:g} s" for window in unread[:MAX_NAMED])
            times += f" and {len(unread) - MAX_NAMED} more" if len(unread) > MAX_NAMED else ""
            logger.warning(
                "%s: %d of %d answers%s cannot be parsed, for instance %r; the events of %s are unknown.",
                self.name, len(unread), len(windows), f" about {query!r}" if query else "", unread[0]["text"], times,
            )  # fmt: skip
        return {
            "events": None if len(unread) == len(windows) else [event.as_dict() for event in events],
            "duration": windows[-1]["end"],
            "text": "\n".join(window["text"] for window in windows),
            "windows": list(windows),
            **({"frame_scores": joined_scores(frames)} if frames else {}),
        }


def read_answer(
    text: str, task: str, query: str | None, duration: float, scored: list[Event] | None = None
) -> list[Event] | None:
    """Return the events of an answer about a window of `duration` seconds, in its seconds; `None`: unparseable.

    Args:
        scored: the events of the text with their scores, if these are known.
    """
    events = parse_events(text, task=task, event_label=query or "") if scored is None else scored
    # Frames are rounded up to the grid, so a time may pass the end by less than one step.
    return None if events is None else clip_events(events, duration)


def _shift(events, window):
    """Return events in seconds of the recording, free of what floating point adds to sums of decimals."""
    if not window.start:
        return events
    shifted = []
    for event in events:
        onset, offset = (min(round(time + window.start, 9), window.end) for time in (event.onset, event.offset))
        shifted.append(replace(event, onset=onset, offset=offset))
    return shifted


__all__ = ["RecordingAnswers", "read_answer"]
