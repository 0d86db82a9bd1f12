"""Audacity's label tracks as rows, one file per recording; see `processing/annotation_tables.py` for the format."""

from collections.abc import Iterator
from pathlib import Path

from processing.annotation_tables import read_label_track
from recipes.data.event_rows import make_row, plain_events, source_of


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
        events = plain_events(read_label_track(track))
        yield make_row(track.stem, track.stem, "detection", events, source_of(path, "audacity"))
