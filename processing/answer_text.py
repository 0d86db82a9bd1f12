r"""Prompts, and answers as text. Formatter, parser and training share one grammar.

    grounding    1.24-3.40, 5.00-6.12
    detection    dog: 1.24-3.40, 5.00-6.12; car horn: 0.20-0.92
    captioning   1.24-3.40: a dog barks twice; 5.00-6.12: a car passes
    no events    none

With ticks every time is a time token, `<1.24>-<3.40>`. Labels escape with a backslash: `\:` `\;` `\\` stand for
themselves, `\l` and `\g` for angle brackets (a label must not spell a time token), `\uXXXXXX` for white space and
control characters that text processing might alter. All times of an answer have the same number of decimals, two or
more, which exposes most truncated answers.
"""

import re
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

from .events import Event, TimeGrid
from .lenient_parser import read_foreign_answer

TASKS = ("grounding", "detection", "captioning")
ANSWER_FORMATS = ("digits", "ticks")
NO_EVENTS = "none"
DEFAULT_GRID = TimeGrid()

# The first prompts of grounding and detection are those of the FTAR data set.
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
_INTERVAL = re.compile(rf"((<)?({_NUMBER})(?(2)>))\s{{0,4}}-\s{{0,4}}((<)?({_NUMBER})(?(6)>))")
_SHORT_ESCAPES = {"\\": "\\", ":": ":", ";": ";", "l": "<", "g": ">"}
_ESCAPE_OF = {character: "\\" + letter for letter, character in _SHORT_ESCAPES.items()}
_ESCAPE = re.compile(r"\\(?:([\\:;lg])|u([0-9a-f]{6}))")
# Text up to the next unescaped separator.
_ITEM = re.compile(r"[^\\;]*(?:\\.[^\\;]*)*", re.DOTALL)
_LABEL = re.compile(r"[^\\:]*(?:\\.[^\\:]*)*", re.DOTALL)
_COLON = re.compile(r"\s{0,4}:")
# What truncation leaves of an interval; and a sign that a label was not truncated but is prose with times.
_CUT_INTERVAL = re.compile(r"[<>0-9.\s-]*")
_PROSE_TIME = re.compile(r"[0-9]\s?(?:s|sec|seconds?)?\s?(?:-|to|and)\s?[0-9]")
_END_OF_TURN = re.compile(r"<\|(?:im_end|endoftext)\|>\s*\Z")


class SaidEvent(NamedTuple):
    """An event of an answer, and the character spans `(start, end)` of its label, onset and offset.

    `label` is `None` in grounding, where the question names the label.
    """

    event: Event
    label: tuple[int, int] | None
    onset: tuple[int, int]
    offset: tuple[int, int]


def prompt_text(task: str, query: str | None = None, wording: int = 0) -> str:
    """Return the prompt of a task.

    Args:
        task: one of [`TASKS`].
        query: what to look for; only for grounding. It is escaped with [`escape_text`].
        wording: which prompt template, from 0; every task has four.

    Raises:
        ValueError: an unknown task or template, or a query that is missing, empty or superfluous.
    """
    check_choice("task", task, TASKS)
    templates = PROMPTS[task]
    if isinstance(wording, bool) or not isinstance(wording, int) or not 0 <= wording < len(templates):
        raise ValueError(f"wording is {wording!r}; give an integer from 0 to {len(templates) - 1} for {task}.")
    if task != "grounding":
        if query is not None:
            raise ValueError(f"query is {query!r} but task {task!r} takes none; use task 'grounding' or query=None.")
        return templates[wording]
    if not isinstance(query, str) or not query.strip():
        raise ValueError(f"query is {query!r}; grounding needs to be told what to look for, such as 'dog barking'.")
    # Not str.format: the query may hold braces.
    return templates[wording].replace("{query}", escape_text(query.strip()))


def escape_text(text: str) -> str:
    """Insert a space after every `<`, so that text cannot spell special tokens: `<1.04>` becomes `< 1.04>`.

    Escaping is idempotent, and stays safe when the result is concatenated with other text.
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

    Detection groups equal labels, in order of their first onset. Grounding omits the label: the question named it.

    Args:
        events: events in seconds, in any order.
        task: one of [`TASKS`].
        grid: the times that can be written. Times past `max_time` become `max_time`.
        answer_format: `digits` for decimals, `ticks` for time tokens (times past the last tick become the last tick).

    Raises:
        ValueError: an unknown task or format, an item that is not an event, or grounding events with several labels.
    """
    check_choice("task", task, TASKS)
    check_choice("answer_format", answer_format, ANSWER_FORMATS)
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
    """Return an event with the times that an answer can express: multiples of the time step, or ticks."""
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
    """Return a label as answers write it: without bare separators, angle brackets or unsafe white space."""
    first, last = len(label) - len(label.lstrip()), len(label.rstrip())
    pieces = []
    for index, character in enumerate(label):
        # Inner spaces are safe; at the ends they would be lost. Cc, Zl, Zp, Cs: line breaks, controls, surrogates.
        is_unsafe = (character.isspace() and (character != " " or not first <= index < last)) or (
            unicodedata.category(character) in ("Cc", "Zl", "Zp", "Cs")
        )
        pieces.append(f"\\u{ord(character):06x}" if is_unsafe else _ESCAPE_OF.get(character, character))
    return "".join(pieces)


def unescape_label(text: str) -> str | None:
    """Undo [`escape_label`]; `None` if a backslash starts no escape or an angle bracket is not escaped."""
    if "<" in text or ">" in text or "\\" in _ESCAPE.sub("", text):
        return None
    codes = [int(code, 16) for _, code in _ESCAPE.findall(text) if code]
    if any(code > 0x10FFFF for code in codes):
        return None
    return _ESCAPE.sub(lambda match: _SHORT_ESCAPES[match[1]] if match[1] else chr(int(match[2], 16)), text)


def parse_events(
    text: str, task: str = "detection", event_label: str = "", tolerant: bool = True, truncated: bool = False
) -> list[Event] | None:
    """Parse the events of an answer, in seconds, sorted. No string makes it raise; time is linear in its length.

    Canonical answers, in digits or ticks, are parsed by the grammar of this module, so
    `parse_events(format_events(events))` returns the snapped events. With `tolerant` it also accepts

    - truncated canonical answers, of which it keeps the complete events;
    - JSON, and lists of pairs: objects with onset/start, offset/end and event_label/label, alone or in lists;
    - prose: `from 1.2 to 3.4 seconds`, `between 1.2 and 3.4`, `1.2s - 3.4s`, `00:12-00:22`, with one label per
      interval, taken from the words before it or, if there are none, after it;
    - rejections: `no events`, `nothing`, `the sound is not present`.

    It then skips intervals whose offset precedes the onset; without `tolerant` one of these invalidates the answer.

    Args:
        text: the answer.
        task: one of [`TASKS`].
        event_label: label of the events in grounding; in other tasks the label of events that the text does not label.
        tolerant: also accept other models' answers.
        truncated: the answer reached the token limit, so only complete parts count: no caption or number that more
            text could continue. `[]` then may also mean that the answer ends before its first complete event.

    Returns:
        Events; `[]` if the answer says that there are none; `None` if it cannot be parsed.

    Raises:
        ValueError: `task` is unknown, or `text` or `event_label` is not a string.
    """
    said = said_events(text, task, event_label, tolerant and truncated, truncated)
    if said is None and tolerant:
        # Decoding without skip_special_tokens leaves the end of the turn in the text.
        text = _END_OF_TURN.sub("", text)
        said = said_events(text, task, event_label, True, truncated)
        if said is None:
            found = read_foreign_answer(text.strip(), caption_first=task == "captioning", truncated=truncated)
            if found is None:
                return None
            # In grounding the question named the label.
            named = task == "grounding"
            return sorted(
                Event(onset, offset, event_label if named or not label else label) for onset, offset, label in found
            )
    return None if said is None else sorted(item.event for item in said)


def said_events(
    text: str, task: str, event_label: str = "", tolerant: bool = False, truncated: bool = False
) -> list[SaidEvent] | None:
    """Return the events of a canonical answer in textual order, with their positions in the text.

    Arguments, `None` and errors are those of [`parse_events`]; here `tolerant` keeps the complete events of a truncated
    answer, and skips events that end before they start.
    """
    check_choice("task", task, TASKS)
    for name, value in (("text", text), ("event_label", event_label)):
        if not isinstance(value, str):
            raise ValueError(f"{name} is {value!r}; give a string.")
    start, end = _strip(text, 0, len(text))
    if text[start:end] == NO_EVENTS or (truncated and NO_EVENTS.startswith(text[start:end])):
        return []
    said, decimals = [], set()
    items = [(start, end)] if task == "grounding" else _split_items(text, start, end)
    for index, item in enumerate(items):
        is_last = index == len(items) - 1
        may_be_cut = is_last and (tolerant or truncated)
        found = _read_item(text, *_strip(text, *item), task, event_label, may_be_cut, tolerant)
        if found is None:
            return None
        if truncated and is_last and task == "captioning":
            found = []  # more words could have followed
        for match, label, label_span in found:
            onset, offset = float(match[3]), float(match[7])
            if truncated and match.end() == end and len(match[8]) < len(match[4]):
                continue  # more digits could have followed
            decimals |= {len(match[4]), len(match[8])}
            if onset <= offset:
                said.append(SaidEvent(Event(onset, offset, label), label_span, match.span(1), match.span(5)))
            elif not tolerant:
                return None
    if not said and truncated:
        return []
    return said if said and len(decimals) == 1 else None


def _strip(text: str, start: int, end: int) -> tuple[int, int]:
    start = end - len(text[start:end].lstrip())
    return start, start + len(text[start:end].rstrip())


def _end_of(pattern: re.Pattern[str], text: str, start: int, end: int) -> int:
    match = pattern.match(text, start, end)
    assert match, "these patterns match the empty text too"
    return match.end()


def _split_items(text: str, start: int, end: int) -> list[tuple[int, int]]:
    items = []
    while True:
        stop = _end_of(_ITEM, text, start, end)
        # It stops at a semicolon, at the end, or at a trailing backslash.
        if stop == end or text[stop] != ";":
            return [*items, (start, end)]
        items.append((start, stop))
        start = stop + 1


def _read_item(text, start, end, task, event_label, may_be_cut, may_be_prose):
    """Return the interval (a match), label and label span of each event of an item; `None` if it is not canonical."""
    if task == "grounding":
        return _read_intervals(text, start, end, event_label, None, may_be_cut)
    if task == "detection":
        stop = _end_of(_LABEL, text, start, end)
        span = _strip(text, start, stop)
        if stop == end or text[stop] != ":":
            is_prose = may_be_prose and _PROSE_TIME.search(text, start, end)
            return [] if may_be_cut and not is_prose else None
        label = unescape_label(text[slice(*span)])
        return None if label is None else _read_intervals(text, stop + 1, end, label, span, may_be_cut)
    interval = _INTERVAL.match(text, start, end)
    colon = _COLON.match(text, interval.end(), end) if interval else None
    if not interval or not colon:
        return [] if may_be_cut and _CUT_INTERVAL.fullmatch(text, start, end) else None
    span = _strip(text, colon.end(), end)
    caption = unescape_label(text[slice(*span)])
    return None if caption is None else _read_intervals(text, start, interval.end(), caption, span, False)


def _read_intervals(text, start, end, label, span, may_be_cut):
    found = []
    while start <= end:
        stop = text.find(",", start, end)
        stop = end if stop < 0 else stop
        match = _INTERVAL.fullmatch(text, *_strip(text, start, stop))
        if match and bool(match[2]) == bool(match[6]):
            found.append((match, label, span))
        elif not (may_be_cut and stop == end and _CUT_INTERVAL.fullmatch(text, start, stop)):
            return None
        start = stop + 1
    return found


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise a `ValueError` that names the argument and the choices unless `value` is one of them."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(choices)}.")
