"""Write rows of `event_rows.py` as JSON Lines, and as other formats through `label_files.py`.

Nothing is written before all rows were checked. What a format cannot hold is an error, never left out: the others hold
one detection row per recording and no ids of their own.
"""

import json
import os
from pathlib import Path

from processing.annotation_tables import format_table
from processing.annotations import write_annotations
from processing.text_files import format_seconds
from recipes.data import event_rows
from recipes.data.label_files import label_format


def write_event_lines(rows, path):
    """Write rows, of any task, as our JSON Lines. Further columns (`question`, ...) are written too."""
    lines = []
    for row in rows:
        ordered = {name: row[name] for name in event_rows.COLUMNS} | dict(row)
        lines.append(json.dumps(ordered, ensure_ascii=False, allow_nan=False) + "\n")
    # Encoded first, so that a character that UTF-8 lacks leaves no half file.
    Path(path).write_bytes("".join(lines).encode("utf-8"))


def write_rows(rows, path, format, durations=None, audio_dir=None) -> list[Path]:
    """Write detection rows in a format of `write_annotations`, and return the paths.

    Args:
        rows: a data set, or dicts like its rows.
        path: file to write; or a folder, one that exists or a name without suffix, for one file per recording.
        format: one of `LABEL_FORMATS`. In `tsv` (DESED's) and `csv` ids are lost: they are read as file names.
        durations: second file to write, DESED's TSV `filename duration`, of the recordings whose duration is known.
        audio_dir: file names are written relative to this folder; without it they are `audio` as it is.

    Raises:
        ValueError: what the format cannot hold: another task, two rows of one recording, and what
            `write_annotations` refuses.
    """
    results, lengths = [], [("filename", "duration")]
    for row in _detection_rows(rows):
        file = row["audio"] if audio_dir is None else _relative(row["audio"], audio_dir)
        results.append({"file": file, "duration": row["duration"], "events": row["events"]})
        if row["duration"] is not None:
            lengths.append((file, format_seconds(row["duration"])))
    paths = write_annotations(results, path, label_format(format))
    if durations is not None:
        Path(durations).write_bytes(format_table(lengths, "\t").encode("utf-8"))
    return paths


def _detection_rows(rows):
    """Yield rows after checking that they say all about their recording, once."""
    seen = set()
    for row in rows:
        if row["task"] != "detection":
            raise ValueError(
                f"row {row['id']!r} has the task {row['task']!r}, but the format holds detection rows; write JSON "
                "Lines, or filter the rows."
            )
        if row["audio"] in seen:
            raise ValueError(f"row {row['id']!r}: {row['audio']!r} has several rows; join their events into one.")
        seen.add(row["audio"])
        yield row


def _relative(audio, audio_dir):
    relative = os.path.relpath(audio, audio_dir)
    if relative.startswith(os.pardir):
        raise ValueError(f"audio is {audio!r}, which is not in audio_dir {str(audio_dir)!r}; give its folder.")
    return relative
