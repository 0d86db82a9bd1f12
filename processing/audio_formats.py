"""The one table of sound formats, told by first bytes; and where the samples of a file lie, and how many there are.

Suffixes only say which names stand for recordings. Chunks, pages and frames are looked at, for headers count wrongly.
"""

import io
import re
import struct
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

# A tag of this many bytes at most is read over to see what follows it.
HEAD_LENGTH = 400


class SoundFormat(NamedTuple):
    """What a file is called, how its bytes begin, the suffixes of such files, and FFmpeg's demuxers for it (or none).

    `joint` is how a second recording begins that was put behind the first, where decoders would stop before it.
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
        ("wav", rb"(?:RIF[FX]|RF64|BW64)....WAVE", ".wav .wave .bwf .rf64", "wav", rb"RIF[FX]....WAVE"),
        ("w64", rb"riff\x2e\x91\xcf\x11", ".w64", "w64"),
        ("aiff", rb"FORM....AIF[FC]", ".aif .aiff .aifc", "aiff"),
        ("au", rb"\.snd|dns\.", ".au .snd", "au"),
        ("flac", rb"fLaC", ".flac", "flac", rb"fLaC[\0\x80]\0\0\x22"),
        ("ogg", rb"OggS", ".ogg .oga .opus .ogv .spx", "ogg"),
        ("caf", rb"caff", ".caf", "caf"),
        ("mp3", rb"\xff[\xe2-\xef\xf2-\xf7\xfa-\xff]", ".mp3 .mp2 .mpga", "mp3"),
        ("raw AAC", rb"\xff[\xf0\xf1\xf8\xf9]|\x56[\xe0-\xff]", ".aac .adts", "aac,loas"),
        ("mp4", rb"....(?:ftyp(?!avi[fs]|hei[cfx]|mif1|msf1|crx )|styp|moo[vf]|mdat|wide|skip|free)",
         ".m4a .mp4 .m4b .m4r .m4v .mov .3gp .3g2", "mov", rb"\0[^\0-\x07]ftyp"),
        ("matroska", rb"\x1aE\xdf\xa3", ".webm .mkv .mka .weba", "matroska",
         rb"\x1aE\xdf\xa3.{1,60}?\x42\x82.(?:webm|matroska)"),
        ("asf", rb"0&\xb2u\x8ef\xcf\x11", ".wma .wmv .asf", "asf", rb"0&\xb2u\x8ef\xcf\x11\xa6\xd9"),
        ("avi", rb"RIFF....AVI ", ".avi", "avi", rb"RIFF....AVI LIST"),
        ("flv", rb"FLV\x01", ".flv", "flv", rb"FLV\x01[\1\4\5]\0\0\0\x09"),
        ("mpeg-ts", rb"(?:....)?G.{187}(?:....)?G", ".m2ts .mts", "mpegts"),
        ("mpeg", rb"\0\0\x01\xba", ".mpg .mpeg .vob", "mpeg"),
        ("ac3", rb"\x0b\x77|\x77\x0b", ".ac3 .eac3 .ec3", "ac3,eac3"),
        ("dts", rb"\x7f\xfe\x80\x01|DTSHDHDR", ".dts", "dts,dtshd"),
        ("amr", rb"#!AMR", ".amr .awb", "amr"),
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


def find_format(file: BinaryIO | io.RawIOBase) -> tuple[SoundFormat | None, int]:
    """Return the format of an open file and where it begins: behind tags (ID3) that were put before it."""
    start = 0
    while True:
        file.seek(start)
        head = file.read(HEAD_LENGTH)
        if head[:3] != b"ID3" or len(head) < 10:
            break
        # Four digits of 7 bits each.
        start += 10 + sum(byte << 7 * place for place, byte in enumerate(reversed(head[6:10])))
        start += 10 if head[5] & 0x10 else 0
    return next((known for known in FORMATS if re.match(known.magic, head)), None), start


def find_joints(file: "Section", start: int, known: SoundFormat | None) -> list[int]:
    """Return where recordings begin that were put one behind another: `start` and what a decoder would stop at."""
    joints, position, overlap = [start], start, b""
    while known and known.joint and (data := file.at(position, 1 << 19)):
        text = overlap + data
        for match in re.finditer(known.joint, text, re.DOTALL):
            # The size of a box of MPEG-4 comes before its name.
            place = position - len(overlap) + match.start() - 2 * (known.name == "mp4")
            if place > joints[-1]:
                joints.append(place)
        position, overlap = position + len(data), text[-79:]
    return joints


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


class SoundPart(NamedTuple):
    """Bytes of a file that libsndfile reads alone, with options for it, and how many samples they are (or `None`)."""

    start: int
    end: int
    options: dict[str, Any]
    num_samples: int | None


def find_samples(file: Section, start: int, open_sound: Callable, faults: list[str]) -> list[SoundPart] | None:
    """Return the sound of a wav, w64, aiff, au or caf file; several parts where files were joined.

    Args:
        open_sound: opens a [`SoundPart`] by libsndfile.
        faults: what the header counts wrongly is added to it.

    Returns:
        `None` if the samples are compressed, or not understood.
    """
    parts = []
    while True:
        magic = file.at(start, 4)
        found = _sample_bytes(file, start, magic, open_sound)
        if found is None:
            return None
        position, declared, (rate, channels, subtype, endian) = found
        width = channels * WIDTHS.get(subtype, 0)
        if not width or not rate:
            return None
        end, following = file.length, None
        # What those write who do not know the length: 0, or a number near the largest.
        unknown = declared <= 0 or declared >= (
            1 << 48 if magic in (b"caff", b"riff", b"RF64", b"BW64") else 0x7EFF0000
        )
        if 0 <= declared <= file.length - position:
            behind = position + declared
            following = _what_follows(file, behind, magic)
            if following is not None:
                end, unknown = behind, False
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
        if not start and not following and (opened := open_sound(file, whole)) is not None:
            opened.close()
            return [whole]
        raw = {"format": "RAW", "samplerate": rate, "channels": channels, "subtype": subtype, "endian": endian}
        parts.append(SoundPart(position, position + count * width, raw, count))
        if not following:
            return parts
        start = following


def _sample_bytes(file, start, magic, open_sound):
    """Return where the samples begin, how many bytes the header says they have, and what they are."""
    if magic in (b".snd", b"dns."):
        offset, declared = struct.unpack(">II" if magic == b".snd" else "<II", file.at(start + 4, 8).ljust(8, b"\0"))
        declared = -1 if declared == 0xFFFFFFFF else declared
        shape = _shape_by_libsndfile(file, start, file.length, open_sound, "BIG" if magic == b".snd" else "LITTLE")
        return shape and (start + offset, declared, shape)
    begin, layout, extra, align = LAYOUTS[magic]
    large, shape, endian = None, None, "BIG" if layout[0] == ">" else "LITTLE"
    for name, position, length in _chunks(file, start + begin, layout, extra, align):
        if name == b"ds64":
            large = struct.unpack("<q", file.at(position + 8, 8).ljust(8, b"\0"))[0]
        elif name == b"desc":
            endian = "LITTLE" if file.at(position + 12, 4)[-1:] and file.at(position + 12, 4)[3] & 2 else "BIG"
        elif name == b"comm":
            endian = "LITTLE" if file.at(position + 18, 4) == b"sowt" else "BIG"
        elif name == b"fmt" and length >= 16:
            tag, channels, rate, _, size = struct.unpack(layout[0] + "HHIIH", file.at(position, 14).ljust(14, b"\0"))
            if tag == 0xFFFE and length >= 26:
                tag = struct.unpack(layout[0] + "H", file.at(position + 24, 2).ljust(2, b"\0"))[0]
            shape = rate, channels, WAVE_TAGS.get(tag, {}).get(size // max(1, channels)), endian
        elif name in (b"data", b"ssnd"):
            if name == b"ssnd":
                skipped = 8 + struct.unpack(">I", file.at(position, 4).ljust(4, b"\0"))[0]
                position, length = position + skipped, length - skipped
            elif magic == b"caff":
                position, length = position + 4, length - 4 if length > 0 else -1
            elif large is not None and length == 0xFFFFFFFF:
                length = large
            if magic in (b"FORM", b"caff"):
                end = position + length if 0 < length < file.length - position else file.length
                shape = _shape_by_libsndfile(file, start, end, open_sound, endian)
            return shape and (position, length, shape)
    return None


def _shape_by_libsndfile(file, start, end, open_sound, endian):
    if (opened := open_sound(file, SoundPart(start, end, {}, None))) is None:
        return None
    with opened:
        return opened.samplerate, opened.channels, opened.subtype, endian


def _chunks(file, position, layout, extra, align):
    """Yield `(id, start, length)` of the chunks from a position on, up to one that goes beyond the file."""
    size = struct.calcsize(layout)
    while position < file.length and len(head := file.at(position, size)) == size:
        name, length = struct.unpack(layout, head)
        length -= extra
        yield name[:4].strip().lower(), position + size, length
        if length < 0:
            return
        position += size + length + -length % align


def _what_follows(file, position, magic):
    """Return where another recording begins, 0 if nothing or what is no sound follows; `None` if sound does."""
    if file.length - position < 2:
        return 0
    if magic in (b".snd", b"dns."):
        return position if file.at(position, 4) == magic else 0 if TAGS.match(file.at(position, 8)) else None
    begin, layout, extra, align = LAYOUTS[magic]
    # Some writers leave out the padding of the last chunk.
    for behind in dict.fromkeys((position + -position % align, position)):
        if (head := file.at(behind, 8))[:4] == magic and head[4:] != magic:
            return behind
        if TAGS.match(head):
            return 0
        if head[:4] == b"data":
            return None
        ends = [place + length for name, place, length in _chunks(file, behind, layout, extra, align) if name.isascii()]
        if ends and 0 <= ends[-1] - file.length + 1 <= align:
            return 0
    return None


def count_flac_samples(file: Section, start: int) -> int:
    """Return how many samples a FLAC file has; 0 if its header, its first and its last frame do not agree."""
    head, position, is_last = file.at(start, 42), start + 4, False
    count = int.from_bytes(head[21:26], "big") & (1 << 36) - 1
    while not is_last and len(block := file.at(position, 4)) == 4:
        is_last, position = block[0] >= 0x80, position + 4 + int.from_bytes(block[1:], "big")
    first = _flac_frame(file.at(position, 16), head)
    tail = file.at(max(position, file.length - (1 << 20)), 1 << 20)
    matches = reversed(list(re.finditer(rb"(?s)\xff[\xf8\xf9].{2}", tail)))
    frames = (_flac_frame(tail[match.start() : match.start() + 16], head) for match in matches)
    last = next(filter(None, frames), None)
    return count if first and last and first[0] == 0 and last[1] == count else 0


def _flac_frame(frame: bytes, head: bytes) -> tuple[int, int] | None:
    """Return the samples where a frame begins and ends, from its header; `None` if the bytes are none (by CRC-8)."""
    if len(frame) < 6 or frame[0] != 0xFF:
        return None
    number, length = frame[4], 1
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


def find_ogg_links(file: Section, start: int, faults: list[str]) -> tuple[list[SoundPart], bool]:
    """Return the recordings that are chained in an Ogg file, and whether each is one stream that libsndfile reads."""
    links, serials, position, last, missing, has_ended = [], {}, start, 0, 0, 0
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
        if flags & 2:
            codec = file.at(position + 27 + head[26], 8)
            if last != 2:
                links.append((position, []))
            links[-1][1].append(codec)
        else:
            missing += max(0, sequence - serials.get(serial, sequence - 1) - 1)
        serials[serial], last, has_ended, position = sequence, flags & 2, flags & 4, end
    if missing:
        faults.append(f"lacks {missing} pages in between")
    if not has_ended:
        faults.append("breaks off: its last page is missing")
    ends = [link[0] for link in links[1:]] + [file.length] * bool(links)
    parts = [SoundPart(begin, end, {}, None) for (begin, _), end in zip(links, ends, strict=True)]
    return parts, all(len(codecs) == 1 and re.match(rb"\x01vorbis|OpusHead", codecs[0]) for _, codecs in links)
