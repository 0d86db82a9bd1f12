"""Audacity's label tracks as clips, one file per recording; see `processing/text_files.py` for the format."""

from collections.abc import Iterator

from processing.text_files import read_label_track
from recipes.data.clip import AnnotatedClip, make_clip
from recipes.data.readers.files import files_of


def read_label_tracks(path) -> Iterator[AnnotatedClip]:
    """Yield the clip of a label track, or of every `*.txt` in a folder; the recording is named after the track.

    An empty track is a recording without events.

    Raises:
        ValueError: a malformed line, or a folder without tracks.
    """
    for track in files_of(path, ".txt"):
        yield make_clip(str(track), track.stem, read_label_track(track), track.stem)
