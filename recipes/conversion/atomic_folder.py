"""Folders that appear complete or not at all."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from recipes.conversion.checkpoint_folder import read_config


def check_output_folder(out: Path, overwrite: bool) -> None:
    """Raise `FileExistsError` if `out` has files, unless they are a TimePro checkpoint that may be overwritten."""
    if not out.exists():
        return
    if not out.is_dir():
        raise FileExistsError(f"out is {str(out)!r}, which is a file; choose another.")
    if not any(out.iterdir()):
        return
    if not overwrite:
        raise FileExistsError(f"out is {str(out)!r}, which has files already; choose another or pass --overwrite.")
    folders = sorted(path.name for path in out.iterdir() if path.is_dir() and path.name != ".cache")
    try:
        read_config(out)
    except ValueError:
        folders = folders or ["no TimePro checkpoint"]
    # The whole folder is replaced, so make sure that it is a checkpoint.
    if folders:
        raise FileExistsError(
            f"out is {str(out)!r}, which holds {', '.join(folders)}; overwrite replaces checkpoints only."
        )


def show_to_others(path: str | os.PathLike, mode: int) -> None:
    """Give a private file or folder from `tempfile` the mode that ordinary creation would have given it."""
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(path, mode & ~mask)


@contextlib.contextmanager
def atomic_folder(out: Path, overwrite: bool = False):
    """Yield an empty folder next to `out` that replaces it if the block succeeds, and is removed otherwise."""
    out = Path(os.path.abspath(out))
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    try:
        yield folder
        show_to_others(folder, 0o777)
        check_output_folder(out, overwrite)
        if out.exists() and any(out.iterdir()):
            old = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".old", dir=out.parent))
            out.rename(old)
            folder.rename(out)
            shutil.rmtree(old)
        else:
            folder.rename(out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
