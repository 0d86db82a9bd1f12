r"""Events in tables: DESED's TSV, the same with commas, and Audacity's label tracks.

DESED and CSV have a header and one line per event; a recording in which nothing happens has one line whose other
fields are empty or `NaN`. A column `score` follows where events have scores.

    filename    onset   offset  event_label
    a.wav       2.112   3.584   Running_water
    b.wav

Label tracks have no header: `onset\toffset\tlabel`, one file per recording. A line that begins with a backslash holds
the frequencies of the label before it, which are left out. Labels that mark a point have equal times. Times have a
decimal comma where the language of the computer does.
"""

import csv
import io
import logging
from collections.abc import Iterable, Iterator

from .text_files import format_seconds, make_event, read_lines, read_number, read_table

logger = logging.getLogger(__name__)

COLUMNS = ("filename", "onset", "offset", "event_label")


def read_event_table(path, delimiter: str, hint: str = "", scored: bool = True) -> Iterator[dict]:
    """Yield the recordings of a table in order of first mention; their events keep their order.

    Args:
        delimiter: a tab or a comma.
        hint: what an error about a wrong delimiter says too.
        scored: whether there may be a column `score`; its fields may be empty.

    Returns:
        dicts `{"file", "duration", "events"}`; the duration is `None`, events are of [`Event`].

    Raises:
        ValueError: a malformed line.
    """
    recordings, first = {}, {}
    for where, fields in read_table(path, COLUMNS, delimiter, hint, ("score",) if scored else ()):
        filename, score = fields["filename"], fields.get("score", "")
        if not filename.strip():
            raise ValueError(f"{where}: filename is {filename!r}; give the name of the recording.")
        no_event = all(is_missing(fields[column]) for column in COLUMNS[1:])
        said_before, line = first.setdefault(filename, (no_event, where.rpartition(", ")[2]))
        if said_before != no_event:
            raise ValueError(
                f"{where}: {filename!r} has events by one line and none by another (see {line}); delete the line "
                "without event."
            )
        events = recordings.setdefault(filename, [])
        score = None if is_missing(score) else read_number(score, "score", where)
        if not no_event:
            if is_missing(fields["event_label"]):
                raise ValueError(
                    f"{where}: event_label is {fields['event_label']!r} but there are times; name the event, or leave "
                    "all three fields empty for a recording without events."
                )
            onset, offset = (read_number(fields[name], name, where) for name in ("onset", "offset"))
            events.append(make_event(onset, offset, fields["event_label"], where, score))
        elif score is not None:
            raise ValueError(f"{where}: score is {score} but there is no event; leave it empty.")
    for filename, events in recordings.items():
        yield {"file": filename, "duration": None, "events": events}


def format_event_table(results: Iterable[dict], delimiter: str) -> str:
    """Return the table of recordings `{"file", "events"}`; it has a column `score` if any event has a score.

    Raises:
        ValueError: two results of one file; a name with line breaks, a label that is blank or `nan`.
    """
    results = list(results)
    scored = any(event.score is not None for result in results for event in result["events"])
    lines, seen = [(*COLUMNS, "score") if scored else COLUMNS], set()
    for result in results:
        file = result["file"]
        check_once(file, seen, "a table")
        if file != file.strip() or set(file) & set("\r\n"):
            raise ValueError(f"{file!r}: a table cannot hold names with line breaks or outer blanks; rename it.")
        for event in result["events"]:
            label = event.event_label
            if is_missing(label):
                raise ValueError(f"{file!r} has the label {label!r}, which reads as none; give another.")
            score = "" if event.score is None else repr(event.score)
            line = (file, format_seconds(event.onset), format_seconds(event.offset), label, score)
            lines.append(line if scored else line[:4])
        if not result["events"]:
            lines.append((file, *[""] * (len(lines[0]) - 1)))
    return format_table(lines, delimiter)


def format_table(lines, delimiter: str) -> str:
    """Return lines of fields as text; fields are quoted where they need it."""
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter, lineterminator="\n").writerows(lines)
    return file.getvalue()


def is_missing(text: str) -> bool:
    """Tell whether a field of a table means that there is no value: empty, or `NaN` as pandas may write it."""
    return text.strip().lower() in ("", "nan")


def check_once(file: str, seen: set, kind: str):
    """Raise `ValueError` if a recording was `seen` before, which a format that lists events cannot tell."""
    if file in seen:
        raise ValueError(f"{file!r} has several results, but {kind} holds one of each; join their events into one.")
    seen.add(file)


def read_label_track(path) -> list:
    """Return the events of an Audacity label track.

    Labels that begin before 0 s, as after a track was moved, are cut there, and those that end before are left out; a
    warning counts them.

    Raises:
        ValueError: a malformed line.
    """
    events, num_cut = [], 0
    for number, line in enumerate(read_lines(path), 1):
        line, where = line.rstrip("\n"), f"{path}, line {number}"
        if line.startswith("\\") or not line.strip(" "):
            continue
        fields = line.split("\t")
        # Older versions leave out the tab before an empty label.
        if len(fields) not in (2, 3):
            raise ValueError(
                f"{where} has {len(fields)} fields separated by tabs, where onset, offset and label are expected: "
                f"{line!r}."
            )
        onset, offset = (
            read_number(text.replace(",", "."), name, where) for text, name in zip(fields, ("onset", "offset"))
        )
        num_cut += onset < 0
        if min(onset, offset) < 0:
            onset = max(onset, 0.0)
        if offset >= 0:
            events.append(make_event(onset, offset, fields[2] if len(fields) == 3 else "", where))
    if num_cut:
        logger.warning("%s: %d labels begin before 0 s; they are cut at 0.", path, num_cut)
    return events


def format_label_track(result: dict) -> str:
    """Return the events of one recording as an Audacity label track."""
    return "".join(
        f"{format_seconds(event.onset)}\t{format_seconds(event.offset)}\t{event.event_label}\n"
        for event in result["events"]
    )
