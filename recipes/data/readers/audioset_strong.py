"""AudioSet's strong labels: a TSV `segment_id start_time_seconds end_time_seconds label` whose labels are MIDs.

A segment id is the id of a video and the start of its clip in milliseconds, `b0RFKhbpFJA_30000`; times are relative to
the start of the clip. Segments without events are not in the file.
"""

import logging
import re
from collections.abc import Iterator, Mapping

from processing.text_files import first_line, make_event, read_lines, read_number, read_table
from recipes.data.clip import AnnotatedClip, clips_of

logger = logging.getLogger(__name__)

LABEL_COLUMNS = ("segment_id", "start_time_seconds", "end_time_seconds", "label")
_MID = re.compile(r"/(?:m|g|t)/\w+")
_SEGMENT = re.compile(r".+_[0-9]+")


def read_audioset_strong(path, label_names=None) -> Iterator[AnnotatedClip]:
    """Yield a clip for every segment.

    Args:
        label_names: display names of the MIDs: a mapping, or a file for [`read_label_names`]. Without it the labels are
            the MIDs themselves.

    Raises:
        ValueError: a malformed line, or MIDs missing from `label_names`; the message lists all of them.
    """
    if label_names is not None and not isinstance(label_names, Mapping):
        label_names = read_label_names(label_names)
    segments, unknown = {}, {}
    for where, fields in read_table(path, LABEL_COLUMNS, "\t"):
        segment, mid = fields["segment_id"], fields["label"]
        if not _SEGMENT.fullmatch(segment):
            raise ValueError(f"{where}: segment_id is {segment!r}; give VIDEO_MILLISECONDS, as b0RFKhbpFJA_30000.")
        if not _MID.fullmatch(mid):
            raise ValueError(f"{where}: label is {mid!r}; it must be a MID, as /m/0dgw9r.")
        if label_names is not None and mid not in label_names:
            unknown.setdefault(mid, where)
        onset = read_number(fields["start_time_seconds"], "start_time_seconds", where)
        offset = read_number(fields["end_time_seconds"], "end_time_seconds", where)
        label = mid if label_names is None else label_names.get(mid, mid)
        segments.setdefault(segment, []).append(make_event(onset, offset, label, where))
    if unknown:
        listed = "".join(f"\n  {mid} ({where})" for mid, where in unknown.items())
        raise ValueError(f"label_names lacks {len(unknown)} of the labels; add them, or pass label_names=None:{listed}")
    if label_names is None:
        logger.warning("%s: no label_names given, so the labels are MIDs such as /m/0dgw9r.", path)
    yield from clips_of(path, segments)


def read_label_names(path) -> dict[str, str]:
    """Return `{MID: display name}` from one of AudioSet's files.

    These are `mid_to_display_name.tsv`, two columns without header, and `class_labels_indices.csv`, with the columns
    `index,mid,display_name`.

    Raises:
        ValueError: a line without a MID and a name, or two names of one MID.
    """
    header = first_line(path)
    names = {}
    if "\t" in header:
        lines = ((f"{path}, line {n}", line.rstrip("\n").split("\t")) for n, line in enumerate(read_lines(path), 1))
        pairs = ((where, fields) for where, fields in lines if fields != [""])
    else:
        table = read_table(path, ("index", "mid", "display_name"), ",")
        pairs = ((where, [fields["mid"], fields["display_name"]]) for where, fields in table)
    for where, fields in pairs:
        if len(fields) != 2 or not _MID.fullmatch(fields[0]) or not fields[1].strip():
            raise ValueError(f"{where} is {fields}; give a MID and its display name, separated by one tab.")
        if names.setdefault(*fields) != fields[1]:
            raise ValueError(f"{where}: {fields[0]} is named {fields[1]!r}, but {names[fields[0]]!r} further up.")
    return names
