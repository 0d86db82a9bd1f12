"""Recordings of any length in windows: decoded, mixed down and resampled by blocks, so that few seconds are held."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from .audio_io import _check_rate, _identify, _mix_down, _name, _open, _scale, audio_duration, logger
from .windowing import Window, WindowPlan

# Samples of each channel that are decoded at a time.
BLOCK_LENGTH = 65536


def stream_windows(
    source: Any, plan: WindowPlan, sampling_rate: int = 16000, source_sampling_rate: int | None = None
) -> Iterator[tuple[Window, np.ndarray]]:
    """Yield the windows of a recording, each with its samples: those of [`load_audio`] of the whole.

    Args:
        source, sampling_rate, source_sampling_rate: see [`load_audio`].
        plan: where the windows lie. Its lengths times `sampling_rate` are rounded to samples.

    Yields:
        The window, in seconds, and float32 samples `(num_samples,)`. The last window ends with the recording, also
        where the file promises a longer one.

    Raises:
        OSError, ValueError: as [`load_audio`] does; faults inside the recording when they are reached.
    """
    blocks = stream_audio(source, sampling_rate, source_sampling_rate)
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


def stream_audio(
    source: Any, sampling_rate: int = 16000, source_sampling_rate: int | None = None
) -> Iterator[np.ndarray]:
    """Yield what [`load_audio`] returns, in pieces; arguments and errors are the same."""
    sampling_rate = _check_rate("sampling_rate", sampling_rate)
    source, rate = _identify(source, sampling_rate, source_sampling_rate)
    name = _name(source)
    if rate is None:
        rate, blocks = _read_blocks(source)
    else:
        blocks = _cut_blocks(source)
    blocks = (_mix_down(block, name) for block in blocks)
    if rate != sampling_rate:
        blocks = _resample(blocks, rate, sampling_rate)
    is_empty = True
    for block in blocks:
        is_empty = False
        yield block
    if is_empty:
        raise ValueError(f"{name} is too short for one sample at {sampling_rate} Hz; pass longer audio.")


def promised_duration(source: Any, sampling_rate: int = 16000) -> float:
    """Return the length of a recording in seconds as its header says, which may err; arguments as in [`load_audio`]."""
    source, rate = _identify(source, sampling_rate, None)
    return audio_duration(source) if rate is None else len(source) / rate


def _read_blocks(source):
    """Return the sampling rate of a file and a generator of its samples `(num_samples, num_channels)`."""
    import soundfile

    file = _open(source)

    def read():
        length = 0
        with file:
            while True:
                try:
                    block = file.read(BLOCK_LENGTH, dtype="float32", always_2d=True)
                except soundfile.SoundFileError as error:
                    raise ValueError(
                        f"{_name(source)} breaks off or is damaged ({error}); give a whole file."
                    ) from error
                # A file without samples yields one block without, which is refused by its name.
                if len(block) or not length:
                    yield block
                length += len(block)
                if len(block) < BLOCK_LENGTH:
                    break
            if length < file.frames:
                logger.warning("%s promises %d samples but holds %d.", _name(source), file.frames, length)

    return file.samplerate, read()


def _cut_blocks(samples):
    """Yield an array in pieces, the last one longer than the others: short ones look like exchanged axes."""
    num_blocks = max(1, len(samples) // BLOCK_LENGTH) if samples.ndim else 1
    for index in range(num_blocks - 1):
        yield _scale(samples[index * BLOCK_LENGTH : (index + 1) * BLOCK_LENGTH])
    yield _scale(samples[(num_blocks - 1) * BLOCK_LENGTH :] if num_blocks > 1 else samples)


def _resample(blocks, rate, sampling_rate):
    import soxr

    stream = soxr.ResampleStream(rate, sampling_rate, 1, dtype="float32", quality="HQ")
    for block in blocks:
        resampled = stream.resample_chunk(block)
        if len(resampled):
            yield resampled
    resampled = stream.resample_chunk(np.zeros(0, dtype=np.float32), last=True)
    if len(resampled):
        yield resampled


__all__ = ["promised_duration", "stream_audio", "stream_windows"]
