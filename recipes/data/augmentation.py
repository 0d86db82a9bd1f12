"""Vary the length of training clips: windows of a clip, or several clips in sequence.

The result is a modified [`AnnotatedClip`] and its audio, a list of pieces `{"audio", "stem_index", "start",
"duration"}` in seconds; a piece of duration `None` extends to the end of its recording. Clips with a single question
(grounding, captioning) are not joined, because it is unknown whether the query is true of other recordings.
"""

from dataclasses import replace

import numpy as np

from processing.events import Event
from recipes.data.clip import AnnotatedClip

# Shorter remains of an event at the edge of a window are dropped (seconds).
MIN_AUDIBLE = 0.1
MIN_WINDOW = 2.0
# Initial window length of the curriculum (seconds).
FIRST_WINDOW = 1.2
# Events of one label that are closer than this are merged (seconds).
MERGE_GAP = 0.15

Cut = tuple[AnnotatedClip, list[dict]]


def whole(clip: AnnotatedClip) -> Cut:
    """Return a whole clip, with its events cut at its end."""
    copy, (piece,) = window(clip, 0.0, clip.duration)
    return copy, [piece | {"duration": None}]


def window(clip: AnnotatedClip, start: float, duration: float) -> Cut:
    """Return `duration` seconds of a clip from `start` on, with events cut at both ends."""
    events = []
    for event in clip.events:
        onset, offset = max(event.onset - start, 0.0), min(event.offset - start, duration)
        if offset - onset >= min(MIN_AUDIBLE, event.duration):
            events.append(replace(event, onset=round(onset, 3), offset=round(offset, 3)))
    absent = clip.absent
    if absent is not None:
        left = {event.event_label for event in events}
        absent = (*absent, *sorted({event.event_label for event in clip.events} - left - {""}))
    piece = {"audio": clip.audio, "stem_index": clip.stem_index, "start": start, "duration": duration}
    return replace(clip, events=events, duration=duration, absent=absent), [piece]


def join_cuts(cuts: list[Cut]) -> Cut:
    """Concatenate clips; an event that continues across a seam is one event.

    A label is absent if every clip that lists absent labels lists it, and no clip has it.
    """
    events, start = [], 0.0
    for clip, _ in cuts:
        events += [replace(event, onset=event.onset + start, offset=event.offset + start) for event in clip.events]
        start += clip.duration
    merged = [replace(e, onset=round(e.onset, 3), offset=round(e.offset, 3)) for e in merge_same_label(events)]
    absent, *others = [clip.absent for clip, _ in cuts if clip.absent is not None] or [None]
    if absent is not None:
        present = {event.event_label for event in events}
        absent = [label for label in absent if label not in present and all(label in other for other in others)]
    unsure = dict.fromkeys(label for clip, _ in cuts for label in clip.unsure)
    copy = replace(cuts[0][0], events=merged, duration=start, absent=absent, unsure=tuple(unsure))
    return copy, [piece for _, pieces in cuts for piece in pieces]


def merge_same_label(events):
    """Merge events of one label that overlap or are less than 0.15 s apart."""
    merged = []
    for event in sorted(events, key=lambda item: (item.event_label, item.onset)):
        last = merged[-1] if merged else None
        if last and last.event_label == event.event_label and event.onset - last.offset < MERGE_GAP:
            merged[-1] = Event(last.onset, max(last.offset, event.offset), event.event_label)
        else:
            merged.append(event)
    return sorted(merged)


def draw_cut(clips, index, rng: np.random.Generator, grid, window_fraction=0.0, join_fraction=0.0) -> Cut:
    """Return clip `index`, at random whole, as a random window, or joined with up to two others.

    Args:
        grid: the checkpoint's [`TimeGrid`]; windows start and end on its ticks, joined clips end before its `max_time`.
        window_fraction, join_fraction: probabilities of the last two; their sum is at most 1.
    """
    clip = clips[index]
    chance = rng.random()
    if chance < window_fraction and clip.duration > MIN_WINDOW:
        steps = int(clip.duration / grid.time_step)
        length = int(rng.integers(int(MIN_WINDOW / grid.time_step), steps + 1))
        start = int(rng.integers(0, steps - length + 1))
        return window(clip, round(start * grid.time_step, 3), round(length * grid.time_step, 3))
    if chance < window_fraction + join_fraction and clip.task == "detection":
        cuts = [whole(clip)]
        for other in rng.integers(0, len(clips), int(rng.integers(1, 3))):
            cut = whole(clips[other])
            fits = sum(c.duration for c, _ in [*cuts, cut]) <= grid.max_time
            if fits and cut[0].task == "detection":
                cuts.append(cut)
        return join_cuts(cuts)
    return whole(clip)


def edge_window(clip, rng: np.random.Generator, grid, length: float) -> Cut:
    """Return a window of about `length` seconds that contains the onset or offset of an event, if there is any."""
    steps = round(min(length, clip.duration) / grid.time_step)
    latest = int(clip.duration / grid.time_step) - steps
    if clip.events:
        event = clip.events[int(rng.integers(len(clip.events)))]
        edge = (event.onset if rng.random() < 0.6 else event.offset) / grid.time_step
        start = min(max(int(edge - rng.uniform(0.1, 0.9) * steps), 0), latest)
    else:
        start = int(rng.integers(0, latest + 1))
    return window(clip, round(start * grid.time_step, 3), round(steps * grid.time_step, 3))


def curriculum(clips, num_variants, rng, grid, window_fraction=0.0, join_fraction=0.0, curriculum_fraction=0.0):
    """Yield `num_variants` [`Cut`]s of every clip, short ones first.

    The first `curriculum_fraction` of them are windows around the onset or offset of an event, whose length grows from
    1.2 s to the whole clip: finding a time among 15 frames is learned ten times faster than among 125.
    """
    order = np.concatenate([rng.permutation(len(clips)) for _ in range(num_variants)])
    for position, index in enumerate(order):
        progress = position / (curriculum_fraction * len(order)) if curriculum_fraction else 1.0
        clip = clips[index]
        if progress < 1:
            # Slow growth at first, while the task itself is being learned.
            length = FIRST_WINDOW + progress**2 * (clip.duration - FIRST_WINDOW)
            yield edge_window(clip, rng, grid, length)
        else:
            yield draw_cut(clips, int(index), rng, grid, window_fraction, join_fraction)


def group_by_length(samples, batch_size, rng, num_batches=50):
    """Return the samples in nearly the same order, but with similar `duration` within each batch, to reduce padding.

    Within each `num_batches` batches, samples are sorted by duration and then batches shuffled.
    """
    ordered, stretch = [], batch_size * num_batches
    for start in range(0, len(samples), stretch):
        part = sorted(samples[start : start + stretch], key=lambda sample: sample["duration"])
        batches = [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
        # An incomplete batch stays last, so that it does not shift the others.
        last = [batches.pop()] if len(batches[-1]) < batch_size else []
        ordered += [sample for i in rng.permutation(len(batches)) for sample in batches[i]]
        ordered += [sample for batch in last for sample in batch]
    return ordered
