"""Selection tables of Raven, which BirdNET-Analyzer writes too: read only.

    Selection  View           Channel  Begin Time (s)  End Time (s)  Low Freq (Hz)  High Freq (Hz)  Species
    1          Spectrogram 1  1        0.5             1.25          100            2000            dog

Sources: public tables, and Raven Pro's manual.
"""

import csv
from pathlib import PurePosixPath, PureWindowsPath

from space_app.exchange_text import finite_number, recording_of, text_lines

BEGIN, END, OFFSET = "Begin Time (s)", "End Time (s)", "File Offset (s)"
# Raven's users name their columns of labels themselves.
_LABELS = ("Common Name", "Species", "Annotation", "Label", "Class", "Event", "Sound Type", "Call Type", "Tag")
_MEASURES = {
    "selection", "view", "channel", "begin file", "end file", "begin path", "end path", "confidence", "rank",
    "species code", "notes", "comments", "analyst", "model", "lat", "lon", "week", "overlap", "sensitivity",
}  # fmt: skip


def is_raven(path) -> bool:
    """Tell whether the first line of a file is the header of a selection table."""
    first = next((line for line in text_lines(path) if line.strip()), "")
    return BEGIN in first and END in first


def read_raven(path) -> list[dict]:
    """Return `[{"file", "duration", "events"}]` of a selection table, recordings in order of first mention.

    Raven writes a row for each view, waveform and spectrogram: a selection counts once. Where several recordings were
    open together `Begin Time (s)` runs on from one to the next, and `File Offset (s)` is the time in the file. A
    `Confidence` is the score; rows of BirdNET's `nocall` are no events. A recording that no column names is named
    after the table.

    Raises:
        ValueError: a malformed row; no column of labels, or several that may be it; or several recordings without
            `File Offset (s)`.
    """
    found, seen, label_column = {}, set(), None
    for where, row in _rows(path):
        label_column = label_column or _label_column(row, where)
        file = base_name(row.get("Begin File") or row.get("Begin Path") or "") or recording_of(path)
        # Tables that were appended to one another count from 1 again.
        key = (file, row.get("Selection") or where, row[BEGIN], row[END], row[label_column])
        if key in seen:
            continue
        seen.add(key)
        events = found.setdefault(file, [])
        if len(found) > 1 and OFFSET not in row:
            raise ValueError(f"{where}: a second recording {file!r}, but no column {OFFSET!r}; export it too.")
        begin, end = (_number(row, name, where) for name in (BEGIN, END))
        onset = _number(row, OFFSET, where) if row.get(OFFSET) else begin
        score = _number(row, "Confidence", where) if row.get("Confidence") else None
        times = {"onset": onset, "offset": round(onset + end - begin, 9)}
        if row[label_column] != "nocall":
            events.append({**times, "event_label": row[label_column], "score": score})
    found = found or {recording_of(path): []}
    return [{"file": file, "duration": None, "events": events} for file, events in found.items()]


def base_name(path: str) -> str:
    """Return the last part of a path, of whichever system."""
    return PureWindowsPath(path).name if "\\" in path else PurePosixPath(path).name


def _rows(path):
    """Yield `(position, {column: text})`."""
    lines = [(number, line) for number, line in enumerate(text_lines(path), 1) if line.strip()]
    delimiter = "\t" if lines and "\t" in lines[0][1] else ","
    rows = csv.reader((line for _, line in lines), delimiter=delimiter, skipinitialspace=True)
    header = None
    for (number, _), fields in zip(lines, rows):
        fields = [field.strip() for field in fields]
        if header is None:
            header = fields
            if missing := [name for name in (BEGIN, END) if name not in header]:
                raise ValueError(f"{path} is no selection table of Raven: it lacks {', '.join(missing)}.")
            continue
        while len(fields) > len(header) and not fields[-1]:
            fields.pop()
        if len(fields) != len(header):
            raise ValueError(
                f"{path}, line {number} has {len(fields)} fields, but {len(header)} are expected: {fields}."
            )
        yield f"{path}, line {number}", dict(zip(header, fields, strict=True))


def _number(row, name, where) -> float:
    # Raven writes what the language of the computer has.
    value = finite_number(row[name].replace(",", "."))
    if value is None:
        raise ValueError(f"{where}: {name} is {row[name]!r}; give a number of seconds such as 1.25.")
    return value


def _label_column(row, where) -> str:
    by_name = {name.casefold(): name for name in row}
    known = [by_name[name.casefold()] for name in _LABELS if name.casefold() in by_name]
    rest = [name for name in row if name and name.casefold() not in _MEASURES and not name.endswith((")", "#"))]
    if known or len(rest) == 1:
        return (known or rest)[0]
    said = f"has several columns that may be labels, {', '.join(rest)}" if rest else "has no column of labels"
    raise ValueError(f"{where}: the table {said}; name the one that is meant Species, Annotation or Label.")
