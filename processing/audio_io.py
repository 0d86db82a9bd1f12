"""`load_audio` and `stream_audio`: recordings of any kind and length as one channel at one sampling rate."""

import errno
import functools
import io
import itertools
import logging
import math
import numbers
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from .audio_decoding import BLOCK_LENGTH, decode
from .audio_formats import Section
from .audio_mixing import loudest_channel, mix_channels, resample_blocks
from .windowing import Window, WindowPlan

logger = logging.getLogger(__name__)

# Of what can be read but once, more bytes than this go to the temporary folder.
HELD_BYTES = 1 << 26


def load_audio(
    source: Any, sampling_rate: int = 16000, source_sampling_rate: int | None = None, device: Any = None,
    channel: int | str | None = None, strict: bool = False,
) -> np.ndarray:  # fmt: skip
    """Return a recording as one channel at one sampling rate.

    Files are told by their contents, and read to their end, whatever their headers count; times are those of the
    container. What was found to be wrong, but could be heard, is said in one warning.

    Args:
        source: one of
            - a path (`-` is standard input), the bytes of a file, or a binary file object, from where it stands: wav,
              flac, ogg and what else libsndfile reads whole; mp3, m4a, mp4, aac, webm, mkv, wma and all else that
              FFmpeg reads, where PyAV is installed (`pip install av`);
            - a NumPy array `(num_samples,)` or `(num_samples, num_channels)`, the layout of soundfile, or a tensor
              `(num_samples,)` or `(num_channels, num_samples)`, that of torchaudio. Floats are taken to lie in
              [-1, 1]; integers of 8, 16 or 32 bits are scaled to it by the range of their type;
            - a dict with `array` (or `raw`) and `sampling_rate`, or with `bytes` or `path`, as data sets hold them, or
              the `AudioDecoder` of torchcodec that they make of these, which is decoded whole.
        sampling_rate: samples per second of the result.
        source_sampling_rate: samples per second of an array; `sampling_rate` if not given. Files know their own.
        device: where to resample, if torchaudio imports; `None` for the CPU, by soxr at high quality.
        channel: which channel to take, from 0 on, or `"loudest"`, that of the most power; by default their mean.
        strict: make an error of what breaks off, is damaged, or has another length than it promises.

    Returns:
        float32 array `(num_samples,)`.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError: the path names no readable file.
        ValueError: not audio, nothing that can be decoded, a file that changes meanwhile, no samples, NaN or infinite
            samples, floats on the scale of integers, a wrong shape, type or channel, or a rate that is not positive.
        ImportError: PyAV or soxr is needed and missing.
    """
    blocks = stream_audio(source, sampling_rate, source_sampling_rate, device, channel, strict)[1]
    return np.concatenate(list(blocks))


def stream_audio(
    source: Any, sampling_rate: int = 16000, source_sampling_rate: int | None = None, device: Any = None,
    channel: int | str | None = None, strict: bool = False, report: Callable[[str], object] | None = None,
) -> tuple[float, Iterator[np.ndarray]]:  # fmt: skip
    """Return how many seconds a recording promises, which may err, and a generator of what [`load_audio`] returns.

    Arguments and errors are those of [`load_audio`]; most faults inside a file are found when they are reached. Files
    are read forwards, and few seconds are held. Where nobody says how long it is, the recording promises 0 s. What was
    found to be wrong goes to `report`; by default a warning is logged.
    """
    sampling_rate = _check_rate("sampling_rate", sampling_rate)
    if isinstance(channel, bool) or not (channel in (None, "loudest") or isinstance(channel, int) and channel >= 0):
        raise ValueError(f"channel is {channel!r}; give the number of a channel, from 0 on, or 'loudest'.")
    source, rate = _identify(source, sampling_rate, source_sampling_rate)
    faults, notes = [], []
    index: Any = channel
    if channel == "loudest":
        index, num_channels = loudest_channel(_open(source, rate, [], [])[2])
        if num_channels > 1:
            notes.append(f"has channel {index} as its loudest, which is heard")
    _, seconds, blocks = _open(source, rate, faults, notes)
    mixed = mix_channels(blocks, _name(source), index, notes)
    return seconds or 0.0, _convert(
        mixed, _name(source), sampling_rate, device, strict, faults, notes, report or logger.warning
    )


def audio_duration(source: Any) -> float:
    """Return the length of an audio file in seconds: that of its sound, which a header may misstate.

    That of wav, flac and their like is computed from the bytes that they hold; all others are decoded.

    Args:
        source: a file, as [`load_audio`] takes it.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError: the path names no readable file.
        ValueError: the file is not audio, or nothing in it can be decoded.
        ImportError: PyAV is needed and missing.
    """
    certain, _, blocks = _open(_identify(source, 1, None)[0], None, [], [])
    if certain is None:
        return sum(len(block) / rate for rate, block in blocks)
    # So that the file is closed, or put back.
    next(blocks, None)
    blocks.close()
    return certain


def is_one_recording(inputs: Any) -> bool:
    """Return whether inputs are one recording; also true for unknown types, which are refused later."""
    # An AudioDecoder has __getitem__, and so have a file, which is iterable, and a tensor.
    if any(hasattr(inputs, name) for name in ("get_all_samples", "read", "detach")):
        return True
    is_one = isinstance(inputs, (str, os.PathLike, bytes, bytearray, memoryview, np.ndarray, Mapping))
    return is_one or not (isinstance(inputs, Iterable) or hasattr(inputs, "__getitem__"))


def pair_with_queries(inputs: Any, query: Any) -> Iterator[tuple[Any, Any, str]]:
    """Return each recording with its query and its name."""
    is_one = query is None or isinstance(query, str)
    if not is_one and hasattr(inputs, "__len__") and hasattr(query, "__len__") and len(query) != len(inputs):
        raise ValueError(f"query has {len(query)} entries for {len(inputs)} recordings; give one for each.")
    if not isinstance(inputs, Iterable) and hasattr(inputs, "__len__"):
        # A torch data set, such as `KeyDataset`, need not raise IndexError at its end.
        inputs = map(inputs.__getitem__, range(len(inputs)))
    pairs = zip(inputs, itertools.repeat(query)) if is_one else zip(inputs, query, strict=True)
    return ((source, asked, name_of(source, f"inputs[{index}]")) for index, (source, asked) in enumerate(pairs))


def name_of(source: Any, otherwise: str = "recording") -> str:
    """Return the name of a recording for messages: its path, if it has one."""
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else otherwise


def stream_windows(
    blocks: Iterator[np.ndarray], plan: WindowPlan, sampling_rate: int = 16000
) -> Iterator[tuple[Window, np.ndarray]]:
    """Yield the windows of a recording, each with its samples.

    Args:
        blocks: pieces `(num_samples,)` of the recording, from [`stream_audio`].
        plan: where the windows lie. Its lengths times `sampling_rate` are rounded to samples.
        sampling_rate: samples per second of the blocks.

    Yields:
        The window, in seconds, and float32 samples `(num_samples,)`. The last window ends with the recording, also
        where the file promises a longer one.
    """
    held, position, is_over = np.zeros(0, dtype=np.float32), 0, False

    def goes_on_after(seconds):
        """Read so far that it is known."""
        nonlocal held, is_over
        end, parts, length = round(seconds * sampling_rate), [held], position + len(held)
        while length <= end and not is_over:
            block = next(blocks, None)
            is_over = block is None
            if block is not None:
                parts.append(block)
                length += len(block)
        held = np.concatenate(parts)
        return length > end

    index = 0
    if goes_on_after(plan.whole_length_s):
        while goes_on_after(plan.window(index).end):
            window = plan.window(index)
            start, end = (round(seconds * sampling_rate) - position for seconds in (window.start, window.end))
            yield window, held[start:end].copy()
            # The last window may start soon after this one.
            held, position = held[start:], position + start
            index += 1
    window = plan.last_window(index, (position + len(held)) / sampling_rate)
    yield window, held[round(window.start * sampling_rate) - position :].copy()


def _identify(source: Any, sampling_rate: Any, source_sampling_rate: Any) -> tuple[Any, int | float | None]:
    """Return a path, bytes, section of an open file or array, and the rate of an array; files know their own."""
    if hasattr(source, "get_all_samples"):
        source = _decode_by_torchcodec(source)
    if isinstance(source, Mapping):
        source, source_sampling_rate = _unpack(source, source_sampling_rate)
    if hasattr(source, "detach") and hasattr(source, "cpu"):
        source = source.detach().cpu()
        # NumPy has no bfloat16.
        source = (source if source.dtype.itemsize != 2 or not source.is_floating_point() else source.float()).numpy()
        source = source.T if source.ndim == 2 else source
    if isinstance(source, np.ndarray):
        rate = sampling_rate if source_sampling_rate is None else source_sampling_rate
        return source, _check_rate("source_sampling_rate", rate)
    if source_sampling_rate is not None:
        raise ValueError(
            f"source_sampling_rate is {source_sampling_rate!r} but source is a file, which knows its own; leave it out."
        )
    if isinstance(source, memoryview):
        source = bytes(source)
    if isinstance(source, str) and source == "-":
        return _standard_input(), None
    return _section(source) if hasattr(source, "read") else source, None


@functools.cache
def _standard_input() -> Section:
    """Return what was piped into the program, so that it can be read more than once."""
    if sys.stdin is None or sys.stdin.isatty():
        raise ValueError("source is '-', standard input, but nothing is piped into it; give a file.")
    return _section(sys.stdin.buffer)


def _section(file) -> Section:
    """Return an open file from where it stands; what cannot be read twice is copied."""
    if isinstance(file, io.TextIOBase):
        raise ValueError("source is a file opened as text; open it with mode 'rb'.")
    if file.seekable():
        return Section(file, file.tell())
    copy = tempfile.SpooledTemporaryFile(HELD_BYTES)
    try:
        shutil.copyfileobj(file, copy)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        folder = tempfile.gettempdir()
        raise OSError(
            error.errno, f"source does not fit into the temporary folder {folder!r}, where a stream is kept that "
            "cannot be read twice; free space there, set TMPDIR to another folder, or give a file",
        ) from error  # fmt: skip
    return Section(copy)


def _decode_by_torchcodec(decoder: Any) -> dict:
    """Return what an `AudioDecoder` yields, `array` being `(num_samples, num_channels)`."""
    try:
        samples = decoder.get_all_samples()
    except RuntimeError as error:
        raise ValueError(f"source is an AudioDecoder that cannot decode ({error}); give a whole file.") from error
    return {"array": samples.data.cpu().numpy().T, "sampling_rate": samples.sample_rate}


def _unpack(source: Mapping, source_sampling_rate: int | None) -> tuple[Any, int | None]:
    array = source.get("raw") if source.get("array") is None else source["array"]
    if array is not None:
        rate = source.get("sampling_rate")
        if rate is None:
            raise ValueError(f"source has keys {sorted(source)}; give sampling_rate beside array.")
        if source_sampling_rate not in (None, rate):
            raise ValueError(
                f"source_sampling_rate is {source_sampling_rate} but source['sampling_rate'] is {rate}; leave one out."
            )
        return array if hasattr(array, "detach") else np.asarray(array), rate
    for key in ("bytes", "path"):
        if source.get(key) is not None:
            return source[key], source_sampling_rate
    raise ValueError(f"source has keys {sorted(source)}; give array and sampling_rate, or bytes, or path, not None.")


def _check_rate(name: str, rate: Any) -> Any:
    if isinstance(rate, bool) or not isinstance(rate, numbers.Real) or rate <= 0 or not rate < math.inf:
        raise ValueError(f"{name} is {rate!r}; give samples per second, a number greater than 0.")
    return rate


def _name(source: Any) -> str:
    if isinstance(source, (bytes, bytearray)):
        return f"source ({len(source)} bytes)"
    return f"source {os.fspath(source)!r}" if isinstance(source, (str, os.PathLike)) else "source"


def _open(source, rate, faults, notes) -> tuple[float | None, float | None, Generator]:
    """Return what [`decode`] does, of arrays too; errors name the source."""
    if rate is not None:
        seconds = len(source) / rate if source.ndim else 0.0
        return seconds, seconds, _cut(source, rate)
    name, file, before = _name(source), _open_file(source), _state(source)
    try:
        if not file.length:
            raise ValueError("is empty (0 bytes); give an audio file.")
        certain, promised, blocks = decode(file, faults, notes)
    except (ImportError, ValueError) as error:
        _close(file, source)
        raise type(error)(f"{name} {error}") from error

    def read():
        try:
            yield from blocks
        except (ImportError, ValueError) as error:
            raise type(error)(f"{name} {error}") from error
        finally:
            _close(file, source)
        if _state(source) != before:
            raise ValueError(f"{name} changed while it was read; wait until it is written.")

    return certain, promised, read()


def _open_file(source: Any) -> Section:
    if isinstance(source, Section):
        return source
    if isinstance(source, (bytes, bytearray)):
        return Section(io.BytesIO(source))
    if not isinstance(source, (str, os.PathLike)):
        raise ValueError(
            f"source is of type {type(source).__name__}; give a path, bytes, a binary file object, a NumPy array, a "
            "tensor, a dict with array and sampling_rate, or an AudioDecoder of torchcodec."
        )
    path = os.fspath(source)
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a null byte
        raise FileNotFoundError(
            f"source {path!r} does not exist; give the path of an audio file on this machine."
        ) from None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"source {path!r} is a directory; give the path of one audio file.")
    if not stat.S_ISREG(mode):
        raise ValueError(f"source {path!r} is a pipe or device; open it, and pass the file object.")
    return Section(open(path, "rb", buffering=0))


def _close(file, source):
    """Close what was opened here; put others back to where they stood."""
    if file is source:
        file.file.seek(file.start)
    else:
        file.file.close()


def _state(source: Any) -> tuple[int, ...] | None:
    """Return what is another after a file was written: inode, size and time of the last change."""
    if isinstance(source, (str, os.PathLike)) and os.path.exists(source):
        status = os.stat(source)
        return status.st_ino, status.st_size, status.st_mtime_ns
    return None


def _cut(samples: np.ndarray, rate: float) -> Generator:
    """Yield an array in blocks `(num_samples, num_channels)` of floats, integers scaled by the range of their type."""
    if samples.ndim not in (1, 2):
        raise ValueError(f"source has shape {samples.shape}; give (num_samples,) or (num_samples, num_channels).")
    if samples.ndim == 2 and samples.size and samples.shape[1] > samples.shape[0]:
        raise ValueError(
            f"source has shape {samples.shape}, more channels than samples; transpose it to (num_samples, "
            "num_channels), tensors to (num_channels, num_samples)."
        )
    kind, bits = samples.dtype.kind, 8 * samples.dtype.itemsize
    if kind not in "iuf" or kind in "iu" and bits > 32:
        # The range of 64-bit integers says nothing about their scale: nobody records at that depth.
        raise ValueError(
            f"source has dtype {samples.dtype}; give floats in [-1, 1] or integers of 8, 16 or 32 bits, for instance "
            "source.astype(np.int16)."
        )
    for start in range(0, len(samples), BLOCK_LENGTH):
        block = samples[start : start + BLOCK_LENGTH]
        if kind != "f":
            block = (block.astype(np.float64) - (kind == "u") * 2.0 ** (bits - 1)) / 2.0 ** (bits - 1)
        yield rate, block.reshape(len(block), -1)


def _convert(blocks, name, sampling_rate, device, strict, faults, notes, report):
    """Yield blocks `(num_samples,)` at one rate; at the end say what was wrong."""
    is_empty = True
    # Recordings that were joined may have several rates.
    for rate, group in itertools.groupby(blocks, lambda item: item[0]):
        own = (block for _, block in group)
        for block in own if rate == sampling_rate else resample_blocks(own, name, rate, sampling_rate, device):
            is_empty = False
            yield block
    if is_empty:
        raise ValueError(f"{name} is too short for one sample at {sampling_rate} Hz; pass longer audio.")
    if strict and faults:
        raise ValueError(f"{name} {'; '.join(faults)}; give a whole file, or leave out strict (--strict).")
    if faults or notes:
        report(f"{name} {'; '.join([*faults, *notes])}.")
