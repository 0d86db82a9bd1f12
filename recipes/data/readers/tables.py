"""Tables with a header as clips: DESED's TSV, the same with commas, and durations.

See `processing/annotation_tables.py` for the format.
"""

from collections.abc import Iterator

from processing.annotation_tables import read_event_table
from processing.text_files import check_duration, read_lines, read_number, read_table
from recipes.data.clip import AnnotatedClip, make_clip


def read_desed(path) -> Iterator[AnnotatedClip]:
    """Yield a clip for every recording of a DESED annotation (tab-separated)."""
    return _clips(path, "\t", ", or say data_format='csv' if commas are meant")


def read_csv(path) -> Iterator[AnnotatedClip]:
    """Yield a clip for every recording of a table with DESED's columns, separated by commas."""
    return _clips(path, ",", ", or say data_format='desed' if tabs are meant")


def _clips(path, delimiter, hint):
    for result in read_event_table(path, delimiter, hint, scored=False):
        yield make_clip(str(path), result["file"], result["events"], result["file"])


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
