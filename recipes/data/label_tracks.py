r"""Audacity's label tracks: `onset\toffset\tlabel`, no header, one file per recording.

A line that begins with a backslash holds the frequencies of the label before it, which are left out. Labels that mark
a point have equal times.
"""

from collections.abc import Iterator
from pathlib import Path

from recipes.data.annotation_text import read_lines, source_of
from recipes.data.event_rows import make_event, make_row, read_number


def read_label_tracks(path) -> Iterator[dict]:
    """Yield the row of a label track, or those of all `*.txt` of a folder; the recording is named as the track.

    An empty track is a recording without events.

    Raises:
        ValueError: a malformed line, or a folder without tracks.
    """
    path = Path(path)
    tracks = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    if not tracks:
        raise ValueError(f"{path} has no *.txt; give a label track or a folder of them.")
    for track in tracks:
        lines = enumerate(read_lines(track), 1)
        events = [_event(line.rstrip("\n"), f"{track}, line {n}") for n, line in lines if not line.startswith("\\")]
        events = [event for event in events if event is not None]
        yield make_row(track.stem, track.stem, "detection", events, source_of(path, "audacity"))


def _event(line, where):
    if not line.strip(" "):
        return None
    fields = line.split("\t")
    # Older versions leave out the tab before an empty label.
    if len(fields) not in (2, 3):
        raise ValueError(
            f"{where} has {len(fields)} fields separated by tabs, where onset, offset and label are expected: {line!r}."
        )
    onset, offset = (read_number(text, name, where) for text, name in zip(fields, ("onset", "offset"), strict=False))
    return make_event(onset, offset, fields[2] if len(fields) == 3 else "", where)
