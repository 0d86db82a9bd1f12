"""Audacity's label tracks as clips, one file per recording; see `processing/annotation_tables.py` for the format."""

from collections.abc import Iterator
from pathlib import Path

from processing.annotation_tables import read_label_track
from recipes.data.clip import AnnotatedClip, make_clip


def read_label_tracks(path) -> Iterator[AnnotatedClip]:
    """Yield the clip of a label track, or those of all `*.txt` of a folder; the recording is named as the track.

    An empty track is a recording without events.

    Raises:
        ValueError: a malformed line, or a folder without tracks.
    """
    path = Path(path)
    tracks = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    if not tracks:
        raise ValueError(f"{path} has no *.txt; give a label track or a folder of them.")
    for track in tracks:
        yield make_clip(str(track), track.stem, read_label_track(track), track.stem)
