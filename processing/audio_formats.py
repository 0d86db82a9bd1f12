"""The one table of sound formats, told by first bytes. Suffixes only say which names stand for recordings."""

import io
import re
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
