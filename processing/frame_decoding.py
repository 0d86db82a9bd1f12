"""Frame scores and the events that they indicate: thresholds, merging, and combination with a text answer."""

from dataclasses import replace

import numpy as np

from .answer_text import format_events, prompt_text
from .events import Event, clip_events
from .prefix_cache import score_frames


def frame_events(scores, label, frame_rate, threshold=0.5, median_filter_s=0.0, min_gap_s=0.0, min_length_s=0.0):
    """Return the events of one label, sorted; the score of each is the mean of its frames.

    An event is a run of frames at or above the threshold. Runs less than `min_gap_s` apart are merged.

    Args:
        scores: `(num_frames,)` probabilities.
        frame_rate: frames per second.
        median_filter_s: length of the median filter that is applied first; 0 for none.
        min_length_s: shorter events are dropped.
    """
    size = 2 * int(median_filter_s * frame_rate / 2) + 1
    scores = np.asarray(scores, dtype=np.float64)
    if size > 1 and len(scores):
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(scores, size // 2, mode="edge"), size)
        active = np.median(windows, axis=-1) >= threshold
    else:
        active = scores >= threshold
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
    """Return the events of a text answer with times and scores from the frames, and events that it missed, sorted.

    An event of the text takes the times of the frame event that it overlaps most; each of these is used once. An event
    that no frames confirm keeps its times, and its score is the mean of its frames, which is low.

    Args:
        written: events of one label, from the text.
        heard: events of that label, from the frames, see [`frame_events`].
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


def frame_options(
    config, task, decode=None, return_frame_scores=False, event_labels=None, max_events=None, has_scores=True
):
    """Return how answers use the frame grounder, `None` if they do not.

    Args:
        config: the checkpoint's [`TimeProAudioConfig`].
        decode: `text`, `frames`, `both` or `either`; by default the checkpoint's setting, and `text` for captions.
        event_labels: labels that detection may name; by default those of the frame grounder, or the checkpoint's.
        max_events: maximum number of events of a window; those with the highest scores stay.
        has_scores: whether events keep their scores.

    Raises:
        ValueError: an unknown `decode`, no frame grounder, or none that knows labels for `either`, captions by frames,
            or detection without a set of labels.
    """
    settings = config.frame_grounder or {}
    if decode is None:
        name = "decode" if task == "detection" else "query_decode"
        decode = "text" if task == "captioning" else settings.get(name, "text")
    if decode not in ("text", "frames", "both", "either"):
        raise ValueError(f"decode is {decode!r}; choose text, frames, both or either.")
    if decode == "text" and not return_frame_scores:
        return None
    asked = f"decode is {decode!r} with return_frame_scores={return_frame_scores}"
    if not settings:
        raise ValueError(f"{asked}, but the checkpoint has no frame grounder; train one with `grounder_weight`.")
    if task == "captioning":
        raise ValueError(f"{asked} for task 'captioning'; frames tell no words, so leave it out.")
    labels = event_labels or settings.get("labels") or config.event_labels
    if task == "detection" and not labels:
        raise ValueError(f"{asked}, but the checkpoint has no set of labels; give event_labels for detection.")
    if decode == "either" and not settings["labels"]:
        raise ValueError(f"{asked}, but the checkpoint's frame grounder has no labels; choose both.")
    # What `either` leaves to the frames: what only they were taught.
    heard_labels = sorted(set(settings["labels"] or ()) - set(config.event_labels or ()))
    decoder = {name: settings[name] for name in ("median_filter_s", "min_gap_s", "min_length_s")}
    name = "query_" if task == "grounding" else "either_" if decode == "either" else ""
    decoder["threshold"] = settings[f"{name}threshold"]
    return {
        "decode": decode,
        "labels": list(labels or ()),
        "heard_labels": heard_labels,
        "decoder": decoder,
        "max_events": max_events,
        "has_scores": has_scores,
        "frame_rate": config.frame_rate,
        "is_returned": return_frame_scores,
    }


def score_rows(model, processor, heard, questions, rows, labels):
    """Return for each row `(scores, label)`.

    Scores are `{label: (num_frames,)}` of its query, or in detection of all labels. The label is the one of the frame
    grounder that its query is about, or `None`.

    Args:
        heard: the clips, from [`~processing.prefix_cache.hear`].
        questions: prompts of each clip.
        rows: `{"task", "query"}` in the order of the questions.
    """
    is_detection = rows[0]["task"] == "detection"
    if is_detection:
        # All labels in one pass, whichever prompt asks for detection.
        asked = [[prompt_text("grounding", label) for label in labels]] * len(questions)
    else:
        asked = questions
    scores, about = score_frames(model, processor, heard, asked)
    if is_detection:
        return [(dict(zip(labels, part, strict=True)), None) for part in scores]
    scores = [one for part in scores for one in part]
    return [({row["query"]: one}, label) for row, one, label in zip(rows, scores, about, strict=True)]


def frame_answers(processor, rows, scores, options, written=()):
    """Return `(text, events, truncated)` of each row from its frames, its text or both, and its frame scores.

    Args:
        rows: `{"task", "query", "duration"}`, the duration of the window in seconds.
        scores: from [`score_rows`].
        options: from [`frame_options`].
        written: for each row its text, the parsed events (`None` if it cannot be parsed), and whether it was truncated;
            empty for `frames`.
    """
    answers = []
    for index, (row, (parts, label)) in enumerate(zip(rows, scores, strict=True)):
        text, events, truncated = written[index] if written else (None, None, False)
        if options["decode"] == "either":
            heard = options["heard_labels"]
            if label in heard:
                text, events, truncated = None, _frame_events_of(parts, row["duration"], options, ()), False
            elif row["task"] == "detection" and events is not None:
                rest = [event for event in events if event.event_label not in heard]
                shown = {name: part for name, part in parts.items() if name in heard}
                events = _frame_events_of(shown, row["duration"], options, rest)
        elif options["decode"] != "text":
            events = _frame_events_of(parts, row["duration"], options, events)
        if text is None:
            text = format_events(events, row["task"], processor.grid, processor.answer_format)
        answers.append((text, events, truncated, *([(parts, options["frame_rate"])] if options["is_returned"] else ())))
    return answers


def _frame_events_of(scores, duration, options, written):
    rate, events = options["frame_rate"], []
    for label, part in scores.items():
        heard = frame_events(part, label, rate, **options["decoder"])
        named = [event for event in written or () if event.event_label == label]
        events += refined(named, heard, part, rate) if named else heard
    events += [event for event in written or () if event.event_label not in scores]
    if options["max_events"] is not None and len(events) > options["max_events"]:
        # What was written without a score is as sure as can be.
        events.sort(key=lambda event: -1.0 if event.score is None else -event.score)
        events = events[: options["max_events"]]
    if not options["has_scores"]:
        events = [replace(event, score=None) for event in events]
    return clip_events(sorted(events), duration)


def joined_scores(windows):
    """Return the frame scores of a recording: `labels`, `scores (num_labels, num_frames)`, `onsets (num_frames,)`.

    Args:
        windows: `(window, scores, frame_rate)`, a [`Window`] and its `{label: (num_frames,)}`. In overlaps, frames are
            those of the window whose core they are in. Onsets are in seconds of the recording.
    """
    labels, parts, onsets = list(windows[0][1]), [], []
    for window, scores, frame_rate in windows:
        part = np.stack([scores[label] for label in labels])
        times = window.start + np.arange(part.shape[1]) / frame_rate
        is_core = (times >= window.core_start - 1e-6) & (times < window.core_end - 1e-6)
        parts.append(part[:, is_core])
        onsets.append(times[is_core])
    return {"labels": labels, "scores": np.concatenate(parts, 1), "onsets": np.concatenate(onsets)}


def format_frame_scores(frame_scores, frame_rate) -> str:
    """Return frame scores in the format of sed_scores_eval: tab-separated `onset`, `offset`, and a column per label."""
    onsets, scores = frame_scores["onsets"], frame_scores["scores"]
    lines = ["\t".join(["onset", "offset", *frame_scores["labels"]])]
    ends = [*onsets[1:], *(onsets[-1:] + 1 / frame_rate)]
    for onset, offset, row in zip(onsets, ends, scores.T, strict=True):
        lines.append("\t".join([f"{onset:.3f}", f"{offset:.3f}", *(f"{score:.6f}" for score in row)]))
    return "\n".join(lines) + "\n"
