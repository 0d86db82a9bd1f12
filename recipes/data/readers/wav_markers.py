"""Markers in wav files: `cue ` points, their labels (`labl`, `note`) and lengths (`ltxt`).

Sources: Microsoft and IBM, "Multimedia Programming Interface and Data Specifications 1.0"; EBU Tech 3306 for RF64.
"""

import struct
from collections.abc import Iterator

from processing.text_files import make_event
from recipes.data.clip import AnnotatedClip, files_of, make_clip

_UNKNOWN_SIZE = 0xFFFFFFFF


def read_wav_markers(path) -> Iterator[AnnotatedClip]:
    """Yield the clip of a wav file, or of every `*.wav` in a folder; the file is the recording.

    A marker without label has the label `""`; one without length is a point.

    Raises:
        ValueError: not a wav file, one that is truncated within its markers, or one without a `cue ` chunk.
    """
    for file in files_of(path, ".wav"):
        points, names, lengths, rate = None, {}, {}, None
        for name, data in _chunks(file):
            if name == b"fmt ":
                (rate,) = _unpack(file, "<I", data, 4)
            elif name == b"cue ":
                (count,) = _unpack(file, "<I", data)
                # Id, play order, chunk, starts of the chunk and block, and sample offset.
                found = [_unpack(file, "<II4sIII", data, 4 + 24 * index) for index in range(count)]
                # Some programs fill in only one of the two.
                points = {point[0]: point[5] or point[1] for point in found}
            elif name in (b"labl", b"note"):
                names.setdefault(*_unpack(file, "<I", data), {})[name] = _text(data[4:])
            elif name == b"ltxt":
                number, lengths[number] = _unpack(file, "<II", data)
                names.setdefault(number, {})[name] = _text(data[20:])
        if points is None or not rate:
            raise ValueError(f"{file} has no markers (no cue chunk); save it with markers, or give their list.")
        events = []
        for number, sample in points.items():
            said = names.get(number, {})
            label = said.get(b"labl") or said.get(b"ltxt") or said.get(b"note") or ""
            offset = (sample + lengths.get(number, 0)) / rate
            events.append(make_event(sample / rate, offset, label, f"{file}, marker {number}"))
        yield make_clip(str(file), file.name, sorted(events), file.name)


def _chunks(path) -> Iterator[tuple[bytes, bytes]]:
    """Yield `(name, content)` of chunks, those of lists too; sound itself is passed over."""
    with open(path, "rb") as file:
        riff, _, kind = struct.unpack("<4sI4s", file.read(12).ljust(12, b"\0"))
        if riff not in (b"RIFF", b"RF64") or kind != b"WAVE":
            raise ValueError(f"{path} is not a wav file; it begins with {riff!r}.")
        data_size = 0
        while len(header := file.read(8)) == 8:
            name, size = struct.unpack("<4sI", header)
            if name == b"data":
                file.seek((data_size if size == _UNKNOWN_SIZE else size) + size % 2, 1)
                continue
            if name == b"LIST":
                # `adtl` and others hold chunks in turn; INFO and the rest are passed over by their names.
                file.seek(4, 1)
                continue
            content = file.read(size + size % 2)[:size]
            if len(content) < size:
                raise ValueError(f"{path} breaks off in its chunk {name!r}; fetch or repair it.")
            if name == b"ds64":
                (data_size,) = struct.unpack_from("<Q", content, 8)
            yield name, content


def _unpack(path, format, data, place=0):
    try:
        return struct.unpack_from(format, data, place)
    except struct.error:
        raise ValueError(f"{path} has a chunk of markers that is too short; fetch or repair it.") from None


def _text(data: bytes) -> str:
    data = data.split(b"\0")[0]
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")
