"""Formats with one file per recording: the files of a folder."""

from pathlib import Path


def files_of(path, suffix: str) -> list[Path]:
    """Return the file, or all files of a folder with a suffix, sorted by name.

    Raises:
        ValueError: a folder without such files.
    """
    path = Path(path)
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix.lower() == suffix)
    if not files:
        raise ValueError(f"{path} has no *{suffix}; give such a file or a folder of them.")
    return files
