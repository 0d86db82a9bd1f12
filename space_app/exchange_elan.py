"""Events of one recording for ELAN: its tab-delimited text, and its `.eaf`, which pympi writes. Times are to the ms.

Text as ELAN exports it names its columns, `Tier`, `Begin Time - ss.msec`, `End Time - ss.msec`, ..., `Annotation`, each
time in every format that was ticked; or has a column for each tier in place of the last; or has no header. The layouts
are known from public exports, not from a specification: what does not fit them is an error.

Source: MPI for Psycholinguistics, ELAN manual, "Import CSV / Tab-delimited Text Files" and "Export as tab-delimited
text"; "ELAN Annotation Format" 3.0.
"""

import contextlib
import csv
import re
import tempfile
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

from space_app.exchange_text import finite_number, text_lines
from space_app.exchange_tiers import needs_label, split_tiers, whole_milliseconds

ELAN_COLUMNS = ("Tier", "Begin Time - ss.msec", "End Time - ss.msec", "Annotation")
_TIME_COLUMN = re.compile(r"(Begin|End|Duration)(?: Time)? - (.+)")
# Counts of video frames are beside them, or not there at all.
_TIME_FORMATS = ("msec", "ss.msec", "hh:mm:ss.ms")
_TIME = re.compile(r"(?:(\d+):([0-5]?\d):)?(\d+)(?:\.(\d+))?", re.ASCII)
_NO_EVENTS = ("Tier", "Participant", "Score", "File", "File Name", "File Path", "")


def is_elan(path) -> bool:
    """Tell whether the first line of a file is one of ELAN's text: with its header, or with its times and no header."""
    lines = (line for line in text_lines(path) if line.strip() and not line.startswith(";;"))
    return is_elan_line(next(lines, ""))


def is_elan_line(line: str) -> bool:
    """Tell whether a first line is one of ELAN's text."""
    return "Begin Time - " in line or _without_header(line.split("\t")) is not None


def read_elan(path) -> list[dict]:
    """Return `[{"file", "duration", "events"}]` of ELAN's text in the order of its lines.

    A column `Score`, as [`format_elan`] writes it, is the score.

    Raises:
        ValueError: a malformed line, or a layout that is not known.
    """
    lines = [line for line in enumerate(text_lines(path), 1) if line[1].strip()]
    delimiter = "\t" if lines and "\t" in lines[0][1] else ","
    # ELAN takes quotation marks in text with tabs for text.
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    rows = csv.reader((line for _, line in lines), delimiter=delimiter, quoting=quoting)
    events, header, columns = [], None, {}
    for (number, _), fields in zip(lines, rows):
        where = f"{path}, line {number}"
        if header is None and (found := _without_header(fields)) is not None:
            header = found
            columns = _time_columns(header, where)
        elif header is None:
            header = [field.strip() for field in fields]
            columns = _time_columns(header, where)
            continue
        if len(fields) != len(header):
            raise ValueError(f"{where} has {len(fields)} fields, but {len(header)} are expected: {fields}.")
        row = dict(zip(header, fields, strict=True))
        onset, offset = (_seconds(row[columns[part]], columns[part], where) for part in ("Begin", "End"))
        if offset < onset:
            raise ValueError(f"{where}: the end at {offset} s is before the onset at {onset} s; swap them.")
        score = float(row["Score"]) if row.get("Score", "").strip() else None
        names = ["Annotation"] if "Annotation" in row else [
            name for name in header if name not in _NO_EVENTS and not _TIME_COLUMN.fullmatch(name)
        ]  # fmt: skip
        labels = [row[name] for name in names if row[name].strip()]
        events += [{"onset": onset, "offset": offset, "event_label": label, "score": score} for label in labels]
    if header is None:
        raise ValueError(f"{path} is empty; its first line must be {chr(9).join(ELAN_COLUMNS)!r}.")
    return [{"file": Path(path).stem, "duration": None, "events": events}]


def format_elan(result: dict) -> str:
    """Return the events of one recording as tab-delimited text for ELAN's import.

    Tiers have the events of one label, and ELAN's tiers have no overlap, so there may be several of a label. A column
    `Score` follows if any event has one; ELAN leaves out columns that its user does not name.

    Raises:
        ValueError: a blank label, or an event shorter than a millisecond.
    """
    scored = any(event.score is not None for event in result["events"])
    lines = [[*ELAN_COLUMNS, "Score"] if scored else ELAN_COLUMNS]
    for tier, events in split_tiers(result["events"]):
        for event in events:
            label = needs_label(event, result["file"], "ELAN's text")
            times = (f"{time / 1000:.3f}" for time in whole_milliseconds(event, result["file"], "ELAN's text"))
            score = [] if not scored else [""] if event.score is None else [repr(event.score)]
            lines.append([tier, *times, label, *score])
    # Not by `csv`: ELAN takes quotation marks for text.
    return "".join("\t".join(line) + "\n" for line in lines)


def read_eaf(path) -> list[dict]:
    """Return `[{"file", "duration", "events"}]` of an `.eaf`, tier by tier.

    The recording is named after the linked medium, the first audio file if there are several, else after the file.
    Annotations of annotations (dependent tiers) have no times of their own and are left out. Annotations that divide a
    time, between two that are known, have equal parts of it, as in ELAN.

    Raises:
        ValueError: no `.eaf`, or an annotation without times.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(f"{path} is not an .eaf of ELAN ({error}); save it again in ELAN.") from None
    units = next((header.get("TIME_UNITS") for header in root.iter("HEADER")), None) or "milliseconds"
    if root.tag != "ANNOTATION_DOCUMENT" or units != "milliseconds":
        raise ValueError(f"{path} is not an .eaf of ELAN in milliseconds ({root.tag}, {units}); save it again in ELAN.")
    slots = {slot.get("TIME_SLOT_ID"): finite_number(slot.get("TIME_VALUE", "")) for slot in root.iter("TIME_SLOT")}
    events = []
    for tier in root.iter("TIER"):
        onset, labels = None, []
        for item in tier.iter("ALIGNABLE_ANNOTATION"):
            onset = onset if labels else slots.get(item.get("TIME_SLOT_REF1"))
            labels.append(item.findtext("ANNOTATION_VALUE") or "")
            offset = slots.get(item.get("TIME_SLOT_REF2"))
            if onset is None:
                break
            if offset is not None:
                times = [(onset + (offset - onset) * part / len(labels)) / 1000 for part in range(len(labels) + 1)]
                events += [
                    {"onset": first, "offset": last, "event_label": label, "score": None}
                    for first, last, label in zip(times, times[1:], labels)
                    if label.strip()
                ]
                labels = []
        if labels:
            raise ValueError(
                f"{path}, tier {tier.get('TIER_ID')!r}: the annotation {item.get('ANNOTATION_ID')!r} has no times; "
                "align it in ELAN."
            )
    media = [item for item in root.iter("MEDIA_DESCRIPTOR") if "audio" in item.get("MIME_TYPE", "audio")]
    media = [unquote(re.split(r"[/\\]", item.get("MEDIA_URL", ""))[-1]) for item in media]
    return [{"file": next(filter(None, media), Path(path).stem), "duration": None, "events": events}]


def format_eaf(result: dict) -> str:
    """Return the events of one recording as an `.eaf`, in tiers as in [`format_elan`]; the recording is linked.

    Raises:
        ValueError: a blank label, or an event shorter than a millisecond.
        ImportError: pympi is missing.
    """
    pympi = _pympi()
    eaf = pympi.Eaf(author="timepro")
    # The date of writing would make equal events unequal files.
    eaf.adocument["DATE"] = "1970-01-01T00:00:00+00:00"
    eaf.remove_tier("default")
    eaf.add_linked_file(result["file"], relpath=result["file"], mimetype="audio/*")
    for tier, events in split_tiers(result["events"]):
        eaf.add_tier(tier)
        for event in events:
            needs_label(event, result["file"], "an .eaf", "".join(map(chr, range(32))), "control characters")
            eaf.add_annotation(tier, *whole_milliseconds(event, result["file"], "an .eaf"), event.event_label)
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(FileNotFoundError):
        path = Path(folder) / "a.eaf"
        eaf.to_file(str(path))
        return path.read_text(encoding="utf-8")


def _pympi():
    try:
        from pympi import Elan
    except ImportError as error:
        raise ImportError(".eaf needs pympi-ling; install it by: pip install 'timepro[formats]'") from error
    return Elan


def _time_columns(header, where) -> dict[str, str]:
    """Return the columns of begin and end, in the finest format that both have."""
    for kind in _TIME_FORMATS:
        found = {part: f"{part} Time - {kind}" for part in ("Begin", "End")}
        if set(found.values()) <= set(header):
            return found
    raise ValueError(
        f"{where}: the header {header} has no begin and end in one of {', '.join(_TIME_FORMATS)}; export with "
        f"columns such as {', '.join(ELAN_COLUMNS)}."
    )


def _without_header(fields) -> list[str] | None:
    """Return the header of an export without one, by the times of its first line; `None` if they do not fit.

    It has tier, participant, begin, end and duration in one or several formats each, and the annotation; in exports
    of some settings no participant or no duration.
    """
    first = next((index for index, field in enumerate(fields) if _TIME.fullmatch(field)), len(fields))
    times = [field for field in fields[first:-1] if _TIME.fullmatch(field)]
    if first not in (1, 2) or len(times) != len(fields) - first - 1 or len(times) < 2:
        return None
    for parts in (("Begin", "End", "Duration"), ("Begin", "End")):
        num_formats, rest = divmod(len(times), len(parts))
        kinds = [_kind(time) for time in times[:num_formats]]
        if rest or len(set(kinds)) < num_formats or kinds * len(parts) != [_kind(time) for time in times]:
            continue
        values = [_seconds(times[index * num_formats], kinds[0], "") for index in range(len(parts))]
        # Tables of others look alike, `file<TAB>1.5<TAB>2.5<TAB>label`: durations that fit, or clocks, tell.
        if abs(values[0] + values[2] - values[1]) > 0.0015 if len(parts) == 3 else "hh:mm:ss.ms" not in kinds:
            continue
        named = [f"{part} Time - {kind}" for part in parts for kind in kinds]
        return [*("Tier", "Participant")[:first], *named, "Annotation"]
    return None


def _kind(time: str) -> str:
    return "hh:mm:ss.ms" if ":" in time else "ss.msec" if "." in time else "msec"


def _seconds(text: str, column: str, where: str) -> float:
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{where}: {column} is {text!r}; give a time such as 1.25 or 00:00:01.250.")
    hours, minutes, seconds, decimals = match.groups()
    value = float(f"{seconds}.{decimals or 0}")
    return value / 1000 if column.endswith(" - msec") or column == "msec" else (
        int(hours or 0) * 3600 + int(minutes or 0) * 60 + value
    )  # fmt: skip
