"""Events as RTTM, one line each: `SPEAKER <recording> 1 <onset> <length> <NA> <NA> <label> <score> <NA>`.

Source: NIST, "The 2009 (RT-09) Rich Transcription Meeting Recognition Evaluation Plan", appendix A.
"""

import math
from collections.abc import Iterable
from decimal import Context, Decimal

from .annotation_tables import check_once
from .text_files import audio_stem, check_label, format_seconds, make_event, read_lines, read_number

# Enough digits for the difference of any two floats.
_EXACT = Context(prec=1100)


def read_rttm(path) -> list[dict]:
    """Return `{"file", "duration", "events"}` of the recordings of an RTTM file in order of first mention.

    Channel, orthography and subtype are left out, and so are comments and lines about speakers (`SPKR-INFO`).

    Raises:
        ValueError: a malformed line, or one of a type that is no event.
    """
    recordings = {}
    for line_number, line in enumerate(read_lines(path), 1):
        fields, where = line.split(), f"{path}, line {line_number}"
        if not fields or fields[0].startswith(";;") or fields[0] == "SPKR-INFO":
            continue
        if fields[0] != "SPEAKER" or len(fields) not in (9, 10):
            raise ValueError(
                f"{where} is {line.strip()[:80]!r}; give 'SPEAKER <recording> 1 <onset> <length> <NA> <NA> <label> "
                "<score> <NA>'."
            )
        onset, length = (read_number(text, name, where) for text, name in zip(fields[3:5], ("onset", "length")))
        if onset + length < onset:
            raise ValueError(f"{where}: length is {length} s; give 0 or more.")
        offset = onset + length
        if math.isfinite(offset):
            offset = float(_EXACT.add(Decimal(fields[3]), Decimal(fields[4])))
        label, score = "" if fields[7] == "<NA>" else fields[7], fields[8]
        score = None if score == "<NA>" else read_number(score, "score", where)
        recordings.setdefault(fields[1], []).append(make_event(onset, offset, label, where, score))
    return [{"file": file, "duration": None, "events": events} for file, events in recordings.items()]


def format_rttm(results: Iterable[dict]) -> str:
    """Return recordings `{"file", "events"}` as RTTM; they are named without folder and suffix.

    Raises:
        ValueError: two results of one name, one without events, for which there is no line, or a name or label that is
            empty, `<NA>` or has white space, which separates fields.
    """
    lines, seen = [], set()
    for result in results:
        file = result["file"]
        name = audio_stem(file)
        check_once(name, seen, "RTTM")
        if not result["events"]:
            raise ValueError(f"{file!r} has no events, but RTTM cannot name such recordings; leave it out.")
        for text in (name, *(event.event_label for event in result["events"])):
            check_label(text, file, "RTTM")
            if len(text.split()) != 1 or text != text.strip() or text == "<NA>":
                raise ValueError(f"{file!r} has {text!r}, but RTTM has no white space; replace it by '_'.")
        for event in result["events"]:
            # In decimals, for 3.584 - 2.112 is 1.4720000000000002 in binary.
            length = _EXACT.subtract(Decimal(repr(event.offset)), Decimal(repr(event.onset)))
            whole, _, decimals = f"{length:f}".partition(".")
            length = f"{whole}.{decimals.rstrip('0').ljust(3, '0')}"
            score = "<NA>" if event.score is None else repr(event.score)
            times = f"{format_seconds(event.onset)} {length}"
            lines.append(f"SPEAKER {name} 1 {times} <NA> <NA> {event.event_label} {score} <NA>\n")
    return "".join(lines)
