"""Annotated clips of any known format, ready to be asked about."""

import json
from pathlib import Path

import numpy as np

from processing.audio_io import audio_duration
from processing.events import Event
from processing.text_files import read_lines
from recipes.data.absent_labels import draw_absent_labels
from recipes.data.event_rows import audio_locator
from recipes.data.readers.guess import guess_format
from recipes.data.readers.json_stream import first_byte
from recipes.data.readers.tables import read_durations
from recipes.evaluation.score_questions import read_rows
from recipes.scoring import apply_aliases, read_label_aliases

SEED = 0


def read_clips(
    data,
    data_format=None,
    audio_dir=None,
    durations=None,
    label_aliases=None,
    limit=None,
    num_absent=None,
    needs_audio=False,
) -> tuple[list[dict], dict]:
    """Return annotated clips as rows of `recipes/evaluation/score_questions.py`, and what a report says about them.

    If no row says which labels are `absent`, they are drawn for detection rows from the labels of all detection rows,
    as [`~recipes.data.task_rows.make_task_rows`] draws them with the seed 0: by the id of the row alone.

    Args:
        data: annotations in a format of [`~recipes.data.event_loaders.load_events`]. Our own JSON Lines may do without
            `audio` unless it is needed, and have `absent`, labels that are known not to be heard.
        data_format: name of the format; `None` to tell it from the contents.
        audio_dir: folder of the recordings; `None` for that of `data`.
        durations: table `filename duration`, for recordings whose duration the annotations do not say.
        label_aliases: file of [`~recipes.scoring.read_label_aliases`]; replaces labels of detection rows, also
            among those that are absent. Captions and queries of grounding rows stay.
        limit: only the first clips; labels are drawn as for all.
        num_absent: how many labels are drawn for each row, at most; `None` for all.
        needs_audio: make `audio` a path. Otherwise only `audio_dir` does, and then the durations that are still unknown
            are read from the headers of the recordings.

    Returns:
        The rows; and `data_format`, `label_aliases`, and `absent_queries`: their `source`, which is `data` (they are
        listed there), `drawn` (with `seed` and `num_labels`, from how many labels), or `None` if there cannot be any.

    Raises:
        ValueError: annotations that cannot be read, or durations that are missing.
        OSError: a file is missing; recordings are listed.
    """
    data_format = data_format or _told_format(data)
    if data_format == "jsonl":
        rows = read_rows(data, keys=("id", "audio", "events") if needs_audio else ("id", "events"))
        if durations is not None:
            _fill_durations(rows, durations, data)
    else:
        from recipes.data.event_loaders import load_events  # imports `datasets`, which takes a second

        dataset = load_events(data, data_format, durations=durations)
        rows = [{**row, "events": [Event(**event) for event in row["events"]]} for row in dataset]
    if needs_audio or audio_dir is not None:
        _locate_audio(rows, data, data_format, audio_dir)
    aliases = {} if label_aliases is None else read_label_aliases(label_aliases)
    for row in rows:
        if row["task"] == "detection":
            row["events"] = apply_aliases(row["events"], aliases)
            if row.get("absent"):
                row["absent"] = [aliases.get(label, label) for label in row["absent"]]
    absent_queries = _draw_absent(rows, num_absent)
    rows = rows[:limit]
    if audio_dir is not None and not needs_audio:
        _read_durations_of_audio(rows)
    about = {"data_format": data_format, "label_aliases": None if label_aliases is None else str(label_aliases)}
    return rows, {**about, "absent_queries": absent_queries}


def _told_format(data) -> str:
    try:
        return guess_format(data)
    except ValueError as error:
        if not Path(data).is_dir() and first_byte(data) == b"{" and _has_events(data):
            return "jsonl"
        raise ValueError(f"data: {error} On the command line that is --data-format.") from None


def _has_events(data) -> bool:
    """Say whether a file begins with a row of ours, without audio perhaps."""
    line = next((line for line in read_lines(data) if line.strip()), "")
    try:
        value = json.loads(line)
    except ValueError:
        return False
    return isinstance(value, dict) and "events" in value and "relevant_windows" not in value


def _fill_durations(rows, durations, data):
    seconds = read_durations(durations)
    missing = {}
    for row in rows:
        if row.get("duration") is None:
            name = str(row.get("audio") or row["id"])
            row["duration"] = seconds.get(name)
            if row["duration"] is None:
                missing[name] = None
    if missing:
        listed = "".join(f"\n  {name}" for name in missing)
        raise ValueError(f"durations lacks {len(missing)} recordings of {data}; add them:{listed}")


def _locate_audio(rows, data, data_format, audio_dir):
    folder = Path(audio_dir) if audio_dir is not None else Path(data) if Path(data).is_dir() else Path(data).parent
    locate = audio_locator(folder)
    if data_format == "jsonl":

        def locate(name):
            return str(folder / name)

    for row in rows:
        if row.get("audio"):
            row["audio"] = locate(row["audio"])


def _draw_absent(rows, num_absent) -> dict:
    if any(row.get("absent") is not None for row in rows):
        return {"source": "data"}
    detected = [row for row in rows if row["task"] == "detection"]
    labels = sorted({event.event_label for row in detected for event in row["events"]} - {""})
    if not labels:
        return {"source": None}
    for row in detected:
        if num_absent is None:
            row["absent"] = labels
            continue
        generator = np.random.default_rng([SEED, *str(row["id"]).encode()])
        present = {event.event_label for event in row["events"]}
        row["absent"] = draw_absent_labels(labels, present, num_absent, generator)
    return {"source": "drawn", "seed": SEED, "num_labels": len(labels)}


def _read_durations_of_audio(rows):
    missing, paths = {}, {}
    for row in rows:
        path = row.get("audio")
        if row.get("duration") is None and path:
            if path not in paths:
                paths[path] = audio_duration(path) if Path(path).is_file() else None
                if paths[path] is None:
                    missing[path] = None
            row["duration"] = paths[path]
    if missing:
        from recipes.data.event_dataset import report_missing

        report_missing(list(missing), len(paths))


__all__ = ["read_clips"]
