"""Supervisions of lhotse, as JSON Lines, compressed or not, or as a JSON list.

    {"id": "night-1", "recording_id": "night", "start": 0.5, "duration": 0.75, "channel": 0, "text": "dog"}

Source: lhotse's documentation of `SupervisionSegment`.
"""

import gzip
import json
import zlib
from collections.abc import Iterator

from processing.text_files import make_event, read_json_lines
from recipes.data.clip import AnnotatedClip, clips_of, require_keys
from recipes.data.readers.json_stream import first_byte, read_json_list


def read_supervisions(path) -> Iterator[AnnotatedClip]:
    """Yield a clip for every recording. The label is `custom.audio_event`, as in lhotse's AudioSet, else `text`.

    Raises:
        ValueError: a malformed line, or one without a label.
    """
    found: dict[str, list] = {}
    for where, item in _lines(path):
        require_keys(item, ("id", "recording_id", "start", "duration"), where)
        custom = item.get("custom")
        label = (custom.get("audio_event") if isinstance(custom, dict) else None) or item.get("text")
        if not isinstance(label, str) or not label.strip():
            raise ValueError(f"{where}: supervision {item['id']!r} has neither custom.audio_event nor text; name it.")
        start, duration = item["start"], item["duration"]
        # The event raises an error for anything but numbers.
        offset = round(start + duration, 9) if all(isinstance(x, int | float) for x in (start, duration)) else duration
        event = make_event(start, offset, label, where)
        found.setdefault(str(item["recording_id"]), []).append(event)
    yield from clips_of(path, found)


def _lines(path):
    with open(path, "rb") as file:
        is_compressed = file.read(2) == b"\x1f\x8b"
    if not is_compressed:
        yield from read_json_list(path) if first_byte(path) == b"[" else read_json_lines(path)
        return
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield f"{path}, line {number}", json.loads(line)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ValueError(f"{path} is not JSON Lines in gzip ({error}); fetch or repair it.") from None
