r"""Text files of any size, read line by line: tables, JSON Lines, the numbers and names in them, and tables of events.

Rows come with their position, `file, line 3`, for later errors. A UTF-8 byte order mark and Windows line endings are
accepted.

DESED's TSV, and its variant with commas, have a header and one line per event; a recording without events has one line
whose other fields are empty or `NaN`. If events have scores, there is a column `score`.

    filename    onset   offset  event_label
    a.wav       2.112   3.584   Running_water
    b.wav

Audacity's label tracks have no header: `onset\toffset\tlabel`, one file per recording. Lines that begin with a
backslash hold frequencies and are ignored. Point labels have equal times. Times have a decimal comma in some locales.
"""

import codecs
import csv
import io
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator

from .audio_formats import AUDIO_SUFFIXES
from .events import Event

logger = logging.getLogger(__name__)

COLUMNS = ("filename", "onset", "offset", "event_label")
# Other input that `float` accepts, such as `1_000`, `inf` and digits of other scripts, is a mistake in an annotation.
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def read_lines(path, newline=None) -> Iterator[str]:
    """Yield the lines of a text file in UTF-8, or in UTF-16 with a byte order mark, including their line endings.

    Raises:
        ValueError: the file is neither.
    """
    with open(path, "rb") as file:
        is_utf16 = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    with open(path, encoding="utf-16" if is_utf16 else "utf-8-sig", newline=newline) as file:
        try:
            yield from file
        except UnicodeError as error:
            raise ValueError(f"{path} is not UTF-8 ({error}); save it as UTF-8.") from None


def first_line(path) -> str:
    """Return the first line of a text file that is neither blank nor a NIST comment (`;;`), without its line ending.

    Raises:
        ValueError: see [`read_lines`].
    """
    lines = (line for line in read_lines(path) if line.strip() and not line.startswith(";;"))
    return next(lines, "").rstrip("\r\n")


def read_table(path, columns, delimiter, other_formats="", optional=(), numbers=()) -> Iterator[tuple[str, dict]]:
    """Yield `(position, {column: text})` for the rows of a table with a header.

    Columns may come in any order and their names in any case; blanks around fields are stripped.

    Args:
        columns: required columns.
        delimiter: one character.
        other_formats: hint to append to the error about a wrong delimiter.
        optional: further columns that are allowed; `None` allows any. Other columns are an error because they may
            change the meaning of a row, such as `NOT_PRESENT` in AudioSet's framed labels.
        numbers: columns that are numeric; if they are so in the first row, the table has no header.

    Raises:
        ValueError: a wrong delimiter; missing, unknown or repeated columns; a row of another length.
    """
    known = {column.casefold(): column for column in (*columns, *(optional or ()))}
    # Strict: text after a closing quote, or an unclosed quote, would otherwise silently swallow rows.
    reader = csv.reader(read_lines(path, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    header = None
    while True:
        first = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise ValueError(f"{path}, line {first}: {error}; check the quotation marks from here on.") from None
        if fields is None:
            break
        # A quoted field may span lines; the position is the first one.
        fields, where = [field.strip() for field in fields], f"{path}, line {first}"
        if header is None:
            row = dict(zip(columns, fields))
            if fields and not (numbers and all(_NUMBER.fullmatch(row.get(name, "")) for name in numbers)):
                header = [known.get(field.casefold(), field) for field in fields]
                _check_header(header, columns, optional, delimiter, where, other_formats)
                continue
            header = list(columns) if fields else None
        if fields:
            # Spreadsheets may append empty fields.
            while len(fields) > len(header) and not fields[-1]:
                fields.pop()
            if len(fields) != len(header):
                raise ValueError(
                    f"{where} has {len(fields)} fields, but the header names {len(header)} columns "
                    f"({', '.join(header)}): {fields}; separate them by {_name(delimiter)}."
                )
            yield where, dict(zip(header, fields, strict=True))
    if header is None:
        raise ValueError(f"{path} is empty; its first line must be {delimiter.join(columns)!r}.")


def _check_header(header, columns, optional, delimiter, where, other_formats):
    missing = [column for column in columns if column not in header]
    if missing and len(header) == 1:
        others = [other for other in "\t,;|" if other != delimiter and header[0].count(other) >= len(columns) - 1]
        if others:
            raise ValueError(
                f"{where}: the header {header[0]!r} is separated by {_name(others[0])}, where {_name(delimiter)} are "
                f"expected; rewrite the file{other_formats}."
            )
    unknown = [] if optional is None else [column for column in header if column not in (*columns, *optional)]
    repeated = sorted({column for column in header if header.count(column) > 1})
    problems = [
        f"{problem} {', '.join(map(repr, names))}"
        for problem, names in (("lacks", missing), ("has unknown", unknown), ("repeats", repeated))
        if names
    ]
    if problems:
        raise ValueError(f"{where}: the header {' and '.join(problems)}; its columns must be {', '.join(columns)}.")


def _name(delimiter):
    return {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "bars"}[delimiter]


def read_json_lines(path) -> Iterator[tuple[str, object]]:
    """Yield `(position, value)` for the lines of a JSON Lines file, skipping blank lines.

    Raises:
        ValueError: a line is not JSON.
    """
    for number, line in enumerate(read_lines(path), 1):
        if line.strip():
            where = f"{path}, line {number}"
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{where} is not JSON ({error}): {line.strip()[:80]!r}.") from None
            yield where, value


def read_number(text, name, where) -> float:
    """Return a number from a text file.

    Raises:
        ValueError: not a plain decimal number.
    """
    if not _NUMBER.fullmatch(text.strip()):
        hint = "with a decimal point, not a comma" if "," in text else "such as 1.25"
        raise ValueError(f"{where}: {name} is {text!r}; give a number of seconds {hint}.")
    return float(text)


def check_duration(duration, where) -> float:
    """Return a duration in seconds as float.

    Raises:
        ValueError: it is not a finite number greater than 0.
    """
    is_number = isinstance(duration, int | float) and not isinstance(duration, bool)
    if not is_number or not 0 < duration < float("inf"):
        raise ValueError(f"{where}: duration is {duration!r}; give the length in seconds, a finite number above 0.")
    return float(duration)


def make_event(onset, offset, event_label, where, score=None) -> Event:
    """Return an event; an error begins with `where`, its file and line.

    Raises:
        ValueError: an invalid [`Event`].
    """
    try:
        return Event(onset, offset, event_label, score)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def audio_stem(name: str) -> str:
    """Return the name of a recording without its folder and audio suffix.

    Not `Path.stem`: names such as `Singapore_0.0_60.0` contain dots.
    """
    name = os.path.basename(name)
    suffix = os.path.splitext(name)[1]
    return name[: -len(suffix)] if suffix.lower() in AUDIO_SUFFIXES else name


def format_seconds(time: float) -> str:
    """Return a time with three decimals, or as many as are needed to restore it exactly."""
    text = f"{time:.3f}"
    return text if float(text) == time else repr(float(time))


def read_event_table(path, delimiter: str, hint: str = "") -> Iterator[dict]:
    """Yield the recordings of a table in order of first appearance; their events keep their order.

    Args:
        delimiter: a tab or a comma.
        hint: hint to append to the error about a wrong delimiter.

    Returns:
        dicts `{"file", "duration", "events"}`, where the duration is `None` and the events are [`Event`]s.

    Raises:
        ValueError: a malformed line.
    """
    recordings, first = {}, {}
    for where, fields in read_table(path, COLUMNS, delimiter, hint, ("score",), ("onset", "offset")):
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
    """Return a table of recordings `{"file", "events"}`, with a column `score` if any event has one.

    Raises:
        ValueError: two results for one file, a name with line breaks, or a label that is blank or `nan`.
    """
    results = list(results)
    scored = any(event.score is not None for result in results for event in result["events"])
    lines, seen = [(*COLUMNS, "score") if scored else COLUMNS], set()
    for result in results:
        file = result["file"]
        if file in seen:
            raise ValueError(
                f"{file!r} has several results, but a table holds one of each; join their events into one."
            )
        seen.add(file)
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
    """Return rows of fields as text, quoted where necessary."""
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter, lineterminator="\n").writerows(lines)
    return file.getvalue()


def is_missing(text: str) -> bool:
    """Return whether a field has no value: it is empty, or `NaN` as pandas may write it."""
    return text.strip().lower() in ("", "nan")


def read_label_track(path) -> list:
    """Return the events of an Audacity label track.

    Labels that begin before 0 s, as in a track that was moved, are cut at 0, and those that also end before it are
    dropped; a warning counts them.

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
