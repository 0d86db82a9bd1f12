"""`decode`: all sound of a file, at the times of its container, by libsndfile or FFmpeg.

wav, flac, ogg and their like are read by libsndfile after a look at what they hold, for it stops where a header says
so. All else, and what it would not read whole, is read by PyAV, which is FFmpeg in a Python package.
"""

import contextlib
import re
from collections.abc import Iterator
from functools import partial

import numpy as np

from .audio_extents import Extent, find_beginning, find_extent, find_ogg_links
from .audio_formats import DEMUXERS, WEAK, Section
from .audio_samples import SoundPart, check_rate, count_flac_samples, find_samples, open_by_libsndfile

# Samples of each channel that are decoded at a time.
BLOCK_LENGTH = 65536
# Seconds by which the times of packets, often rounded to milliseconds, may stray before there is a gap.
JITTER = 0.05
# Seconds by which the length that a container states may differ from its sound: a frame or two of padding.
SLACK = 0.3
# Containers that say when a packet is heard. Times of the second group restart, and jump, where streams were joined.
TIMED = ("mov", "matroska", "asf", "avi", "nut", "mxf", "wtv", "flac")
RESTARTING, MAX_JUMP = ("mpegts", "mpeg", "flv", "rm", "ogg"), 10.0
# Times that go back by more than this have restarted.
MAX_OVERLAP = 1.0
# A gap where nobody says how long the recording is.
MAX_GAP = 3600.0


def decode(file: Section, faults: list[str], notes: list[str]) -> tuple[float | None, float | None, Iterator]:
    """Open a file; return the seconds that it has for certain, those that it promises, and its sound.

    Args:
        file: the whole file.
        faults: what is found to be damaged or missing is added to it, until the sound ends.
        notes: likewise what else should be said.

    Returns:
        Seconds by construction, `None` where only decoding tells; seconds that the file promises, perhaps by an
        estimate, `None` where it does not; and a generator of `(samples per second, float32 block (num_samples,
        num_channels))`. Rate and channels may change where recordings were joined.

    Raises:
        ValueError: no sound that can be read; the message is the end of a sentence, such as `has no sound track; ...`.
        ImportError: PyAV is needed and missing.
    """
    found, begin = [], 0
    while begin < file.length:
        known, start = find_beginning(file, begin, faults)
        extent = find_extent(file, start, known, faults) if known else Extent(file.length, file.length)
        is_whole = (begin, extent.end) == (0, file.length)
        section = file if is_whole else Section(file.file, file.start + begin, file.start + extent.end)
        found.append((section, known, start - begin, extent))
        begin = extent.following
    if len(found) > 1:
        return None, None, _decode_all(found, faults, notes)
    return _decode_one(*found[0], faults, notes)


def _decode_all(found, faults, notes):
    heard = 0.0
    for section, known, start, extent in found:
        try:
            for rate, block in _decode_one(section, known, start, extent, faults, notes)[2]:
                heard += len(block) / rate
                yield rate, block
        except ValueError as error:
            if not heard:
                raise
            faults.append(f"has {section.length} bytes after {heard:.2f} s that begin like {known.name}, which {error}")


def _decode_one(file, known, start, extent, faults, notes):
    """Return what [`decode`] does, of a file that holds one recording, or a chain."""
    name, part = known.name if known else None, None
    if name in ("wav", "w64", "aiff", "au", "caf"):
        part = find_samples(file, start, faults)
    elif name == "ogg":
        links, is_simple = find_ogg_links(file, start, faults)
        extent = Extent(0, 0)
        if len(links) > 1:
            sections = [Section(file.file, file.start + link.start, file.start + link.end) for link in links]
            return None, None, _decode_all([(section, known, 0, extent) for section in sections], faults, notes)
        part = links[0] if is_simple and links and not _begins_before_zero(file) else None
    elif name == "flac" and (count := count_flac_samples(file, start)):
        part = SoundPart(start, file.length, {}, count)
    elif name == "rare" or name == "mp3" and file.at(start + 2, 1) < b"\x10":  # mp3 in the free format
        part = SoundPart(0, file.length, {}, None)
    if part is None or (sound := open_by_libsndfile(file, part)) is None:
        return None, *_decode_by_ffmpeg(file, start, known, extent, faults, notes)
    seconds = sound.frames / sound.samplerate
    blocks = _read_by_libsndfile(sound, faults, partial(_decode_by_ffmpeg, file, start, known, extent, faults, notes))
    return None if part.num_samples is None else seconds, seconds, blocks


def _begins_before_zero(file) -> bool:
    """Tell whether an Ogg file was cut without decoding: libsndfile would lose as much at its end. Needs PyAV."""
    try:
        import av
    except ImportError:
        return False
    try:
        section = Section(file.file, file.start, file.start + file.length)
        with av.open(section, "r", metadata_errors="replace", options={"format_whitelist": "ogg"}) as container:
            first = next(container.demux(container.streams.audio[0]))
            # Of a whole file the first packet, a block of 8192 samples at most, ends there.
            return first.pts is not None and first.pts < -8192
    except (av.FFmpegError, UnicodeError, IndexError, StopIteration):
        return False


def _read_by_libsndfile(sound, faults, decode_again):
    """Yield blocks; what lies behind damage is taken from FFmpeg, which reads on, where it is installed."""
    import soundfile

    length, rate, is_over = 0, sound.samplerate, False
    with sound:
        while not is_over:
            try:
                block = sound.read(BLOCK_LENGTH, dtype="float32", always_2d=True)
            except soundfile.SoundFileError as error:
                faults.append(f"breaks off or is damaged after {length / rate:.2f} s ({error})")
                with contextlib.suppress(ImportError, ValueError):
                    for own_rate, block in decode_again()[1]:
                        if len(block) > length:
                            yield own_rate, block[length:]
                        length = max(0, length - len(block))
                return
            is_over = len(block) < BLOCK_LENGTH
            length += len(block)
            if len(block):
                yield rate, block
        if length < sound.frames:
            promised = f"{length / rate:.2f} of the {sound.frames / rate:.2f} s that it promises are there"
            faults.append(f"breaks off or is damaged: {promised}")


def _import_av(known):
    # transformers refuses a checkpoint whose code imports what is missing, unless it stands in a `try`.
    try:
        import av
    except ImportError as error:
        what = f"is {known.name}, which" if known else "is no wav, flac or ogg; other sound"
        raise ImportError(f"{what} is read by PyAV, which is missing; run `pip install av`, or convert it.") from error
    return av


def _decode_by_ffmpeg(file, start, known, extent, faults, notes):
    """Return the seconds that a container promises, and a generator of blocks, see [`decode`]."""
    av = _import_av(known)
    logs: list[tuple] = []
    with _listening(av, logs):
        try:
            container = av.open(
                Section(file.file, file.start + start, file.start + file.length), metadata_errors="replace",
                options={"format_whitelist": known.demuxers if known else DEMUXERS},
            )  # fmt: skip
        except (av.FFmpegError, UnicodeError) as error:
            if known is None or known.name in WEAK:
                raise ValueError(
                    f"is not audio that can be read ({_reason(error)}); give wav, flac, ogg, mp3, m4a or webm."
                ) from error
            raise ValueError(
                f"breaks off or is damaged ({known.name}: {_reason(error)}); give a whole file."
            ) from error
    is_estimate = any("Estimating duration" in text for _, _, text in logs)
    logs.clear()
    try:
        stream = _choose_track(container, notes)
        stated = stream.duration and float(stream.duration * stream.time_base)
        if not stated and container.duration and len(container.streams) == 1:
            stated = container.duration / 1e6
        # Broadcasts state nothing, AVI often something else.
        promised = stated or (container.duration or 0) / 1e6
        is_vague = is_estimate or container.format.name in ("avi", "mpegts", "mpeg")
        # What the tag of an mp3 promises was counted.
        is_vague |= known is not None and known.name == "mp3"
        stated = None if is_vague or not stated or stated < 0 else stated
    except ValueError:
        container.close()
        raise
    return promised, _read_by_ffmpeg(av, container, stream, stated, extent, faults, notes, logs)


@contextlib.contextmanager
def _listening(av, logs):
    """Collect what FFmpeg says meanwhile, in lines `(level, who, text)`; PyAV by itself drops it."""
    before = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.WARNING)
    av.logging.set_skip_repeated(False)
    try:
        with av.logging.Capture() as lines:
            yield
    finally:
        av.logging.set_level(before[0])
        av.logging.set_skip_repeated(before[1])
        logs += lines


def _choose_track(container, notes):
    """Return the default track with sound, and name the others."""
    tracks = container.streams.audio
    if not tracks:
        if any(track.type in ("video", "subtitle") for track in container.streams):
            raise ValueError("has no sound track; give a recording with sound.")
        raise ValueError("breaks off or is damaged (it describes no track whole); give a whole file.")
    chosen = next((track for track in tracks if track.disposition & track.disposition.default), tracks[0])
    if len(tracks) > 1:
        others = ", ".join(f"{1 + tracks.index(track)} ({_describe(track)})" for track in tracks if track != chosen)
        notes.append(
            f"has {len(tracks)} sound tracks; number {1 + tracks.index(chosen)} ({_describe(chosen)}) is heard, "
            f"not {others}"
        )
    if chosen.codec_context is None:
        raise ValueError(f"has sound in a codec that FFmpeg cannot decode ({_describe(chosen)}); convert it.")
    # So that what FFmpeg says is said by this thread.
    chosen.thread_type = "NONE"
    # It says where checksums of lossless codecs do not agree, and decodes all the same.
    chosen.codec_context.options = {"err_detect": "crccheck"}
    return chosen


def _describe(track) -> str:
    default = "default" if track.disposition & track.disposition.default else ""
    context = track.codec_context
    parts = (context and context.name, track.metadata.get("language"), track.metadata.get("title"), default)
    return ", ".join(filter(None, parts)) or "unknown"


def _read_by_ffmpeg(av, container, stream, stated, extent, faults, notes, logs):
    """Yield blocks of a track, with silence where its container has none of it."""
    packets, num_bad, bad, first = container.demux(stream), 0, None, None
    is_over = False

    def pull():
        """Return some frames."""
        nonlocal num_bad, bad, first, is_over
        frames, length = [], 0
        with _listening(av, logs):
            while length < BLOCK_LENGTH and not is_over:
                try:
                    packet = next(packets, None)
                    if packet is not None and first is None:
                        first = packet.pts
                except av.FFmpegError as error:
                    faults.append(f"breaks off or is damaged ({_reason(error)})")
                    packet = None
                is_over = packet is None
                try:
                    found = stream.codec_context.decode(packet) if is_over else packet.decode()
                except av.EOFError:
                    found = []
                except av.FFmpegError as error:
                    # One without content only tells of the end, one byte fills up a chunk.
                    if not is_over and packet.size < 2:
                        continue
                    num_bad, bad, found = num_bad + 1, bad or error, []
                frames += found
                length += sum(frame.samples for frame in found)
        return frames

    clock = _Clock(container, stream)
    sounding, pending, kind = 0.0, [], None
    with container:
        while not is_over:
            frames = pull()
            for frame in frames:
                own = frame.sample_rate, frame.layout.nb_channels, frame.format.name
                silence = clock.silence_before(frame, first)
                if pending and (own != kind or silence):
                    yield kind[0], _join(pending, kind)
                    pending = []
                check_rate(own[0])
                kind = own
                for done in range(0, silence, BLOCK_LENGTH):
                    yield own[0], np.zeros((min(BLOCK_LENGTH, silence - done), own[1]), dtype=np.float32)
                pending.append(frame.to_ndarray())
                sounding += frame.samples / frame.sample_rate
            if pending:
                yield kind[0], _join(pending, kind)
                pending = []
    if not sounding:
        raise ValueError(
            f"has sound that FFmpeg cannot decode ({_reason(bad) if bad else 'it breaks off'}); give a whole file."
        )
    if num_bad > extent.num_gaps:
        faults.append(f"has packets ({num_bad}) that cannot be decoded ({_reason(bad)})")
    codec, wrong = stream.codec_context.name, re.compile("CRC|checksum|check failed")
    said = [
        text.strip() for level, who, text in logs
        if level <= av.logging.ERROR and (who == container.format.name or who == codec and wrong.search(text))
    ]  # fmt: skip
    if extent.broken:
        faults.append(f"breaks off after {sounding:.2f} s, {extent.broken}")
    if said and not faults:
        faults.append(f"breaks off or is damaged after {sounding:.2f} s ({said[-1]})")
    if extent.lacking:
        promised = max(0.0, sounding + extent.lacking)
        faults.append(f"promises {promised:.2f} s, but {sounding:.2f} s of sound are there")
    elif (
        stated
        and min(abs(stated - seconds) for seconds in (sounding, clock.position, clock.zero + clock.position)) > SLACK
    ):
        faults.append(f"promises {stated:.2f} s, but {sounding:.2f} s of sound are there")
    notes += clock.notes()


def _join(arrays, kind) -> np.ndarray:
    """Return the samples of frames of one kind as float32 `(num_samples, num_channels)`."""
    samples = arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=1)
    samples = samples.T if kind[2].endswith("p") else samples.reshape(-1, kind[1])
    if samples.dtype.kind == "f":
        return samples.astype(np.float32, copy=False)
    scale = np.float32(2.0 ** (8 * samples.dtype.itemsize - 1))
    return samples.astype(np.float32) / scale - np.float32(samples.dtype.kind == "u")


def _reason(error) -> str:
    """Return what FFmpeg said, or what PyAV made of it."""
    said = getattr(error, "log", None)
    # Which is long, and of no use to anyone.
    said = None if said and "whitelist" in said[2] else said
    return said[2].strip() if said else getattr(error, "strerror", None) or str(error)


class _Clock:
    """Where the sound of a track lies in its container: silence before and within it.

    Time zero is the container's, or where its first stream begins if it has none. Frames follow one another; the times
    of packets, which are often rounded, count where they say that something is missing.
    """

    def __init__(self, container, stream):
        name = container.format.name.split(",")[0]
        self.is_timed = name in TIMED + RESTARTING
        start = max(0, container.start_time or 0) / 1e6
        # Of streams that were joined while they ran, time zero is where they begin.
        self.zero = start if name in RESTARTING[:-1] or start > MAX_JUMP else 0.0
        self.length = None if name in RESTARTING else (container.duration or MAX_GAP * 1e6) / 1e6
        codec = stream.codec_context.name
        # The first packet of these has no sound of its own; of others what is skipped is an encoder's delay.
        self.begins_with_packet = codec in ("vorbis", "wmav1", "wmav2")
        # Decoders of WMA drop two frames, and FFmpeg's encoder of it has put only one before the sound.
        written_by = {key.lower(): value for key, value in container.metadata.items()}.get("encoder", "")
        self.drops_sound = codec in ("wmav1", "wmav2") and written_by.startswith("Lavf")
        self.position, self.ahead, self.gaps = 0.0, None, []

    def silence_before(self, frame, first_pts) -> int:
        """Return how many samples of silence lie between the frame before and this one, and go on behind it."""
        gap, rate = 0.0, frame.sample_rate
        if self.is_timed and frame.pts is not None:
            time = float(frame.pts * frame.time_base) - self.zero
            if self.ahead is None:
                first = first_pts if self.begins_with_packet and first_pts is not None else frame.pts
                gap = max(0.0, float(first * frame.time_base) - self.zero)
                gap += (time - gap) / 2 if self.drops_sound else 0.0
                self.ahead = time - gap
            else:
                gap = time - self.ahead - self.position
                if gap < -MAX_OVERLAP:
                    self.ahead += gap
                gap = gap if gap > JITTER else 0.0
            if gap > MAX_JUMP if self.length is None else self.position + gap > self.length + SLACK:
                self.ahead, gap = self.ahead + gap, 0.0
        length = round(gap * rate)
        if gap > JITTER:
            self.gaps.append((self.position, gap))
        self.position += (length + frame.samples) / rate
        return length

    def notes(self) -> Iterator[str]:
        """Yield what should be said about silence that was put in."""
        if self.gaps and not self.gaps[0][0]:
            yield f"has sound from {self.gaps.pop(0)[1]:.2f} s on only; before it is silence"
        if self.gaps:
            total = sum(length for _, length in self.gaps)
            yield f"has gaps ({len(self.gaps)}, {total:.2f} s in all), which are filled with silence"
