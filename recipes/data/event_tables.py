"""Events in tables with a header: DESED's TSV, the same with commas, and durations.

    filename    onset   offset  event_label
    a.wav       2.112   3.584   Running_water
    b.wav

One line is one event; a recording in which nothing happens has one line whose other fields are empty or `NaN`.
"""

from collections.abc import Iterator

from recipes.data.annotation_text import read_lines, read_table, source_of
from recipes.data.event_rows import check_duration, make_event, make_row, read_number

COLUMNS = ("filename", "onset", "offset", "event_label")
MISSING = ("", "nan")


def read_desed(path) -> Iterator[dict]:
    """Yield a row for every recording of a DESED annotation (tab-separated)."""
    hint = ", or say format='csv' if commas are meant"
    return _group(read_table(path, COLUMNS, "\t", hint), path, "desed")


def read_csv(path) -> Iterator[dict]:
    """Yield a row for every recording of a table with DESED's columns, separated by commas."""
    hint = ", or say format='desed' if tabs are meant"
    return _group(read_table(path, COLUMNS, ",", hint), path, "csv")


def _group(lines, path, format):
    """Yield one row for each recording, in order of first mention; its events keep their order."""
    recordings, first = {}, {}
    for where, fields in lines:
        filename = fields["filename"]
        if not filename.strip():
            raise ValueError(f"{where}: filename is {filename!r}; give the name of the recording.")
        no_event = all(is_missing(fields[column]) for column in COLUMNS[1:])
        said_before, line = first.setdefault(filename, (no_event, where.rpartition(", ")[2]))
        if said_before != no_event:
            raise ValueError(
                f"{where}: {filename!r} has events by one line and none by another (see {line}); delete the line "
                "without event."
            )
        events = recordings.setdefault(filename, [])
        if not no_event:
            if is_missing(fields["event_label"]):
                raise ValueError(
                    f"{where}: event_label is {fields['event_label']!r} but there are times; name the event, or leave "
                    "all three fields empty for a recording without events."
                )
            onset, offset = (read_number(fields[name], name, where) for name in ("onset", "offset"))
            events.append(make_event(onset, offset, fields["event_label"], where))
    for filename, events in recordings.items():
        yield make_row(filename, filename, "detection", events, source_of(path, format))


def is_missing(text: str) -> bool:
    """Say whether a field of a table stands for no value: empty, or `NaN` as pandas may write it."""
    return text.strip().lower() in MISSING


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
