"""Stream JSON files of any size; every item comes with its position, `file, [17]`, for later errors."""

import contextlib
from collections.abc import Iterator

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_json_list(path) -> Iterator[tuple[str, object]]:
    """Yield `(position, value)` for the items of a JSON list, one at a time.

    Raises:
        ValueError: the file is not a JSON list, or is truncated.
    """
    import ijson

    with _open_json(path, b"[", "a list") as file:
        for index, value in enumerate(_parsed(ijson.items(file, "item", use_float=True), path)):
            yield f"{path}, [{index}]", value


def read_json_object(path) -> Iterator[tuple[str, str, object]]:
    """Yield `(position, key, value)` for the members of a JSON object, one at a time.

    Raises:
        ValueError: the file is not a JSON object, or is truncated.
    """
    import ijson

    with _open_json(path, b"{", "an object") as file:
        for key, value in _parsed(ijson.kvitems(file, "", use_float=True), path):
            yield f"{path}, [{key!r}]", key, value


def first_byte(path) -> bytes:
    """Return the first byte of a file after a byte order mark and white space; empty if there is none."""
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
