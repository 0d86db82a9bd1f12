"""Files of events in every format that can be written: a checkpoint's own and those of other programs."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from processing.annotations import ANNOTATION_FORMATS, check_results, format_recordings, read_annotations
from space_app.exchange import EXCHANGE_FORMATS, guess_exchange_format

# A checkpoint writes subtitles but does not read them.
_OWN = {
    name: kind if kind.read else replace(kind, read=EXCHANGE_FORMATS[name].read)
    for name, kind in ANNOTATION_FORMATS.items()
}
LABEL_FORMATS = _OWN | EXCHANGE_FORMATS | _OWN


def label_format(name: str):
    """Return the format with a name.

    Raises:
        ValueError: an unknown name.
    """
    if name not in LABEL_FORMATS:
        raise ValueError(f"format is {name!r}; choose one of {', '.join(LABEL_FORMATS)}.")
    return LABEL_FORMATS[name]


def write_labels(
    results: Mapping | Iterable[Mapping], path: str | os.PathLike, format: str, drop_scores: bool = False
) -> list[Path]:
    """Write the events of recordings, see [`~processing.annotations.format_annotations`]; all files or none.

    Args:
        results, drop_scores: as there.
        path: a file; or a folder (an existing one, or a name without suffix) for one file per recording, named after it
            and in the same subfolders as the recordings.
        format: one of [`LABEL_FORMATS`].

    Returns:
        Paths of the files written.

    Raises:
        ValueError: as there, or two recordings with the same path in the folder.
        ImportError: the library of a format is missing.
    """
    kind = label_format(format)
    recordings = check_results(results, kind, drop_scores)
    if not means_folder(path):
        Path(path).write_bytes(format_recordings(recordings, kind).encode("utf-8"))
        return [Path(path)]
    folders, files = [os.path.dirname(os.path.abspath(recording["file"])) for recording in recordings], {}
    for recording, folder in zip(recordings, folders, strict=True):
        below = os.path.relpath(folder, os.path.commonpath(folders))
        target = Path(path) / below / (recording["stem"] + kind.suffix)
        if target in files:
            raise ValueError(
                f"{recording['file']!r}: a second recording would be written to {str(target)!r}; rename one of them."
            )
        files[target] = format_recordings([recording], kind)
    os.makedirs(path, exist_ok=True)
    for target, text in files.items():
        os.makedirs(target.parent, exist_ok=True)
        target.write_bytes(text.encode("utf-8"))
    return list(files)


def means_folder(path: str | os.PathLike) -> bool:
    """Return whether [`write_labels`] takes a path for a folder: an existing one, or a name without suffix."""
    # `Path` drops the trailing slash that marks a new folder.
    return Path(path).is_dir() or not Path(path).suffix or str(path).endswith(os.sep)


def read_labels(path: str | os.PathLike, format: str | None = None) -> list[dict]:
    """Read files of one of [`LABEL_FORMATS`], see [`~processing.annotations.read_annotations`].

    Args:
        path: a file or a folder.
        format: by default the suffix decides, and for ELAN's text the first line.

    Raises:
        FileNotFoundError, ValueError: as there.
        ImportError: the library of a format is missing.
    """
    if format is not None:
        return read_annotations(path, label_format(format))
    return read_annotations(path, guess_exchange_format(path) if os.path.isfile(path) else None)
