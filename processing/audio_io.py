"""`load_audio`: decode, mix down and resample recordings."""

import io
import logging
import numbers
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

FORMATS = "wav, flac, ogg, mp3 or another format of libsndfile"


def load_audio(source: Any, sampling_rate: int = 16000, source_sampling_rate: int | None = None) -> np.ndarray:
    """Return a recording as one channel at one sampling rate.

    Channels are mixed down to their mean; other rates are resampled by soxr at high quality.

    Args:
        source: one of
            - a path, or the bytes of an audio file;
            - an array `(num_samples,)` or `(num_samples, num_channels)`, the layout of soundfile. Floats are taken to
              lie in [-1, 1]; integers of 8, 16 or 32 bits are scaled to it by the range of their type;
            - a dict with `array` and `sampling_rate`, or with `bytes` or `path`, as data sets hold them.
        sampling_rate: samples per second of the result.
        source_sampling_rate: samples per second of an array; `sampling_rate` if not given. Files know their own.

    Returns:
        float32 array `(num_samples,)`.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError: the path names no readable file.
        ValueError: not audio, no samples, NaN or infinite samples, a wrong shape or type, or a rate that is not
            positive.
    """
    sampling_rate = _check_rate("sampling_rate", sampling_rate)
    source, rate = _identify(source, sampling_rate, source_sampling_rate)
    if isinstance(source, np.ndarray):
        samples = _scale(source)
    else:
        samples, rate = _decode(source)
    name = _name(source)
    samples = _mix_down(samples, name)
    if rate != sampling_rate:
        import soxr

        samples = soxr.resample(samples, rate, sampling_rate, quality="HQ")
        if not len(samples):
            raise ValueError(f"{name} is too short for one sample at {sampling_rate} Hz; pass longer audio.")
    return np.ascontiguousarray(samples, dtype=np.float32)


def audio_duration(source: str | os.PathLike | bytes) -> float:
    """Return the length of an audio file in seconds, from its header alone.

    Args:
        source: a path, or the bytes of an audio file.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError: the path names no readable file.
        ValueError: the file is not audio.
    """
    with _open(source) as file:
        return file.frames / file.samplerate


def _identify(source: Any, sampling_rate: Any, source_sampling_rate: Any) -> tuple[Any, int | float | None]:
    """Return what a dict holds or what is no dict, and the rate of an array; files know their own."""
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


def _check_rate(name: str, rate: Any) -> int | float:
    if isinstance(rate, bool) or not isinstance(rate, numbers.Real) or not np.isfinite(rate) or rate <= 0:
        raise ValueError(f"{name} is {rate!r}; give samples per second, a number greater than 0.")
    return rate


def _name(source: Any) -> str:
    if isinstance(source, np.ndarray):
        return "source"
    return (
        f"source ({len(source)} bytes)" if isinstance(source, (bytes, bytearray)) else f"source {os.fspath(source)!r}"
    )


def _open(source: str | os.PathLike | bytes):
    """Open a file for decoding and say clearly what is wrong with it."""
    import soundfile

    if isinstance(source, (bytes, bytearray)):
        size, target = len(source), io.BytesIO(source)
    elif isinstance(source, (str, os.PathLike)):
        target = os.fspath(source)
        if not os.path.exists(target):
            raise FileNotFoundError(
                f"source {target!r} does not exist; give the path of an audio file on this machine."
            )
        if os.path.isdir(target):
            raise IsADirectoryError(f"source {target!r} is a directory; give the path of one audio file.")
        with open(target, "rb"):  # libsndfile would report a missing permission as a broken file
            size = os.path.getsize(target)
    else:
        raise ValueError(
            f"source is of type {type(source).__name__}; give a path, bytes, a NumPy array, or a dict with array and "
            "sampling_rate."
        )
    if not size:
        raise ValueError(f"{_name(source)} is empty (0 bytes); give an audio file.")
    try:
        return soundfile.SoundFile(target)
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: headerless formats, by file name
        raise ValueError(f"{_name(source)} is not audio that can be read ({error}); give {FORMATS}.") from error


def _decode(source: str | os.PathLike | bytes) -> tuple[np.ndarray, int]:
    import soundfile

    with _open(source) as file:
        try:
            samples = file.read(dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            raise ValueError(f"{_name(source)} breaks off or is damaged ({error}); give a whole file.") from error
        if len(samples) < file.frames:
            logger.warning("%s promises %d samples but holds %d.", _name(source), file.frames, len(samples))
        return samples, file.samplerate


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


__all__ = ["audio_duration", "load_audio"]
