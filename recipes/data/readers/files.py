"""Files of one recording each: those of a folder, and the names of recordings that they are about."""

import re
from pathlib import Path

# What programs put between the name of a recording and the suffix.
_ADDED = re.compile(r"(?:\.Table\.\d+)?(?:\.selections?)$|\.BirdNET\.(?:selection\.table|results)$", re.IGNORECASE)


def files_of(path, suffix: str) -> list[Path]:
    """Return a file, or all files of a folder with a suffix, in order of their names.

    Raises:
        ValueError: a folder without any.
    """
    path = Path(path)
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix.lower() == suffix)
    if not files:
        raise ValueError(f"{path} has no *{suffix}; give such a file or a folder of them.")
    return files


def recording_of(path) -> str:
    """Return the name of the recording that a file is called after: `night` of `night.Table.1.selections.txt`."""
    return _ADDED.sub("", Path(path).stem)
