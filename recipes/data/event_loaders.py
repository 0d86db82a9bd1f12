"""`load_events`: annotations of any known format as one data set."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path

import datasets

from processing.audio_io import audio_duration
from processing.text_files import check_duration
from recipes.data.event_dataset import build_dataset, report_missing
from recipes.data.event_rows import audio_locator, make_row, plain_events, source_of
from recipes.data.formats import READERS as FORMATS
from recipes.data.readers.event_lines import read_event_lines
from recipes.data.readers.guess import guess_format
from recipes.data.readers.tables import read_durations

logger = logging.getLogger(__name__)

READERS = {name: reader.read for name, reader in FORMATS.items() if name != "parquet"}
# Formats that list a recording by its events, so that recordings without events may be known from durations alone.
LISTED_BY_EVENTS = ("desed", "csv", "audioset_strong")


def load_events(path, format=None, audio_dir=None, durations=None, label_names=None) -> datasets.Dataset:
    """Read annotations as a data set with the columns of `event_rows.py`, in memory.

    Overlapping events of one label are kept. So are events that end after the recording; how many is logged.

    Args:
        path: the annotation file; for `audacity` perhaps a folder of label tracks.
        format: one of [`READERS`]; without it the format is told from the contents.
        audio_dir: folder of the recordings. The column `audio` is then a path in it; without it `audio` is what the
            file says (in `timepro synthesize`'s JSON Lines a path relative to the file).
        durations: seconds by recording, named as in the file: a mapping, or a table `filename duration`. It must name
            every recording whose duration the file does not say; in `desed`, `csv` and `audioset_strong` a recording
            that only it names becomes a row without events.
        label_names: display names of AudioSet's MIDs, see [`read_audioset_strong`].

    A duration comes from the file, else from `durations`, else from the header of the recording if `audio_dir` is
    given, else it is `None`.

    Raises:
        ValueError: an unknown or ambiguous format, a malformed row (the message names file, line or JSON path, value
            and fix), ids that repeat, no rows, or recordings without duration.
        FileNotFoundError: the file is missing; or recordings whose headers are needed are, with a list of them all.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f"path {str(path)!r} does not exist; give an annotation file.")
    if format is None:
        format = guess_format(path)
    if format not in READERS:
        raise ValueError(f"format is {format!r}; choose one of {', '.join(READERS)}.")
    if Path(path).is_dir() and format != "audacity":
        raise IsADirectoryError(f"path {str(path)!r} is a folder; give an annotation file.")
    if label_names is not None and format != "audioset_strong":
        raise ValueError(f"label_names is given, but the format is {format!r}; only audioset_strong takes it.")
    clips = READERS[format](path, label_names) if format == "audioset_strong" else READERS[format](path)
    rows = read_event_lines(path) if format == "jsonl" else (
        make_row(
            clip.id, clip.audio, clip.task, plain_events(clip.events), clip.source or source_of(path, format),
            clip.duration, clip.query,
        )
        for clip in clips
    )  # fmt: skip
    if durations is not None:
        rows = _with_durations(rows, durations, path, format)
    rows = _with_unique_ids(_with_audio(rows, audio_dir), path)
    dataset = build_dataset(_without_surprise(rows, path))
    if not len(dataset):
        raise ValueError(f"{path} has no rows; give a file with annotations.")
    return dataset


def _with_durations(rows, durations, path, format):
    if isinstance(durations, Mapping):
        durations = {name: check_duration(value, f"durations[{name!r}]") for name, value in durations.items()}
    else:
        durations = read_durations(durations)
    named, missing = set(), {}
    for row in rows:
        named.add(row["audio"])
        if row["duration"] is None:
            row["duration"] = durations.get(row["audio"])
            if row["duration"] is None:
                missing[row["audio"]] = None
        yield row
    if missing:
        listed = "".join(f"\n  {name}" for name in missing)
        raise ValueError(f"durations lacks {len(missing)} recordings of {path}; add them:{listed}")
    if format in LISTED_BY_EVENTS:
        silent = [name for name in durations if name not in named]
        if silent:
            logger.warning("%s: %d recordings are named by durations alone: rows without events.", path, len(silent))
        for name in silent:
            yield make_row(name, name, "detection", [], source_of(path, format), durations[name])


def _with_audio(rows, audio_dir):
    """Replace names by paths; read the durations that nobody said from the headers of the recordings."""
    locate, seconds, missing = audio_locator(audio_dir), {}, []
    for row in rows:
        row["audio"] = path = locate(row["audio"])
        if audio_dir is not None and row["duration"] is None:
            if path not in seconds:
                seconds[path] = audio_duration(path) if os.path.isfile(path) else None
                if seconds[path] is None:
                    missing.append(path)
            row["duration"] = seconds[path]
        yield row
    report_missing(missing, len(seconds))


def _with_unique_ids(rows, path):
    seen = {}
    for number, row in enumerate(rows, 1):
        if row["id"] in seen:
            raise ValueError(
                f"{path}: the id {row['id']!r} of row {number} is that of row {seen[row['id']]} too; make ids unique."
            )
        seen[row["id"]] = number
        yield row


def _without_surprise(rows, path):
    """Say how many events end after their recordings; they stay as they are."""
    late, example = 0, None
    for row in rows:
        if row["duration"] is not None:
            mine = [event for event in row["events"] if event["offset"] > row["duration"]]
            late += len(mine)
            example = example or (mine and (row["id"], mine[0]["offset"], row["duration"])) or None
        yield row
    if late:
        logger.warning("%s: %d events end after the recording, such as in %r: %s > %s s.", path, late, *example)
