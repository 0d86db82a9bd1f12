"""Vary the length of training clips: a window of a row's clip, or several clips that follow one another.

A clip here is a row whose sound is a list of `pieces`, `{"audio", "stem_index", "start", "duration"}` in seconds; a
piece of duration `None` goes on to the end of its recording. Rows that answer one question (grounding, captioning) are
not joined: nobody knows whether a query is true of the other recordings.
"""

import numpy as np

from processing.events import Event

# What a window leaves of an event is not asked for if it is shorter (seconds).
MIN_HEARD = 0.1
MIN_WINDOW = 2.0
# Windows of the curriculum begin at this length.
FIRST_WINDOW = 1.2
# Events of one label that lie closer than this are one event (seconds).
MERGE_GAP = 0.15


def whole(row) -> dict:
    """Return all of a row as a clip."""
    clip = window(row, 0.0, row["duration"])
    clip["pieces"][0]["duration"] = None
    return clip


def window(row, start: float, duration: float) -> dict:
    """Return the clip of `duration` seconds from `start` on; events are cut at its ends."""
    events = []
    for event in row["events"]:
        onset, offset = max(event["onset"] - start, 0.0), min(event["offset"] - start, duration)
        if offset - onset >= min(MIN_HEARD, event["offset"] - event["onset"]):
            events.append({"onset": round(onset, 3), "offset": round(offset, 3), "event_label": event["event_label"]})
    heard = {event["event_label"] for event in events}
    cut_away = sorted({event["event_label"] for event in row["events"]} - heard)
    piece = {"audio": row["audio"], "stem_index": row.get("stem_index"), "start": start, "duration": duration}
    absent = [*(row.get("absent") or []), *cut_away]
    asked = {key: row.get(key) for key in ("task", "query", "question")}
    return {"pieces": [piece], "duration": duration, "events": events, "absent": absent, **asked}


def join(clips) -> dict:
    """Return the clip in which `clips` follow one another; an event that goes on across a seam is one event."""
    events, start = [], 0.0
    for clip in clips:
        events += [Event(e["onset"] + start, e["offset"] + start, e["event_label"]) for e in clip["events"]]
        start += clip["duration"]
    heard = {event.event_label for event in events}
    absent = [label for label in clips[0]["absent"] if label not in heard]
    merged = [
        {"onset": round(e.onset, 3), "offset": round(e.offset, 3), "event_label": e.event_label}
        for e in merge_same_label(events)
    ]
    pieces = [piece for clip in clips for piece in clip["pieces"]]
    return {"pieces": pieces, "duration": start, "events": merged, "absent": absent}


def merge_same_label(events):
    """Join events of one label that overlap or lie less than 0.15 s apart."""
    merged = []
    for event in sorted(events, key=lambda item: (item.event_label, item.onset)):
        last = merged[-1] if merged else None
        if last and last.event_label == event.event_label and event.onset - last.offset < MERGE_GAP:
            merged[-1] = Event(last.onset, max(last.offset, event.offset), event.event_label)
        else:
            merged.append(event)
    return sorted(merged)


def lists_all(row) -> bool:
    """Return whether a row or clip lists all its events, and does not answer one question."""
    return row.get("task") in (None, "detection")


def draw_clip(rows, index, rng: np.random.Generator, grid, window_share=0.0, join_share=0.0) -> dict:
    """Return row `index` as a clip: whole, or by chance a random window of it, or joined with up to two others.

    Args:
        grid: the checkpoint's [`TimeGrid`]; windows start and end on its ticks, joined clips end before its `max_time`.
        window_share, join_share: shares of the two, 0 to 1 together.
    """
    row = rows[index]
    longest = row["duration"]
    chance = rng.random()
    if chance < window_share and longest > MIN_WINDOW:
        length = int(rng.integers(int(MIN_WINDOW / grid.time_step), int(longest / grid.time_step) + 1))
        start = int(rng.integers(0, int(row["duration"] / grid.time_step) - length + 1))
        return window(row, round(start * grid.time_step, 3), round(length * grid.time_step, 3))
    if chance < window_share + join_share and lists_all(row):
        clips = [whole(row)]
        for other in rng.integers(0, len(rows), int(rng.integers(1, 3))):
            clip = whole(rows[other])
            fits = sum(c["duration"] for c in clips) + clip["duration"] <= grid.max_time
            if fits and lists_all(clip):
                clips.append(clip)
        return join(clips)
    return whole(row)


def edge_window(row, rng: np.random.Generator, grid, length: float) -> dict:
    """Return a window of about `length` seconds in which some event of the row, if it has any, starts or ends."""
    steps = round(min(length, row["duration"]) / grid.time_step)
    latest = int(row["duration"] / grid.time_step) - steps
    if row["events"]:
        event = row["events"][int(rng.integers(len(row["events"])))]
        edge = event["onset" if rng.random() < 0.6 else "offset"] / grid.time_step
        start = min(max(int(edge - rng.uniform(0.1, 0.9) * steps), 0), latest)
    else:
        start = int(rng.integers(0, latest + 1))
    return window(row, round(start * grid.time_step, 3), round(steps * grid.time_step, 3))


def curriculum(rows, num_variants, rng, grid, window_share=0.0, join_share=0.0, curriculum_share=0.0):
    """Yield `num_variants` clips of every row, short ones first.

    Over the first `curriculum_share` of the clips all are windows around the edge of an event, whose length grows from
    1.2 s to the whole clip: to find a time among 15 frames is learnt in a tenth of the time that it takes among 125.
    """
    order = np.concatenate([rng.permutation(len(rows)) for _ in range(num_variants)])
    for place, index in enumerate(order):
        progress = place / (curriculum_share * len(order)) if curriculum_share else 1.0
        row = rows[index]
        if progress < 1:
            # Slow at first, when it has to be found out what to do.
            length = FIRST_WINDOW + progress**2 * (row["duration"] - FIRST_WINDOW)
            yield edge_window(row, rng, grid, length)
        else:
            yield draw_clip(rows, int(index), rng, grid, window_share, join_share)


def group_by_length(samples, batch_size, rng, num_batches=50):
    """Return the samples in nearly the same order, those of one batch of similar `duration`, to spare padding.

    Stretches of `num_batches` batches are sorted by duration, and their batches shuffled.
    """
    ordered, stretch = [], batch_size * num_batches
    for start in range(0, len(samples), stretch):
        part = sorted(samples[start : start + stretch], key=lambda sample: sample["duration"])
        batches = [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
        # A batch that is not full stays last, so that no other is torn apart.
        last = [batches.pop()] if len(batches[-1]) < batch_size else []
        ordered += [sample for i in rng.permutation(len(batches)) for sample in batches[i]]
        ordered += [sample for batch in last for sample in batch]
    return ordered
