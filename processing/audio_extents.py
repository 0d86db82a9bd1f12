"""Where a recording ends in a file: the parts that it is made of (frames, pages, boxes, chunks) are followed.

So nothing behind it goes unheard or unsaid: another recording, of whatever kind, half a frame where a file was cut, or
bytes that are no sound.
"""

import functools
import math
import re
import zlib
from functools import partial
from typing import NamedTuple

from .audio_formats import (
    FORMAT_PARTS,
    FORMATS,
    HEAD_LENGTH,
    WEAK,
    Section,
    SoundFormat,
    find_format,
    mp3_frame,
    mp3_tag,
    promised_end,
    tag_length,
)
from .audio_samples import FLAC_SYNC, SoundPart, chunk_ends, flac_frame, flac_frames, flac_head

# Bytes that are read at a time.
READ_LENGTH = 1 << 19
# Of a file that begins within a frame, where others are looked for.
FRONT_LENGTH = 1 << 20
# How some recording, or a part of one (a cluster of Matroska, sound of AVI), may begin among other bytes.
BEGINNINGS = rb"ID3[\2-\4]|OggS|wvpk|\x1f\x43\xb6\x75|\d\dwb|" + b"|".join(
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
    if known.name == "flac":
        return _flac_extent(file, start, known.joint)
    if known.name in FORMAT_PARTS:
        extent, reach = _follow(file, start, known, faults), file.length
    else:
        end = None
        if known.name in ("wav", "w64", "aiff", "au", "caf"):
            ends = list(chunk_ends(file, start))
            end = next((end for end in ends if start < end < file.length and _begins_recording(file, end)), None)
            if end is None and any(0 <= end - file.length <= 8 for end in ends):
                end = file.length
        # What does not say, or wrongly, how long it is can only be searched.
        if end is None and known.joint:
            end = _find(file, start + 1, known.joint)
        reach = end or file.length
        extent = Extent(reach, reach)
    if not extent.broken and (promised := promised_end(file, start)) > reach:
        faults.append(f"breaks off: {reach - start} of the {promised - start} bytes that its header promises are there")
    return extent


def find_beginning(file: Section, start: int, faults: list[str]) -> tuple[SoundFormat | None, int]:
    """Return the format that a file has from `start` on, and where it begins: behind tags, or bytes that are no sound.

    The latter are added to `faults`. They lie before frames whose front was cut off or damaged.
    """
    known, begin = find_format(file, start)
    if known and (known.joint or known.name not in FORMAT_PARTS or _is_run(file, begin, FORMAT_PARTS[known.name][0])):
        return known, begin
    head = Section(file.file, file.start, file.start + min(file.length, start + FRONT_LENGTH))
    place = _find(head, start + 1, BEGINNINGS, lambda place: _begins_recording(head, place, is_certain=False))
    if place is None:
        return known, begin
    if file.at(start, place - start).strip(b"\0"):
        faults.append(f"begins with bytes ({place - start}) that are no sound")
    return find_format(file, place)


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


def _begins_recording(file, position, is_certain=True) -> bool:
    """Tell whether a recording begins for certain: by bytes that nothing else has, or by frames in a row alone."""
    known, start = find_format(file, position)
    if known is None or start >= file.length:
        return False
    if known.joint:
        return is_certain and re.match(known.joint, file.at(start, HEAD_LENGTH), re.DOTALL) is not None
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
                is_tag, count = mp3_tag(head)
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
        # Some writers of frames fill up with zeros at the end.
        elif known.joint or found < file.length or file.at(position, min(found - position, READ_LENGTH)).strip(b"\0"):
            num_lost += max(0, found - position)  # another may begin within its last part
        position = found
    following = min(position, file.length)
    if num_lost:
        faults.append(f"has bytes ({num_lost}) that belong to no {noun}")
    lacking = promised - num_frames + num_tags if promised else 0
    lacking_seconds = lacking * mp3_frame(file.at(start, 4))[1] if abs(lacking) > 1 else 0.0
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


def _flac_extent(file, start, joint) -> Extent:
    end = _find(file, start + 4, joint) or file.length
    head, first = flac_head(file, start)
    since = max(first, end - (1 << 20))
    latest = next(flac_frames(file.at(since, end - since), head, is_backwards=True), None)
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
    links, serials, open_streams, position, last, missing, num_damaged = [], {}, set(), start, 0, 0, 0
    while True:
        head = file.at(position, 27)
        if head[:4] != b"OggS" or len(head) < 27:
            if (found := _find(file, position + 1, b"OggS")) is None:
                break
            position = found
            continue
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
        serials[serial], last, position = sequence, flags & 2, end
        (open_streams.discard if flags & 4 else open_streams.add)(serial)
    # Of a chain each link is asked again.
    if len(links) == 1:
        faults += [f"lacks pages ({missing}) in between"] if missing else []
        faults += [f"has pages ({num_damaged}) that are damaged"] if num_damaged else []
        faults += ["breaks off: its last page is missing"] if open_streams else []
    ends = [link[0] for link in links[1:]] + [file.length] * bool(links)
    parts = [SoundPart(begin, end, {}, None) for (begin, _), end in zip(links, ends, strict=True)]
    is_known = all(len(codecs) == 1 and re.match(rb"\x01vorbis|OpusHead", codecs[0]) for _, codecs in links)
    # libsndfile does not leave room for what is missing.
    return parts, is_known and not missing and not num_damaged
