"""Tables with a header as rows: DESED's TSV, the same with commas, and durations.

See `processing/annotation_tables.py` for the format.
"""

from collections.abc import Iterator

from processing.annotation_tables import read_event_table
from processing.text_files import check_duration, read_lines, read_number, read_table
from recipes.data.event_rows import make_row, plain_events, source_of


def read_desed(path) -> Iterator[dict]:
    """Yield a row for every recording of a DESED annotation (tab-separated)."""
    return _rows(path, "\t", ", or say format='csv' if commas are meant", "desed")


def read_csv(path) -> Iterator[dict]:
    """Yield a row for every recording of a table with DESED's columns, separated by commas."""
    return _rows(path, ",", ", or say format='desed' if tabs are meant", "csv")


def _rows(path, delimiter, hint, format):
    for result in read_event_table(path, delimiter, hint, scored=False):
        name, events = result["file"], plain_events(result["events"])
        yield make_row(name, name, "detection", events, source_of(path, format))


def read_durations(path) -> dict[str, float]:
    """Return `{filename: seconds}` from a table `filename duration`, separated by tabs or commas.

    Raises:
        ValueError: a malformed line, or two durations of one recording.
    """
    header = next(read_lines(path), "")
    durations = {}
    for where, fields in read_table(path, ("filename", "duration"), "\t" if "\t" in header else ","):
        duration = check_duration(read_number(fields["duration"], "duration", where), where)
        known = durations.setdefault(fields["filename"], duration)
        if known != duration:
            raise ValueError(f"{where}: {fields['filename']!r} lasts {duration} s, but {known} s further up; keep one.")
    return durations
