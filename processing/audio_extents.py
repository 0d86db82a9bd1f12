"""Where a recording ends in a file: the parts that it is made of (frames, pages, boxes, chunks) are followed.

So nothing behind it goes unheard or unsaid: another recording, of whatever kind, half a frame where a file was cut, or
bytes that are no sound.
"""

import functools
import math
import re
import zlib
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from .audio_formats import FORMATS, HEAD_LENGTH, WEAK, Section, SoundFormat, find_format, tag_length
from .audio_samples import FLAC_SYNC, SoundPart, chunk_ends, flac_frame, flac_head, last_flac_frame

# Bytes that are read at a time.
READ_LENGTH = 1 << 19
# How some recording, or a part of one, may begin among other bytes.
BEGINNINGS = rb"ID3[\2-\4]|OggS|wvpk|" + b"|".join(
    known.joint or known.magic.removeprefix(b"(?s)")
    for known in FORMATS
    if known.joint or known.name in ("mp3", "raw AAC", "ac3")
)


class Extent(NamedTuple):
    """Where a recording ends, and where another begins, or the file ends.

    `num_gaps` is how often tags or other bytes lie between its frames, `broken` says which part is not whole, and
    `lacking` how many seconds of what its tag promises are not there (fewer than 0 for more than promised).
    """

    end: int
    following: int
    num_gaps: int = 0
    broken: str = ""
    lacking: float = 0.0


def find_extent(file: Section, start: int, known: SoundFormat, faults: list[str]) -> Extent:
    """Return how far the recording reaches that begins at `start`; bytes that are no sound are added to `faults`."""
    end = None
    if known.name in ("wav", "w64", "aiff", "au", "caf"):
        ends = list(chunk_ends(file, start))
        end = next((end for end in ends if start < end < file.length and _begins_recording(file, end)), None)
        if end is None and any(0 <= end - file.length <= 8 for end in ends):
            end = file.length
    elif known.name == "flac":
        return _flac_extent(file, start, known.joint)
    elif known.name in FORMAT_PARTS:
        return _follow(file, start, known, faults)
    # What does not say, or wrongly, how long it is can only be searched.
    if end is None and known.joint:
        end = _find(file, start + 1, known.joint)
    end = end or file.length
    return Extent(end, end)


def _find(file, position, pattern, is_meant=lambda position: True) -> int | None:
    """Return where bytes, from a position on, match and are what is meant."""
    while data := file.at(position, READ_LENGTH):
        for match in re.finditer(pattern, data, re.DOTALL):
            if is_meant(position + match.start()):
                return position + match.start()
        if len(data) < READ_LENGTH:
            break
        position += len(data) - HEAD_LENGTH
    return None


def _begins_recording(file, position) -> bool:
    """Tell whether a recording begins for certain: by bytes that nothing else has, or by frames in a row."""
    known, start = find_format(file, position)
    if known is None or start >= file.length:
        return False
    if known.joint:
        return re.match(known.joint, file.at(start, HEAD_LENGTH), re.DOTALL) is not None
    return known.name in FORMAT_PARTS and _is_run(file, start, FORMAT_PARTS[known.name][0])


def _is_run(file, position, length_of) -> bool:
    """Tell whether three parts follow one another, or fewer up to a tag or the end of the file."""
    for count in range(3):
        length = length_of(head := file.at(position, HEAD_LENGTH))
        if not length:
            return count > 0 and tag_length(head) > 0
        position += length
        if position >= file.length:
            return count > 0 or position == file.length
    return True


def _follow(file, start, known, faults) -> Extent:
    length_of, noun = FORMAT_PARTS[known.name]
    if not (known.joint and length_of(file.at(start, HEAD_LENGTH)) or _is_run(file, start, length_of)):
        return Extent(file.length, file.length)
    # The links of an Ogg chain are told apart later.
    opening = known.joint and known.name != "ogg" and re.compile(known.joint, re.DOTALL)
    # Before the first box of MPEG-4 there may be empty ones.
    has_opened = bool(opening and opening.match(file.at(start, HEAD_LENGTH)))
    position = end = last = start
    base, data, num_gaps, num_lost, num_frames, num_tags, promised = start, b"", 0, 0, 0, 0, 0
    while position < file.length:
        if position + HEAD_LENGTH > base + len(data):
            base, data = position, file.at(position, READ_LENGTH)
        head = data[position - base : position - base + HEAD_LENGTH]
        length = length_of(head)
        begins = bool(opening and position > start and opening.match(head))
        if length and not (begins and has_opened):
            has_opened |= begins
            if known.name == "mp3":
                is_tag, count = _mp3_tag(head)
                num_frames, num_tags, promised = num_frames + 1, num_tags + is_tag, promised + count
            last, position = position, position + length
            end = position
            continue
        tag = tag_length(head)
        is_between = tag and length_of(file.at(position + tag, HEAD_LENGTH))
        if not is_between and _begins_recording(file, position):
            break
        num_gaps += 1
        if head[:11] == b"LYRICSBEGIN" and (closed := _find(file, position, rb"LYRICS(?:200|END)")):
            tag = closed + 9 - position
        if tag:
            position += tag
            continue
        found = _find(file, last + 1, BEGINNINGS, partial(_goes_on, file, position, length_of, bool(opening)))
        found = file.length if found is None else found
        if position < found == file.length < position + 8:
            end = found + 1  # fewer bytes than tell what part begins
        # Some writers fill up with zeros.
        elif file.at(position, max(0, min(found - position, READ_LENGTH))).strip(b"\0"):
            num_lost += found - position
        position = found
    following = min(position, file.length)
    if num_lost:
        faults.append(f"has bytes ({num_lost}) that belong to no {noun}")
    lacking = promised - num_frames + num_tags if promised else 0
    lacking_seconds = lacking * _mp3_frame(file.at(start, 4))[1] if abs(lacking) > 1 else 0.0
    # A box that is not understood may be needed.
    return Extent(
        min(end, following) if known.name in WEAK else following, following, num_gaps,
        f"within its last {noun}" if following < end < math.inf else "", lacking_seconds,
    )  # fmt: skip


def _goes_on(file, since, length_of, is_certain, place) -> bool:
    """Tell whether parts of the same kind go on at a place, or another recording begins.

    Half a frame may lie before a recording, which begins then before `since`, where the frame would have ended.
    """
    if place >= since and _is_run(file, place, length_of):
        return True
    is_other = place >= since or is_certain or not length_of(file.at(place, HEAD_LENGTH))
    return is_other and _begins_recording(file, place)


@functools.lru_cache
def _mp3_frame(head: bytes) -> tuple[int, float]:
    """Return the bytes and the seconds of a frame of MPEG audio, from its first 4 bytes; 0 if there is none."""
    bits = int.from_bytes(head, "big")
    version, layer, rate_index, rate = bits >> 19 & 3, 4 - (bits >> 17 & 3), bits >> 12 & 15, bits >> 10 & 3
    # Of frames in the free format only those who search know the length.
    if len(head) < 4 or bits >> 21 != 0x7FF or version == 1 or layer == 4 or rate_index in (0, 15) or rate == 3:
        return 0, 0.0
    table = (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384)
    if version == 3:
        bit_rates = (range(32, 449, 32), table, (32, 40, *table[1:-1]))[layer - 1]
    else:
        bit_rates = (
            (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
            *[(*range(8, 65, 8), *range(80, 161, 16))] * 2,
        )[layer - 1]
    sampling_rate = (44100, 48000, 32000)[rate] >> (version != 3) + (version == 0)
    num_samples = 384 if layer == 1 else 1152 if layer == 2 or version == 3 else 576
    unit = 4 if layer == 1 else 1
    length = unit * (num_samples // 8 // unit * 1000 * bit_rates[rate_index - 1] // sampling_rate + (bits >> 9 & 1))
    return length, num_samples / sampling_rate


def _mp3_length(head):
    return _mp3_frame(head[:4])[0]


def _mp3_tag(head: bytes) -> tuple[bool, int]:
    """Tell whether a frame holds a tag of Xing, LAME or VBRI instead of sound, and how many frames it counts."""
    # Whose side information is empty.
    if head[6:13] != bytes(7) or not (found := re.search(rb"(?s)(?:Xing|Info)(.{4})(.{4})|VBRI.{10}(.{4})", head[:64])):
        return False, 0
    flags, count, count_of_vbri = found.groups()
    return True, int.from_bytes(count_of_vbri or (count if flags[3] & 1 else b""), "big")


def _adts_length(head):
    is_frame = head[:1] == b"\xff" and len(head) > 6 and head[1] & 0xF6 == 0xF0
    length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5 if is_frame else 0
    return length if length > 6 else 0


def _ac3_length(head):
    if head[:2] != b"\x0b\x77" or len(head) < 6 or head[5] >> 3 > 16:
        return 0
    if head[5] >> 3 > 10:
        return 2 * ((head[2] & 7) << 8 | head[3]) + 2
    rate, code = head[4] >> 6, head[4] & 63
    if rate == 3 or code > 37:
        return 0
    kilobits = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)[code >> 1]
    return 2 * (2 * kilobits, 320 * kilobits // 147 + (code & 1), 3 * kilobits)[rate]


def _dts_length(head):
    return (int.from_bytes(head[5:8], "big") >> 4 & 0x3FFF) + 1 if head[:4] == b"\x7f\xfe\x80\x01" else 0


def _program_length(head):
    """Of packs and packets of MPEG-PS."""
    if head[:3] != b"\0\0\1" or len(head) < 14 or head[3] < 0xB9:
        return 4 if head[:4] == b"\0\0\1\xb9" else 0
    if head[3] == 0xBA:
        return 14 + (head[13] & 7) if head[4] & 0xC0 == 0x40 else 12
    return 4 if head[3] == 0xB9 else 6 + int.from_bytes(head[4:6], "big")


def _page_length(head):
    return 27 + head[26] + sum(head[27 : 27 + head[26]]) if head[:4] == b"OggS" and len(head) > 26 else 0


def _block_length(head):
    return 8 + int.from_bytes(head[4:8], "little") if head[:4] == b"wvpk" else 0


def _box_length(head):
    if not re.match(rb"(?s).{4}[\w \xa9-]{4}", head):
        return 0
    length = int.from_bytes(head[:4], "big")
    length = int.from_bytes(head[8:16], "big") if length == 1 else length or math.inf
    return length if length >= 8 else 0


# Of Matroska: a file, a segment and what it holds; a cluster, whose length may be unknown, and what it holds.
ELEMENTS = set(map(bytes.fromhex, (
    "1a45dfa3 18538067 114d9b74 1549a966 1654ae6b 1f43b675 1c53bb6b 1254c367 1941a469 1043a770 ec bf "
    "e7 a3 a0 ab a7 5854"
).split()))  # fmt: skip


def _element_length(head):
    size = 9 - head[0].bit_length() if head and head[0] else 5
    if head[:size] not in ELEMENTS or len(head) <= size or not head[size]:
        return 0
    width = 9 - head[size].bit_length()
    content = int.from_bytes(head[size : size + width], "big") & (1 << 7 * width) - 1
    is_entered = head[:size] == b"\x18\x53\x80\x67" or content == (1 << 7 * width) - 1
    return size + width + (0 if is_entered else content)


def _riff_length(head):
    """Of AVI, which may go on in a second one."""
    if not re.match(rb"(?s)RIFF.{4}AVI[ X]", head):
        return 0
    length = int.from_bytes(head[4:8], "little")
    # What those write who do not know it.
    return 8 + length + length % 2 if 0 < length < 0x7EFF0000 else math.inf


def _flv_length(head):
    if head[:4] == b"FLV\x01":
        return int.from_bytes(head[5:9], "big") + 4
    return 15 + int.from_bytes(head[1:4], "big") if head[:1] in (b"\x08", b"\x09", b"\x12") else 0


def _ts_length(head):
    """Of MPEG-TS, where a time may stand before a packet and a checksum behind it."""
    for length, sync in ((188, 0), (192, 4), (204, 0)):
        if head[sync : sync + 1] == b"G" and head[length + sync : length + sync + 1] in (b"G", b""):
            return length
    # The last one before another recording.
    return 188 if head[:1] == b"G" else 192 if head[4:5] == b"G" else 0


def _object_length(head):
    """Of ASF: its header, its data and its indices."""
    length = int.from_bytes(head[16:24], "little")
    is_known = re.match(rb"(?s)[\x30\x36]\x26\xb2\x75|\x90\x08\x00\x33|[\xd3\xd6].{3}\xda\x35|\xd3\x29\xe2\xd6", head)
    return (length or math.inf) if is_known and (not length or 24 <= length < 1 << 48) else 0


# Formats that are made of parts: how long one is, from its first bytes (0 if none begins there), and its name.
FORMAT_PARTS: dict[str, tuple[Callable[[bytes], int | float], str]] = {
    "mp3": (_mp3_length, "frame"), "raw AAC": (_adts_length, "frame"), "ac3": (_ac3_length, "frame"),
    "dts": (_dts_length, "frame"), "mpeg": (_program_length, "packet"), "ogg": (_page_length, "page"),
    "wavpack": (_block_length, "block"), "mp4": (_box_length, "box"), "matroska": (_element_length, "element"),
    "asf": (_object_length, "object"), "avi": (_riff_length, "chunk"), "flv": (_flv_length, "tag"),
    "mpeg-ts": (_ts_length, "packet"),
}  # fmt: skip


def _flac_extent(file, start, joint) -> Extent:
    end = _find(file, start + 4, joint) or file.length
    head, first = flac_head(file, start)
    since = max(first, end - (1 << 20))
    latest = last_flac_frame(file.at(since, end - since), head)
    if latest and _flac_frame_end(file, since + latest[0], end) == end:
        return Extent(end, end)
    # From the first on, frame by frame.
    expected, last = 0, first

    def is_next(place):
        nonlocal expected, last
        frame = place < end and flac_frame(file.at(place, 16), head)
        if frame and frame[0] == expected:
            expected, last = frame[1], place
        return place >= end

    _find(file, first, FLAC_SYNC, is_next)
    behind = _flac_frame_end(file, last, end)
    if behind:
        return Extent(behind, behind if _begins_recording(file, behind) else end)
    following = _find(file, last + 1, BEGINNINGS, partial(_begins_recording, file)) or end
    # FFmpeg would lose more than a frame that is not whole.
    is_cut = last > first and (following < end or latest and since + latest[0] == last)
    return Extent(last if is_cut else following, following, 0, "within its last frame" if is_cut else "")


def _flac_frame_end(file, position, end) -> int | None:
    """Return where a frame ends, by its CRC-16: at the end, before a tag or before another recording."""
    remainder, table = 0, _crc_16()
    for place, byte in enumerate(file.at(position, min(end - position, 1 << 21)), position + 1):
        remainder = (remainder << 8 & 0xFFFF) ^ table[remainder >> 8 ^ byte]
        if not remainder and place > position + 6 and (
            place == end or tag_length(file.at(place, HEAD_LENGTH)) or _begins_recording(file, place)
        ):  # fmt: skip
            return place
    return None


@functools.cache
def _crc_16() -> list[int]:
    table = []
    for remainder in range(0, 1 << 16, 1 << 8):
        for _ in range(8):
            remainder = remainder << 1 ^ (0x18005 if remainder & 0x8000 else 0)
        table.append(remainder)
    return table


# Each byte with its bits in the other order: so read, the checksum of Ogg is that of zlib.
MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _is_damaged(page: bytes) -> bool:
    """Tell whether a page of Ogg has another checksum than it says, which counts as 0 in itself."""
    checksum = zlib.crc32((page[:22] + bytes(4) + page[26:]).translate(MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{checksum:032b}"[::-1], 2) != int.from_bytes(page[22:26], "little")


def find_ogg_links(file: Section, start: int, faults: list[str]) -> tuple[list[SoundPart], bool]:
    """Return the recordings that are chained in an Ogg file, and whether each is one stream that libsndfile hears."""
    links, serials, position, last, missing, has_ended, num_damaged = [], {}, start, 0, 0, 0, 0
    while True:
        head = file.at(position, 27)
        if head[:4] != b"OggS" or len(head) < 27:
            rest = file.at(position, 1 << 20)
            if (found := rest.find(b"OggS", 1)) >= 0:
                position += found
                continue
            if rest and len(rest) == 1 << 20:
                position += len(rest) - 3
                continue
            break
        flags, serial, sequence = head[5], head[14:18], int.from_bytes(head[18:22], "little")
        table = file.at(position + 27, head[26])
        end = position + 27 + head[26] + sum(table)
        if end > file.length:
            break
        num_damaged += _is_damaged(file.at(position, end - position))
        if flags & 2:
            codec = file.at(position + 27 + head[26], 8)
            if last != 2:
                links.append((position, []))
            links[-1][1].append(codec)
        else:
            missing += max(0, sequence - serials.get(serial, sequence - 1) - 1)
        serials[serial], last, has_ended, position = sequence, flags & 2, flags & 4, end
    # Of a chain each link is asked again.
    if missing and len(links) == 1:
        faults.append(f"lacks pages ({missing}) in between")
    if num_damaged and len(links) == 1:
        faults.append(f"has pages ({num_damaged}) that are damaged")
    if not has_ended and len(links) == 1:
        faults.append("breaks off: its last page is missing")
    ends = [link[0] for link in links[1:]] + [file.length] * bool(links)
    parts = [SoundPart(begin, end, {}, None) for (begin, _), end in zip(links, ends, strict=True)]
    is_known = all(len(codecs) == 1 and re.match(rb"\x01vorbis|OpusHead", codecs[0]) for _, codecs in links)
    # libsndfile does not leave room for what is missing.
    return parts, is_known and not missing and not num_damaged
