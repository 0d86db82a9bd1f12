"""Where the samples lie that libsndfile reads, and how many there are: headers of wav, flac and their like err."""

import contextlib
import re
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from .audio_formats import Section

# Where chunks begin, how id and size are written, what the size counts beyond the content, and to what it is padded.
LAYOUTS = {
    b"RIFF": (12, "<4sI", 0, 2), b"RF64": (12, "<4sI", 0, 2), b"BW64": (12, "<4sI", 0, 2), b"RIFX": (12, ">4sI", 0, 2),
    b"FORM": (12, ">4sI", 0, 2), b"caff": (8, ">4sq", 0, 1), b"riff": (40, "<16sq", 24, 8),
}  # fmt: skip
# What may follow the samples, other than chunks up to the end of the file.
TAGS = re.compile(rb"(?i)LIST|id3|TAG|APETAGEX|bext|cue |fact|JUNK|PAD |smpl|_PMX|iXML|afsp|info|NAME|ANNO")
WAVE_TAGS = {1: {1: "PCM_U8", 2: "PCM_16", 3: "PCM_24", 4: "PCM_32"}, 3: {4: "FLOAT", 8: "DOUBLE"}, 6: {1: "ALAW"},
             7: {1: "ULAW"}}  # fmt: skip
WIDTHS = {name: width for widths in WAVE_TAGS.values() for width, name in widths.items()} | {"PCM_S8": 1}
# Recordings of bats have up to 500 kHz; a header that says more, or less than a telephone by far, is damaged.
FILE_RATES = (1000, 1_000_000)


class SoundPart(NamedTuple):
    """Bytes of a file that libsndfile reads alone, with options for it, and how many samples they are (or `None`)."""

    start: int
    end: int
    options: dict[str, Any]
    num_samples: int | None


def find_samples(file: Section, start: int, faults: list[str]) -> SoundPart | None:
    """Return the sound of a wav, w64, aiff, au or caf file that holds one recording; `None` if it is compressed.

    What the header counts wrongly is added to `faults`.
    """
    magic = file.at(start, 4)
    if (found := _sample_bytes(file, start, magic)) is None:
        return None
    position, declared, (rate, channels, subtype, endian) = found
    if subtype == "NMS_ADPCM":
        return SoundPart(start, file.length, {}, None)
    width, end = channels * WIDTHS.get(subtype, 0), file.length
    # What those write who do not know the length: 0, or a number near the largest.
    unknown = declared <= 0 or declared >= (1 << 48 if magic in (b"caff", b"riff", b"RF64", b"BW64") else 0x7EFF0000)
    if not width or not rate:
        if declared + position > end and not unknown:
            faults.append(f"breaks off: {end - position} of the {declared} bytes that its header promises are there")
        return None
    if 0 <= declared <= end - position:
        if _is_sound_over(file, position + declared, magic):
            end = position + declared
        else:
            faults.append(
                f"has a header that promises {declared / width / rate:.2f} s, but "
                f"{(end - position) / width / rate:.2f} s of sound are there, which were all read"
            )
    elif not unknown and declared + position - end >= width:
        faults.append(
            f"breaks off: of the {declared / width / rate:.2f} s that its header promises "
            f"{(end - position) / width / rate:.2f} s are there"
        )
    count = (end - position) // width
    whole = SoundPart(0, file.length, {}, count)
    if not start and (opened := open_by_libsndfile(file, whole)) is not None:
        opened.close()
        return whole
    raw = {"format": "RAW", "samplerate": rate, "channels": channels, "subtype": subtype, "endian": endian}
    return SoundPart(position, position + count * width, raw, count)


def chunk_ends(file: Section, start: int) -> Iterator[int]:
    """Yield where the chunks of a file end, with padding and without, or the samples of an au file."""
    magic = file.at(start, 4)
    if magic not in LAYOUTS:
        yield start + sum(_au_header(file, start, magic))
        return
    begin, layout, extra, align = LAYOUTS[magic]
    for _, position, length in _chunks(file, start + begin, layout, extra, align):
        # Some writers leave out the padding of the last chunk.
        yield from dict.fromkeys((position + length + -length % align, position + length))


def _au_header(file, start, magic):
    """Return where the samples of an au file begin, from its start, and how many bytes it says they have."""
    offset, declared = struct.unpack(">II" if magic == b".snd" else "<II", file.at(start + 4, 8).ljust(8, b"\0"))
    return offset, -1 if declared == 0xFFFFFFFF else declared


def _sample_bytes(file, start, magic):
    """Return where the samples begin, how many bytes the header says they have, and what they are."""
    if magic in (b".snd", b"dns."):
        offset, declared = _au_header(file, start, magic)
        shape = _shape_by_libsndfile(file, start, file.length, "BIG" if magic == b".snd" else "LITTLE")
        return shape and (start + offset, declared, shape)
    begin, layout, extra, align = LAYOUTS[magic]
    shape, endian = None, "BIG" if layout[0] == ">" else "LITTLE"
    for name, position, length in _chunks(file, start + begin, layout, extra, align):
        if name == b"desc" and length >= 32:
            rate, kind, flags, _, _, channels, bits = struct.unpack(">d4s5I", file.at(position, 32).ljust(32, b"\0"))
            tag = {b"lpcm": 3 if flags & 1 else 1, b"alaw": 6, b"ulaw": 7}.get(kind)
            subtype = "PCM_S8" if (kind, flags & 1, bits) == (b"lpcm", 0, 8) else WAVE_TAGS.get(tag, {}).get(bits // 8)
            shape = int(rate) if 0 < rate < 1e9 else 0, channels, subtype, "LITTLE" if flags & 2 else "BIG"
        elif name == b"comm":
            endian = "LITTLE" if file.at(position + 18, 4) == b"sowt" else "BIG"
        elif name == b"fmt" and length >= 16:
            tag, channels, rate, _, size = struct.unpack(layout[0] + "HHIIH", file.at(position, 14).ljust(14, b"\0"))
            if tag == 0xFFFE and length >= 26:
                tag = struct.unpack(layout[0] + "H", file.at(position + 24, 2).ljust(2, b"\0"))[0]
            # FFmpeg takes it for AMR.
            subtype = "NMS_ADPCM" if tag == 0x38 else WAVE_TAGS.get(tag, {}).get(size // max(1, channels))
            shape = rate, channels, subtype, endian
        elif name in (b"data", b"ssnd"):
            if name == b"ssnd":
                skipped = 8 + struct.unpack(">I", file.at(position, 4).ljust(4, b"\0"))[0]
                position, length = position + skipped, length - skipped
            elif magic == b"caff":
                position, length = position + 4, length - 4 if length > 0 else -1
            if magic == b"FORM":
                end = position + length if 0 < length < file.length - position else file.length
                shape = _shape_by_libsndfile(file, start, end, endian)
            return shape and (position, length, shape)
    return None


def _shape_by_libsndfile(file, start, end, endian):
    if (opened := open_by_libsndfile(file, SoundPart(start, end, {}, None))) is None:
        return None
    with opened:
        return opened.samplerate, opened.channels, opened.subtype, endian


def _chunks(file, position, layout, extra, align):
    """Yield `(id, start, length)` of the chunks from a position on, up to one that goes beyond the file."""
    size, large = struct.calcsize(layout), None
    while position < file.length and len(head := file.at(position, size)) == size:
        name, length = struct.unpack(layout, head)
        length -= extra
        if name == b"ds64":
            large = struct.unpack("<q", file.at(position + size + 8, 8).ljust(8, b"\0"))[0]
        elif name == b"data" and length == 0xFFFFFFFF and large is not None:
            length = large
        yield name[:4].strip().lower(), position + size, length
        if length < 0:
            return
        position += size + length + -length % align


def _is_sound_over(file, position, magic) -> bool:
    """Tell whether nothing follows, or what is no sound."""
    if file.length - position < 2:
        return True
    if magic in (b".snd", b"dns."):
        return TAGS.match(file.at(position, 8)) is not None
    begin, layout, extra, align = LAYOUTS[magic]
    for behind in dict.fromkeys((position + -position % align, position)):
        if TAGS.match(head := file.at(behind, 8)):
            return True
        if head[:4] == b"data":
            return False
        ends = [place + length for name, place, length in _chunks(file, behind, layout, extra, align) if name.isascii()]
        if ends and 0 <= ends[-1] - file.length + 1 <= align:
            return True
    return False


def open_by_libsndfile(file: Section, part: SoundPart) -> Any:
    """Return a part of a file as `soundfile` opens it; `None` if it cannot, or counts other samples.

    Raises:
        ValueError: an impossible sampling rate.
    """
    import soundfile

    name = getattr(file.file, "name", None)
    # Read by its own path a whole file takes less time. Of some suffixes soundfile wants to know more.
    whole = (part.start, part.end, file.start) == (0, file.length, 0) and not part.options
    is_path = whole and isinstance(name, str) and not name.lower().endswith(".raw")
    section = Section(file.file, file.start + part.start, file.start + part.end)
    try:
        sound = soundfile.SoundFile(name if is_path else section, **part.options)
    except (soundfile.SoundFileError, OverflowError, TypeError, ValueError):
        return None
    with contextlib.ExitStack() as opened:
        opened.enter_context(sound)
        check_rate(sound.samplerate)
        if part.num_samples not in (None, sound.frames):
            return None
        opened.pop_all()
    return sound


def check_rate(rate: float):
    """Raise `ValueError` for samples per second that nothing is recorded at."""
    if not FILE_RATES[0] <= rate <= FILE_RATES[1]:
        raise ValueError(f"is damaged (its header says {rate} Hz); give a whole file.")


FLAC_SYNC = rb"\xff[\xf8\xf9].{2}"
# Places in a FLAC file where it is asked whether frames follow one another.
PROBES = 16
# Samples per second by the low half of the third byte of a frame; other codes leave it to the header.
FLAC_RATES = dict(enumerate((88200, 176400, 192000, 8000, 16000, 22050, 24000, 32000, 44100, 48000, 96000), 1))


def flac_head(file, start) -> tuple[bytes, int]:
    """Return the header of a FLAC file, and where its first frame begins."""
    head, position, is_last = file.at(start, 42), start + 4, False
    while not is_last and len(block := file.at(position, 4)) == 4:
        is_last, position = block[0] >= 0x80, position + 4 + int.from_bytes(block[1:], "big")
    return head, position


def count_flac_samples(file: Section, start: int) -> int:
    """Return how many samples a FLAC file has; 0 if its header, its first and its last frame do not agree."""
    head, position = flac_head(file, start)
    count, rate = int.from_bytes(head[21:26], "big") & (1 << 36) - 1, int.from_bytes(head[18:21], "big") >> 4
    if FLAC_RATES.get(file.at(position + 2, 1).ljust(1, b"\0")[0] & 15, rate) != rate:
        return 0
    first = flac_frame(file.at(position, 16), head)
    since = max(position, file.length - (1 << 20))
    last = next(flac_frames(file.at(since, 1 << 20), head, is_backwards=True), None)
    if not (first and last and first[0] == 0 and last[1][1] == count):
        return 0
    # Of copies that were joined, each frame may count from where its own began.
    step = max(1, (file.length - position) // PROBES)
    found = (next(flac_frames(file.at(place, 1 << 16), head), None) for place in range(position, file.length, step))
    known = [one[1][0] for one in found if one]
    return count if known == sorted(known) else 0


def flac_frames(data, head, is_backwards=False):
    """Yield where frames begin in the data, the last one first if `is_backwards`, and what [`flac_frame`] returns."""
    places = (match.start() for match in re.finditer(FLAC_SYNC, data, re.DOTALL))
    for place in reversed(list(places)) if is_backwards else places:
        if frame := flac_frame(data[place : place + 16], head):
            yield place, frame


def flac_frame(frame: bytes, head: bytes) -> tuple[int, int] | None:
    """Return the samples where a frame begins and ends, from its header; `None` if the bytes are none (by CRC-8)."""
    if len(frame) < 6 or frame[0] != 0xFF:
        return None
    number, length = frame[4], 1
    if 0x80 <= number < 0xC0 or number == 0xFF:
        return None
    if number >= 0xC0:
        length = 8 - (number ^ 0xFF).bit_length()
        number &= (1 << 7 - length) - 1
        for byte in frame[5 : 4 + length]:
            number = number << 6 | byte & 0x3F
    size, place = frame[2] >> 4, 4 + length
    if size in (6, 7):
        samples = int.from_bytes(frame[place : place + size - 5], "big") + 1
    else:
        samples = 192 if size == 1 else 576 << max(0, size - 2) if size < 6 else 256 << size - 8
    place += {6: 1, 7: 2}.get(size, 0) + {12: 1, 13: 2, 14: 2}.get(frame[2] & 15, 0)
    remainder = 0
    for byte in frame[:place]:
        remainder ^= byte
        for _ in range(8):
            remainder = (remainder << 1 ^ 0x107) if remainder & 0x80 else remainder << 1
    if place >= len(frame) or remainder != frame[place]:
        return None
    # Numbers count samples, or frames of one size.
    begin = number if frame[1] & 1 else number * int.from_bytes(head[10:12], "big")
    return begin, begin + samples
