"""Kaldi's `segments` and NIST's CTM.

    <utterance> <recording> <start> <end>                       segments; beside them `text`: <utterance> <label>
    <recording> <channel> <start> <length> <label> [<score>]    CTM

Sources: Kaldi documentation, "Data preparation"; NIST, "CTM file format". Times are seconds.
"""

from collections.abc import Iterator
from pathlib import Path

from processing.text_files import make_event, read_lines, read_number
from recipes.data.clip import AnnotatedClip, clips_of


def read_segments(path) -> Iterator[AnnotatedClip]:
    """Yield a clip for every recording of a `segments` file, with labels from `text` in the same folder.

    Raises:
        ValueError: a malformed line, an utterance missing from `text`, or an end of -1 (the end of the recording).
        FileNotFoundError: there is no `text`.
    """
    texts = Path(path).parent / "text"
    if not texts.is_file():
        raise FileNotFoundError(f"{path} has times but no labels; put Kaldi's text (<utterance> <label>) beside it.")
    labels = dict(fields for _, fields in _split_lines(texts, 2, 2, "<utterance> <label>"))
    found: dict[str, list] = {}
    for where, (utterance, recording, start, end) in _split_lines(path, 4, 4, "<utterance> <recording> <start> <end>"):
        if utterance not in labels:
            raise ValueError(f"{where}: {texts} has no label of {utterance!r}; add it.")
        onset, offset = read_number(start, "start", where), read_number(end, "end", where)
        found.setdefault(recording, []).append(make_event(onset, offset, labels[utterance], where))
    yield from clips_of(path, found)


def read_ctm(path) -> Iterator[AnnotatedClip]:
    """Yield a clip for every recording of a CTM file; the confidence is the score, comments (`;;`) are skipped.

    Raises:
        ValueError: a malformed line.
    """
    found: dict[str, list] = {}
    for where, fields in _split_lines(path, 5, 6, "<recording> <channel> <start> <length> <label> [<score>]"):
        onset, length = read_number(fields[2], "start", where), read_number(fields[3], "length", where)
        score = read_number(fields[5], "score", where) if len(fields) == 6 and fields[5] != "NA" else None
        event = make_event(onset, round(onset + length, 9), fields[4], where, score)
        found.setdefault(fields[0], []).append(event)
    yield from clips_of(path, found)


def _split_lines(path, fewest, most, layout):
    for number, line in enumerate(read_lines(path), 1):
        # The last field of `text` may contain blanks.
        fields = line.split(maxsplit=1) if most == 2 else line.split()
        if not fields or fields[0].startswith(";;"):
            continue
        where = f"{path}, line {number}"
        if not fewest <= len(fields) <= most:
            raise ValueError(f"{where} has {len(fields)} fields; give {layout}.")
        yield where, [field.strip() for field in fields]
