"""The one table of sound formats, told by first bytes, and the parts (frames, pages, boxes, chunks) they are made of.

Suffixes only say which names stand for recordings.
"""

import functools
import io
import math
import re
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

# A tag of this many bytes at most is read over to see what follows it.
HEAD_LENGTH = 400


class SoundFormat(NamedTuple):
    """What a file is called, how its bytes begin, the suffixes of such files, and FFmpeg's demuxers for it (or none).

    `joint` tells for certain that a recording begins, also behind another; empty where only a run of frames does.
    """

    name: str
    magic: bytes
    suffixes: str
    demuxers: str
    joint: bytes


# Of the bits of a block of WavPack that says that it is the first of several channels.
FIRST_OF_WAVPACK = b"[" + b"".join(rb"\x%02x" % byte for byte in range(256) if byte & 8) + b"]"
# The first six are read by libsndfile where that is exact, all others by FFmpeg. Suffixes that other kinds of files
# have too, such as .ts and .raw, are left out: these recordings are known by their contents.
FORMATS = tuple(
    SoundFormat(name, rb"(?s)" + magic, suffixes, demuxers, b"".join(joint))
    for name, magic, suffixes, demuxers, *joint in (
        ("wav", rb"(?:RIF[FX]|RF64|BW64)....WAVE", ".wav .wave .bwf .rf64", "wav", rb"(?:RIF[FX]|RF64|BW64)....WAVE"),
        ("w64", rb"riff\x2e\x91\xcf\x11", ".w64", "w64", rb"riff\x2e\x91\xcf\x11\xa5\xd6"),
        ("aiff", rb"FORM....AIF[FC]", ".aif .aiff .aifc", "aiff", rb"FORM....AIF[FC][A-Z]{4}"),
        ("au", rb"\.snd|dns\.", ".au .snd", "au", rb"\.snd\0.{7}\0\0\0[\1-\x1b]"),
        ("flac", rb"fLaC", ".flac", "flac", rb"fLaC[\0\x80]\0\0\x22"),
        ("ogg", rb"OggS", ".ogg .oga .opus .ogv .spx", "ogg", rb"OggS\0\x02"),
        ("caf", rb"caff", ".caf", "caf", rb"caff\0\x01\0\0"),
        ("mp3", rb"\xff[\xe2-\xef\xf2-\xf7\xfa-\xff]", ".mp3 .mp2 .mpga", "mp3"),
        ("raw AAC", rb"\xff[\xf0\xf1\xf8\xf9]|\x56[\xe0-\xff]", ".aac .adts", "aac,loas"),
        ("mp4", rb"....(?:ftyp(?!avi[fs]|hei[cfx]|mif1|msf1|crx )|styp|moo[vf]|mdat|wide|skip|free)",
         ".m4a .mp4 .m4b .m4r .m4v .mov .3gp .3g2", "mov", rb"\0\0.[^\0-\x07]ftyp"),
        ("matroska", rb"\x1aE\xdf\xa3", ".webm .mkv .mka .weba", "matroska",
         rb"\x1aE\xdf\xa3.{1,60}?\x42\x82.(?:webm|matroska)"),
        ("asf", rb"0&\xb2u\x8ef\xcf\x11", ".wma .wmv .asf", "asf", rb"0&\xb2u\x8ef\xcf\x11\xa6\xd9"),
        ("avi", rb"RIFF....AVI ", ".avi", "avi", rb"RIFF....AVI LIST"),
        ("flv", rb"FLV\x01", ".flv", "flv", rb"FLV\x01[\1\4\5]\0\0\0\x09"),
        ("mpeg-ts", rb"(?:....)?G.{187}(?:....)?G", ".m2ts .mts", "mpegts"),
        ("mpeg", rb"\0\0\x01\xba", ".mpg .mpeg .vob", "mpeg"),
        ("ac3", rb"\x0b\x77|\x77\x0b", ".ac3 .eac3 .ec3", "ac3,eac3"),
        ("dts", rb"\x7f\xfe\x80\x01|DTSHDHDR", ".dts", "dts,dtshd"),
        ("amr", rb"#!AMR", ".amr .awb", "amr", rb"#!AMR"),
        ("mlp", rb"....\xf8\x72\x6f[\xba\xbb]", ".mlp .thd", "mlp,truehd"),
        ("wavpack", rb"wvpk", ".wv", "wv", rb"wvpk.{4}.\x04\0.{5}\0{4}.{5}", FIRST_OF_WAVPACK),
        ("ape", rb"MAC ", ".ape", "ape"),
        ("tta", rb"TTA[12]", ".tta", "tta", rb"TTA1[\1-\3]\0"),
        ("tak", rb"tBaK", ".tak", "tak"),
        ("musepack", rb"MP\+|MPCK", ".mpc", "mpc,mpc8"),
        ("dsd", rb"DSD |FRM8", ".dsf .dff", "dsf,iff"),
        ("real", rb"\.RMF|\.ra\xfd", ".ra .rm .rmvb", "rm"),
        ("voc", rb"Creative Voice File", ".voc", "voc", rb"Creative Voice File\x1a"),
        ("sphere", rb"NIST_1A", ".sph", "nistsphere", rb"NIST_1A\n +\d+\n"),
        ("mxf", rb"\x06\x0e\x2b\x34", ".mxf", "mxf"),
        ("qcp", rb"RIFF....QLCM", ".qcp", "qcp"),
        ("oma", rb"ea3\x03|EA3\x01", ".oma .aa3", "oma"),
        ("nut", rb"nut/multimedia", ".nut", "nut", rb"nut/multimedia container\0"),
        ("wtv", rb"\xb7\xd8\x00\x20", ".wtv", "wtv"),
        ("swf", rb"[FC]WS[\x03-\x20]", ".swf", "swf"),
        ("sox", rb"\.SoX|XoS\.", ".sox", "sox", rb"\.SoX[\x1c-\xff]\0\0\0"),
        ("ircam", rb"\x64\xa3[\x01-\x04]\0|\0[\x01-\x04]\xa3\x64", ".ircam", "ircam"),
        ("rare", rb"FORM....(?:8SVX|16SV)|PVF1|2BIT| paf|fap |Extended Instrument", ".svx .8svx .pvf .paf .avr", ""),
        ("gsm", rb"(?:[\xd0-\xdf].{32}){4}", ".gsm", "gsm"),
    )
)  # fmt: skip
AUDIO_SUFFIXES = tuple(suffix for known in FORMATS for suffix in known.suffixes.split())
# Their first bytes are few, and those of many other files.
WEAK = ("mp3", "raw AAC", "ac3", "gsm", "swf", "mpeg")
# FFmpeg may probe these and no others: some of its demuxers are playlists that open further files.
DEMUXERS = ",".join(known.demuxers for known in FORMATS if known.demuxers)


def tag_length(head: bytes) -> int:
    """Return how long the tag (ID3, APE) is that begins with some bytes; 0 if none does."""
    if head[:3] == b"ID3" and len(head) >= 10:
        # Four digits of 7 bits each.
        return 10 + sum(byte << 7 * place for place, byte in enumerate(reversed(head[6:10]))) + (head[5] & 0x10 and 10)
    if head[:8] == b"APETAGEX" and len(head) >= 32:
        return 32 + (int.from_bytes(head[12:16], "little") if head[23] & 0x20 else 0)
    return (227 if head[3:4] == b"+" else 128) if head[:3] == b"TAG" else 0


def find_format(file: BinaryIO | io.RawIOBase, start: int = 0) -> tuple[SoundFormat | None, int]:
    """Return the format that an open file has from `start` on, and where it begins, behind tags."""
    while True:
        file.seek(start)
        head = file.read(HEAD_LENGTH)
        if head[:4] == b"TAG " or not (length := tag_length(head)):
            return next((known for known in FORMATS if re.match(known.magic, head)), None), start
        start += length


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


def _page_length(head):
    return 27 + head[26] + sum(head[27 : 27 + head[26]]) if head[:4] == b"OggS" and len(head) > 26 else 0


def _program_length(head):
    """Of packs and packets of MPEG-PS."""
    if head[:3] != b"\0\0\1" or len(head) < 14 or head[3] < 0xB9:
        return 4 if head[:4] == b"\0\0\1\xb9" else 0
    if head[3] == 0xBA:
        return 14 + (head[13] & 7) if head[4] & 0xC0 == 0x40 else 12
    return 4 if head[3] == 0xB9 else 6 + int.from_bytes(head[4:6], "big")


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


SEGMENT, CLUSTER = b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75"


def _element_sizes(head: bytes) -> tuple[int, Any]:
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
    length, content = _element_sizes(head)
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
    "mp3": (lambda head: mp3_frame(head[:4])[0], "frame"), "raw AAC": (_adts_length, "frame"),
    "ac3": (_ac3_length, "frame"), "dts": (_dts_length, "frame"), "mpeg": (_program_length, "packet"),
    "ogg": (_page_length, "page"),
    "wavpack": (lambda head: 8 + int.from_bytes(head[4:8], "little") if head[:4] == b"wvpk" else 0, "block"),
    "mp4": (_box_length, "box"), "matroska": (_element_length, "element"),
    "asf": (_object_length, "object"), "avi": (_avi_length, "chunk"), "flv": (_flv_length, "tag"),
    "mpeg-ts": (_ts_length, "packet"), "sox": (_sox_length, "part"),
    "gsm": (lambda head: 33 * (head[:1] >= b"\xd0" and head[:1] < b"\xe0"), "frame"),
}  # fmt: skip


class Section(io.RawIOBase):
    """A part of an open file, read as a file of its own; it has no name that a decoder could go by."""

    def __init__(self, file: Any, start: int = 0, end: int | None = None):
        self.file, self.start, self.position = file, start, 0
        self.length = (file.seek(0, io.SEEK_END) if end is None else end) - start

    def readable(self):
        return True

    def seekable(self):
        return True

    def tell(self):
        return self.position

    def seek(self, offset, whence=io.SEEK_SET):
        self.position = max(0, offset + (0, self.position, self.length)[whence])
        return self.position

    def readinto(self, buffer):
        self.file.seek(self.start + self.position)
        data = self.file.read(max(0, min(len(buffer), self.length - self.position)))
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)

    def at(self, position: int, length: int) -> bytes:
        self.seek(position)
        return self.read(length)


def promised_end(file: Section, start: int) -> int:
    """Return where a Matroska, voc, 8svx or avr file ends by its header, 0 for others or if that does not say."""
    head = file.at(start, 32)
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        segment = start + sum(_element_sizes(head))
        length, content = _element_sizes(head := file.at(segment, 12))
        return segment + length + content if head.startswith(SEGMENT) and content != math.inf else 0
    if head.startswith(b"Creative Voice File"):
        end = start + int.from_bytes(head[20:22], "little")
        # sox counts a few bytes too few of the last block, so that another seems to begin within it.
        while file.length - end > 64 and file.at(end, 1) not in (b"", b"\0"):
            end += 4 + int.from_bytes(file.at(end + 1, 3), "little")
        return end
    if re.match(b"(?s)FORM.{4}(8SVX|16SV)", head):
        return start + 8 + int.from_bytes(head[4:8], "big")
    if head.startswith(b"2BIT") and len(head) == 32:
        width = int.from_bytes(head[14:16], "big") // 8 * (2 if head[12:14] == b"\xff\xff" else 1)
        return start + 128 + width * int.from_bytes(head[26:30], "big")
    return 0
