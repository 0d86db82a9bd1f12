"""Events as captions of one recording: WebVTT and SubRip (SRT), to the millisecond.

Sources: W3C, "WebVTT: The Web Video Text Tracks Format"; SubRip has no standard, this is what its players read.
"""

import html
import re
from collections.abc import Callable
from pathlib import Path

from .text_files import check_label, make_event, whole_milliseconds

_TIME = r"(?:(\d+):)?([0-5]?\d):([0-5]\d)[.,](\d{3})"
_TIMING = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?", re.ASCII)
_TAG = re.compile(r"<[^<>]*>")
# What may stand in a WebVTT file besides cues.
_BESIDES = re.compile(r"(?:NOTE|STYLE|REGION)(?:\s|$)")


def read_vtt(path) -> list:
    """Return the events of a WebVTT file. Identifiers, settings, notes, styles and tags of cues are left out.

    Raises:
        ValueError: no WebVTT, or a malformed cue.
    """
    text = _read_text(path)
    if not re.match(r"WEBVTT(?:[ \t\n]|$)", text):
        raise ValueError(f"{path} begins with {text[:20]!r}; the first line of WebVTT is 'WEBVTT'.")
    return _read_cues(path, text, _plain_text, has_header=True)


def read_srt(path) -> list:
    """Return the events of a SubRip file; text is taken as it is, tags included.

    Raises:
        ValueError: a malformed cue.
    """
    return _read_cues(path, _read_text(path), str, has_header=False)


def format_vtt(result: dict) -> str:
    """Return the events of one recording as WebVTT, in order of their onsets.

    Raises:
        ValueError: a label that is blank or has blank lines, or an event shorter than a millisecond.
    """
    cues = [
        f"{_clock(onset, '.')} --> {_clock(offset, '.')}\n{html.escape(label, quote=False)}\n"
        for onset, offset, label in _cues(result, "WebVTT", "\r\0", "carriage returns")
    ]
    return "\n".join(["WEBVTT\n", *cues])


def format_srt(result: dict) -> str:
    """Return the events of one recording as SubRip, in order of their onsets.

    Raises:
        ValueError: a label that is blank or has blank lines or `-->`, or an event shorter than a millisecond.
    """
    cues = []
    for number, (onset, offset, label) in enumerate(_cues(result, "SubRip", "\r\0", "carriage returns"), 1):
        if "-->" in label:
            raise ValueError(f"{result['file']!r} has the label {label!r}, but SubRip cannot hold '-->'; replace it.")
        cues.append(f"{number}\n{_clock(onset, ',')} --> {_clock(offset, ',')}\n{label}\n")
    return "\n".join(cues)


def _cues(result, kind, refused, names):
    for event in sorted(result["events"]):
        label = check_label(event.event_label, result["file"], kind, refused, names)
        # An empty line ends a cue.
        if not all(line.strip() for line in label.split("\n")):
            raise ValueError(f"{result['file']!r} has the label {label!r}, but {kind} cannot hold blank lines.")
        yield *whole_milliseconds(event, result["file"], kind), label


def _read_text(path) -> str:
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}); save it as UTF-8.") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read_cues(path, text: str, unescape: Callable[[str], str], has_header: bool) -> list:
    """Return the events of blocks of lines that empty lines separate."""
    events, block = [], []
    for number, line in enumerate([*text.split("\n"), ""], 1):
        if line.strip():
            block.append((number, line))
            continue
        if block and not (has_header and (block[0][0] == 1 or _BESIDES.match(block[0][1]))):
            events.append(_read_cue(path, block, unescape))
        block = []
    return events


def _read_cue(path, block, unescape):
    # The first line may be a number or name.
    for index, (number, line) in enumerate(block[:2]):
        times = _TIMING.fullmatch(line)
        if times:
            onset, offset = _seconds(times.groups()[:4]), _seconds(times.groups()[4:])
            again = next((number for number, line in block[index + 1 :] if _TIMING.fullmatch(line)), None)
            if again:
                raise ValueError(f"{path}, line {again} gives times within the text of a cue; put an empty line there.")
            label = unescape("\n".join(line for _, line in block[index + 1 :]))
            return make_event(onset, offset, label, f"{path}, line {number}")
    number, line = next((entry for entry in block[:2] if "-->" in entry[1]), block[0])
    raise ValueError(f"{path}, line {number} is {line[:80]!r}; give times such as 00:00:01.250 --> 00:00:02.000.")


def _plain_text(text):
    return html.unescape(_TAG.sub("", text))


def _seconds(groups):
    hours, minutes, seconds, milliseconds = (int(group or 0) for group in groups)
    return (((hours * 60 + minutes) * 60 + seconds) * 1000 + milliseconds) / 1000


def _clock(milliseconds, point):
    seconds, milliseconds = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{point}{milliseconds:03d}"
