"""Formats that are also written: subtitles, Praat, diarisation, ELAN and JAMS."""

from collections.abc import Iterator
from functools import partial

from processing.text_files import make_event
from recipes.data.clip import AnnotatedClip, make_clip
from recipes.data.label_files import read_labels


def read_exchange(path, format: str) -> Iterator[AnnotatedClip]:
    """Yield a clip for every recording of a file, or of a folder of files; events keep their scores.

    Args:
        format: one of [`~recipes.data.label_files.LABEL_FORMATS`].

    Raises:
        ValueError: a malformed file.
        ImportError: the library of the format is missing.
    """
    for recording in read_labels(path, format):
        names = ("onset", "offset", "event_label")
        events = [make_event(*map(e.get, names), str(path), e["score"]) for e in recording["events"]]
        yield make_clip(str(path), recording["file"], events, recording["file"], recording["duration"])


EXCHANGE_READERS = {
    name: partial(read_exchange, format=name) for name in ("vtt", "srt", "rttm", "textgrid", "elan", "eaf", "jams")
}
