"""The parts that recordings are made of (frames, pages, boxes, chunks): how long one is, from its first bytes."""

import functools
import math
import re
from collections.abc import Callable


@functools.lru_cache
def mp3_frame(head: bytes) -> tuple[int, float]:
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
    return mp3_frame(head[:4])[0]


def mp3_tag(head: bytes) -> tuple[bool, int]:
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


EBML, SEGMENT, CLUSTER = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75"


def element_sizes(head: bytes) -> tuple[int, float]:
    """Return how many bytes name and length of an element of Matroska take, and its content; 0 if none begins.

    A content whose length is unknown is infinite.
    """
    size = 9 - head[0].bit_length() if head and head[0] else 5
    if head[:size] not in ELEMENTS or len(head) <= size or not head[size]:
        return 0, 0
    width = 9 - head[size].bit_length()
    unknown = (1 << 7 * width) - 1
    content = int.from_bytes(head[size : size + width], "big") & unknown
    return size + width, math.inf if content == unknown else content


def _element_length(head):
    length, content = element_sizes(head)
    # Damage is between the elements of a cluster.
    return length if head[:4] in (SEGMENT, CLUSTER) else length + content


def _avi_length(head):
    """Of chunks; the lists that hold those of sound are entered, since who does not know their length writes any."""
    if re.match(rb"(?s)RIFF.{4}AVI[ X]|LIST.{4}(?:movi|rec )", head):
        return 12
    is_known = len(head) >= 8 and re.match(rb"\d\d\w\w|ix\d\d|LIST|JUNK|idx1|indx|IDIT|vprp|odml", head)
    length = int.from_bytes(head[4:8], "little")
    return 8 + length + length % 2 if is_known else 0


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


def _sox_length(head):
    order = "little" if head[:4] == b".SoX" else "big"
    size, count = int.from_bytes(head[4:8], order), int.from_bytes(head[8:16], order)
    return (4 + size + 4 * count if count else math.inf) if head[:4] in (b".SoX", b"XoS.") else 0


# Formats that are made of parts: how long one is, from its first bytes (0 if none begins there), and its name.
FORMAT_PARTS: dict[str, tuple[Callable[[bytes], int | float], str]] = {
    "mp3": (_mp3_length, "frame"), "raw AAC": (_adts_length, "frame"), "ac3": (_ac3_length, "frame"),
    "dts": (_dts_length, "frame"), "mpeg": (_program_length, "packet"), "ogg": (_page_length, "page"),
    "wavpack": (_block_length, "block"), "mp4": (_box_length, "box"), "matroska": (_element_length, "element"),
    "asf": (_object_length, "object"), "avi": (_avi_length, "chunk"), "flv": (_flv_length, "tag"),
    "mpeg-ts": (_ts_length, "packet"), "sox": (_sox_length, "part"),
    "gsm": (lambda head: 33 * (head[:1] >= b"\xd0" and head[:1] < b"\xe0"), "frame"),
}  # fmt: skip
