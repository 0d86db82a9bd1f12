"""Tell the format of an annotation file from its contents."""

import json
import re
from pathlib import Path

from processing.text_files import read_lines
from recipes.data.readers.json_stream import first_byte, read_json_list, read_json_object

_TABLE_HEADERS = {"desed": ("filename", "onset"), "audioset_strong": ("segment_id", "start_time_seconds")}
_LABEL = re.compile(r"-?[0-9.]+\t-?[0-9.]+(?:\t|$)")
_LIST_KEYS = {"ftar": ("question", "answer"), "audiogrounding": ("audio_id", "phrases")}
_LINE_KEYS = {"lighthouse": ("query", "relevant_windows"), "jsonl": ("audio", "events")}


def guess_format(path) -> str:
    """Return the name of the one format that a file can be of.

    Only its first line, item or member is looked at.

    Raises:
        ValueError: none or several fit; the message says what was found and to name the format.
    """
    if Path(path).is_dir():
        raise ValueError(f"{path} is a folder; if it holds label tracks, say format='audacity'.")
    opening = first_byte(path)
    if not opening:
        raise ValueError(f"{path} is empty; say which format it is, such as format='audacity' for an empty track.")
    if opening == b"[":
        _, item = next(read_json_list(path), (None, None))
        fitting, found = _by_keys(item, _LIST_KEYS), f"a JSON list, the first item {_describe(item)}"
    elif opening == b"{":
        fitting, found = _guess_object(path)
    else:
        fitting, found = _guess_lines(path)
    if len(fitting) != 1:
        said = f"fits {' and '.join(fitting)}" if fitting else "fits no known format"
        raise ValueError(f"{path} {said}: {found}; say which it is with format='...'.")
    return fitting[0]


def _guess_object(path):
    """Tell JSON Lines from one JSON object: the first line of the former is complete."""
    line = next((line for line in read_lines(path) if line.strip()), "")
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    fitting = _by_keys(value, _LINE_KEYS)
    found = f"JSON Lines, the first {_describe(value)}"
    if not fitting:
        _, key, member = next(read_json_object(path), (None, None, None))
        if isinstance(member, dict) and "event" in member:
            fitting = ["audiotime"]
        elif value is None:
            found = f"a JSON object, its member {key!r} {_describe(member)}"
    return fitting, found


def _guess_lines(path):
    line = next((line.strip("\r\n") for line in read_lines(path) if line.strip()), "")
    names = {name.strip().strip('"') for name in re.split(r"[\t,;|]", line)}
    fitting = [format for format, columns in _TABLE_HEADERS.items() if set(columns) <= names]
    # Semicolons and the like are csv's to complain about.
    if fitting == ["desed"] and "\t" not in line:
        fitting = ["csv"]
    if _LABEL.match(line):
        fitting.append("audacity")
    return fitting, f"its first line is {line[:80]!r}"


def _by_keys(value, formats):
    keys = set(value) if isinstance(value, dict) else set()
    return [format for format, needed in formats.items() if set(needed) <= keys]


def _describe(value):
    if isinstance(value, dict):
        return f"with the keys {', '.join(map(repr, value)) or 'none'}"
    return f"being {str(value)[:40]!r}"
