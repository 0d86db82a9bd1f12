"""Output of events as a table, as JSON, or in another program's format; on stdout or in files."""

import json
import logging
import os
import re
import sys
from argparse import ArgumentError
from pathlib import Path

from processing.annotations import format_annotations
from processing.text_files import audio_stem
from recipes.data.label_files import LABEL_FORMATS, label_format, write_labels


class LineFormatter(logging.Formatter):
    """Format log records as `timepro: warning: night.mp3: breaks off after 1.61 s`."""

    def formatMessage(self, record):
        return f"timepro: {record.levelname.lower()}: {name_first(record.message)}"


def name_first(message: str) -> str:
    """Rewrite an error about the argument `source`, a file, for the command line: `FILE: MESSAGE`."""
    return re.sub(r"^source (['\"])(.+?)\1 ", r"\2: ", message)


def format_answers(file: str, duration: float, answers: list[dict]) -> str:
    """Return the events of one recording as an aligned table.

    Args:
        file: name of the recording.
        duration: in seconds.
        answers: `{"query", "events"}`, where the query is `None` if the task takes none; times in seconds.
    """
    lines = [f"{file}  ({duration:.2f} s)"]
    events = merge_answers(answers)
    if events:
        lines.append(f"  {'onset':>8}  {'offset':>8}  {'score':>5}  event")
    for event in events:
        score = "-" if event.get("score") is None else f"{event['score']:.2f}"
        lines.append(f"  {event['onset']:>8.2f}  {event['offset']:>8.2f}  {score:>5}  {event['event_label']}")
    for reply in answers:
        if not reply["events"]:
            lines.append(f"  no events match '{reply['query']}'" if reply["query"] else "  no events")
    return "\n".join(lines)


def check_format(format: str, out: str | None, files: list[str], is_folder: bool):
    """Refuse a format that cannot hold the results, before the model runs.

    Raises:
        argparse.ArgumentError: several recordings for a format that holds one, two for one file, or a missing library.
    """
    if not LABEL_FORMATS[format].holds_many and len(files) > 1 and not is_folder:
        raise ArgumentError(
            None, f"--format is {format!r}, whose files hold one recording, but {len(files)} are given; "
            "give a folder as --out."
        )  # fmt: skip
    stems = {}
    for file in files if is_folder or format == "rttm" else ():
        folder = os.path.dirname(os.path.abspath(file)) if is_folder else ""
        if (first := stems.setdefault((folder, audio_stem(file)), file)) == file:
            continue
        if is_folder:
            raise ArgumentError(
                None, f"{first!r} and {file!r} would be written to one file in the folder {out!r}; rename one "
                "of them, or write one file for all."
            )  # fmt: skip
        raise ArgumentError(
            None, f"--format is 'rttm', which names recordings without folder and suffix, but {first!r} and {file!r} "
            "are named alike; rename one of them, or choose another format."
        )  # fmt: skip
    try:
        event = {"onset": 0.0, "offset": 1.0, "event_label": "a"}
        format_annotations({"file": "a", "duration": 1.0, "events": [event]}, label_format(format))
    except ImportError as error:
        raise ArgumentError(None, str(error)) from None


def format_of(out: str, is_folder: bool) -> str:
    """Return the format that a file name implies.

    Raises:
        argparse.ArgumentError: it implies none, or several.
    """
    suffix = "" if is_folder else Path(out).suffix.lower()
    formats = [name for name, kind in LABEL_FORMATS.items() if kind.suffix.lower() == suffix]
    if len(formats) != 1:
        able = ", ".join(formats or LABEL_FORMATS)
        raise ArgumentError(None, f"--out is {out!r}, which does not imply a format; choose --format from {able}.")
    return formats[0]


def merge_answers(answers: list[dict]) -> list[dict]:
    """Return the events of all queries about a recording, in order of their onsets."""
    events = [event for reply in answers for event in reply["events"]]
    return sorted(events, key=lambda event: (event["onset"], event["offset"]))


def format_json(file: str, duration: float, answers: list[dict]) -> str:
    """Return a line of JSON per query, with the query if there are several; arguments as in [`format_answers`]."""
    lines = []
    for reply in answers:
        query = {"query": reply["query"]} if len(answers) > 1 else {}
        row = {"file": file, "duration": duration, **query, "events": reply["events"]}
        row |= {"truncated": True} if reply.get("truncated") else {}
        lines.append(json.dumps(row, ensure_ascii=False, allow_nan=False))
    return "\n".join(lines)


def print_answers(text: str, stdout):
    """Print and flush, without disturbing a progress bar on the same terminal."""
    from tqdm import tqdm

    tqdm.write(text, file=stdout)
    stdout.flush()


def write_answers(rows: list[dict], format: str, out: str | None, stdout) -> dict[str, str]:
    """Write recordings in a format, or print them if `out` is `None`; RTTM omits those without events.

    Returns:
        Errors by file for recordings that the format cannot hold, which are omitted.
    """
    results, errors, num_silent = [], {}, 0
    for row in rows:
        result = {"file": row["file"], "duration": row["duration"], "events": merge_answers(row["answers"])}
        result["truncated"] = any(reply.get("truncated", False) for reply in row["answers"])
        try:
            format_annotations(result, label_format(format), drop_scores=True)
            results.append(result)
        except ValueError as error:
            if result["events"]:
                errors[row["file"]] = str(error)
            else:
                num_silent += 1
    if num_silent:
        print(
            f"timepro: {num_silent} recordings without events are left out; {format} cannot name them.", file=sys.stderr
        )
    if not results and not num_silent:
        return errors
    if format == "rttm" and any(" " in text for result in results for text in _texts(result)):
        print(
            "timepro: RTTM has no blanks: they are written as underscores. Comments in the file say so, and timepro "
            "reads them back as blanks.", file=sys.stderr,
        )  # fmt: skip
    if out is None:
        stdout.write(format_annotations(results, label_format(format), drop_scores=True))
    else:
        paths = write_labels(results, out, format, drop_scores=True)
        print(f"timepro: wrote {paths[0] if len(paths) == 1 else f'{len(paths)} files to {out}'}", file=sys.stderr)
    return errors


def _texts(result):
    return audio_stem(result["file"]), *(event["event_label"] for event in result["events"])
