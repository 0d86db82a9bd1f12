"""Tables with a header: DESED's TSV, its variant with commas, RealDESED's and TACOS's.

See `processing/text_files.py` for DESED's. RealDESED has `annotations.csv` with the column `class`; TACOS has
`annotations_strong.csv` with the column `text`, known from public readers; other columns of both are ignored.
"""

from collections.abc import Iterator

from processing.text_files import make_event, read_event_table, read_number, read_table
from recipes.data.clip import AnnotatedClip, clips_of, make_clip


def read_desed(path) -> Iterator[AnnotatedClip]:
    """Yield a clip for every recording of a DESED annotation (tab-separated)."""
    return _clips(path, "\t", ", or say data_format='csv' if commas are meant")


def read_csv(path) -> Iterator[AnnotatedClip]:
    """Yield a clip for every recording of a table with DESED's columns, separated by commas."""
    return _clips(path, ",", ", or say data_format='desed' if tabs are meant")


def read_realdesed(path) -> Iterator[AnnotatedClip]:
    """Yield a clip for every recording of RealDESED's `annotations.csv`, which omits those without events."""
    return _labelled_by(path, "class", "detection")


def read_tacos(path) -> Iterator[AnnotatedClip]:
    """Yield a captioning clip for every recording of TACOS's `annotations_strong.csv`."""
    return _labelled_by(path, "text", "captioning")


def _clips(path, delimiter, hint):
    for result in read_event_table(path, delimiter, hint):
        yield make_clip(str(path), result["file"], result["events"], result["file"])


def _labelled_by(path, column, task):
    found: dict[str, list] = {}
    for where, row in read_table(path, ("filename", "onset", "offset", column), ",", optional=None):
        if not row["filename"] or not row[column]:
            raise ValueError(f"{where}: filename is {row['filename']!r} and {column} {row[column]!r}; give both.")
        onset, offset = (read_number(row[name], name, where) for name in ("onset", "offset"))
        found.setdefault(row["filename"], []).append(make_event(onset, offset, row[column], where))
    yield from clips_of(path, found, task)
