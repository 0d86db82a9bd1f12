"""`FileStart`: what the start of a file reveals about its format."""

import codecs
import json
import re
from dataclasses import dataclass
from itertools import islice

from processing.text_files import first_line
from recipes.data.readers.json_stream import BYTE_ORDER_MARK, read_json_list, read_json_object


@dataclass(frozen=True)
class FileStart:
    """What the start of a file reveals about its format.

    Attributes:
        opening: the first bytes, after white space.
        line: the first line that is neither blank nor a comment (`;;`), without its line ending; empty in binary files.
        columns: the fields of that line as the header of a table, in lower case; for a JSON object its first keys.
        json: kind of JSON: `list`, `lines` (one object per line), `object`, or `None`.
        item: the first item of the list, the first line, or the first member of the object, if it is an object.
        found: description for messages.
    """

    opening: bytes
    line: str = ""
    columns: frozenset = frozenset()
    json: str | None = None
    item: dict | None = None
    found: str = ""

    def has(self, json: str, *keys: str) -> bool:
        """Return whether the file is this kind of JSON, and its first item has these keys."""
        return self.json == json and self.item is not None and set(keys) <= set(self.item)


def read_start(path) -> FileStart:
    """Read the start of a file.

    Raises:
        ValueError: truncated JSON.
    """
    with open(path, "rb") as file:
        opening = file.read(4096).removeprefix(BYTE_ORDER_MARK).lstrip()
        while not opening and (blank := file.read(4096)):
            opening = blank.lstrip()
    if opening.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        opening = opening.decode("utf-16", "replace").encode()
    if opening.startswith((b"PAR1", b"\x1f\x8b")) or b"\0" in opening[:64]:
        return FileStart(opening, found=f"its first bytes are {opening[:8]!r}")
    # Subtitles may begin with [Script Info], or with {0}.
    first = opening[:1] if re.match(rb'\[\s*(?:[]["{0-9-]|true|false|null|$)|\{\s*(?:["}]|$)', opening) else b""
    if first == b"[":
        _, item = next(read_json_list(path), (None, None))
        return FileStart(opening, json="list", item=_object(item), found=f"a JSON list, the first item {_say(item)}")
    try:
        line = first_line(path)
    except ValueError:
        # A TextGrid may be in Latin-1; other readers raise their own errors.
        line = opening.decode("latin-1").split("\n")[0].strip("\r\n")
    if first == b"{":
        return _start_of_object(path, opening, line)
    columns = frozenset(name.strip().strip('"').casefold() for name in re.split(r"[\t,;|]", line))
    return FileStart(opening, line, columns, found=f"its first line is {line[:80]!r}")


def _start_of_object(path, opening, line):
    """Distinguish JSON Lines from one JSON object: their first line is complete, and not all members are objects."""
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    if value is None or all(isinstance(member, dict) for member in value.values()):
        members = list(islice(read_json_object(path), 3))
        _, key, member = members[0] if members else (None, None, None)
        found, keys = f"a JSON object, its member {key!r} {_say(member)}", frozenset(name for _, name, _ in members)
        return FileStart(opening, line, keys, json="object", item=_object(member), found=found)
    return FileStart(opening, line, json="lines", item=value, found=f"JSON Lines, the first {_say(value)}")


def _object(value):
    return value if isinstance(value, dict) else None


def _say(value):
    if isinstance(value, dict):
        return f"with the keys {', '.join(map(repr, value)) or 'none'}"
    return f"being {str(value)[:40]!r}"
