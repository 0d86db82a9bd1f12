"""Extract events from answers that are not canonical: JSON, lists of pairs, and prose."""

import json
import math
import re

# Every repetition that could overlap its neighbour is bounded, so matching is linear in the text.
_CLOCK = r"(?:\d{1,3}:)?\d{1,3}:\d{1,2}(?:\.\d{1,9})?"
_UNIT = r"(?:milliseconds?|msecs?|ms|seconds?|secs?|s|minutes?|mins?|min)\b"
_TIME = rf"(?:<\|?)?(?<![\d.:])(?:{_CLOCK}|\d{{1,7}}(?:\.\d{{1,40}})?)(?!\d|[.:]\d)(?:\|?>)?\s?(?:{_UNIT})?"
_VERB = r"(?:ends?|ending|stops?|stopping|finish(?:es)?|offset|end[ _]time|end[ _]timestamp|lasts? until)"
_LINK = (
    r"(?:\s{0,3}(?:-{1,2}>?|–|—|→|~|to|until|till|through|up to)\s{0,3}"
    rf"|\s{{0,3}}[,;]?\s{{0,3}}(?:and\s)?(?:it\s|then\s)?{_VERB}\s?(?:time\s?)?(?:=|:|is\s|at\s)?\s?(?:at\s|around\s|about\s)?)"
)
_SPOKEN = re.compile(rf"(?P<onset>{_TIME}){_LINK}(?P<offset>{_TIME})", re.IGNORECASE)
_BETWEEN = re.compile(rf"\bbetween\s{{1,3}}(?P<onset>{_TIME})\s{{1,3}}and\s{{1,3}}(?P<offset>{_TIME})", re.IGNORECASE)
_PAIR = re.compile(
    rf"[\[(]\s{{0,3}}(?P<onset>{_TIME})\s{{0,3}},\s{{0,3}}(?P<offset>{_TIME})\s{{0,3}}[\])]", re.IGNORECASE
)

_BETWEEN_VALUES = re.compile(r"[\s,;]*")
_SENTENCE_END = re.compile(r"[\n;。]|\.(?=\s|\Z)|\](?=\s{0,3},\s{0,3}\[)")
_REJECTION = re.compile(
    r"^\W{0,3}(?:there (?:is|are|were|was) )?(?:none|nothing|not? (?:such |matching |audible |sound |relevant |clear )*"
    r"(?:events?|sounds?|match(?:es)?|occurrences?|present|found|detected|audible))\b"
    r"|(?:not|n't|never) (?:be )?(?:present|found|heard|audible|detected|occur|appear|contain)\b"
    r"|\bis absent\b|:\s?none\W{0,3}$",
    re.IGNORECASE,
)

_ONSET_KEYS = ("onset", "start", "start_time", "begin", "from", "start_timestamp")
_OFFSET_KEYS = ("offset", "end", "end_time", "stop", "to", "end_timestamp")
_LABEL_KEYS = ("event_label", "label", "event", "sound", "name", "class", "caption", "description", "text")
_PAIR_KEYS = ("timestamp", "timestamps", "segment", "segments", "interval", "intervals", "time", "times")

_LEADING = frozenset(
    "and then also the a an there is are was i hear can be heard we you followed by finally next from at".split()
)
_TRAILING = frozenset(
    "from between at in during is are was were be can heard occurs occur occurring starts start starting begins begin "
    "happens happening lasts lasting runs appears present and then time onset audible detected again which the "
    "it".split()
)
_EDGES = " \t\r\n\f\v,.:;=|-–—→*#•\"'`()[]{}<>"

Found = list[tuple[float, float, str | None]]


def read_foreign_answer(text: str, caption_first: bool = False, truncated: bool = False) -> Found | None:
    """Find onsets and offsets in seconds, each with its label in the text, or `None`.

    Args:
        text: any answer.
        caption_first: prefer the words after an interval as its label, rather than those before it.
        truncated: the text reached the token limit, so ignore everything after its last complete sentence or list item.

    Returns:
        A list of `(onset, offset, label)`; `[]` if the text says that nothing matches; `None` if it cannot be parsed.
    """
    found = _read_json(text)
    if found is None:
        ends = [match.end() for match in _SENTENCE_END.finditer(text)] if truncated else [len(text)]
        found = _read_prose(text[: max(ends, default=0)], caption_first)
    if found is None and _REJECTION.search(text):
        found = []
    return found


def _read_json(text: str) -> Found | None:
    starts = [position for position in (text.find("["), text.find("{")) if position >= 0]
    if not starts:
        return None
    if "{" not in text and text[: min(starts)].strip(" \n`json:"):
        return None  # `dog [1.2, 3.4]`: the label is outside the list
    values, is_whole = _decode_all(text[min(starts) :])
    if not is_whole:
        # Brackets in prose, or truncated JSON: keep the complete objects.
        values = [value for match in re.finditer(r"\{[^{}]*\}", text) for value in _decode_all(match[0])[0]]
    if values == [[]] and not text.replace("[", "").replace("]", "").strip(" \n`json"):
        return []
    found, is_rejection = [], False
    pending = [(value, None) for value in reversed(values)]
    while pending:  # a stack: nesting may be deeper than Python's recursion
        item, label = pending.pop()
        pair, label = _as_event(item, label)
        if pair:
            found.append((*pair, label))
        elif isinstance(item, list):
            pending += [(inner, label) for inner in reversed(item)]
        elif isinstance(item, dict):
            is_rejection |= any(key.lower() in ("events", "event_list") and item[key] == [] for key in item)
            for key, inner in reversed(item.items()):
                is_name = key.lower() not in (*_PAIR_KEYS, *_LABEL_KEYS, "events", "event_list")
                pending.append((inner, key if is_name else label))
    return found or ([] if is_rejection else None)


def _decode_all(text: str) -> tuple[list, bool]:
    """Return the lists and objects that the text starts with, and whether no other brackets follow."""
    for candidate in (text, text.replace("'", '"')):
        values, end = [], 0
        try:
            # By position rather than slicing, to stay linear; `[1.2, 3.4], [5, 6]` is several values.
            while candidate.startswith(("[", "{"), end):
                value, end = json.JSONDecoder().raw_decode(candidate, end)
                values.append(value)
                end = _BETWEEN_VALUES.match(candidate, end).end()
        except (ValueError, RecursionError):
            continue
        return values, candidate.find("[", end) < 0 and candidate.find("{", end) < 0
    return [], False


def _as_event(item, label: str | None) -> tuple[tuple[float, float] | None, str | None]:
    """Return the times of a JSON value that is one event, or `None`, and the label of it and its parts."""
    if isinstance(item, dict):
        item = {key.lower(): value for key, value in item.items()}
        named = next((item[key] for key in _LABEL_KEYS if isinstance(item.get(key), str)), None)
        label = label if named is None else named
        values = [next((item[key] for key in keys if key in item), None) for keys in (_ONSET_KEYS, _OFFSET_KEYS)]
    elif isinstance(item, list) and len(item) in (2, 3):
        names = [value for value in (item[0], item[-1]) if len(item) == 3 and isinstance(value, str)]
        values = item[1:] if names and names[0] is item[0] and _seconds_of_json(item[0]) is None else item[:2]
        label = names[0] if names else label
    else:
        return None, label
    times = [_seconds_of_json(value) for value in values]
    return (tuple(times) if None not in times and times[0] <= times[1] else None), label


def _seconds_of_json(value) -> float | None:
    if isinstance(value, str):
        match = re.fullmatch(_TIME, value.strip(), re.IGNORECASE)
        return _seconds(match[0])[0] if match else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        value = float(value)
    except OverflowError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _seconds(spelling: str) -> tuple[float, bool]:
    """Return a matched time in seconds, and whether the text names its unit."""
    digits = re.search(r"[\d:.]+", spelling)
    parts = digits[0].split(":")
    value = sum(float(part) * 60**power for power, part in enumerate(reversed(parts)))
    unit = spelling[digits.end() :].strip("|> ").lower()
    if unit.startswith(("ms", "milli")):
        value /= 1000
    elif unit.startswith("min"):
        value *= 60
    return value, bool(unit) or len(parts) > 1


def _read_prose(text: str, caption_first: bool) -> Found | None:
    matches = sorted(
        (match for pattern in (_SPOKEN, _BETWEEN, _PAIR) for match in pattern.finditer(text)), key=lambda m: m.start()
    )
    found, label = [], None
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    sentence = 0
    for index, match in enumerate(matches):
        pair = _times_of(match, text)
        if pair is None:
            continue
        # The words before, back to the last interval or sentence, and after, up to the next one.
        while sentence < len(ends) and ends[sentence] <= match.start():
            sentence += 1
        floor = max(matches[index - 1].end() if index else 0, ends[sentence - 1] if sentence else 0)
        following = sentence
        while following < len(ends) and ends[following] <= match.end():
            following += 1
        ceiling = min(
            matches[index + 1].start() if index + 1 < len(matches) else len(text),
            ends[following] if following < len(ends) else len(text),
        )
        is_first = floor == (ends[sentence - 1] if sentence else 0)
        before, after = _clean(text[floor : match.start()]), _clean(text[match.end() : ceiling])
        if is_first and not before and not caption_first:
            before = _heading(text, ends, sentence)
        wanted = (after, before) if caption_first or (is_first and not before) else (before, "")
        label = wanted[0] or wanted[1] or label
        found.append((*pair, label))
    return found or None


def _times_of(match: re.Match, text: str) -> tuple[float, float] | None:
    onset_text, offset_text = match["onset"], match["offset"]
    if any(("<" in time) != (">" in time) for time in (onset_text, offset_text)):
        return None
    onset, onset_has_unit = _seconds(onset_text)
    offset, offset_has_unit = _seconds(offset_text)
    if offset_has_unit and not onset_has_unit:
        # "1200 to 3400 ms": the unit follows only the offset.
        unit = re.sub(r"^[<|\d:.]+[|>]*", "", offset_text)
        onset = onset if ":" in offset_text else _seconds(onset_text.rstrip() + unit)[0]
    # Two decimals, then fewer at the very end: the answer was truncated within a number.
    decimals = [len(re.search(r"[\d:]+\.?(\d*)", time)[1]) for time in (onset_text, offset_text)]
    rest = text[match.end() :].strip()
    is_cut = not offset_has_unit and rest in ("", ".") and decimals[0] >= 2 and decimals[1] < decimals[0]
    return None if is_cut or offset < onset else (onset, offset)


def _heading(text: str, ends: list[int], sentence: int) -> str:
    """Return the label of a list above the interval: the line before, if it ends with a colon."""
    if not sentence:
        return ""
    line = text[ends[sentence - 2] if sentence > 1 else 0 : ends[sentence - 1]].rstrip(" \n*")
    return _clean(line) if line.endswith(":") else ""


def _clean(words: str) -> str:
    """Strip punctuation, list marks and the words that link a label to its time."""
    words = re.sub(r"^\W{0,4}\d{1,3}[.)]\s", "", words).strip(_EDGES).split()
    start, end = 0, len(words)
    while start < end and words[start].strip(_EDGES).lower() in _LEADING:
        start += 1
    while end > start and words[end - 1].strip(_EDGES).lower() in _TRAILING:
        end -= 1
    return " ".join(words[start:end]).strip(_EDGES)
