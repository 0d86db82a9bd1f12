"""Text files of annotations, read piece by piece: lines, tables, JSON Lines and large JSON files.

Every piece comes with the place it stands in, `file, line 3` or `file, [17]`, for the errors of who reads on. A UTF-8
byte order mark and Windows line ends are read over.
"""

import contextlib
import csv
import json
from collections.abc import Iterator
from pathlib import Path

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


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


def read_table(path, columns, delimiter, other_formats="") -> Iterator[tuple[str, dict]]:
    """Yield `(place, {column: text})` for the rows of a table whose header names its columns.

    Columns may stand in any order. Unknown ones are an error, for they may change what a row means: AudioSet's framed
    labels have one that says `NOT_PRESENT`.

    Args:
        columns: those that there must be.
        delimiter: one character.
        other_formats: what to say, besides, about a wrong delimiter.

    Raises:
        ValueError: a wrong delimiter, missing, unknown or repeated columns, or a row of another length.
    """
    # Strict: text after a closing quote, or a quote that is never closed, would silently swallow rows.
    reader = csv.reader(read_lines(path, newline=""), delimiter=delimiter, strict=True)
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
        if header is None:
            if fields:
                header = [field.strip() for field in fields]
                _check_header(header, columns, delimiter, f"{path}, line {first}", other_formats)
        elif fields:
            where = f"{path}, line {first}"
            if len(fields) != len(header):
                raise ValueError(
                    f"{where} has {len(fields)} fields, but the header names {len(header)} columns "
                    f"({', '.join(header)}): {fields}; separate them by {_name(delimiter)}."
                )
            yield where, dict(zip(header, fields, strict=True))
    if header is None:
        raise ValueError(f"{path} is empty; its first line must be {delimiter.join(columns)!r}.")


def _check_header(header, columns, delimiter, where, other_formats):
    missing = [column for column in columns if column not in header]
    if missing and len(header) == 1:
        others = [other for other in "\t,;|" if other != delimiter and header[0].count(other) >= len(columns) - 1]
        if others:
            raise ValueError(
                f"{where}: the header {header[0]!r} is separated by {_name(others[0])}, where {_name(delimiter)} are "
                f"expected; rewrite the file{other_formats}."
            )
    unknown = [column for column in header if column not in columns]
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
            except ValueError as error:
                raise ValueError(f"{where} is not JSON ({error}): {line.strip()[:80]!r}.") from None
            yield where, value


def read_json_list(path) -> Iterator[tuple[str, object]]:
    """Yield `(place, value)` for the items of a JSON list, one at a time, whatever the size of the file.

    Raises:
        ValueError: the file is not a JSON list, or breaks off.
    """
    import ijson

    with _open_json(path, b"[", "a list") as file:
        for index, value in enumerate(_parsed(ijson.items(file, "item", use_float=True), path)):
            yield f"{path}, [{index}]", value


def read_json_object(path) -> Iterator[tuple[str, str, object]]:
    """Yield `(place, key, value)` for the members of a JSON object, one at a time.

    Raises:
        ValueError: the file is not a JSON object, or breaks off.
    """
    import ijson

    with _open_json(path, b"{", "an object") as file:
        for key, value in _parsed(ijson.kvitems(file, "", use_float=True), path):
            yield f"{path}, [{key!r}]", key, value


def first_byte(path) -> bytes:
    """Return the first byte of a file that is no white space, after a byte order mark; empty if there is none."""
    with open(path, "rb") as file:
        _skip_mark(file)
        while byte := file.read(1):
            if not byte.isspace():
                return byte
    return b""


@contextlib.contextmanager
def _open_json(path, opening, kind):
    found = first_byte(path)
    if found != opening:
        raise ValueError(f"{path} begins with {found.decode('latin-1')!r}; it must be {kind} in JSON.")
    with open(path, "rb") as file:
        _skip_mark(file)
        yield file


def _skip_mark(file):
    if file.read(3) != BYTE_ORDER_MARK:
        file.seek(0)


def _parsed(items, path):
    from ijson.common import JSONError

    count = 0
    try:
        for item in items:
            count += 1
            yield item
    except (JSONError, UnicodeDecodeError) as error:
        message = " ".join(str(error).split())
        raise ValueError(
            f"{path} is not JSON: after {count} whole items comes {message!r}; fetch or repair it."
        ) from None


def source_of(path, format) -> str:
    """Return what a row gives as its source: the format and the name of the file."""
    return f"{format}:{Path(path).stem}"
