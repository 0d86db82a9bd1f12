"""Events as captions of one recording: WebVTT and SubRip (SRT), to the millisecond.

Sources: W3C, "WebVTT: The Web Video Text Tracks Format"; SubRip has no standard, this is what its players read.
"""

import html
import re
from collections.abc import Callable
from pathlib import Path

from .text_files import make_event

_TIME = r"(?:(\d+):)?([0-5]?\d):([0-5]\d)[.,](\d{1,3})"
# Settings of WebVTT, or coordinates of SubRip, may follow.
_TIMING = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?", re.ASCII)
_TAG = re.compile(r"<[^<>]*>")
# SubRip has no other tags; `{\an8}` and the like are its players' settings.
_STYLE = re.compile(r"</?(?:b|i|u|s|font)(?:\s[^<>]*)?>|\{\\[^{}]*\}", re.IGNORECASE)
# What else a WebVTT file may have.
_NO_CUE = re.compile(r"(?:NOTE|STYLE|REGION)(?:\s|$)")


def read_vtt(path) -> list:
    """Return the events of a WebVTT file. Identifiers, settings, notes, styles and tags of cues are left out.

    Raises:
        ValueError: no WebVTT, or a malformed cue.
    """
    text = _read_text(path)
    if not re.match(r"WEBVTT(?:[ \t\n]|$)", text):
        raise ValueError(f"{path} begins with {text[:20]!r}; the first line of WebVTT is 'WEBVTT'.")
    header = []
    lines = list(enumerate(text.split("\n"), 1))
    # The header ends at an empty line, or at the times of a cue.
    for number, line in lines[1:]:
        if not line or "-->" in line:
            break
        header.append(number)
    blocks = _blocks(lines[1 + len(header) :], lambda line: not line)
    return [_read_cue(path, block, _plain_text) for block in blocks if not _NO_CUE.match(block[0][1])]


def read_srt(path) -> list:
    """Return the events of a SubRip file. Numbers, coordinates and styling (`<i>`, `{\\an8}`) are left out.

    Milliseconds may have fewer digits: `1,5` is 1.5 s.

    Raises:
        ValueError: a malformed cue.
    """
    lines = list(enumerate(_read_text(path).split("\n"), 1))
    return [_read_cue(path, block, _without_style) for block in _blocks(lines, lambda line: not line.strip())]


def format_vtt(result: dict) -> str:
    """Return the events of one recording as WebVTT, in order of their onsets.

    Raises:
        ValueError: a blank label, or an event shorter than a millisecond.
    """
    cues = [
        f"{_clock(onset, '.')} --> {_clock(offset, '.')}\n{html.escape(label, quote=False)}\n"
        for onset, offset, label in _cues(result, "WebVTT")
    ]
    return "\n".join(["WEBVTT\n", *cues])


def format_srt(result: dict) -> str:
    """Return the events of one recording as SubRip, in order of their onsets.

    Raises:
        ValueError: a label that is blank or has `-->` or styling, or an event shorter than a millisecond.
    """
    cues = []
    for number, (onset, offset, label) in enumerate(_cues(result, "SubRip"), 1):
        if "-->" in label or _without_style(label) != label:
            raise ValueError(f"{result['file']!r} has the label {label!r}, but SubRip cannot hold '-->' or tags.")
        cues.append(f"{number}\n{_clock(onset, ',')} --> {_clock(offset, ',')}\n{label}\n")
    return "\n".join(cues)


def _cues(result, kind):
    for event in sorted(result["events"]):
        file, label = result["file"], event.event_label
        if not label or "\0" in label:
            raise ValueError(f"{file!r} has the label {label!r}, but {kind} cannot hold it; name the event.")
        onset, offset = round(1000 * event.onset), round(1000 * event.offset)
        if onset == offset:
            raise ValueError(
                f"{file!r} has an event from {event.onset} to {event.offset} s, but {kind} needs at least a "
                "millisecond; lengthen or drop it."
            )
        yield onset, offset, label


def _read_text(path) -> str:
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}); save it as UTF-8.") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _blocks(lines, is_end: Callable[[str], bool]) -> list[list]:
    """Return blocks of `(number, line)`. One ends at such a line, or at a blank one before the times of a cue."""
    blocks = [[]]
    for index, (number, line) in enumerate(lines):
        following = [later for _, later in lines[index + 1 : index + 3]]
        if is_end(line) or (not line.strip() and any(map(_TIMING.fullmatch, following))):
            blocks.append([])
        elif line.strip() or blocks[-1]:
            blocks[-1].append((number, line))
    return [block for block in blocks if block]


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


def _without_style(text):
    return _STYLE.sub("", text)


def _seconds(groups):
    hours, minutes, seconds = (int(group or 0) for group in groups[:3])
    milliseconds = int(groups[3].ljust(3, "0"))
    return (((hours * 60 + minutes) * 60 + seconds) * 1000 + milliseconds) / 1000


def _clock(milliseconds, point):
    seconds, milliseconds = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{point}{milliseconds:03d}"
