"""The annotation formats that are read, and how a file tells which of them it is.

A format is a generator of clips and an entry in [`READERS`].
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from processing.text_files import read_lines
from recipes.data.clip import AnnotatedClip, read_json_clips
from recipes.data.readers.audacity import read_label_tracks
from recipes.data.readers.audiogrounding import read_audiogrounding
from recipes.data.readers.audioset_strong import read_audioset_strong
from recipes.data.readers.audiotime import read_audiotime
from recipes.data.readers.ftar import read_ftar
from recipes.data.readers.json_stream import BYTE_ORDER_MARK, read_json_list, read_json_object
from recipes.data.readers.lighthouse import read_moment_retrieval
from recipes.data.readers.parquet import read_parquet
from recipes.data.readers.tables import read_csv, read_desed

_LABEL = re.compile(r"-?[0-9.]+\t-?[0-9.]+(?:\t|$)")


@dataclass(frozen=True)
class FileStart:
    """What the start of a file says about its format.

    Attributes:
        opening: the first bytes, after blanks.
        line: the first line that is not blank, without its end; empty in binary files.
        columns: the fields of that line, as if it were the header of a table.
        json: what the file is: `list`, `lines` (an object a line), `object`, or `None`.
        item: the first item of a list, the first line, or the first member of an object, if that is an object.
        found: all of this in words.
    """

    opening: bytes
    line: str = ""
    columns: frozenset = frozenset()
    json: str | None = None
    item: dict | None = None
    found: str = ""

    def has(self, json: str, *keys: str) -> bool:
        """Return whether the file is JSON of a kind whose first item has certain keys."""
        return self.json == json and self.item is not None and set(keys) <= set(self.item)


@dataclass(frozen=True)
class Reader:
    """How one format is read.

    Attributes:
        read: yields the clips of a path, whose `audio` is the name that the file gives, and raises a `ValueError` that
            names place, value and fix where it cannot.
        fits: tells from its start whether a file may be of the format; by default it must be named.
        lists_events: whether recordings appear by their events alone, so that those without any may be known from a
            table of durations only.
        is_folder: whether the path may be a folder.
    """

    read: Callable[..., Iterator[AnnotatedClip]]
    fits: Callable[[FileStart], bool] = lambda start: False
    lists_events: bool = False
    is_folder: bool = False


def _is_table(*columns, tabs):
    return lambda start: set(columns) <= start.columns and ("\t" in start.line) == tabs


READERS = {
    "desed": Reader(read_desed, _is_table("filename", "onset", tabs=True), lists_events=True),
    # Semicolons and the like are its to complain about.
    "csv": Reader(read_csv, _is_table("filename", "onset", tabs=False), lists_events=True),
    "audioset_strong": Reader(
        read_audioset_strong,
        lambda start: {"segment_id", "start_time_seconds"} <= start.columns,
        lists_events=True,
    ),
    "ftar": Reader(read_ftar, lambda start: start.has("list", "question", "answer")),
    "audiogrounding": Reader(read_audiogrounding, lambda start: start.has("list", "audio_id", "phrases")),
    "lighthouse": Reader(read_moment_retrieval, lambda start: start.has("lines", "query", "relevant_windows")),
    "audiotime": Reader(read_audiotime, lambda start: start.has("object", "event")),
    "audacity": Reader(read_label_tracks, lambda start: bool(_LABEL.match(start.line)), is_folder=True),
    "jsonl": Reader(read_json_clips, lambda start: start.has("lines", "events")),
    "parquet": Reader(read_parquet, lambda start: start.opening.startswith(b"PAR1")),
}


def guess_format(path) -> str:
    """Return the name of the one format that a file can be of; only its start is looked at.

    Raises:
        ValueError: none or several fit; the message says what was found.
    """
    name = "name it by data_format (on the command line --data-format)"
    if Path(path).is_dir():
        folders = " or ".join(repr(format) for format, reader in READERS.items() if reader.is_folder)
        raise ValueError(f"{path} is a folder, which may be {folders}; if it is, {name}.")
    start = read_start(path)
    if not start.opening:
        raise ValueError(f"{path} is empty; if that is what it should be, {name}.")
    fitting = [format for format, reader in READERS.items() if reader.fits(start)]
    if len(fitting) != 1:
        said = f"fits {' and '.join(fitting)}" if fitting else "fits no known format"
        raise ValueError(f"{path} {said}: {start.found}; {name}: {', '.join(READERS)}.")
    return fitting[0]


def read_start(path) -> FileStart:
    """Return what the start of a file says.

    Raises:
        ValueError: JSON that breaks off, or text that is not UTF-8.
    """
    with open(path, "rb") as file:
        opening = file.read(4096).removeprefix(BYTE_ORDER_MARK).lstrip()
        while not opening and (blank := file.read(4096)):
            opening = blank.lstrip()
    if opening.startswith(b"PAR1") or b"\0" in opening[:64]:
        return FileStart(opening, found=f"its first bytes are {opening[:8]!r}")
    first = opening[:1]
    if first == b"[":
        _, item = next(read_json_list(path), (None, None))
        return FileStart(opening, json="list", item=_object(item), found=f"a JSON list, the first item {_say(item)}")
    line = next((line.strip("\r\n") for line in read_lines(path) if line.strip()), "")
    if first == b"{":
        return _start_of_object(path, opening, line)
    columns = frozenset(name.strip().strip('"') for name in re.split(r"[\t,;|]", line))
    return FileStart(opening, line, columns, found=f"its first line is {line[:80]!r}")


def _start_of_object(path, opening, line):
    """Tell JSON Lines from one JSON object: the first line of the former is complete, and no member is an object."""
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    if value is None or all(isinstance(member, dict) for member in value.values()):
        _, key, member = next(read_json_object(path), (None, None, None))
        found = f"a JSON object, its member {key!r} {_say(member)}"
        return FileStart(opening, line, json="object", item=_object(member), found=found)
    return FileStart(opening, line, json="lines", item=value, found=f"JSON Lines, the first {_say(value)}")


def _object(value):
    return value if isinstance(value, dict) else None


def _say(value):
    if isinstance(value, dict):
        return f"with the keys {', '.join(map(repr, value)) or 'none'}"
    return f"being {str(value)[:40]!r}"
