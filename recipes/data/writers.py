"""Write clips as our JSON Lines, or in the other formats of `label_files.py`.

All clips are checked before anything is written. What a format cannot hold is an error: formats other than JSON Lines
hold one detection clip per recording, and no ids.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from processing.text_files import format_seconds, format_table
from recipes.data.clip import AnnotatedClip
from recipes.data.label_files import write_labels


def write_json_clips(clips: Iterable[AnnotatedClip], path, audio_dir=None):
    """Write clips of any task as our JSON Lines.

    Args:
        audio_dir: write paths of recordings relative to this folder, by default unchanged. Readers resolve them from
            the folder of the file, unless given another one.

    Raises:
        ValueError: a recording outside `audio_dir`.
    """
    lines = []
    for clip in clips:
        values = clip.as_dict() | {"audio": _name(clip, audio_dir)}
        lines.append(json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n")
    # Encode first, so that an invalid character leaves no partial file.
    Path(path).write_bytes("".join(lines).encode("utf-8"))


def write_label_files(clips: Iterable[AnnotatedClip], path, format, durations=None, audio_dir=None) -> list[Path]:
    """Write detection clips in a format of [`write_labels`], and return the paths.

    Args:
        path: file to write; or a folder (an existing one, or a name without suffix) for one file per recording.
        format: one of `LABEL_FORMATS`. All of them lose ids: when read, ids are file names.
        durations: also write this file, DESED's TSV `filename duration`, with the known durations.
        audio_dir: see [`write_json_clips`].

    Raises:
        ValueError: clips that the format cannot hold: of another task, without recording, or two of one recording; and
            what [`write_labels`] refuses.
    """
    results, lengths, seen = [], [("filename", "duration")], set()
    for clip in clips:
        if clip.task != "detection" or clip.audio is None:
            raise ValueError(
                f"clip {clip.id!r} has the task {clip.task!r} and the audio {clip.audio!r}, but the format holds "
                "detection in recordings; write JSON Lines, or filter the clips."
            )
        if clip.audio in seen:
            raise ValueError(f"clip {clip.id!r}: {clip.audio!r} has several clips; join their events into one.")
        seen.add(clip.audio)
        file = _name(clip, audio_dir)
        results.append({"file": file, "duration": clip.duration, "events": [e.as_dict() for e in clip.events]})
        if clip.duration is not None:
            lengths.append((file, format_seconds(clip.duration)))
    paths = write_labels(results, path, format)
    if durations is not None:
        Path(durations).write_bytes(format_table(lengths, "\t").encode("utf-8"))
    return paths


def _name(clip, audio_dir):
    if audio_dir is None or clip.audio is None:
        return clip.audio
    relative = os.path.relpath(clip.audio, audio_dir)
    if relative.split(os.sep)[0] == os.pardir:
        raise ValueError(f"audio is {clip.audio!r}, which is not in audio_dir {str(audio_dir)!r}; give its folder.")
    return relative
