"""Files of one recording each, those of a folder."""

from pathlib import Path


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
