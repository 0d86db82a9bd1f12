"""Files of the events that are shown, in every export format."""

import os
import tempfile
from pathlib import Path

from space_app.checkpoint_code import carried
from space_app.exchange import EXCHANGE_FORMATS, is_installed

NAMES = {
    "tsv": "TSV table", "csv": "CSV table", "json": "JSON", "jsonl": "JSON Lines", "audacity": "Audacity labels",
    "rttm": "RTTM", "vtt": "WebVTT captions", "srt": "SubRip captions", "textgrid": "Praat TextGrid",
    "elan": "ELAN text", "eaf": "ELAN .eaf", "jams": "JAMS",
}  # fmt: skip


def export_choices(pipe) -> list[tuple[str, str]]:
    """Return `(name to show, format)` of all formats that can be written here; some need libraries."""
    return [(NAMES.get(name, name), name) for name in _formats(pipe)]


def write_export(pipe, folder: str, result: dict, format: str) -> str:
    """Write a recording's `{"file", "duration", "events"}` into a new file named after it, and return its path.

    Scores are left out where a format has no place for them.

    Raises:
        ValueError: an unknown format, or what it cannot hold, such as no events at all.
    """
    kind = _formats(pipe).get(format, format)
    text = pipe.format_annotations(result, kind, drop_scores=True)
    # A name of its own, so that nobody can guess it.
    path = Path(tempfile.mkdtemp(dir=folder)) / (carried(pipe, "text_files").audio_stem(result["file"]) + kind.suffix)
    path.write_bytes(text.encode("utf-8"))
    return str(path)


def remove_export(path: str | None):
    """Delete what [`write_export`] has written."""
    if path:
        Path(path).unlink(missing_ok=True)
        if os.path.isdir(os.path.dirname(path)):
            os.rmdir(os.path.dirname(path))


def _formats(pipe) -> dict:
    ours = {name: kind for name, kind in EXCHANGE_FORMATS.items() if is_installed(kind)}
    theirs = carried(pipe, "annotations").ANNOTATION_FORMATS
    return theirs | ours | theirs
