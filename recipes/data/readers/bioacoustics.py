"""Raven's selection tables, and BirdNET-Analyzer's CSV.

    Start (s),End (s),Scientific name,Common name,Confidence,File

Source: the column names of BirdNET-Analyzer 2.4.
"""

from collections.abc import Iterator

from processing.text_files import make_event, read_number, read_table
from recipes.data.clip import AnnotatedClip, clips_of, files_of
from space_app.exchange_raven import base_name, read_raven
from space_app.exchange_text import recording_of


def read_selections(path) -> Iterator[AnnotatedClip]:
    """Yield a clip for every recording of a Raven selection table, or of every `*.txt` in a folder.

    Raises:
        ValueError: see [`~space_app.exchange_raven.read_raven`].
    """
    for table in files_of(path, ".txt"):
        names = ("onset", "offset", "event_label")
        yield from clips_of(table, {
            found["file"]: [make_event(*map(event.get, names), str(table), event["score"]) for event in found["events"]]
            for found in read_raven(table)
        })  # fmt: skip


def read_birdnet(path) -> Iterator[AnnotatedClip]:
    """Yield a clip for every recording of a CSV of BirdNET-Analyzer, or of every `*.csv` in a folder.

    Supports its own layout and those for R and Kaleidoscope. Labels are the common names, or the scientific names if
    these are empty; the confidence is the score.

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
            found.setdefault(base_name(row.get(file, "")) or recording_of(table), []).append(event)
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
