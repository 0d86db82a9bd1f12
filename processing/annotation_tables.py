r"""Events in tables: DESED's TSV, the same with commas, Audacity's label tracks and ELAN's tab-delimited text.

DESED and CSV have a header and one line per event; a recording in which nothing happens has one line whose other
fields are empty or `NaN`. A column `score` follows where events bear scores.

    filename    onset   offset  event_label
    a.wav       2.112   3.584   Running_water
    b.wav

Label tracks have no header: `onset\toffset\tlabel`, one file per recording. A line that begins with a backslash holds
the frequencies of the label before it, which are left out. Labels that mark a point have equal times.

ELAN reads any columns that its user names; ours are called as in its own exports.
"""

import csv
import io
from collections.abc import Iterable, Iterator

from .text_files import (
    check_label,
    format_seconds,
    make_event,
    read_lines,
    read_number,
    read_table,
    split_tiers,
    whole_milliseconds,
)

COLUMNS = ("filename", "onset", "offset", "event_label")
ELAN_COLUMNS = ("Tier", "Begin Time - ss.msec", "End Time - ss.msec", "Annotation")
_LINE_BREAKS = "\r\n"


def read_event_table(path, delimiter: str, hint: str = "", scored: bool = True) -> Iterator[dict]:
    """Yield the recordings of a table in order of first mention; their events keep their order.

    Args:
        delimiter: a tab or a comma.
        hint: what an error about a wrong delimiter says besides.
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
        ValueError: two results of one file; a name or label with line breaks, a label that is blank or `nan`.
    """
    results = list(results)
    scored = any(event.score is not None for result in results for event in result["events"])
    lines, seen = [(*COLUMNS, "score") if scored else COLUMNS], set()
    for result in results:
        file = result["file"]
        check_once(file, seen, "a table")
        check_label(file, file, "a table", _LINE_BREAKS, "line breaks")
        for event in result["events"]:
            label = check_label(event.event_label, file, "a table", _LINE_BREAKS, "line breaks", blank=True)
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
    """Say whether a field of a table stands for no value: empty, or `NaN` as pandas may write it."""
    return text.strip().lower() in ("", "nan")


def check_once(file: str, seen: set, kind: str):
    """Raise `ValueError` if a recording was `seen` before, which a format that lists events cannot tell."""
    if file in seen:
        raise ValueError(f"{file!r} has several results, but {kind} holds one of each; join their events into one.")
    seen.add(file)


def read_label_track(path) -> list:
    """Return the events of an Audacity label track.

    Raises:
        ValueError: a malformed line.
    """
    events = []
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
        onset, offset = (read_number(text, name, where) for text, name in zip(fields, ("onset", "offset")))
        events.append(make_event(onset, offset, fields[2] if len(fields) == 3 else "", where))
    return events


def format_label_track(result: dict) -> str:
    """Return the events of one recording as an Audacity label track.

    Raises:
        ValueError: a label with tabs or line breaks.
    """
    lines = []
    for event in result["events"]:
        refused = ("\t" + _LINE_BREAKS, "tabs or line breaks")
        label = check_label(event.event_label, result["file"], "a label track", *refused, blank=True)
        lines.append(f"{format_seconds(event.onset)}\t{format_seconds(event.offset)}\t{label}\n")
    return "".join(lines)


def read_elan(path) -> list:
    """Return the events of tab-delimited text with a header as [`format_elan`] writes it, tier by tier.

    Raises:
        ValueError: a malformed line, or other columns.
    """
    events = []
    for where, fields in read_table(path, ELAN_COLUMNS, "\t", optional=("Score",), quoting=csv.QUOTE_NONE):
        onset, offset = (read_number(fields[name], name, where) for name in ELAN_COLUMNS[1:3])
        score = fields.get("Score", "")
        score = None if is_missing(score) else read_number(score, "Score", where)
        events.append(make_event(onset, offset, fields["Annotation"], where, score))
    return events


def format_elan(result: dict) -> str:
    """Return the events of one recording as tab-delimited text for ELAN's import, to the millisecond.

    Tiers bear the events of one label, and ELAN's tiers have no overlap, so there may be several of a label. A column
    `Score` follows if any event has one; ELAN leaves out columns that its user does not name.

    Source: MPI for Psycholinguistics, ELAN manual, "Import CSV / Tab-delimited Text Files".

    Raises:
        ValueError: a label that is blank or has tabs or line breaks, or an event shorter than a millisecond.
    """
    scored = any(event.score is not None for event in result["events"])
    lines = [[*ELAN_COLUMNS, "Score"] if scored else ELAN_COLUMNS]
    for tier, events in split_tiers(result["events"]):
        for event in events:
            refused = ("\t" + _LINE_BREAKS, "tabs or line breaks")
            label = check_label(event.event_label, result["file"], "ELAN's text", *refused)
            times = (f"{time / 1000:.3f}" for time in whole_milliseconds(event, result["file"], "ELAN's text"))
            score = [] if not scored else [""] if event.score is None else [repr(event.score)]
            lines.append([tier, *times, label, *score])
    # Not by `csv`: ELAN takes quotation marks for text.
    return "".join("\t".join(line) + "\n" for line in lines)
