"""Write rows of `event_rows.py` as JSON Lines, DESED TSV, CSV, Audacity labels, RTTM and WebVTT.

Nothing is written before all rows were checked. What a format cannot hold is an error, never left out: DESED, CSV and
Audacity hold one detection row per recording and no ids of their own. Times are written with three decimals, or with
as many as they need.
"""

import csv
import html
import io
import json
import os
from decimal import Decimal
from pathlib import Path

from recipes.data import event_rows, event_tables
from recipes.data.event_rows import audio_stem
from recipes.data.event_tables import is_missing

_LINE_BREAKS = "\r\n"


def write_event_lines(rows, path):
    """Write rows, of any task, as our JSON Lines. Further columns (`question`, ...) are written too."""
    lines = []
    for row in rows:
        ordered = {name: row[name] for name in event_rows.COLUMNS} | dict(row)
        lines.append(json.dumps(ordered, ensure_ascii=False, allow_nan=False) + "\n")
    _write(path, lines)


def write_desed(rows, path, durations=None, audio_dir=None):
    """Write detection rows as DESED's TSV `filename onset offset event_label`.

    Args:
        rows: a data set, or dicts like its rows.
        path: file to write.
        durations: second file to write, `filename duration`, of the recordings whose duration is known.
        audio_dir: file names are written relative to this folder; without it they are `audio` as it is.

    Raises:
        ValueError: what the format cannot hold: another task, two rows of one recording, a label that is empty, `nan`
            or has line breaks.
    """
    _write_tables(rows, path, durations, audio_dir, "\t")


def write_csv(rows, path, durations=None, audio_dir=None):
    """Write detection rows as `filename,onset,offset,event_label`; else as [`write_desed`]."""
    _write_tables(rows, path, durations, audio_dir, ",")


def write_label_tracks(rows, folder):
    """Write detection rows as Audacity label tracks, `<folder>/<name of the recording>.txt`; return the paths.

    Raises:
        ValueError: what the format cannot hold: another task, two recordings of one name, a label with tabs or line
            breaks.
    """
    tracks = {}
    for row in _detection_rows(rows):
        for event in row["events"]:
            _refuse(event["event_label"], "\t" + _LINE_BREAKS, row, "a label track")
        lines = [f"{_seconds(e['onset'])}\t{_seconds(e['offset'])}\t{e['event_label']}\n" for e in row["events"]]
        _add(tracks, row, ".txt", lines)
    return _write_folder(folder, tracks)


def write_rttm(rows, path):
    """Write detection rows as RTTM: `SPEAKER <recording> 1 <onset> <length> <NA> <NA> <label> <NA> <NA>`.

    Source: NIST, Rich Transcription 2009 evaluation plan, appendix A. Recordings without events have no line.

    Raises:
        ValueError: another task, two rows of one recording, or a name or label that is empty or has white space, which
            separates fields.
    """
    lines = []
    for row in _detection_rows(rows):
        name = audio_stem(row["audio"])
        for event in row["events"]:
            for text in (name, event["event_label"]):
                if len(text.split()) != 1 or text != text.strip():
                    raise ValueError(f"row {row['id']!r} has {text!r}, but RTTM has no white space; replace it by '_'.")
            # In decimals, for 3.584 - 2.112 is 1.4720000000000002 in binary.
            length = Decimal(repr(event["offset"])) - Decimal(repr(event["onset"]))
            times = f"{_seconds(event['onset'])} {_seconds(float(length))}"
            lines.append(f"SPEAKER {name} 1 {times} <NA> <NA> {event['event_label']} <NA> <NA>\n")
    _write(path, lines)


def write_webvtt(rows, folder):
    """Write detection rows as WebVTT captions, `<folder>/<name of the recording>.vtt`; return the paths.

    Source: W3C, WebVTT. Times are rounded to milliseconds, which is all that the format has.

    Raises:
        ValueError: another task, two recordings of one name, a label that is blank or has line breaks, or an event
            shorter than a millisecond, which no cue can be.
    """
    files = {}
    for row in _detection_rows(rows):
        lines = ["WEBVTT\n"]
        for event in sorted(row["events"], key=lambda event: (event["onset"], event["offset"])):
            _refuse(event["event_label"], _LINE_BREAKS, row, "WebVTT")
            onset, offset = round(1000 * event["onset"]), round(1000 * event["offset"])
            if onset == offset or not event["event_label"].strip():
                raise ValueError(
                    f"row {row['id']!r} has {event}; WebVTT needs a label and at least a millisecond; drop it."
                )
            lines.append(f"\n{_clock(onset)} --> {_clock(offset)}\n{html.escape(event['event_label'], quote=False)}\n")
        _add(files, row, ".vtt", lines)
    return _write_folder(folder, files)


def _write_tables(rows, path, durations, audio_dir, delimiter):
    table, lengths = [event_tables.COLUMNS], [("filename", "duration")]
    for row in _detection_rows(rows):
        filename = row["audio"] if audio_dir is None else _relative(row["audio"], audio_dir)
        _refuse(filename, _LINE_BREAKS, row, "a table")
        if not filename.strip():
            raise ValueError(f"row {row['id']!r} has the audio {filename!r}; name the recording.")
        for event in row["events"]:
            label = event["event_label"]
            _refuse(label, _LINE_BREAKS, row, "a table")
            if is_missing(label):
                raise ValueError(f"row {row['id']!r} has the label {label!r}, which reads as none; give another.")
            table.append((filename, _seconds(event["onset"]), _seconds(event["offset"]), label))
        if not row["events"]:
            table.append((filename, "", "", ""))
        if row["duration"] is not None:
            lengths.append((filename, _seconds(row["duration"])))
    _write(path, [_table_text(table, delimiter)])
    if durations is not None:
        _write(durations, [_table_text(lengths, delimiter)])


def _table_text(table, delimiter):
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter, lineterminator="\n").writerows(table)
    return file.getvalue()


def _detection_rows(rows):
    """Yield rows after checking that they say all about their recording, once."""
    seen = set()
    for row in rows:
        if row["task"] != "detection":
            raise ValueError(
                f"row {row['id']!r} has the task {row['task']!r}, but the format holds detection rows; write JSON "
                "Lines, or filter the rows."
            )
        if row["audio"] in seen:
            raise ValueError(f"row {row['id']!r}: {row['audio']!r} has several rows; join their events into one.")
        seen.add(row["audio"])
        yield row


def _refuse(text, characters, row, kind):
    if any(character in text for character in characters):
        raise ValueError(f"row {row['id']!r} has {text!r}, but {kind} cannot hold tabs or line breaks; replace them.")


def _relative(audio, audio_dir):
    relative = os.path.relpath(audio, audio_dir)
    if relative.startswith(os.pardir):
        raise ValueError(f"audio is {audio!r}, which is not in audio_dir {str(audio_dir)!r}; give its folder.")
    return relative


def _seconds(time):
    text = f"{time:.3f}"
    return text if float(text) == time else repr(float(time))


def _clock(milliseconds):
    seconds, milliseconds = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{milliseconds:03d}"


def _add(files, row, suffix, lines):
    name = audio_stem(row["audio"]) + suffix
    if name in files:
        raise ValueError(f"row {row['id']!r}: a second recording would be written to {name!r}; rename one of them.")
    files[name] = lines


def _write_folder(folder, files):
    os.makedirs(folder, exist_ok=True)
    paths = [Path(folder) / name for name in files]
    for path, lines in zip(paths, files.values(), strict=True):
        _write(path, lines)
    return paths


def _write(path, lines):
    # Encoded first, so that a character that UTF-8 lacks leaves no half file.
    data = "".join(lines).encode("utf-8")
    Path(path).write_bytes(data)
