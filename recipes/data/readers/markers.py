"""Marker lists of audio editors: Audacity's label tracks, Adobe Audition's, and Reaper's regions and markers.

    Name<TAB>Start<TAB>Duration<TAB>Time Format<TAB>Type<TAB>Description
    dog<TAB>0:00.500<TAB>0:00.750<TAB>decimal<TAB>Cue<TAB>

    #,Name,Start,End,Length
    R1,dog,0:00.500,0:01.250,0:00.750

See `processing/text_files.py` for Audacity's. The others are known from public files; times are in the unit of the
ruler, of which only minutes and seconds are accepted. A list belongs to one recording, which is named after the file.
"""

import re
from collections.abc import Iterator

from processing.text_files import first_line, make_event, read_label_track, read_table
from recipes.data.clip import AnnotatedClip, files_of, make_clip

_CLOCK = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+[.,]\d+)", re.ASCII)


def read_label_tracks(path) -> Iterator[AnnotatedClip]:
    """Yield the clip of a label track, or of every `*.txt` in a folder; the recording is named after the track.

    An empty track is a recording without events.

    Raises:
        ValueError: a malformed line, or a folder without tracks.
    """
    for track in files_of(path, ".txt"):
        yield make_clip(str(track), track.stem, read_label_track(track), track.stem)


def read_audition(path) -> Iterator[AnnotatedClip]:
    """Yield the clip of an Audition list, or of every `*.csv` in a folder. Markers without duration are points.

    Raises:
        ValueError: a malformed row, or times in samples or frames.
    """
    columns = ("Name", "Start", "Duration", "Time Format")
    for file in files_of(path, ".csv"):
        events = []
        delimiter = "\t" if "\t" in first_line(file) else ","
        for where, row in read_table(file, columns, delimiter, optional=None):
            if row["Time Format"] != "decimal":
                raise ValueError(f"{where}: Time Format is {row['Time Format']!r}; export times as decimal.")
            onset, length = (_seconds(row[name], name, where) for name in ("Start", "Duration"))
            events.append(make_event(onset, round(onset + length, 9), row["Name"], where))
        yield make_clip(str(file), file.stem, events, file.stem)


def read_reaper(path) -> Iterator[AnnotatedClip]:
    """Yield the clip of a Reaper list, or of every `*.csv` in a folder. Markers (`M1`) are points.

    Raises:
        ValueError: a malformed row, or times in measures, samples or frames.
    """
    for file in files_of(path, ".csv"):
        events = []
        for where, row in read_table(file, ("#", "Name", "Start", "End"), ",", optional=None):
            onset = _seconds(row["Start"], "Start", where)
            offset = _seconds(row["End"], "End", where) if row["End"] else onset
            events.append(make_event(onset, offset, row["Name"], where))
        yield make_clip(str(file), file.stem, events, file.stem)


def _seconds(text: str, name: str, where: str) -> float:
    match = _CLOCK.fullmatch(text)
    if match is None:
        raise ValueError(
            f"{where}: {name} is {text!r}; export times as minutes and seconds, such as 0:01.250. Whole numbers may be "
            "samples, and are not read."
        )
    hours, minutes, seconds = match.groups()
    return round(int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(seconds.replace(",", ".")), 9)
