"""Scores of audio frames, and the events that they tell: thresholds, repeats, and what a written answer adds."""

import numpy as np
from scipy.ndimage import median_filter

from .events import Event


def frame_coverage(intervals, num_frames, frame_rate):
    """Return the fraction of each frame `(num_frames,)` float32 that intervals `(onset, offset)` in seconds cover."""
    starts = np.arange(num_frames) / frame_rate
    covered = np.zeros(num_frames, dtype=np.float32)
    for onset, offset in intervals:
        part = np.minimum(offset, starts + 1 / frame_rate) - np.maximum(onset, starts)
        covered = np.maximum(covered, np.clip(part * frame_rate, 0, 1))
    return covered.astype(np.float32)


def frame_events(scores, label, frame_rate, threshold=0.5, median_filter_s=0.0, min_gap_s=0.0, min_length_s=0.0):
    """Return the events of one label, sorted; the score of each is the mean of its frames.

    A run of frames at or above the threshold is an event. Runs with less than `min_gap_s` between them are one, so that
    repeats stay apart and a flicker does not part an event.

    Args:
        scores: `(num_frames,)` probabilities.
        frame_rate: frames per second.
        median_filter_s: length of the median filter that the scores pass first; 0 for none.
        min_length_s: shorter events are left out.
    """
    size = 2 * int(median_filter_s * frame_rate / 2) + 1
    scores = np.asarray(scores, dtype=np.float64)
    active = (median_filter(scores, size=size, mode="nearest") if size > 1 else scores) >= threshold
    edges = np.flatnonzero(np.diff(np.concatenate([[False], active, [False]])))
    runs = []
    for start, end in zip(edges[::2].tolist(), edges[1::2].tolist()):
        if runs and (start - runs[-1][1]) / frame_rate < min_gap_s:
            runs[-1][1] = end
        else:
            runs.append([start, end])
    return [
        Event(round(start / frame_rate, 3), round(end / frame_rate, 3), label, float(scores[start:end].mean()))
        for start, end in runs
        if (end - start) / frame_rate >= min_length_s
    ]


def refined(written, heard, scores, frame_rate):
    """Return the events of a written answer with the times and scores of the frames, and what it missed, sorted.

    A written event takes the times of the event that frames of its label overlap most; each of those is taken once.
    One that no frames confirm keeps its times, and has the mean of its frames as its score, which is low.

    Args:
        written: events of one label, from the text.
        heard: events of that label, see [`frame_events`].
        scores: `(num_frames,)` probabilities of that label.
    """
    free, events = list(heard), []
    for event in sorted(written):
        overlaps = [min(event.offset, one.offset) - max(event.onset, one.onset) for one in free]
        if overlaps and max(overlaps) > 0:
            found = free.pop(int(np.argmax(overlaps)))
            events.append(Event(found.onset, found.offset, event.event_label, found.score))
        else:
            start = min(int(event.onset * frame_rate), max(0, len(scores) - 1))
            part = scores[start : max(start + 1, int(np.ceil(event.offset * frame_rate)))]
            score = float(np.mean(part)) if len(part) else None
            events.append(Event(event.onset, event.offset, event.event_label, score))
    return sorted([*events, *free])


__all__ = ["frame_coverage", "frame_events", "refined"]
