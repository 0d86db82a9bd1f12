"""`find_recordings`: resolve paths, folders and glob patterns to recordings."""

import glob
import os
from collections.abc import Iterable

from processing.audio_formats import AUDIO_SUFFIXES, WEAK, find_format


def find_recordings(paths: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """Return the recordings, each once, and errors for paths that name none.

    Args:
        paths: files with any name, `-` for standard input; folders, searched recursively for recordings by suffix or
            contents, except hidden ones; or glob patterns (`**` for any depth) of files and folders. Symbolic links are
            followed; a file is returned once, however many links lead to it.

    Returns:
        Recordings in the order of `paths`, those of one path sorted by name; and errors by path. A name without
        wildcards counts as a file even if it does not exist: opening it gives a better error.
    """
    found, errors, seen = [], {}, set()
    for path in paths:
        if os.path.exists(path) or not glob.has_magic(path):
            matches = [path]
        else:
            matches = sorted(glob.glob(path, recursive=True))
            if not matches:
                errors[path] = "matches no file; check the pattern and the folder it starts from."
        for match in matches:
            files = _files_below(match, errors) if os.path.isdir(match) else [match]
            if not files and match not in errors:
                errors[match] = "holds no recordings; give a folder of wav, flac, mp3 or other audio files."
            for file in files:
                if file != file.encode("utf-8", "ignore").decode():
                    errors[file] = "has a name that is not UTF-8, which no result can hold; rename it."
                elif (identity := _identity(file)) not in seen:
                    seen.add(identity)
                    found.append(file)
    return found, errors


def _files_below(folder, errors):
    files, entered = [], set()
    # By default `os.walk` skips unreadable folders silently.
    walk = os.walk(folder, onerror=lambda error: errors.update({error.filename: str(error)}), followlinks=True)
    for root, folders, names in walk:
        # Links may lead to a folder above.
        new = {name: _identity(os.path.join(root, name)) for name in folders if not name.startswith(".")}
        folders[:] = [name for name in sorted(new) if new[name] not in entered]
        entered |= {_identity(root), *new.values()}
        paths = [os.path.join(root, name) for name in names if not name.startswith(".")]
        files += [path for path in paths if os.path.isfile(path) and _is_recording(path)]
    return sorted(files)


def _is_recording(path: str) -> bool:
    """Return whether a file is a recording by name or by content; `False` if it cannot be read."""
    if path.lower().endswith(AUDIO_SUFFIXES):
        return True
    try:
        with open(path, "rb") as file:
            known, start = find_format(file)
    except OSError:
        return False
    return known is not None and (start > 0 or known.name not in WEAK)


def _identity(path):
    """Return an identity that all links to a file or folder share."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return path
    return status.st_dev, status.st_ino
