"""Events of one recording as a Praat TextGrid: a tier per label, intervals, and points for events without length.

Source: Praat manual, "TextGrid file formats". praatio writes them. They are read here, as Praat does, which takes
numbers, quoted strings and flags that stand free and passes over everything else, so that its long, short and old
formats are one, and the chronological one nearly: praatio loses the sign of times, and what follows the place where a
file breaks off.
"""

import codecs
import re
from pathlib import Path

from space_app.exchange_text import finite_number
from space_app.exchange_tiers import needs_label, split_tiers

_TOKEN = re.compile(
    r'"(?P<text>(?:[^"]|"")*)"|(?<!\S)(?P<number>[-+]?\.?\d[^\s"]*)(?!\S)|<(?P<flag>\w+)>|![^\n]*|[^\s"]+'
)
CHRONOLOGICAL = "Praat chronological TextGrid text file"
# praatio takes times this close for equal.
_SHORTEST = 1e-8


def read_textgrid(path) -> list[dict]:
    """Return `[{"file", "duration", "events"}]`, tier by tier; blank intervals are no events.

    Encoded as UTF-8, as UTF-16 with a byte order mark, or in Latin-1, as Praat may write it. Names of tiers are left
    out. Times are those of the file, which may begin after 0 s; the duration is its end.

    Raises:
        ValueError: no TextGrid in one of the text formats, one that breaks off, or times before 0 s.
    """
    tokens = _tokens(path, _read_text(path))

    def take(kind):
        found, value = next(tokens, ("the end", ""))
        if found != kind:
            raise ValueError(f"{path}: {found} {value[:40]!r} where a {kind} is expected; save it again in Praat.")
        return value

    def number():
        text = take("number")
        value = finite_number(text)
        if value is None:
            raise ValueError(f"{path}: the number {text!r} cannot be read; save it again in Praat.")
        return value

    def size():
        count = number()
        if count < 0 or count != int(count):
            raise ValueError(f"{path} counts {count} tiers or entries; save it again in Praat.")
        return int(count)

    def tier():
        """Take the head of a tier; its span is that of the file."""
        kind, name, *_ = take("text"), take("text"), number(), number()
        if kind not in ("IntervalTier", "TextTier"):
            raise ValueError(f"{path}: the tier {name!r} is of the class {kind!r}; give IntervalTier or TextTier.")
        return kind, []

    def entry(kind, events):
        onset = number()
        offset = number() if kind == "IntervalTier" else onset
        label = take("text")
        if label.strip():
            events.append({"onset": onset, "offset": offset, "event_label": label, "score": None})

    opening = take("text")
    is_chronological = opening == CHRONOLOGICAL
    is_other = re.fullmatch(r"ooTextFile(?: short)?", opening) and take("text") in ("TextGrid", "Praat TextGrid")
    if not is_chronological and not is_other:
        raise ValueError(f"{path} is not a TextGrid; save it as a text file in Praat.")
    start, end = number(), number()
    if not 0 <= start < end:
        raise ValueError(f"{path} lasts from {start} to {end} s; give a TextGrid that begins at 0 s or later.")
    tiers = []
    if is_chronological:
        tiers = [tier() for _ in range(size())]
        # Entries of all tiers by their time, each behind the number of its tier.
        for found, text in tokens:
            if found != "number" or not text.isdecimal() or not 1 <= int(text) <= len(tiers):
                raise ValueError(
                    f"{path}: {found} {text[:40]!r} where the number of a tier is expected; save it again in Praat."
                )
            entry(*tiers[int(text) - 1])
    elif take("flag") == "exists":
        for _ in range(size()):
            tiers.append(tier())
            for _ in range(size()):
                entry(*tiers[-1])
    events = [event for _, mine in tiers for event in mine]
    return [{"file": Path(path).stem, "duration": end, "events": events}]


def format_textgrid(result: dict) -> str:
    """Return the events of one recording as a TextGrid in the long text format.

    A tier has the events of one label. Where events of a label overlap there are further tiers with a number behind
    (`dog 2`), and events without length are in point tiers.

    Raises:
        ValueError: an unknown duration, an event that ends after it, one shorter than 1e-8 s, or a blank label.
        ImportError: praatio is missing.
    """
    try:
        from praatio.utilities import textgrid_io
    except ImportError as error:
        raise ImportError("TextGrid needs praatio; install it by: pip install 'timepro[formats]'") from error
    file, duration = result["file"], result["duration"]
    if duration is None:
        raise ValueError(f"{file!r} has no duration, which a TextGrid must say; give it in seconds.")
    for event in result["events"]:
        needs_label(event, file, "a TextGrid")
        if event.offset > duration:
            raise ValueError(
                f"{file!r} has an event that ends at {event.offset} s, after the recording of {duration} s, but a "
                "TextGrid ends with its recording; clip the event."
            )
        if 0 < event.offset - event.onset < _SHORTEST:
            raise ValueError(f"{file!r} has an event of {event.duration} s, but a TextGrid needs {_SHORTEST} s.")
    span = {"xmin": 0, "xmax": duration}
    tiers, used = [], set()
    for is_point in (False, True):
        events = [event for event in result["events"] if (event.onset == event.offset) == is_point]
        for name, mine in split_tiers(events):
            while name in used:
                name += " (points)"
            used.add(name)
            times = [(e.onset,) if is_point else (e.onset, e.offset) for e in mine]
            entries = [(*time, event.event_label) for time, event in zip(times, mine, strict=True)]
            kind = "TextTier" if is_point else "IntervalTier"
            tiers.append({"class": kind, "name": name, **span, "entries": entries})
    # Praat wants a tier.
    tiers = tiers or [{"class": "IntervalTier", "name": "events", **span, "entries": []}]
    return textgrid_io.getTextgridAsStr({**span, "tiers": tiers}, "long_textgrid", True, minimumIntervalLength=None)


def _read_text(path):
    data = Path(path).read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encodings = ("utf-16",)
    else:
        encodings = ("utf-8-sig", "latin-1")
    # A binary TextGrid, which Latin-1 would take.
    if data.startswith(b"ooBinaryFile"):
        raise ValueError(f"{path} is a binary TextGrid; save it as a text file in Praat.")
    for encoding in encodings:
        try:
            return data.decode(encoding)
        except UnicodeDecodeError as error:
            said = error
    raise ValueError(f"{path} is not UTF-16 ({said}); save it as UTF-8.")


def _tokens(path, text):
    position = 0
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        match = _TOKEN.match(text, position)
        if match is None:
            line = text.count("\n", 0, position) + 1
            raise ValueError(f"{path}, line {line}: a quotation mark is never closed; save it again in Praat.")
        position = match.end()
        if match.lastgroup is not None:
            value = match[match.lastgroup]
            yield match.lastgroup, value.replace('""', '"') if match.lastgroup == "text" else value
