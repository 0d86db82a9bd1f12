r"""A confidence for each event, from the probabilities of its tokens.

The score of an event is the product of the probabilities of its label, onset and offset, each given the answer so far:

    score = p(label) * p(onset within 0.2 s) * p(offset within 0.2 s, or a fifth of the event's length if that is more)

The probability of a label is the product of its tokens', shared by all times of the label in detection; in grounding it
is 1, since the question names the label. If times are tokens, the probability of a time is the sum over all times
within the collars of event-based F1, since these count as correct too; in digits it is the product of the tokens'.
Nothing is normalised by the number of tokens or events, so scores are comparable within and across files. Probabilities
are the model's own: before any logits processor and at temperature 1.
"""

import math
from typing import NamedTuple

from .answer_text import said_events
from .events import Event
from .token_masks import drops_first_space, token_bytes

TOLERANCE = 0.2
OFFSET_FRACTION = 0.2


class EventParts(NamedTuple):
    """An event without score, and the natural log-probabilities of its label, onset and offset."""

    event: Event
    label: float
    onset: float
    offset: float


def score_events(
    tokenizer, token_ids, log_probs, task: str, event_label: str = "", time_log_probs=None, grid=None,
    tolerance: float = TOLERANCE, truncated: bool = False,
) -> list[Event] | None:  # fmt: skip
    """Return the events of an answer with their scores, from 0 to 1.

    Args:
        tokenizer: the fast tokenizer that the answer was generated with.
        token_ids: ids of the answer (num_tokens); special tokens, such as its end and padding, are ignored.
        log_probs: natural log-probability of each (num_tokens), from unprocessed logits at temperature 1.
        task: one of `TASKS`.
        event_label: label of the events in grounding.
        time_log_probs: if times are tokens, the log-probabilities of all time tokens at each position
            (num_tokens, num_time_tokens), normalised over the whole vocabulary; `None` counts only the generated time.
        grid: the [`TimeGrid`] of the time tokens; required with `time_log_probs`.
        tolerance: seconds by which a time may differ and be correct; for offsets at least a fifth of the length.
        truncated: the answer reached the token limit, so only complete events count.

    Returns:
        Events as [`parse_events`] reads them from a canonical answer, in the same order; `None` for any other answer.

    Raises:
        ValueError: an unknown task, lengths that differ, log-probabilities above 0 or not a number, or
            `time_log_probs` without `grid`.
    """
    parts = event_parts(tokenizer, token_ids, log_probs, task, event_label, time_log_probs, grid, tolerance, truncated)
    if parts is None:
        return None
    return [
        Event(event.onset, event.offset, event.event_label, min(1.0, math.exp(label + onset + offset)))
        for event, label, onset, offset in parts
    ]


def event_parts(
    tokenizer, token_ids, log_probs, task, event_label="", time_log_probs=None, grid=None, tolerance=TOLERANCE,
    truncated=False,
) -> list[EventParts] | None:  # fmt: skip
    """Return what [`score_events`] multiplies, sorted as its events are."""
    token_ids, log_probs = [int(token) for token in token_ids], [float(value) for value in log_probs]
    if len(token_ids) != len(log_probs) or (time_log_probs is not None and len(time_log_probs) != len(token_ids)):
        raise ValueError(f"token_ids has {len(token_ids)} tokens, log_probs {len(log_probs)}; give one row for each.")
    # Rounding may lift the sum of a softmax above 1.
    if any(not value < 1e-3 for value in log_probs):
        raise ValueError(f"log_probs holds {max(log_probs)}; natural logarithms of probabilities are 0 or less.")
    if (time_log_probs is None) != (grid is None):
        raise ValueError("time_log_probs and grid belong together; give both or neither.")
    text, ends = _spell(tokenizer, token_ids)
    found = said_events(text, task, event_label, truncated=truncated)
    if found is None:
        return None

    def log_prob(span):
        return sum((log_probs[index] for index in _tokens_of(span, ends)), 0.0)

    def time_log_prob(span, tolerance):
        tokens = _tokens_of(span, ends)
        if time_log_probs is None or len(tokens) != 1 or text[span[0]] != "<":
            return log_prob(span)
        tick, row = grid.seconds_to_tick(float(text[slice(*span)].strip("<>"))), time_log_probs[tokens[0]]
        reach = math.floor(tolerance / grid.time_step + 1e-9)
        near = row[max(0, tick - reach) : tick + reach + 1]
        return min(0.0, math.log(max(math.fsum(math.exp(float(value)) for value in near), 1e-300)))

    parts = [
        EventParts(
            event,
            log_prob(label) if label else 0.0,
            time_log_prob(onset, tolerance),
            time_log_prob(offset, max(tolerance, OFFSET_FRACTION * event.duration)),
        )
        for event, label, onset, offset in found
    ]
    return sorted(parts, key=lambda part: part.event)


def _spell(tokenizer, token_ids):
    """Return the text of an answer and the end of each token in characters, `None` for tokens without text.

    Tokens that share a character end at the same position.
    """
    bytes_of = token_bytes(tokenizer)
    spelled = [(bytes_of[token] if token < len(bytes_of) else None) or b"" for token in token_ids]
    if spelled and drops_first_space(tokenizer):
        spelled[0] = spelled[0].removeprefix(b" ")
    # UTF-8 continuation bytes have the form 10xxxxxx, so characters are counted by their first bytes.
    ends, num_characters = [], 0
    for part in spelled:
        num_characters += sum(byte & 0xC0 != 0x80 for byte in part)
        ends.append(num_characters if part else None)
    return b"".join(spelled).decode(errors="replace"), ends


def _tokens_of(span, ends) -> list[int]:
    """Return the tokens that overlap a character span, including those with only part of a character in it."""
    tokens, start = [], 0
    for index, end in enumerate(ends):
        if end is None:
            continue
        if (start < span[1] and end > span[0]) or (end == start and span[0] < end <= span[1]):
            tokens.append(index)
        start = end
    return tokens
