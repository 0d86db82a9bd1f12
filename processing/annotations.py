"""`write_annotations` and `read_annotations`: events of recordings as files that other programs read, and back."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .events import Event
from .text_files import (
    audio_stem,
    check_duration,
    first_line,
    format_event_table,
    format_label_track,
    read_event_table,
    read_json_lines,
    read_label_track,
    read_lines,
)


@dataclass(frozen=True)
class AnnotationFormat:
    """Say what a format holds.

    Args:
        name: what it is called.
        suffix: of its files.
        holds_scores: whether a score is kept.
        holds_many: whether one file holds any number of recordings, and names them. Other formats hold one, which is
            named after the file.
        format: function from recordings `{"file", "stem", "duration", "events"}` of [`Event`]s, or from one, to the
            text of a file; the stem is the name without folder and suffix.
        read: function from a path to recordings `{"file", "duration", "events"}`.
    """

    name: str
    suffix: str
    holds_scores: bool
    holds_many: bool
    format: Callable[[Any], str]
    read: Callable[[Any], Iterable[dict]]


def write_annotations(
    results: Mapping | Iterable[Mapping], path: str | os.PathLike, format: str | Any, drop_scores: bool = False
) -> list[Path]:
    """Write the events of recordings.

    What a format cannot hold is an error, and then nothing is written. The exceptions are the duration, which a
    recording says itself, and `truncated`: only json and jsonl keep them. Times are given back to the last digit.

    Args:
        results: `{"file", "duration", "events", "truncated"}`, or any number of them. `file` is the name of the
            recording; `duration` is in seconds, and may be `None` or absent; events are
            `{"onset", "offset", "event_label", "score"}` (the last two may be absent) or [`Event`]s, times in seconds;
            `truncated`, whether the answer ran out of room, may be absent.
        path: a file; or a folder, one that exists or a name without suffix, for one file per recording, which is named
            after the recording, in subfolders like those of the recordings.
        format: one of [`ANNOTATION_FORMATS`], or a format of your own with the attributes of [`AnnotationFormat`].
        drop_scores: leave scores out where the format has no place for them, instead of an error.

    Returns:
        Paths of the files written.

    Raises:
        ValueError: a malformed result; what the format cannot hold, with its name; several recordings for a file that
            holds one; two recordings of one name for a folder.
    """
    kind = _kind(format)
    recordings = _recordings(results, kind, drop_scores)
    if not means_folder(path):
        _write(path, _text(recordings, kind))
        return [Path(path)]
    folders = [os.path.dirname(os.path.abspath(recording["file"])) for recording in recordings]
    files = {}
    for recording, folder in zip(recordings, folders, strict=True):
        below = os.path.relpath(folder, os.path.commonpath(folders))
        target = Path(path) / below / (recording["stem"] + kind.suffix)
        if target in files:
            raise ValueError(
                f"{recording['file']!r}: a second recording would be written to {str(target)!r}; rename one of them."
            )
        files[target] = _text([recording], kind)
    os.makedirs(path, exist_ok=True)
    for target, text in files.items():
        os.makedirs(target.parent, exist_ok=True)
        _write(target, text)
    return list(files)


def means_folder(path: str | os.PathLike) -> bool:
    """Tell whether [`write_annotations`] takes a path for a folder: one that exists, or a name without suffix."""
    # `Path` forgets the slash that says that a new folder is meant.
    return Path(path).is_dir() or not Path(path).suffix or str(path).endswith(os.sep)


def format_annotations(results: Mapping | Iterable[Mapping], format: str | Any, drop_scores: bool = False) -> str:
    """Return what [`write_annotations`] writes into one file.

    Raises:
        ValueError: as there.
    """
    kind = _kind(format)
    return _text(_recordings(results, kind, drop_scores), kind)


def read_annotations(path: str | os.PathLike, format: str | Any | None = None) -> list[dict]:
    """Read the events of recordings.

    Args:
        path: a file, or a folder; all files below it with the suffix of the format are read then, in order.
        format: as in [`write_annotations`]; without it a file's suffix tells. A folder needs it.

    Returns:
        list of `{"file", "duration", "events"}`. `file` is the name that the format has for the recording, or else that
        of the annotation without suffix; `duration` is in seconds, `None` where the format has none; events are
        `{"onset", "offset", "event_label", "score"}`, times in seconds; `"truncated": True` is there where it was set.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: an unknown format; or a malformed file, with line or place, value and fix.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f"path {str(path)!r} does not exist; give a file of annotations or a folder of them.")
    if not os.path.isdir(path):
        kind, files = _kind(format or guess_annotation_format(path)), [str(path)]
    elif format is None:
        raise ValueError(f"path {str(path)!r} is a folder; say which format its files are of with format='...'.")
    else:
        kind = _kind(format)
        files = sorted(str(file) for file in Path(path).rglob("*") if file.suffix.lower() == kind.suffix.lower())
        if not files:
            raise FileNotFoundError(f"path {str(path)!r} has no *{kind.suffix}; give a folder of such files.")
    recordings = [_recording(recording, file) for file in files for recording in kind.read(file)]
    return [{**recording, "events": [event.as_dict() for event in recording["events"]]} for recording in recordings]


def guess_annotation_format(path: str | os.PathLike) -> str:
    """Return the format that a file's suffix names.

    Raises:
        ValueError: another suffix, or a `.txt` or `.tsv` whose first line is one of other programs.
    """
    suffix = Path(path).suffix.lower()
    line = first_line(path) if suffix in (".txt", ".tsv") else ""
    if "Begin Time" in line:
        raise ValueError(
            f"path {str(path)!r} begins with {line.strip()[:60]!r}, as tables of ELAN and Raven do; give it to "
            "`timepro score`, which reads them, or save it as another format."
        )
    for kind in ANNOTATION_FORMATS.values():
        if kind.suffix.lower() == suffix:
            return kind.name
    raise ValueError(
        f"path {str(path)!r} has the suffix {suffix!r}, which tells no format; give one of "
        f"{', '.join(ANNOTATION_FORMATS)} with format='...'."
    )


def _kind(format):
    if not isinstance(format, str):
        return format
    if format not in ANNOTATION_FORMATS:
        raise ValueError(f"format is {format!r}; choose one of {', '.join(ANNOTATION_FORMATS)}.")
    return ANNOTATION_FORMATS[format]


def _text(recordings, kind):
    if kind.holds_many:
        return kind.format(recordings)
    if len(recordings) != 1:
        raise ValueError(
            f"results are {len(recordings)} recordings, but a file of format {kind.name!r} holds one; give a folder as "
            "path."
        )
    return kind.format(recordings[0])


def _write(path, text):
    Path(path).write_bytes(text.encode("utf-8"))


def _recordings(results, kind, drop_scores):
    """Return results after checking them, with [`Event`]s as events, and with stems."""
    results = [results] if isinstance(results, Mapping) else list(results)
    recordings = [_recording(result, f"results[{index}]") for index, result in enumerate(results)]
    for recording in recordings:
        recording["stem"] = audio_stem(recording["file"])
        if not (kind.holds_scores or drop_scores) and any(event.score is not None for event in recording["events"]):
            able = ", ".join(name for name, other in ANNOTATION_FORMATS.items() if other.holds_scores)
            raise ValueError(
                f"{recording['file']!r} has events with scores, which {kind.name!r} cannot hold; pass "
                f"drop_scores=True, or choose one of {able}."
            )
    return recordings


def _recording(result, where):
    if not isinstance(result, Mapping):
        raise ValueError(f"{where} is {result!r}; give a dict with file, duration and events.")
    missing = [key for key in ("file", "events") if key not in result]
    unknown = [key for key in result if key not in ("file", "duration", "events", "truncated")]
    if missing or unknown:
        raise ValueError(
            f"{where} has keys {list(result)}: missing {missing}, unknown {unknown}; give file, duration and events."
        )
    if not isinstance(truncated := result.get("truncated", False), bool):
        raise ValueError(f"{where}: truncated is {truncated!r}; give true or false, or leave it out.")
    file, duration, events = result["file"], result.get("duration"), result["events"]
    file = os.fspath(file) if isinstance(file, os.PathLike) else file
    if not isinstance(file, str) or not os.path.basename(file).strip() or "\0" in file:
        raise ValueError(f"{where}: file is {file!r}; give the name of the recording.")
    if events is None:
        raise ValueError(f"{where}: the events of {file!r} are None, an answer that was not parsed; leave it out.")
    if not isinstance(events, Iterable) or isinstance(events, (str, Mapping)):
        raise ValueError(f"{where}: events is {events!r}; give a list, [] for none.")
    duration = None if duration is None else check_duration(duration, where)
    events = [_event(event, f"{where}, events[{index}]") for index, event in enumerate(events)]
    for text in (file, *(event.event_label for event in events)):
        if not _is_utf8(text):
            raise ValueError(f"{where}: {text!r} has characters that UTF-8 lacks; replace them.")
    return {"file": file, "duration": duration, "events": events, **({"truncated": True} if truncated else {})}


def _event(value, where):
    if isinstance(value, Event):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} is {value!r}; give a dict with onset, offset, event_label and score.")
    try:
        return Event.from_dict(value)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _is_utf8(text):
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _named_as_file(path, read) -> list[dict]:
    return [{"file": Path(path).stem, "duration": None, "events": read(path)}]


def _format_json_lines(recordings) -> str:
    return "".join(_json(recording) + "\n" for recording in recordings)


def _format_json(recordings) -> str:
    return "[\n" + ",\n".join(map(_json, recordings)) + "\n]\n"


def _json(recording) -> str:
    events = [event.as_dict() for event in recording["events"]]
    values = {key: recording[key] for key in ("file", "duration", "events", "truncated") if key in recording}
    return json.dumps(values | {"events": events}, ensure_ascii=False, allow_nan=False)


def _read_json_lines(path) -> Iterator[dict]:
    for where, value in read_json_lines(path):
        yield _recording(value, where)


def _read_json(path) -> list[dict]:
    try:
        values = json.loads("".join(read_lines(path)))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); fetch or repair it.") from None
    values = values if isinstance(values, list) else [values]
    return [_recording(value, f"{path}, [{index}]") for index, value in enumerate(values)]


# Name, suffix, whether it holds scores, and any number of recordings, writer, reader.
_FORMATS = (
    ("tsv", ".tsv", True, True, partial(format_event_table, delimiter="\t"), partial(read_event_table, delimiter="\t")),
    ("csv", ".csv", True, True, partial(format_event_table, delimiter=","), partial(read_event_table, delimiter=",")),
    ("json", ".json", True, True, _format_json, _read_json),
    ("jsonl", ".jsonl", True, True, _format_json_lines, _read_json_lines),
    ("audacity", ".txt", False, False, format_label_track, partial(_named_as_file, read=read_label_track)),
)
ANNOTATION_FORMATS = {values[0]: AnnotationFormat(*values) for values in _FORMATS}
