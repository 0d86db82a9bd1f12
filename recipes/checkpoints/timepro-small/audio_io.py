"""`load_audio`: decode, mix down and resample recordings."""

import io
import logging
import math
import numbers
import os
import re
import stat
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

FORMATS = "wav, flac, ogg, mp3 or another format of libsndfile"
# Recordings of bats have up to 500 kHz; a header that says more, or less than a telephone by far, is damaged.
FILE_RATES = (1000, 1_000_000)
BLOCK_SIZE = 1 << 20
# What libsndfile's log says of files that break off; numbers are what the header says and what there is.
_BREAKS_OFF = (
    re.compile(r"(?:data|Data Size) *: (\d+) \(should be (\d+)\)"),
    re.compile(r"\*\*\* Calculated frame count \d+ does not match value from 'ds64' chunk of \d+"),
    re.compile(r"Ogg ?: (?:Last page lacks an end-of-stream bit|Junk after the last page)"),
    # AIFF's; in wav the same may follow the samples.
    re.compile(r"\*\*\* calculated from length of 'SSND' chunk"),
)


def load_audio(
    source: Any, sampling_rate: int = 16000, source_sampling_rate: int | None = None, device: Any = None
) -> np.ndarray:
    """Return a recording as one channel at one sampling rate.

    Channels are mixed down to their mean; other rates are resampled by soxr at high quality, or by its
    filter on a device, see [`resample_on_device`].

    Args:
        source: one of
            - a path, or the bytes of an audio file: wav, flac, ogg, mp3 and all that libsndfile reads; m4a, mp4, aac,
              webm, mkv and wma where the program ffmpeg is installed;
            - an array `(num_samples,)` or `(num_samples, num_channels)`, the layout of soundfile. Floats are taken to
              lie in [-1, 1]; integers of 8, 16 or 32 bits are scaled to it by the range of their type;
            - a dict with `array` and `sampling_rate`, or with `bytes` or `path`, as data sets hold them, or the
              `AudioDecoder` of torchcodec that they make of these, which is decoded whole.
        sampling_rate: samples per second of the result.
        source_sampling_rate: samples per second of an array; `sampling_rate` if not given. Files know their own.
        device: where to resample, if torchaudio imports; `None` for the CPU, by soxr.

    Returns:
        float32 array `(num_samples,)`.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError: the path names no readable file.
        ValueError: not audio, a file that breaks off or changes meanwhile, no samples, NaN or infinite samples, a
            wrong shape or type, a rate that is not positive, or a format that needs ffmpeg where that is missing.
        ImportError: another rate, where soxr is missing.
    """
    sampling_rate = _check_rate("sampling_rate", sampling_rate)
    source, rate = _identify(source, sampling_rate, source_sampling_rate)
    if rate is None:
        samples, rate = _decode(source)
    else:
        samples = _scale(source)
    name = _name(source)
    samples = _mix_down(samples, name)
    if rate != sampling_rate:
        blocks = resample_blocks(iter([samples]), name, rate, sampling_rate, device)
        samples = np.concatenate([samples[:0], *blocks])
        if not len(samples):
            raise ValueError(f"{name} is too short for one sample at {sampling_rate} Hz; pass longer audio.")
    return np.ascontiguousarray(samples, dtype=np.float32)


def _import_soxr(name: str, rate: float, sampling_rate: float):
    """Return soxr, which recordings of other rates need, and nothing else does.

    Raises:
        ImportError: it is missing.
    """
    # transformers refuses a checkpoint whose code imports what is missing, unless it stands in a `try`.
    try:
        import soxr
    except ImportError as error:
        raise ImportError(
            f"{name} has {rate} Hz and is to be heard at {sampling_rate} Hz, for which soxr is missing; run "
            "`pip install soxr`, or pass audio of that rate."
        ) from error
    return soxr


def audio_duration(source: str | os.PathLike | bytes) -> float:
    """Return the length of an audio file in seconds, from its header alone (m4a, webm and the like are decoded).

    Args:
        source: a path, or the bytes of an audio file.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError: the path names no readable file.
        ValueError: the file is not audio, or breaks off as far as its header tells.
    """
    with _open(source) as file:
        return file.frames / file.samplerate


def _identify(source: Any, sampling_rate: Any, source_sampling_rate: Any) -> tuple[Any, int | float | None]:
    """Return what a dict or decoder holds or what is neither, and the rate of an array; files know their own."""
    if hasattr(source, "get_all_samples"):
        source = _decode_by_torchcodec(source)
    if isinstance(source, Mapping):
        source, source_sampling_rate = _unpack(source, source_sampling_rate)
    if isinstance(source, np.ndarray):
        rate = sampling_rate if source_sampling_rate is None else source_sampling_rate
        return source, _check_rate("source_sampling_rate", rate)
    if source_sampling_rate is not None:
        raise ValueError(
            f"source_sampling_rate is {source_sampling_rate!r} but source is a file, which knows its own; leave it out."
        )
    return source, None


def _decode_by_torchcodec(decoder: Any) -> dict:
    """Return what an `AudioDecoder` yields, `array` being `(num_samples, num_channels)`."""
    try:
        samples = decoder.get_all_samples()
    except RuntimeError as error:
        raise ValueError(f"source is an AudioDecoder that cannot decode ({error}); give a whole file.") from error
    return {"array": samples.data.cpu().numpy().T, "sampling_rate": samples.sample_rate}


def _unpack(source: Mapping, source_sampling_rate: int | None) -> tuple[Any, int | None]:
    if source.get("array") is not None:
        rate = source.get("sampling_rate")
        if rate is None:
            raise ValueError(f"source has keys {sorted(source)}; give sampling_rate beside array.")
        if source_sampling_rate not in (None, rate):
            raise ValueError(
                f"source_sampling_rate is {source_sampling_rate} but source['sampling_rate'] is {rate}; leave one out."
            )
        return np.asarray(source["array"]), rate
    for key in ("bytes", "path"):
        if source.get(key) is not None:
            return source[key], source_sampling_rate
    raise ValueError(f"source has keys {sorted(source)}; give array and sampling_rate, or bytes, or path, not None.")


def _check_rate(name: str, rate: Any) -> Any:
    if isinstance(rate, bool) or not isinstance(rate, numbers.Real) or rate <= 0 or not rate < math.inf:
        raise ValueError(f"{name} is {rate!r}; give samples per second, a number greater than 0.")
    return rate


def _name(source: Any) -> str:
    if isinstance(source, np.ndarray):
        return "source"
    return (
        f"source ({len(source)} bytes)" if isinstance(source, (bytes, bytearray)) else f"source {os.fspath(source)!r}"
    )


def _open(source: str | os.PathLike | bytes, max_seconds: float | None = None):
    """Open a file for decoding and say clearly what is wrong with it."""
    import soundfile

    target: Any
    if isinstance(source, (bytes, bytearray)):
        size, target = len(source), io.BytesIO(source)
    elif isinstance(source, (str, os.PathLike)):
        target = os.fspath(source)
        try:
            status = os.stat(target)
        except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a null byte
            raise FileNotFoundError(
                f"source {target!r} does not exist; give the path of an audio file on this machine."
            ) from None
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(f"source {target!r} is a directory; give the path of one audio file.")
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"source {target!r} is a pipe or device; read it, and pass the bytes.")
        with open(target, "rb"):  # libsndfile would report a missing permission as a broken file
            size = status.st_size
    else:
        raise ValueError(
            f"source is of type {type(source).__name__}; give a path, bytes, a NumPy array, a dict with array and "
            "sampling_rate, or an AudioDecoder of torchcodec."
        )
    if not size:
        raise ValueError(f"{_name(source)} is empty (0 bytes); give an audio file.")
    try:
        file = soundfile.SoundFile(target)
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: headerless formats, by file name
        from .audio_ffmpeg import decode_by_ffmpeg, find_container

        container = find_container(_head(source))
        if container is None:
            raise ValueError(f"{_name(source)} is not audio that can be read ({error}); give {FORMATS}.") from error
        file = soundfile.SoundFile(decode_by_ffmpeg(source, _name(source), *container, max_seconds))
    if file.format == "FLAC" and file.frames > 2**36:  # what the header has room for
        from .audio_ffmpeg import decode_by_ffmpeg

        # Who writes to a pipe does not know the length, and libsndfile cannot end without it.
        file.close()
        kind = "FLAC that does not say its length"
        file = soundfile.SoundFile(decode_by_ffmpeg(source, _name(source), kind, "flac", max_seconds))
    try:
        _check_header(file, _name(source))
    except ValueError:
        file.close()
        raise
    return file


def _head(source: str | os.PathLike | bytes) -> bytes:
    if isinstance(source, (bytes, bytearray)):
        return bytes(source[:12])
    with open(source, "rb") as file:
        return file.read(12)


def _check_header(file, name: str) -> None:
    """Refuse a header that cannot be. Of a file that breaks off libsndfile reads what there is, and tells its log."""
    if not FILE_RATES[0] <= file.samplerate <= FILE_RATES[1]:
        raise ValueError(f"{name} is damaged (its header says {file.samplerate} Hz); give a whole file.")
    for pattern in _BREAKS_OFF:
        for match in pattern.finditer(file.extra_info):
            # Who writes to a pipe cannot know the length, and leaves 0 or the largest number.
            if not match.groups() or 0 < int(match[1]) < 0x7FFF0000 and int(match[1]) > int(match[2]):
                raise ValueError(f"{name} breaks off or is damaged ({match[0].strip(' *')}); give a whole file.")


def _decode(source: str | os.PathLike | bytes) -> tuple[np.ndarray, int]:
    rate, _, blocks = read_blocks(source)
    return np.concatenate(list(blocks)), rate


def read_blocks(
    source: str | os.PathLike | bytes, block_size: int = BLOCK_SIZE, max_seconds: float | None = None
) -> tuple[int, int, Iterator[np.ndarray]]:
    """Open a file; return its sampling rate, the samples that it promises, and a generator of what it holds.

    Blocks are float32 `(num_samples, num_channels)`; the last is shorter, the only one may be empty. In blocks, for a
    damaged header may promise more samples than there is memory. Errors are those of [`load_audio`]; that a file breaks
    off or changes is found at its end.
    """
    import soundfile

    before = _state(source)
    file = _open(source, max_seconds)

    def read():
        length, is_over = 0, False
        with file:
            while not is_over:
                try:
                    block = file.read(block_size, dtype="float32", always_2d=True)
                except soundfile.SoundFileError as error:
                    raise ValueError(
                        f"{_name(source)} breaks off or is damaged ({error}); give a whole file."
                    ) from error
                is_over = len(block) < block_size
                if len(block) or not length:
                    yield block
                length += len(block)
            if _state(source) != before:
                raise ValueError(f"{_name(source)} changed while it was read; wait until it is written.")
            if length < file.frames:
                # An mp3 without a count of its frames has an estimate of it; others say it.
                if file.format != "MP3" or "variable" in file.extra_info and file.frames - length > 2 * 1152:
                    raise ValueError(
                        f"{_name(source)} breaks off or is damaged ({length} of {file.frames} samples are there); "
                        "give a whole file."
                    )
                logger.warning("%s promises %d samples but holds %d.", _name(source), file.frames, length)

    return file.samplerate, file.frames, read()


def resample_blocks(
    blocks: Iterator[np.ndarray], name: str, rate: float, sampling_rate: int, device: Any = None
) -> Iterator[np.ndarray]:
    """Yield blocks `(num_samples,)` of one recording at another rate, by soxr or on a device as [`load_audio`] does.

    Args:
        name: what errors call the recording.

    Raises:
        ImportError: soxr is missing.
    """
    if device is not None:
        from .torchaudio_features import resample_on_device

        if (resampled := resample_on_device(blocks, rate, sampling_rate, device)) is not None:
            yield from resampled
            return
    soxr = _import_soxr(name, rate, sampling_rate)
    stream = soxr.ResampleStream(rate, sampling_rate, 1, dtype="float32", quality="HQ")
    for block in blocks:
        resampled = stream.resample_chunk(block)
        if len(resampled):
            yield resampled
    resampled = stream.resample_chunk(np.zeros(0, dtype=np.float32), last=True)
    if len(resampled):
        yield resampled


def _state(source: str | os.PathLike | bytes) -> tuple[int, ...] | None:
    """Return what is another after a file was written: inode, size and time of the last change."""
    if isinstance(source, (str, os.PathLike)) and os.path.exists(source):
        status = os.stat(source)
        return status.st_ino, status.st_size, status.st_mtime_ns
    return None


def _scale(samples: np.ndarray) -> np.ndarray:
    """Return float samples, integers scaled to [-1, 1] by the range of their type."""
    if samples.ndim == 2 and samples.size and samples.shape[1] > samples.shape[0]:
        raise ValueError(
            f"source has shape {samples.shape}, more channels than samples; "
            "transpose it to (num_samples, num_channels)."
        )
    kind, bits = samples.dtype.kind, 8 * samples.dtype.itemsize
    if kind in "iu" and bits <= 32:
        middle = 0.0 if kind == "i" else 2.0 ** (bits - 1)
        return ((samples.astype(np.float64) - middle) / 2.0 ** (bits - 1)).astype(np.float32)
    if kind == "f":
        return samples
    # The range of 64-bit integers says nothing about their scale: nobody records at that depth.
    raise ValueError(
        f"source has dtype {samples.dtype}; give floats in [-1, 1] or integers of 8, 16 or 32 bits, for instance "
        "source.astype(np.int16)."
    )


def _mix_down(samples: np.ndarray, name: str) -> np.ndarray:
    """Return the mean channel `(num_samples,)` of samples `(num_samples,)` or `(num_samples, num_channels)`."""
    if samples.ndim not in (1, 2):
        raise ValueError(f"{name} has shape {samples.shape}; give (num_samples,) or (num_samples, num_channels).")
    if not samples.size:
        raise ValueError(f"{name} is empty (shape {samples.shape}); give at least one sample.")
    is_finite = np.isfinite(samples)
    if not is_finite.all():
        raise ValueError(f"{name} holds {int((~is_finite).sum())} NaN or infinite samples; repair or drop it.")
    if samples.ndim == 2:
        samples = samples.mean(axis=1, dtype=np.float64)
    limit = np.finfo(np.float32).max
    if np.abs(samples).max() > limit:
        raise ValueError(f"{name} has samples beyond float32 (peak {np.abs(samples).max():.3g}); scale it to [-1, 1].")
    return samples.astype(np.float32)


__all__ = ["audio_duration", "load_audio", "read_blocks", "resample_blocks"]
