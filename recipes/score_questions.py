"""Annotated clips, the questions that are asked about them, and what the right answers are."""

import json
from itertools import islice
from pathlib import Path

import numpy as np

from processing.events import Event


def read_json_lines(path, name, limit=None) -> list[tuple[int, dict]]:
    """Return the objects of a JSON Lines file with their line numbers, from 1; blank lines are passed over.

    Args:
        path: file in UTF-8, with or without a byte order mark.
        name: what errors call the file.
        limit: only the first objects.

    Raises:
        ValueError: no objects, or a line that is not one; the error names file and line.
        OSError: the file cannot be read.
    """
    try:
        # Not splitlines(): labels may hold U+2028 and its like, which JSON leaves as they are.
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is {str(path)!r}, which is not UTF-8 ({error}); give JSON Lines.") from error
    objects = []
    for number, line in islice(((n, line) for n, line in enumerate(lines, 1) if line.strip()), limit):
        try:
            values = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{name} is {str(path)!r}: line {number} is not JSON ({error}).") from error
        if not isinstance(values, dict):
            raise ValueError(f"{name} is {str(path)!r}: line {number} is {line.strip()[:60]!r}; give a JSON object.")
        objects.append((number, values))
    if not objects:
        raise ValueError(f"{name} is {str(path)!r}, which has no rows; give JSON Lines, one object a line.")
    return objects


def read_rows(data, limit=None, keys=("id", "audio", "events")) -> list[dict]:
    """Return annotated clips, their events as [`Event`].

    Args:
        data: JSON Lines with `id, audio, duration, task, query, events` and perhaps `absent`.
        limit: only the first clips.
        keys: what every row must have.

    Raises:
        ValueError: no rows, an id that repeats, a row that lacks a key, or events that are none.
        OSError: the file cannot be read.
    """
    rows, seen = [], set()
    for number, row in read_json_lines(data, "data", limit):
        missing = [key for key in keys if key not in row]
        if missing:
            raise ValueError(f"data is {str(data)!r}: row {number} lacks {missing}; it has {sorted(row)}.")
        if not isinstance(row["id"], (str, int)):
            raise ValueError(f"data is {str(data)!r}: the id of row {number} is {row['id']!r}; give a string.")
        if row["id"] in seen:
            raise ValueError(f"data is {str(data)!r}: the id {row['id']!r} of row {number} repeats; make ids unique.")
        seen.add(row["id"])
        try:
            row["events"] = [Event(e["onset"], e["offset"], e.get("event_label", "")) for e in row["events"]]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(
                f"data is {str(data)!r}: row {number} has events that cannot be read ({error}); give a list of "
                "{'onset', 'offset', 'event_label'}, in seconds."
            ) from error
        rows.append(row)
    return rows


def questions_of(row, num_absent=2) -> list[tuple]:
    """Return the questions `(id, task, query)` about a clip: its own query if it has one, else all of them.

    Args:
        row: a clip of [`read_rows`].
        num_absent: labels to ask for of those known to be absent, at most; `None` for all of them.
    """
    if row.get("query"):
        return [(row["id"], "grounding", row["query"])]
    present = sorted({event.event_label for event in row["events"]})
    absent = sorted(set(row.get("absent") or []) - set(present))
    # Drawn by the clip's id, so that the same clip is always asked the same, whatever stands around it.
    generator = np.random.default_rng(list(str(row["id"]).encode()) or [0])
    absent = [absent[i] for i in sorted(generator.permutation(len(absent))[:num_absent])]
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
