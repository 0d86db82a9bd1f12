"""Text files of any size, read line by line: lines, tables, JSON Lines, and the numbers and names in them.

Whatever is read comes with the place it stands in, `file, line 3`, for later errors. A UTF-8 byte order
mark and Windows line ends are read over. Nothing here needs more than Python.
"""

import csv
import json
import os
import re
from collections.abc import Iterator

from .audio_formats import AUDIO_SUFFIXES
from .events import Event

# What else `float` takes, such as `1_000`, `inf` and digits of other scripts, is a slip in an annotation.
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def read_lines(path, newline=None) -> Iterator[str]:
    """Yield the lines of a text file, line ends included.

    Raises:
        ValueError: the file is not UTF-8.
    """
    with open(path, encoding="utf-8-sig", newline=newline) as file:
        try:
            yield from file
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 ({error}); save it as UTF-8.") from None


def read_table(path, columns, delimiter, other_formats="", optional=()) -> Iterator[tuple[str, dict]]:
    """Yield `(place, {column: text})` for the rows of a table whose header names its columns.

    Columns may be in any order, and their names in capitals; blanks around fields are left out.

    Args:
        columns: those that there must be.
        delimiter: one character.
        other_formats: what else to say about a wrong delimiter.
        optional: further columns that there may be. Unknown ones are an error, for they may change what a row means:
            AudioSet's framed labels have one that says `NOT_PRESENT`. `None`: any others.

    Raises:
        ValueError: a wrong delimiter, missing, unknown or repeated columns, or a row of another length.
    """
    known = {column.casefold(): column for column in (*columns, *(optional or ()))}
    # Strict: text after a closing quote, or a quote that is never closed, would silently swallow rows.
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
        # A quoted field may span lines; a row is named by its first.
        fields, where = [field.strip() for field in fields], f"{path}, line {first}"
        if header is None:
            if fields:
                header = [known.get(field.casefold(), field) for field in fields]
                _check_header(header, columns, optional, delimiter, where, other_formats)
        elif fields:
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
    """Yield `(place, value)` for the lines of a JSON Lines file; blank lines are left out.

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
    """Return a number written in a text file.

    Raises:
        ValueError: it is no plain decimal number.
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
    """Return an event; an error begins with `where`, the file and line it stands in.

    Raises:
        ValueError: what [`Event`] refuses.
    """
    try:
        return Event(onset, offset, event_label, score)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def audio_stem(name: str) -> str:
    """Return the name of a recording without folder and without the suffix of an audio format.

    Not `Path.stem`: names like `Singapore_0.0_60.0` have dots of their own.
    """
    name = os.path.basename(name)
    suffix = os.path.splitext(name)[1]
    return name[: -len(suffix)] if suffix.lower() in AUDIO_SUFFIXES else name


def format_seconds(time: float) -> str:
    """Return a time with three decimals, or with as many as it needs to be read back equal."""
    text = f"{time:.3f}"
    return text if float(text) == time else repr(float(time))
