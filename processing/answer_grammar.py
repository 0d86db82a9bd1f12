r"""The grammar of `answer_text.py` as an automaton: which byte, or time token, may come next in a partial answer.

It is stricter than that grammar. Besides parsing canonically, an answer

- contains only times from 0 to the end of the clip, rounded up to a whole step, and every offset is at least one step
  after its onset;
- has its onsets in order (in detection: within each label);
- never repeats an event: in grounding, and in detection within a label, an event starts no earlier than the previous
  one ends, and a caption does not recur while it lasts. Otherwise a model that repeats itself, perhaps slightly
  shifted, would cause a false alarm each time;
- names each label of a closed set at most once. In an open vocabulary a label may recur, with later times: a ban would
  take effect only once nearly all of the label is generated, and so turn it into another label;
- has no empty labels, none with control characters, and none outside a closed set.

Every partial answer can be completed, but nothing forces it to end.
"""

import unicodedata
from bisect import bisect_left
from functools import cached_property
from typing import NamedTuple

from .answer_text import ANSWER_FORMATS, NO_EVENTS, TASKS, check_choice, escape_label
from .events import TimeGrid, exact_fraction, normalize_label

_NONE = NO_EVENTS.encode()
_BACKSLASH, _SPACE, _COMMA, _SEMICOLON, _COLON = b"\\ ,;:"
# The last character of a label is complete and not a space. Any other `tail` holds the bytes of an incomplete one.
WHOLE = b"x"


class AnswerState(NamedTuple):
    """The state of a partial answer; hashable, so that it can be a key.

    Args:
        last: multiple of the time step at which the clip ends, rounded up.
        phase: `label`, `onset`, `offset`, `end` (of an interval), `literal` or `done`.
        text: bytes of the current label or time; in a literal, the bytes still to come.
        tail: state of the last character of an open label, see [`step_tail`].
        then: phase after a literal.
        low: multiple at which the next event may start.
        onset, offset: of the current event, in multiples.
        past: labels so far, escaped; for captions and open labels, each with its last offset.
        num_events: number of complete intervals.
    """

    last: int
    phase: str
    text: bytes = b""
    tail: bytes = b""
    then: str = ""
    low: int = 0
    onset: int = 0
    offset: int = 0
    past: tuple = ()
    num_events: int = 0


class AnswerGrammar:
    """Step through answers byte by byte; a time token is one step.

    Args:
        grid: the times that can be written.
        answer_format: `digits` or `ticks`.
        task: one of `TASKS`.
        event_labels: the only labels that detection may name; `None` for any.
        max_events: maximum number of events in an answer; `None` for any number.

    Raises:
        ValueError: an unknown task or format, labels for a task other than detection, empty or repeated labels, or
            `max_events` below 1.
    """

    def __init__(self, grid: TimeGrid, answer_format: str, task: str, event_labels=None, max_events=None):
        check_choice("answer_format", answer_format, ANSWER_FORMATS)
        check_choice("task", task, TASKS)
        if max_events is not None and (not isinstance(max_events, int) or max_events < 1):
            raise ValueError(f"max_events is {max_events!r}; give an integer of 1 or more, or None for any number.")
        self.grid, self.answer_format, self.task, self.max_events = grid, answer_format, task, max_events
        self.in_ticks = answer_format == "ticks"
        self.labels = None if event_labels is None else _escaped_labels(event_labels, task)
        self._label_prefixes = _by_prefix(dict.fromkeys(self.labels or ()))

    @cached_property
    def spellings(self) -> list[bytes]:
        """Every time that can be written in digits, by its multiple of the step."""
        step = self.grid.time_step
        number = round(self.grid.snap(self.grid.max_time) / step) + 1
        return [self.grid.seconds_to_text(multiple * step).encode() for multiple in range(number)]

    @cached_property
    def _times(self) -> dict[bytes, list[int]]:
        return _by_prefix({spelling: multiple for multiple, spelling in enumerate(self.spellings)})

    @cached_property
    def _multiples(self) -> dict[bytes, int]:
        return {spelling: multiple for multiple, spelling in enumerate(self.spellings)}

    def start(self, duration: float) -> AnswerState:
        """Return the state before the first byte of an answer about a clip.

        Args:
            duration: seconds; rounded up to whole steps, as for audio frames.

        Raises:
            ValueError: `duration` is negative or exceeds `max_time`.
        """
        if not 0 <= duration <= self.grid.max_time:
            raise ValueError(
                f"duration is {duration!r} s; give seconds from 0 to max_time, {self.grid.max_time:g}; longer "
                "recordings are split into windows."
            )
        steps = -(-exact_fraction(duration) // exact_fraction(self.grid.time_step))
        most = self.grid.num_ticks if self.in_ticks else len(self.spellings)
        return AnswerState(min(int(steps), most - 1), "label" if self.task == "detection" else "onset")

    def is_complete(self, state: AnswerState) -> bool:
        """Return whether the answer may end here."""
        if state.phase == "label":
            if self.task == "captioning":
                return self._ends_label(state)
            return state.text == _NONE and not state.past
        return state.phase in ("end", "done")

    def time_range(self, state: AnswerState) -> tuple[int, int]:
        """Return the first and last multiple that may come next; an empty range if the first is greater."""
        if state.phase == "onset":
            return state.low, state.last - 1
        return (state.onset + 1, state.last) if state.phase == "offset" else (0, -1)

    def step(self, state: AnswerState, byte: int) -> AnswerState | None:
        """Return the state after one more byte, `None` if that is not allowed."""
        phase, text = state.phase, state.text
        if phase == "label":
            return self._step_label(state, byte)
        if phase == "literal":
            if text[0] != byte:
                return None
            rest = text[1:]
            return state._replace(text=rest) if rest else state._replace(phase=state.then, text=b"")
        if phase == "end":
            if byte == _COMMA and self.task != "captioning" and self._may_start(state):
                return state._replace(phase="literal", text=b" ", then="onset")
            if byte == _SEMICOLON and self.task == "detection" and self._may_name(state):
                return state._replace(phase="literal", text=b" ", then="label", low=0, tail=b"")
            return None
        if phase == "done":
            return None
        if byte == _NONE[0] and self._may_say_none(state):
            return state._replace(phase="literal", text=_NONE[1:], then="done")
        if self.in_ticks:
            return None
        text += bytes((byte,))
        if self._first_time(state, text) is None:
            return None
        multiple = self._multiples.get(text)
        return state._replace(text=text) if multiple is None else self.step_time(state, multiple)

    def walk(self, state: AnswerState, text: bytes) -> AnswerState | None:
        """Return the state after more bytes, `None` if they are not allowed."""
        for byte in text:
            state = self.step(state, byte)
            if state is None:
                return None
        return state

    def step_time(self, state: AnswerState, multiple: int) -> AnswerState | None:
        """Return the state after a complete time, a multiple of the step; `None` if it is not allowed."""
        low, high = self.time_range(state)
        if not low <= multiple <= high:
            return None
        if state.phase == "onset":
            return state._replace(phase="literal", text=b"-", then="offset", onset=multiple)
        state = state._replace(offset=multiple, num_events=state.num_events + 1)
        if self.task == "captioning":
            return state._replace(phase="literal", text=b": ", then="label", low=state.onset, tail=b"")
        if self.task == "detection" and self.labels is None:
            state = state._replace(past=(*state.past[:-1], (state.past[-1][0], multiple)))
        return state._replace(phase="end", text=b"", low=multiple)

    def _may_start(self, state) -> bool:
        return state.low < state.last and (self.max_events is None or state.num_events < self.max_events)

    def _may_name(self, state) -> bool:
        is_left = self.labels is None or len(state.past) < len(self.labels)
        return is_left and self._may_start(state._replace(low=0))

    def _may_say_none(self, state) -> bool:
        return state.phase == "onset" and not (state.text or state.past or state.num_events)

    def _first_time(self, state, prefix) -> int | None:
        """Return the first multiple in range whose text starts with `prefix`."""
        low, high = self.time_range(state)
        multiples = self._times.get(prefix, ())
        place = bisect_left(multiples, low)
        return multiples[place] if place < len(multiples) and multiples[place] <= high else None

    def _step_label(self, state, byte):
        if byte == _COLON and self.task == "detection" and self._ends_label(state):
            name = self._name(state)
            if self.labels is not None:
                return state._replace(phase="literal", text=b" ", then="onset", past=(*state.past, name), low=0)
            low = dict(state.past).get(name, 0)
            past = (*(item for item in state.past if item[0] != name), (name, low))
            return state._replace(phase="literal", text=b" ", then="onset", past=past, low=low)
        if byte == _SEMICOLON and self.task == "captioning" and self._ends_label(state) and self._may_start(state):
            past = (*state.past, (self._name(state), state.offset))
            return state._replace(phase="literal", text=b" ", then="onset", past=past)
        text = state.text + bytes((byte,))
        if self.task == "captioning" or self._may_name(state):
            if self.labels is None:
                tail = step_tail(state.tail, byte)
                return None if tail is None else state._replace(text=text, tail=tail)
            if any(label not in state.past for label in self._label_prefixes.get(text, ())):
                return state._replace(text=text)
        # In a closed set, or if no event may start, `none` is not a label but the answer.
        return state._replace(text=text) if not state.past and _NONE.startswith(text) else None

    def _name(self, state) -> bytes:
        # Escapes are unique, so names are compared in escaped form.
        text = state.text
        return text if text.isascii() else unicodedata.normalize("NFC", text.decode()).encode()

    def _ends_label(self, state) -> bool:
        """Return whether the text is a complete label that may be followed by times."""
        if self.labels is not None:
            return state.text in self.labels and state.text not in state.past and self._may_start(state)
        if state.tail != WHOLE:
            return False
        name = self._name(state)
        if self.task == "captioning":
            return not any(name == caption and state.onset < offset for caption, offset in state.past)
        return self._may_start(state._replace(low=dict(state.past).get(name, 0)))


def _by_prefix(values) -> dict[bytes, list]:
    """Return, for every prefix of the keys, the matching labels (keys) or times (values, sorted)."""
    prefixes = {}
    for key, value in values.items():
        for end in range(len(key) + 1):
            prefixes.setdefault(key[:end], []).append(value if isinstance(value, int) else key)
    return prefixes


def _escaped_labels(event_labels, task) -> set[bytes]:
    labels = [normalize_label(label) if isinstance(label, str) else label for label in event_labels]
    if task != "detection":
        raise ValueError(f"event_labels is {labels!r} for {task}, whose answers name no classes; give None.")
    for label in labels:
        if not isinstance(label, str) or not label or labels.count(label) > 1:
            raise ValueError(f"event_labels holds {label!r}, which is empty, repeated or not a string; give each once.")
    if not labels:
        raise ValueError("event_labels is empty; name at least one label, or give None for any.")
    return {escape_label(label).encode() for label in labels}


def step_tail(tail: bytes, byte: int) -> bytes | None:
    r"""Return the tail of an open label after one more byte; `None` if the byte is not allowed.

    Args:
        tail: `b""` at the start of a label, `b" "` after a space, `b"x"` after any other complete character, or the
            bytes of an incomplete character or escape.
    """
    if tail == b"\\":
        return WHOLE if byte in b"\\:;lg" else None
    if byte >= 0x80 or tail[:1] >= b"\x80":
        return _step_utf8((tail if tail[:1] >= b"\x80" else b"") + bytes((byte,)))
    if byte == _SPACE:
        return b" " if tail == WHOLE else None
    if byte == _BACKSLASH:
        return b"\\"
    return None if byte < 0x20 or byte == 0x7F or byte in b"<>:;" else WHOLE


def end_tail(tail: bytes) -> bytes:
    """Return the shortest bytes that complete the last character of an open label."""
    if tail[:1] < b"\x80":
        return {WHOLE: b"", b"\\": b"\\"}.get(tail, WHOLE)
    rest = b""
    while (after := _step_utf8(tail + rest)) not in (None, WHOLE):
        rest += bytes((next(byte for byte in range(0x80, 0xC0) if _step_utf8(after + bytes((byte,))) is not None),))
    return rest


def _step_utf8(part: bytes) -> bytes | None:
    try:
        text = unicodedata.normalize("NFC", f"x{part.decode()}x")
    except UnicodeDecodeError as error:
        # Python reports a cut character as unexpected end of data; every cut character has a safe completion.
        return part if error.reason == "unexpected end of data" else None
    # Labels of events contain no other spaces or invisible characters, and canonical answers escape controls.
    return WHOLE if normalize_label(text) == escape_label(text) else None
