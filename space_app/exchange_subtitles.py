"""The cues of subtitles, WebVTT and SubRip (SRT), and as events; a checkpoint writes them (`annotations.py`).

Sources: W3C, "WebVTT: The Web Video Text Tracks Format"; SubRip has no standard, this is what its players read.
"""

import html
import re
from dataclasses import dataclass, replace
from pathlib import Path

from space_app.exchange_text import text_lines

_TIME = r"(?:(\d+):)?([0-5]?\d):([0-5]\d)[.,](\d{1,3})"
# Settings of WebVTT, or coordinates of SubRip, may follow.
_TIMING = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?", re.ASCII)
_TAG = re.compile(r"<[^<>]*>")
# SubRip has no other tags; `{\an8}` and the like are its players' settings.
_STYLE = re.compile(r"</?(?:b|i|u|s|font)(?:\s[^<>]*)?>|\{\\[^{}]*\}", re.IGNORECASE)
# What else a WebVTT file may have.
_NO_CUE = re.compile(r"(?:NOTE|STYLE|REGION)(?:\s|$)")


@dataclass(frozen=True)
class Cue:
    """Hold a cue of a subtitle file.

    Args:
        onset, offset: in milliseconds.
        lines: its lines as they are, with number or name, times and settings.
        text: what it shows, without tags and styling.
        first: the place of its first line in the file, from 0.
    """

    onset: int
    offset: int
    lines: list[str]
    text: str
    first: int


def read_vtt(path) -> list[dict]:
    """Return `[{"file", "duration", "events"}]` of a WebVTT file, named after it, times in seconds.

    Identifiers, settings, notes, styles and tags of cues are left out.

    Raises:
        ValueError: no WebVTT, or a malformed cue.
    """
    return _recordings(path, is_vtt=True)


def read_srt(path) -> list[dict]:
    """Return `[{"file", "duration", "events"}]` of a SubRip file, named after it, times in seconds.

    Numbers, coordinates and styling (`<i>`, `{\\an8}`) are left out.

    Milliseconds may have fewer digits: `1,5` is 1.5 s.

    Raises:
        ValueError: a malformed cue.
    """
    return _recordings(path, is_vtt=False)


def read_cues(path, is_vtt: bool) -> tuple[list[str], list[Cue]]:
    """Return all lines of a subtitle file, and its cues in their order.

    Raises:
        ValueError: as in [`read_vtt`] and [`read_srt`].
    """
    lines, first = text_lines(path), 0
    if is_vtt:
        if not re.match(r"WEBVTT(?:[ \t]|$)", lines[0]):
            raise ValueError(f"{path} begins with {lines[0][:20]!r}; the first line of WebVTT is 'WEBVTT'.")
        # The header ends at an empty line, or at the times of a cue.
        first = next((n for n, line in enumerate(lines[1:], 1) if not line or "-->" in line), len(lines))
    cues = []
    for block in _blocks(list(enumerate(lines))[first:], is_vtt):
        said = [line for _, line in block]
        if is_vtt and _NO_CUE.match(said[0]):
            continue
        # SubRip has no rule against empty lines within a cue; a number is the start of one that breaks off.
        if cues and not is_vtt and not any("-->" in line for line in said) and not said[0].strip().isdigit():
            cue = cues.pop()
            cues.append(replace(cue, text="\n".join([cue.text, *map(_without_style, said)])))
        else:
            cues.append(_read_cue(path, block, _plain_text if is_vtt else _without_style))
    return lines, cues


def _recordings(path, is_vtt) -> list[dict]:
    events = [
        {"onset": cue.onset / 1000, "offset": cue.offset / 1000, "event_label": cue.text, "score": None}
        for cue in read_cues(path, is_vtt)[1]
    ]
    return [{"file": Path(path).stem, "duration": None, "events": events}]


def _blocks(lines, is_vtt: bool) -> list[list]:
    """Return blocks of `(number, line)`. In WebVTT only an empty line ends one, or a blank one before times."""
    blocks = [[]]
    for index, (number, line) in enumerate(lines):
        is_end = not (line if is_vtt else line.strip())
        if is_end or (not line.strip() and any(_TIMING.fullmatch(later) for _, later in lines[index + 1 : index + 3])):
            blocks.append([])
        elif line.strip() or blocks[-1]:
            blocks[-1].append((number, line))
    return [block for block in blocks if block]


def _read_cue(path, block, unescape) -> Cue:
    # The first line may be a number or name.
    for index, (number, line) in enumerate(block[:2]):
        times = _TIMING.fullmatch(line)
        if times:
            again = next((number for number, line in block[index + 1 :] if _TIMING.fullmatch(line)), None)
            if again:
                raise ValueError(
                    f"{path}, line {again + 1} gives times within the text of a cue; put an empty line there."
                )
            onset, offset = _milliseconds(times.groups()[:4]), _milliseconds(times.groups()[4:])
            if offset < onset:
                raise ValueError(
                    f"{path}, line {number + 1}: offset is {offset / 1000} s, before the onset at {onset / 1000} s; "
                    "swap or drop such a cue."
                )
            text = unescape("\n".join(line for _, line in block[index + 1 :]))
            return Cue(onset, offset, [line for _, line in block], text, block[0][0])
    number, line = next((entry for entry in block[:2] if "-->" in entry[1]), block[0])
    raise ValueError(f"{path}, line {number + 1} is {line[:80]!r}; give times such as 00:00:01.250 --> 00:00:02.000.")


def _plain_text(text):
    return html.unescape(_TAG.sub("", text))


def _without_style(text):
    return _STYLE.sub("", text)


def _milliseconds(groups) -> int:
    hours, minutes, seconds = (int(group or 0) for group in groups[:3])
    return ((hours * 60 + minutes) * 60 + seconds) * 1000 + int(groups[3].ljust(3, "0"))
