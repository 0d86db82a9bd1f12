"""`LABEL_FORMATS`: every format that events are written in, those of a checkpoint and those of other programs."""

import os

from processing.annotations import ANNOTATION_FORMATS, read_annotations
from space_app.exchange import EXCHANGE_FORMATS, guess_exchange_format

LABEL_FORMATS = {**ANNOTATION_FORMATS, **EXCHANGE_FORMATS}


def label_format(name: str):
    """Return the format of a name.

    Raises:
        ValueError: there is none.
    """
    if name not in LABEL_FORMATS:
        raise ValueError(f"format is {name!r}; choose one of {', '.join(LABEL_FORMATS)}.")
    return LABEL_FORMATS[name]


def read_labels(path: str | os.PathLike, format: str | None = None) -> list[dict]:
    """Read what was written in one of [`LABEL_FORMATS`], see [`~processing.annotations.read_annotations`].

    Args:
        path: a file, or a folder of them.
        format: without it the suffix tells, and ELAN's text its first line.

    Raises:
        FileNotFoundError, ValueError: as there.
        ImportError: the library of a format is missing.
    """
    if format is not None:
        return read_annotations(path, label_format(format))
    return read_annotations(path, guess_exchange_format(path) if os.path.isfile(path) else None)
