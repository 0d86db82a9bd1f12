"""Files of the events that are shown, in every export format."""

import importlib.util
import os
import tempfile
from pathlib import Path

from space_app.checkpoint_code import carried

NAMES = {
    "tsv": "TSV table", "csv": "CSV table", "json": "JSON", "jsonl": "JSON Lines", "audacity": "Audacity labels",
    "rttm": "RTTM", "vtt": "WebVTT captions", "srt": "SubRip captions", "textgrid": "Praat TextGrid",
    "elan": "ELAN text", "jams": "JAMS",
}  # fmt: skip


def export_choices(pipe) -> list[tuple[str, str]]:
    """Return `(name to show, format)` of all formats that can be written here; JAMS needs its library."""
    formats = carried(pipe, "annotations").ANNOTATION_FORMATS
    return [
        (NAMES.get(name, name), name)
        for name in formats
        if name != "jams" or importlib.util.find_spec("jams") is not None
    ]


def write_export(pipe, folder: str, name: str, duration: float, events: list[dict], format: str) -> str:
    """Write events into a new file and return its path; it is called as the recording.

    Scores are left out where a format has no place for them.

    Raises:
        ValueError: an unknown format, or what it cannot hold, such as no events at all.
    """
    result = {"file": name, "duration": duration, "events": events}
    text = pipe.format_annotations(result, format, drop_scores=True)
    kind = carried(pipe, "annotations").ANNOTATION_FORMATS[format]
    # A name of its own, so that nobody can guess it.
    path = Path(tempfile.mkdtemp(dir=folder)) / (carried(pipe, "text_files").audio_stem(name) + kind.suffix)
    path.write_bytes(text.encode("utf-8"))
    return str(path)


def remove_export(path: str | None):
    """Delete what [`write_export`] has written."""
    if path:
        Path(path).unlink(missing_ok=True)
        if os.path.isdir(os.path.dirname(path)):
            os.rmdir(os.path.dirname(path))
