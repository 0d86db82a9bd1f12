"""Events as RTTM, one line each: `SPEAKER <recording> 1 <onset> <length> <NA> <NA> <label> <score> <NA>`.

Source: NIST, "The 2009 (RT-09) Rich Transcription Meeting Recognition Evaluation Plan", appendix A.

Written and read here, not by pyannote.core: that rounds to milliseconds, and drops events without length and labels
with blanks. Fields have no blanks, so they are written as underscores; a comment says so, by which they are read back:

    ;; night dog_bark=dog%20bark
    SPEAKER night 1 0.500 0.750 <NA> <NA> dog_bark 0.875 <NA>
"""

from collections.abc import Iterable
from decimal import Context, Decimal
from urllib.parse import quote, unquote

from space_app.exchange_text import finite_number, text_lines

# Enough digits for the difference of any two floats.
_EXACT = Context(prec=1100)
# NIST's further types of lines: words, speech of nobody, sounds without time, and what is not scored.
_OTHER_TYPES = {
    "SPKR-INFO", "LEXEME", "NON-LEX", "NON-SPEECH", "FILLER", "EDIT", "IP", "SU", "CB", "A/P", "SEGMENT", "NOSCORE",
    "NO_RT_METADATA",
}  # fmt: skip


def read_rttm(path) -> list[dict]:
    """Return `{"file", "duration", "events"}` of the recordings of an RTTM file in order of first mention.

    Only lines of the type `SPEAKER` are events. Channel, orthography and subtype are left out, and so are comments and
    lines of NIST's other types.

    Raises:
        ValueError: a malformed line, or one of an unknown type.
    """
    recordings, meant = {}, {}
    for number, line in enumerate(text_lines(path), 1):
        fields, where = line.split(), f"{path}, line {number}"
        if len(fields) == 3 and fields[0] == ";;" and "=" in fields[2]:
            written, _, text = fields[2].rpartition("=")  # the text has none, see `_quoted`
            meant[fields[1], written] = unquote(text)
        if not fields or fields[0].startswith(";;") or fields[0] in _OTHER_TYPES:
            continue
        if fields[0] != "SPEAKER" or len(fields) not in (9, 10):
            raise ValueError(
                f"{where} is {line.strip()[:80]!r}; give 'SPEAKER <recording> 1 <onset> <length> <NA> <NA> <label> "
                "<score> <NA>'."
            )
        name, label = fields[1], "" if fields[7] == "<NA>" else fields[7]
        onset, length = (_number(text, part, where) for text, part in zip(fields[3:5], ("onset", "length")))
        if length < 0 or onset < 0:
            raise ValueError(f"{where}: onset and length are {onset} and {length} s; give 0 or more.")
        # In decimals, for 2.112 + 1.472 is not 3.584 in binary.
        offset = float(_EXACT.add(Decimal(fields[3]), Decimal(fields[4])))
        score = None if fields[8] == "<NA>" else _number(fields[8], "score", where)
        label = meant.get((name, label), label)
        event = {"onset": onset, "offset": offset, "event_label": label, "score": score}
        recordings.setdefault(meant.get((name, name), name), []).append(event)
    return [{"file": file, "duration": None, "events": events} for file, events in recordings.items()]


def format_rttm(results: Iterable[dict]) -> str:
    """Return recordings `{"file", "stem", "events"}` as RTTM; they are named by their stems.

    Raises:
        ValueError: two results of one name, one without events, for which there is no line; a name or label that is
            empty or `<NA>`; or two labels of a recording that differ by underscores alone.
    """
    lines, seen = [], set()
    for result in results:
        file, name = result["file"], _written(result["stem"])
        if name in seen:
            raise ValueError(f"{file!r} has several results, but RTTM holds one of each; join their events into one.")
        seen.add(name)
        if not result["events"]:
            raise ValueError(f"{file!r} has no events, but RTTM cannot name such recordings; leave it out.")
        meant = {name: result["stem"]}
        for text in (result["stem"], *(event.event_label for event in result["events"])):
            if not text.strip() or text == "<NA>":
                raise ValueError(f"{file!r} has the name or label {text!r}, which RTTM cannot hold; give another.")
            known = meant.setdefault(_written(text), text)
            if known != text:
                raise ValueError(f"{file!r} has {known!r} and {text!r}, which RTTM cannot tell apart; rename one.")
        lines += [f";; {name} {written}={_quoted(text)}\n" for written, text in meant.items() if written != text]
        for event in result["events"]:
            length = _EXACT.subtract(Decimal(repr(event.offset)), Decimal(repr(event.onset)))
            score = "<NA>" if event.score is None else repr(event.score)
            times = f"{_decimals(Decimal(repr(event.onset)))} {_decimals(length)}"
            lines.append(f"SPEAKER {name} 1 {times} <NA> <NA> {_written(event.event_label)} {score} <NA>\n")
    return "".join(lines)


def _written(text: str) -> str:
    return "_".join(text.split())


def _quoted(text: str) -> str:
    return "".join(quote(character) if character.isspace() or character in "%=" else character for character in text)


def _decimals(time: Decimal) -> str:
    """Return a time with three decimals, or as many as it has."""
    whole, _, decimals = f"{time:f}".partition(".")
    return f"{whole}.{decimals.rstrip('0').ljust(3, '0')}"


def _number(text: str, name: str, where: str) -> float:
    value = finite_number(text)
    if value is None:
        raise ValueError(f"{where}: {name} is {text!r}; give a number such as 1.25.")
    return value
