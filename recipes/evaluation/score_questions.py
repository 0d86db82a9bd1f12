"""Annotated clips in our own JSON Lines, the questions that are asked about clips, and what the right answers are."""

import json
from itertools import islice

import numpy as np

from processing.answer_text import TASKS
from processing.events import Event
from processing.text_files import check_duration, read_json_lines
from recipes.data.absent_labels import draw_absent_labels


def read_objects(path, limit=None) -> list[tuple[str, dict]]:
    """Return the objects of a JSON Lines file, each with its file and line, as [`read_json_lines`] names them.

    Args:
        limit: only the first objects.

    Raises:
        ValueError: no objects, or a line that is not one.
        OSError: the file cannot be read.
    """
    objects = list(islice(read_json_lines(path), limit))
    for where, values in objects:
        if not isinstance(values, dict):
            raise ValueError(f"{where} is {json.dumps(values)[:60]!r}; give a JSON object.")
    if not objects:
        raise ValueError(f"{path} has no rows; give JSON Lines, one object a line.")
    return objects


def read_rows(data, limit=None, keys=("id", "audio", "events")) -> list[dict]:
    """Return annotated clips, their events as [`Event`], and their `task`.

    Args:
        data: JSON Lines with `id, audio, duration, task, query, events` and perhaps `absent`. Without `task` a row with
            a query is grounding and one without detection.
        limit: only the first clips.
        keys: what every row must have.

    Raises:
        ValueError: no rows, an id that repeats, a row that lacks a key, or a value that cannot be.
        OSError: the file cannot be read.
    """
    rows, seen = [], set()
    for where, row in read_objects(data, limit):
        missing = [key for key in keys if key not in row]
        if missing:
            raise ValueError(f"{where} lacks {missing}; it has {sorted(row)}.")
        if isinstance(row["id"], bool) or not isinstance(row["id"], (str, int)):
            raise ValueError(f"{where} has the id {row['id']!r}; give a string.")
        if row["id"] in seen:
            raise ValueError(f"{where} repeats the id {row['id']!r}; make ids unique.")
        seen.add(row["id"])
        _check_row(row, where, needs_audio="audio" in keys)
        try:
            row["events"] = [Event(e["onset"], e["offset"], e.get("event_label", "")) for e in row["events"]]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{where} has events that cannot be read ({error}); give a list of {{'onset', 'offset', "
                "'event_label'}, in seconds."
            ) from error
        rows.append(row)
    return rows


def _check_row(row, where, needs_audio):
    """Check all but id and events, and fill in the task."""
    query = row["query"] = row.get("query") or None
    if query is not None and not (isinstance(query, str) and query.strip()):
        raise ValueError(f"{where} has the query {query!r}; give a text, or null.")
    task = row["task"] = row.get("task") or ("detection" if query is None else "grounding")
    if task not in TASKS:
        raise ValueError(f"{where} has the task {task!r}; choose one of {', '.join(TASKS)}.")
    if (task == "grounding") != (query is not None):
        raise ValueError(f"{where} has the query {query!r} for {task}; grounding needs one, no other task takes any.")
    if row.get("duration") is not None:
        row["duration"] = check_duration(row["duration"], where)
    absent = row.get("absent")
    if absent is not None and not (isinstance(absent, list) and all(isinstance(x, str) and x.strip() for x in absent)):
        raise ValueError(f"{where} has the absent labels {absent!r}; give a list of texts.")
    if needs_audio and not (isinstance(row["audio"], str) and row["audio"]):
        raise ValueError(f"{where} has the audio {row['audio']!r}; give a path.")


def questions_of(row, num_absent=2) -> list[tuple]:
    """Return the questions `(id, task, query)` about a clip.

    A clip with a query of its own is asked for that alone, one with captions for captions alone, and any other one for
    all its events, for each of its labels, and for labels that it lacks.

    Args:
        row: a clip of [`read_rows`] or [`~recipes.evaluation.score_data.read_clips`].
        num_absent: labels to ask for of those known to be absent, at most; `None` for all of them.
    """
    if row.get("query"):
        return [(row["id"], "grounding", row["query"])]
    if row.get("task") == "captioning":
        return [(row["id"], "captioning", None)]
    present = sorted({event.event_label for event in row["events"]} - {""})
    # Drawn by the clip's id, so that the same clip is always asked the same, whatever stands around it.
    generator = np.random.default_rng(list(str(row["id"]).encode()) or [0])
    absent = sorted(draw_absent_labels(row.get("absent") or [], present, num_absent, generator))
    return [(row["id"], "detection", None), *((row["id"], "grounding", label) for label in present + absent)]


def grounding_pairs(row, answers, num_absent=2) -> list[tuple]:
    """Return `(question, reference, prediction)` of every grounding question about a clip that was answered."""
    pairs = []
    for question in questions_of(row, num_absent):
        if question[1] == "grounding" and question in answers:
            is_own = bool(row.get("query"))
            reference = [event for event in row["events"] if is_own or event.event_label == question[2]]
            pairs.append((question, reference, answers[question]))
    return pairs
