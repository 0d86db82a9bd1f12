r"""Prompts, and answers as text. One grammar serves the formatter, the parser and whatever trains on either.

    grounding    1.24-3.40, 5.00-6.12
    detection    dog: 1.24-3.40, 5.00-6.12; car horn: 0.20-0.92
    captioning   1.24-3.40: a dog barks twice; 5.00-6.12: a car passes
    no events    none

With ticks every time is a time token, `<1.24>-<3.40>`. In labels a backslash escapes: `\:` `\;` `\\` themselves, `\l`
and `\g` the angle brackets (a label must not spell a time token), `\uXXXXXX` white space and control characters that
text handling might alter. All times of one answer have the same number of decimals, two or more; this betrays most
answers that were cut short.
"""

import re
import unicodedata
from collections.abc import Iterable

from .events import Event
from .lenient_parser import read_foreign_answer
from .time_grid import TimeGrid

TASKS = ("grounding", "detection", "captioning")
ANSWER_FORMATS = ("digits", "ticks")
NO_EVENTS = "none"
DEFAULT_GRID = TimeGrid()

# The first wording of grounding and detection is that of the FTAR data set.
PROMPTS = {
    "grounding": (
        "What are the start and end times of audio matching '{query}'?",
        "When does '{query}' occur in the audio? Give the start and end of every occurrence.",
        "Find every occurrence of '{query}' and give its start and end times in seconds.",
        "From when to when can '{query}' be heard?",
    ),
    "detection": (
        "What events can you detect in the sound with the start and end timestamps?",
        "Which sound events occur in the audio? Give the start and end times of each.",
        "List every sound event with its start and end times in seconds.",
        "Detect all sound events and say when each starts and ends.",
    ),
    "captioning": (
        "What happens in the sound? Describe each event with the start and end timestamps.",
        "Describe the events in the audio with the start and end times of each.",
        "Caption every part of the audio and give its start and end times in seconds.",
        "Say what can be heard and from when to when.",
    ),
}

# Bounded lengths: no clip lasts 10^7 seconds, and no adversarial answer may cost more than linear time.
_NUMBER = r"[0-9]{1,7}\.([0-9]{2,40})"
_INTERVAL = re.compile(rf"(<)?({_NUMBER})(?(1)>)\s{{0,4}}-\s{{0,4}}(<)?({_NUMBER})(?(4)>)")
_SHORT_ESCAPES = {"\\": "\\", ":": ":", ";": ";", "l": "<", "g": ">"}
_ESCAPE_OF = {character: "\\" + letter for letter, character in _SHORT_ESCAPES.items()}
_ESCAPE = re.compile(r"\\(?:([\\:;lg])|u([0-9a-f]{6}))")
# What stands before the next unescaped separator.
_ITEM = re.compile(r"[^\\;]*(?:\\.[^\\;]*)*", re.DOTALL)
_LABEL = re.compile(r"[^\\:]*(?:\\.[^\\:]*)*", re.DOTALL)
_COLON = re.compile(r"\s{0,4}:")
# What a cut leaves of an interval, and what shows that a label was not cut but is prose with times.
_CUT_INTERVAL = re.compile(r"[<>0-9.\s-]*")
_PROSE_TIME = re.compile(r"[0-9]\s?(?:s|sec|seconds?)?\s?(?:-|to|and)\s?[0-9]")
_END_OF_TURN = re.compile(r"<\|(?:im_end|endoftext)\|>\s*\Z")


def prompt_text(task: str, query: str | None = None, wording: int = 0) -> str:
    """Return the question that asks a model for a task.

    Args:
        task: one of [`TASKS`].
        query: what to look for; only for grounding. It is escaped with [`escape_text`].
        wording: which wording, from 0; every task has four.

    Raises:
        ValueError: an unknown task or wording, or a query that is missing, empty or superfluous.
    """
    _check_choice("task", task, TASKS)
    wordings = PROMPTS[task]
    if isinstance(wording, bool) or not isinstance(wording, int) or not 0 <= wording < len(wordings):
        raise ValueError(f"wording is {wording!r}; give an integer from 0 to {len(wordings) - 1} for {task}.")
    if task != "grounding":
        if query is not None:
            raise ValueError(f"query is {query!r} but task {task!r} takes none; use task 'grounding' or query=None.")
        return wordings[wording]
    if not isinstance(query, str) or not query.strip():
        raise ValueError(f"query is {query!r}; grounding needs to be told what to look for, such as 'dog barking'.")
    # Not str.format: the query may hold braces.
    return wordings[wording].replace("{query}", escape_text(query.strip()))


def escape_text(text: str) -> str:
    """Make text unable to spell special tokens: a space follows every `<`, so `<1.04>` becomes `< 1.04>`.

    Escaping twice changes nothing more. The result may be joined with any other text.
    """
    if not isinstance(text, str):
        raise ValueError(f"text is {text!r}; give a string.")
    return re.sub(r"<(?!\s)", "< ", text)


def format_events(
    events: Iterable[Event],
    task: str = "detection",
    grid: TimeGrid = DEFAULT_GRID,
    answer_format: str = "digits",
) -> str:
    """Write events as a canonical answer that [`parse_events`] reads back, snapped to the grid.

    Detection groups equal labels, in order of their first onset. Grounding leaves the label out: the question named it.

    Args:
        events: events in seconds, in any order.
        task: one of [`TASKS`].
        grid: the times that can be written. Times past `max_time` are written as `max_time`.
        answer_format: `digits` for decimals, `ticks` for time tokens (times past the last tick are written as it).

    Raises:
        ValueError: an unknown task or format, something that is no event, or grounding events of several labels.
    """
    _check_choice("task", task, TASKS)
    _check_choice("answer_format", answer_format, ANSWER_FORMATS)
    events = list(events)
    for index, event in enumerate(events):
        if not isinstance(event, Event):
            raise ValueError(f"events[{index}] is {event!r}; give Event objects (see Event.from_dict).")
    if not events:
        return NO_EVENTS
    events = sorted(snap_event(event, grid, answer_format) for event in events)
    groups = {}
    for event in events:
        groups.setdefault(event.event_label, []).append(_format_interval(event, grid, answer_format))
    if task == "detection":
        return "; ".join(f"{escape_label(label)}: {', '.join(intervals)}" for label, intervals in groups.items())
    if task == "grounding":
        if len(groups) > 1:
            raise ValueError(
                f"events have the labels {sorted(groups)}; grounding answers one query, so give one label."
            )
        return ", ".join(next(iter(groups.values())))
    captions = [(_format_interval(event, grid, answer_format), escape_label(event.event_label)) for event in events]
    return "; ".join(f"{interval}: {caption}".rstrip() for interval, caption in captions)


def snap_event(event: Event, grid: TimeGrid, answer_format: str = "digits") -> Event:
    """Return an event as an answer can write it: at multiples of the grid, or at its ticks."""
    if answer_format == "ticks":
        onset, offset = (grid.tick_seconds(grid.seconds_to_tick(time)) for time in (event.onset, event.offset))
    else:
        onset, offset = grid.snap(event.onset), grid.snap(event.offset)
    return Event(onset, offset, event.event_label, event.score)


def _format_interval(event: Event, grid: TimeGrid, answer_format: str) -> str:
    if answer_format == "ticks":
        onset, offset = (grid.tick_text(grid.seconds_to_tick(time)) for time in (event.onset, event.offset))
    else:
        onset, offset = grid.seconds_to_text(event.onset), grid.seconds_to_text(event.offset)
    return f"{onset}-{offset}"


def escape_label(label: str) -> str:
    """Return a label as it stands in an answer: free of separators, angle brackets and unsafe white space."""
    first, last = len(label) - len(label.lstrip()), len(label.rstrip())
    pieces = []
    for index, character in enumerate(label):
        # Spaces inside are safe; at the ends they would be lost. Cc, Zl, Zp, Cs: line breaks, controls, surrogates.
        is_unsafe = (character.isspace() and (character != " " or not first <= index < last)) or (
            unicodedata.category(character) in ("Cc", "Zl", "Zp", "Cs")
        )
        pieces.append(f"\\u{ord(character):06x}" if is_unsafe else _ESCAPE_OF.get(character, character))
    return "".join(pieces)


def unescape_label(text: str) -> str | None:
    """Undo [`escape_label`]; `None` where a backslash starts no escape or an angle bracket stands bare."""
    if "<" in text or ">" in text or "\\" in _ESCAPE.sub("", text):
        return None
    codes = [int(code, 16) for _, code in _ESCAPE.findall(text) if code]
    if any(code > 0x10FFFF for code in codes):
        return None
    return _ESCAPE.sub(lambda match: _SHORT_ESCAPES[match[1]] if match[1] else chr(int(match[2], 16)), text)


def parse_events(
    text: str, task: str = "detection", event_label: str = "", tolerant: bool = True
) -> list[Event] | None:
    """Read the events of an answer, in seconds, sorted. No string makes it raise; time is linear in its length.

    Canonical answers, in digits or ticks, are always read by the grammar of this module, so that
    `parse_events(format_events(events))` gives the events back, snapped. With `tolerant` other answers are read by

    - keeping the complete events of a canonical answer that was cut short;
    - JSON, and lists of pairs: objects with onset/start, offset/end and event_label/label, alone or in lists;
    - prose: `from 1.2 to 3.4 seconds`, `between 1.2 and 3.4`, `1.2s - 3.4s`, `00:12-00:22`, one label per interval
      taken from the words before it or, where there are none, after it;
    - words that reject: `no events`, `nothing`, `the sound is not present`.

    Single intervals whose offset precedes the onset are skipped then, where without `tolerant` the whole answer fails.

    Args:
        text: the answer.
        task: one of [`TASKS`]; what the answer was asked for.
        event_label: label of the events in grounding; in other tasks that of events to which the text gives none.
        tolerant: read other models' answers too.

    Returns:
        Events; `[]` for an answer that says there are none; `None` for one that cannot be read.

    Raises:
        ValueError: `task` is unknown, or `text` or `event_label` is no string.
    """
    _check_choice("task", task, TASKS)
    for name, value in (("text", text), ("event_label", event_label)):
        if not isinstance(value, str):
            raise ValueError(f"{name} is {value!r}; give a string.")
    text = text.strip()
    events = _parse_canonical(text, task, event_label, keep_complete=False)
    if events is None and tolerant:
        # A decoder that keeps special tokens leaves the end of the turn in the text.
        text = _END_OF_TURN.sub("", text).strip()
        events = _parse_canonical(text, task, event_label, keep_complete=True)
        if events is None:
            events = _parse_foreign(text, task, event_label)
    return events


def _parse_foreign(text: str, task: str, event_label: str) -> list[Event] | None:
    found = read_foreign_answer(text, caption_first=task == "captioning")
    if found is None:
        return None
    named = [
        (onset, offset, event_label if task == "grounding" or not label else label) for onset, offset, label in found
    ]
    return sorted(Event(*item) for item in named)


def _parse_canonical(text: str, task: str, event_label: str, keep_complete: bool) -> list[Event] | None:
    if text == NO_EVENTS:
        return []
    events, decimals = [], set()
    items = [text] if task == "grounding" else _split_items(text)
    for index, item in enumerate(items):
        may_be_cut = keep_complete and index == len(items) - 1
        found = _parse_item(item.strip(), task, event_label, may_be_cut)
        if found is None:
            return None
        for onset, offset, label in found:
            decimals |= {len(onset.partition(".")[2]), len(offset.partition(".")[2])}
            if float(onset) <= float(offset):
                events.append(Event(float(onset), float(offset), label))
            elif not keep_complete:
                return None
    return sorted(events) if events and len(decimals) == 1 else None


def _end_of(pattern: re.Pattern[str], text: str, position: int = 0) -> int:
    match = pattern.match(text, position)
    assert match, "these patterns match the empty text too"
    return match.end()


def _split_items(text: str) -> list[str]:
    items, position = [], 0
    while True:
        end = _end_of(_ITEM, text, position)
        # It ends at a semicolon, at the end, or at a backslash that has nothing to escape.
        if end == len(text) or text[end] != ";":
            return items + [text[position:]]
        items.append(text[position:end])
        position = end + 1


def _parse_item(item: str, task: str, event_label: str, may_be_cut: bool) -> list[tuple[str, str, str]] | None:
    """Return onset, offset (as written) and label of the events of one item; `None` breaks the grammar."""
    if task == "grounding":
        return _parse_intervals(item, event_label, may_be_cut)
    if task == "detection":
        head = item[: _end_of(_LABEL, item)]
        label = unescape_label(head.strip())
        if item[len(head) : len(head) + 1] != ":":
            return [] if may_be_cut and not _PROSE_TIME.search(item) else None
        return None if label is None else _parse_intervals(item[len(head) + 1 :].strip(), label, may_be_cut)
    interval = _INTERVAL.match(item)
    colon = _COLON.match(item, interval.end()) if interval else None
    if not interval or not colon:
        is_cut = _CUT_INTERVAL.fullmatch(item) is not None
        return [] if may_be_cut and is_cut else None
    caption = unescape_label(item[colon.end() :].strip())
    return None if caption is None else _parse_intervals(interval[0], caption, False)


def _parse_intervals(text: str, label: str, may_be_cut: bool) -> list[tuple[str, str, str]] | None:
    found = []
    pieces = text.split(",")
    for index, piece in enumerate(pieces):
        match = _INTERVAL.fullmatch(piece.strip())
        if match and bool(match[1]) == bool(match[4]):
            found.append((match[2], match[5], label))
        elif not (may_be_cut and index == len(pieces) - 1 and _CUT_INTERVAL.fullmatch(piece)):
            return None
    return found


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(choices)}.")


__all__ = [
    "ANSWER_FORMATS",
    "PROMPTS",
    "TASKS",
    "escape_text",
    "format_events",
    "parse_events",
    "prompt_text",
    "snap_event",
]
