"""Selection tables of Raven, and what BirdNET-Analyzer writes: such tables, and a CSV of its own.

    Selection  View           Channel  Begin Time (s)  End Time (s)  Low Freq (Hz)  High Freq (Hz)  Species
    1          Spectrogram 1  1        0.5             1.25          100            2000            dog

    Start (s),End (s),Scientific name,Common name,Confidence,File

Sources: public tables, Raven Pro's manual, and the column names of BirdNET-Analyzer 2.4.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath, PureWindowsPath

from processing.text_files import first_line, make_event, read_number, read_table
from recipes.data.clip import AnnotatedClip, clips_of
from recipes.data.readers.files import files_of, recording_of

BEGIN, END, OFFSET = "Begin Time (s)", "End Time (s)", "File Offset (s)"
# Raven's users name their columns of labels themselves.
_LABELS = ("Common Name", "Species", "Annotation", "Label", "Class", "Event", "Sound Type", "Call Type", "Tag")
_MEASURES = {
    "selection", "view", "channel", "begin file", "end file", "begin path", "end path", "confidence", "rank",
    "species code", "notes", "comments", "analyst", "model", "lat", "lon", "week", "overlap", "sensitivity",
}  # fmt: skip


def read_raven(path) -> Iterator[AnnotatedClip]:
    """Yield a clip for every recording of a selection table, or of all `*.txt` of a folder.

    Raven writes a row for each view, waveform and spectrogram: a selection counts once. Where several recordings were
    open together `Begin Time (s)` runs on from one to the next, and `File Offset (s)` is the time in the file. A
    `Confidence` is the score; rows of BirdNET's `nocall` are no events. A recording that no column names is named
    after the table.

    Raises:
        ValueError: a malformed row; no column of labels, or several that may be it; or several recordings without
            `File Offset (s)`.
    """
    for table in files_of(path, ".txt"):
        found, seen, label_column = {}, set(), None
        delimiter = "\t" if "\t" in first_line(table) else ","
        for where, row in read_table(table, (BEGIN, END), delimiter, optional=None):
            label_column = label_column or _label_column(row, where)
            file = _basename(row.get("Begin File") or row.get("Begin Path") or "") or recording_of(table)
            # Tables that were appended to one another count from 1 again.
            key = (file, row.get("Selection") or where, row[BEGIN], row[END], row[label_column])
            if key in seen:
                continue
            seen.add(key)
            events = found.setdefault(file, [])
            if len(found) > 1 and OFFSET not in row:
                raise ValueError(f"{where}: a second recording {file!r}, but no column {OFFSET!r}; export it too.")
            begin, end = (read_number(row[name], name, where) for name in (BEGIN, END))
            onset = read_number(row[OFFSET], OFFSET, where) if row.get(OFFSET) else begin
            score = read_number(row["Confidence"], "Confidence", where) if row.get("Confidence") else None
            if row[label_column] != "nocall":
                events.append(make_event(onset, onset + end - begin, row[label_column], where, score))
        if not found:
            found[recording_of(table)] = []
        yield from clips_of(table, found)


def read_birdnet(path) -> Iterator[AnnotatedClip]:
    """Yield a clip for every recording of a CSV of BirdNET-Analyzer, or of all `*.csv` of a folder.

    Read are its own layout, and those for R and Kaleidoscope. Labels are common names, or scientific ones where these
    are empty; the confidence is the score.

    Raises:
        ValueError: a malformed row.
    """
    for table in files_of(path, ".csv"):
        found = {}
        for where, row in read_table(table, (), ",", optional=None):
            row = {name.casefold(): text for name, text in row.items()}
            file, begin, end, common, scientific = _birdnet_columns(row, where)
            onset, offset, score = (read_number(row[name], name, where) for name in (begin, end, "confidence"))
            offset = round(onset + offset, 9) if end == "duration" else offset
            event = make_event(onset, offset, row[common] or row[scientific], where, score)
            found.setdefault(_basename(row.get(file, "")) or recording_of(table), []).append(event)
        yield from clips_of(table, found or {recording_of(table): []})


# Recording, begin, end (or length), common and scientific name.
_BIRDNET_COLUMNS = (
    ("file", "start (s)", "end (s)", "common name", "scientific name"),
    ("filepath", "start", "end", "common_name", "scientific_name"),
    ("in file", "offset", "duration", "common_name", "scientific_name"),
)
BIRDNET_LAYOUTS = tuple(frozenset({*columns[1:], "confidence"}) for columns in _BIRDNET_COLUMNS)


def _birdnet_columns(row, where) -> tuple[str, ...]:
    for columns, layout in zip(_BIRDNET_COLUMNS, BIRDNET_LAYOUTS, strict=True):
        if layout <= set(row):
            return columns
    raise ValueError(f"{where}: the columns {', '.join(row)} are not those of BirdNET-Analyzer, {_BIRDNET_COLUMNS[0]}.")


def _label_column(row, where) -> str:
    by_name = {name.casefold(): name for name in row}
    known = [by_name[name.casefold()] for name in _LABELS if name.casefold() in by_name]
    rest = [name for name in row if name.casefold() not in _MEASURES and not name.endswith((")", "#"))]
    if known or len(rest) == 1:
        return (known or rest)[0]
    said = f"has several columns that may be labels, {', '.join(rest)}" if rest else "has no column of labels"
    raise ValueError(f"{where}: the table {said}; name the right one Species, Annotation or Label.")


def _basename(path: str) -> str:
    return PureWindowsPath(path).name if "\\" in path else PurePosixPath(path).name
