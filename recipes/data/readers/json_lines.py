"""Our own JSON Lines, one clip of `clip.py` a line, as `timepro synthesize` writes them."""

from collections.abc import Iterator

from processing.text_files import read_json_lines
from recipes.data.clip import AnnotatedClip


def read_json_clips(path) -> Iterator[AnnotatedClip]:
    """Yield the clip of every line; keys that are none of a clip's are left out.

    Raises:
        ValueError: a malformed line.
    """
    for where, values in read_json_lines(path):
        yield AnnotatedClip.from_dict(values, where)
