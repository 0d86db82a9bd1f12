"""`find_recordings`: the files that paths, folders and glob patterns stand for."""

import glob
import os
from collections.abc import Iterable

from processing import text_files

# What libsndfile reads, and ffmpeg where that is installed, by the names that such files have.
AUDIO_SUFFIXES = (
    *text_files.AUDIO_SUFFIXES, ".oga", ".au", ".snd", ".aifc", ".caf", ".w64", ".rf64", ".mkv", ".wma"
)  # fmt: skip


def find_recordings(paths: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """Return the recordings that are meant, each once, and why some paths stand for none.

    Args:
        paths: files, in whatever they are called; folders, for all audio files in them and in their folders, by
            suffix, but for hidden ones; or glob patterns (`**` for folders of any depth), for files and folders.

    Returns:
        Recordings in the order of `paths`, those of one path sorted by name; and errors by path. A name without
        wildcards is taken to be a file even if there is none: whoever opens it has the better error.
    """
    found, errors = {}, {}
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
                errors[match] = f"holds no recordings; give a folder of {', '.join(AUDIO_SUFFIXES)} files."
            for file in files:
                if _is_utf8(file):
                    found[file] = None
                else:
                    errors[file] = "has a name that is not UTF-8, which no result can hold; rename it."
    return list(found), errors


def _files_below(folder, errors):
    files = []
    # By default `os.walk` passes over folders that it may not read.
    for root, folders, names in os.walk(folder, onerror=lambda error: errors.update({error.filename: str(error)})):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [
            os.path.join(root, name)
            for name in names
            if name.lower().endswith(AUDIO_SUFFIXES) and not name.startswith(".")
        ]
    return sorted(files)


def _is_utf8(name):
    return name == name.encode("utf-8", "ignore").decode()
