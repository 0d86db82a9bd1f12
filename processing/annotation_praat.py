"""Events of one recording as a Praat TextGrid: a tier per label, intervals, and points for events without length.

Source: Praat manual, "TextGrid file formats". Praat reads numbers, quoted strings and flags that stand free, and passes
over everything else, so that its long and short text formats are one.
"""

import codecs
import re
from pathlib import Path

from .text_files import check_label, make_event, read_number, split_tiers

_TOKEN = re.compile(
    r'"(?P<text>(?:[^"]|"")*)"|(?<!\S)(?P<number>[-+]?\.?\d[^\s"]*)(?!\S)|<(?P<flag>\w+)>|![^\n]*|[^\s"]+'
)


def read_textgrid(path) -> tuple[float, list]:
    """Return the duration of the recording and its events, tier by tier; blank intervals are no events.

    UTF-8, or UTF-16 with a byte order mark as Praat may write it. The names of tiers are left out.

    Raises:
        ValueError: no TextGrid in one of the text formats, one that breaks off, or that does not begin at 0 s.
    """
    tokens = _tokens(path, _read_text(path))

    def take(kind):
        found, value = next(tokens, ("the end", ""))
        if found != kind:
            raise ValueError(
                f"{path}: {found} {value[:40]!r} stands where a {kind} is expected; save it anew in Praat."
            )
        return value

    def number():
        return read_number(take("number"), "number", path)

    def size():
        count = number()
        if not 0 <= count < float("inf") or count != int(count):
            raise ValueError(f"{path} counts {count} tiers or entries; save it anew in Praat.")
        return int(count)

    if take("text") != "ooTextFile" or take("text") not in ("TextGrid", "Praat TextGrid"):
        raise ValueError(f"{path} is no TextGrid; save it as a text file in Praat.")
    start, duration = number(), number()
    if start != 0 or not 0 < duration < float("inf"):
        raise ValueError(f"{path} lasts from {start} to {duration} s; give a TextGrid that begins at 0 s.")
    events = []
    num_tiers = size() if take("flag") == "exists" else 0
    for _ in range(num_tiers):
        kind, name = take("text"), take("text")
        if kind not in ("IntervalTier", "TextTier"):
            raise ValueError(f"{path}: the tier {name!r} is of the class {kind!r}; give IntervalTier or TextTier.")
        number(), number()  # the span of the tier, which is that of the file
        for _ in range(size()):
            onset = number()
            offset = number() if kind == "IntervalTier" else onset
            label = take("text")
            if label.strip():
                events.append(make_event(onset, offset, label, f"{path}, tier {name!r}"))
    return duration, events


def format_textgrid(result: dict) -> str:
    """Return the events of one recording as a TextGrid in the long text format.

    A tier bears the events of one label. Where events of a label overlap there are further tiers with a number behind
    (`dog 2`), and events without length stand in point tiers.

    Raises:
        ValueError: an unknown duration, an event that ends after it, or a blank label.
    """
    file, duration = result["file"], result["duration"]
    if duration is None:
        raise ValueError(f"{file!r} has no duration, which a TextGrid must say; give it in seconds.")
    for event in result["events"]:
        check_label(event.event_label, file, "a TextGrid")
        if event.offset > duration:
            raise ValueError(
                f"{file!r} has an event that ends at {event.offset} s, after the recording of {duration} s, but a "
                "TextGrid ends with its recording; clip the event."
            )
    intervals = [event for event in result["events"] if event.onset < event.offset]
    tiers = [("IntervalTier", name, _filled(events, duration)) for name, events in split_tiers(intervals)]
    points = {}
    for event in sorted(event for event in result["events"] if event.onset == event.offset):
        points.setdefault(event.event_label, []).append(event)
    tiers += _point_tiers(points, {name for _, name, _ in tiers})
    # Praat wants a tier.
    tiers = tiers or [("IntervalTier", "events", _filled([], duration))]
    head = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {duration!r}"]
    lines = [*head, "tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (kind, name, entries) in enumerate(tiers, 1):
        lines += [f"    item [{number}]:", f"        class = {_quoted(kind)}", f"        name = {_quoted(name)}"]
        lines += ["        xmin = 0", f"        xmax = {duration!r}"]
        part = "intervals" if kind == "IntervalTier" else "points"
        lines.append(f"        {part}: size = {len(entries)}")
        for index, (onset, offset, label) in enumerate(entries, 1):
            lines.append(f"        {part} [{index}]:")
            if kind == "IntervalTier":
                lines += [f"            xmin = {onset!r}", f"            xmax = {offset!r}"]
                lines.append(f"            text = {_quoted(label)}")
            else:
                lines += [f"            number = {onset!r}", f"            mark = {_quoted(label)}"]
    return "\n".join(lines) + "\n"


def _filled(events, duration):
    """Return `(onset, offset, label)` of intervals that cover a tier from 0 s on, blank between events."""
    entries, end = [], 0.0
    for event in events:
        if event.onset > end:
            entries.append((end, event.onset, ""))
        entries.append((event.onset, event.offset, event.event_label))
        end = event.offset
    if end < duration:
        entries.append((end, duration, ""))
    return entries


def _point_tiers(points, used):
    """Return point tiers; equal points of one label go to further tiers, for Praat holds one point at a time."""
    tiers = []
    for label, events in points.items():
        rows = []
        for event in events:
            row = next((row for row in rows if row[-1][0] < event.onset), None)
            if row is None:
                row = []
                rows.append(row)
            row.append((event.onset, event.onset, event.event_label))
        for row in rows:
            name, number = " ".join(label.split()), 1
            while name in used:
                number += 1
                name = f"{' '.join(label.split())} {number}"
            used.add(name)
            tiers.append(("TextTier", name, row))
    return tiers


def _read_text(path):
    data = Path(path).read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    else:
        encoding = "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not {encoding.upper()[:6].rstrip('-')} ({error}); save it as UTF-8.") from None


def _tokens(path, text):
    position = 0
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        match = _TOKEN.match(text, position)
        if match is None:
            line = text.count("\n", 0, position) + 1
            raise ValueError(f"{path}, line {line}: a quotation mark is never closed; save it anew in Praat.")
        position = match.end()
        if match.lastgroup is not None:
            value = match[match.lastgroup]
            yield match.lastgroup, value.replace('""', '"') if match.lastgroup == "text" else value


def _quoted(text):
    return '"' + text.replace('"', '""') + '"'
