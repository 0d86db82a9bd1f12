"""`format_annotations` and `read_annotations`: exchange events with other programs."""

import html
import json
import os
import re
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
    """An annotation format, and what it can hold.

    Args:
        name: its name.
        suffix: suffix of its files.
        holds_scores: whether scores are kept.
        holds_many: whether one file holds any number of recordings, by name. Otherwise it holds one, named after the
            file.
        format: function from recordings `{"file", "stem", "duration", "events"}` (from one, unless `holds_many`) to the
            text of a file; events are [`Event`]s, the stem is the file name without folder and suffix.
        read: function from a path to recordings `{"file", "duration", "events"}`; `None` if the format is only written.
    """

    name: str
    suffix: str
    holds_scores: bool
    holds_many: bool
    format: Callable[[Any], str]
    read: Callable[[Any], Iterable[dict]] | None


def format_annotations(results: Mapping | Iterable[Mapping], format: str | Any, drop_scores: bool = False) -> str:
    """Return the events of recordings as the text of a file.

    What a format cannot hold is an error, except the duration and `truncated`, which only json and jsonl keep. Times
    round-trip exactly; in `vtt` and `srt` to the millisecond.

    Args:
        results: `{"file", "duration", "events", "truncated"}`, one or several. `file` is the name of the recording;
            `duration` is in seconds, and may be `None` or missing; events are
            `{"onset", "offset", "event_label", "score"}` (the last two may be missing) or [`Event`]s, times in seconds;
            `truncated`, whether the answer reached the token limit, may be missing.
        format: one of [`ANNOTATION_FORMATS`], or your own format with the attributes of [`AnnotationFormat`].
        drop_scores: drop scores that the format cannot hold, instead of raising an error.

    Raises:
        ValueError: a malformed result, something that the format cannot hold, or several recordings for a format that
            holds one.
    """
    kind = _kind(format)
    return format_recordings(check_results(results, kind, drop_scores), kind)


def format_recordings(recordings: list[dict], kind: Any) -> str:
    """Return the text of a file with what [`check_results`] has returned."""
    if kind.holds_many:
        return kind.format(recordings)
    if len(recordings) != 1:
        raise ValueError(
            f"results are {len(recordings)} recordings, but a file of format {kind.name!r} holds one; give a folder as "
            "path."
        )
    return kind.format(recordings[0])


def read_annotations(path: str | os.PathLike, format: str | Any | None = None) -> list[dict]:
    """Read the events of recordings.

    Args:
        path: a file, or a folder, of which all files with the format's suffix are read recursively, sorted by path.
        format: as in [`format_annotations`]; by default the file's suffix decides. Required for a folder.

    Returns:
        list of `{"file", "duration", "events"}`. `file` is the name of the recording in the file, or else the file name
        without suffix; `duration` is in seconds, `None` if unknown; events are
        `{"onset", "offset", "event_label", "score"}`, times in seconds; `"truncated": True` where it was set.

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: a format that is unknown or only written, or a malformed file, with line, value and fix.
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
    if kind.read is None:
        raise ValueError(f"format is {kind.name!r}, which a checkpoint only writes; give the file to `timepro score`.")
    recordings = [_recording(recording, file) for file in files for recording in kind.read(file)]
    return [{**recording, "events": [event.as_dict() for event in recording["events"]]} for recording in recordings]


def guess_annotation_format(path: str | os.PathLike) -> str:
    """Return the format of a file by its suffix.

    Raises:
        ValueError: an unknown suffix, or a `.txt` or `.tsv` that another program wrote.
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


def check_results(results, kind, drop_scores: bool = False) -> list[dict]:
    """Check results against a format; return them as `{"file", "stem", "duration", "events"}` with [`Event`]s."""
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
        if text != text.encode("utf-8", "ignore").decode():
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


def _read_audacity(path) -> list[dict]:
    return [{"file": Path(path).stem, "duration": None, "events": read_label_track(path)}]


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


def _format_vtt(recording) -> str:
    cues = [f"{times}\n{html.escape(label, quote=False)}\n" for times, label in _cues(recording, "WebVTT", ".")]
    return "\n".join(["WEBVTT\n", *cues])


def _format_srt(recording) -> str:
    """Also raise `ValueError` for labels with `-->` or with tags that players interpret as styling."""
    cues = list(_cues(recording, "SubRip", ","))
    for _, label in cues:
        if "-->" in label or re.search(r"</?(?:b|i|u|s|font)(?:\s[^<>]*)?>|\{\\[^{}]*\}", label, re.IGNORECASE):
            raise ValueError(f"{recording['file']!r} has the label {label!r}, but SubRip cannot hold '-->' or tags.")
    return "\n".join(f"{number}\n{times}\n{label}\n" for number, (times, label) in enumerate(cues, 1))


def _cues(recording, kind, point) -> Iterator[tuple[str, str]]:
    for event in sorted(recording["events"]):
        file, label = recording["file"], event.event_label
        if not label or "\0" in label:
            raise ValueError(f"{file!r} has the label {label!r}, but {kind} cannot hold it; name the event.")
        onset, offset = round(1000 * event.onset), round(1000 * event.offset)
        if onset == offset:
            raise ValueError(
                f"{file!r} has an event from {event.onset} to {event.offset} s, but {kind} needs at least a "
                "millisecond; lengthen or drop it."
            )
        yield f"{cue_time(onset, point)} --> {cue_time(offset, point)}", label


def cue_time(milliseconds: int, point: str) -> str:
    """Return a time in subtitle notation, `00:01:02.500`; in SubRip `point` is a comma."""
    seconds, milliseconds = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{point}{milliseconds:03d}"


# Name, suffix, holds_scores, holds_many, writer, reader.
_FORMATS = (
    ("tsv", ".tsv", True, True, partial(format_event_table, delimiter="\t"), partial(read_event_table, delimiter="\t")),
    ("csv", ".csv", True, True, partial(format_event_table, delimiter=","), partial(read_event_table, delimiter=",")),
    ("json", ".json", True, True, _format_json, _read_json),
    ("jsonl", ".jsonl", True, True, _format_json_lines, _read_json_lines),
    ("audacity", ".txt", False, False, format_label_track, _read_audacity),
    ("vtt", ".vtt", False, False, _format_vtt, None),
    ("srt", ".srt", False, False, _format_srt, None),
)
ANNOTATION_FORMATS = {values[0]: AnnotationFormat(*values) for values in _FORMATS}
