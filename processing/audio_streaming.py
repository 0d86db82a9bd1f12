"""Recordings of any length in windows: decoded, mixed down and resampled by blocks, so that few seconds are held."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from .audio_io import _check_rate, _identify, _mix_down, _name, _scale, read_blocks, resample_blocks
from .windowing import Window, WindowPlan

# Samples of each channel that are decoded at a time.
BLOCK_LENGTH = 65536


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


def stream_audio(
    source: Any,
    sampling_rate: int = 16000,
    source_sampling_rate: int | None = None,
    device: Any = None,
    max_seconds: float | None = None,
) -> tuple[float, Iterator[np.ndarray]]:
    """Return how many seconds a recording promises, which may err, and a generator of what [`load_audio`] returns.

    Arguments and errors are those of [`load_audio`]. That a file breaks off or changes is found at its end.
    `max_seconds` is for callers that take no longer recordings: of what is decoded at once (m4a, webm) no more is.
    """
    sampling_rate = _check_rate("sampling_rate", sampling_rate)
    source, rate = _identify(source, sampling_rate, source_sampling_rate)
    if rate is None:
        rate, num_samples, blocks = read_blocks(source, BLOCK_LENGTH, max_seconds)
    else:
        num_samples, blocks = len(source) if source.ndim else 0, _cut_blocks(source)
    return num_samples / rate, _convert(blocks, _name(source), rate, sampling_rate, device)


def _convert(blocks, name, rate, sampling_rate, device):
    """Yield blocks as one channel at another rate."""
    blocks = (_mix_down(block, name) for block in blocks)
    is_empty = True
    for block in blocks if rate == sampling_rate else resample_blocks(blocks, name, rate, sampling_rate, device):
        is_empty = False
        yield block
    if is_empty:
        raise ValueError(f"{name} is too short for one sample at {sampling_rate} Hz; pass longer audio.")


def _cut_blocks(samples):
    """Yield an array in pieces, the last one longer than the others: short ones look like exchanged axes."""
    num_blocks = max(1, len(samples) // BLOCK_LENGTH) if samples.ndim else 1
    for index in range(num_blocks - 1):
        yield _scale(samples[index * BLOCK_LENGTH : (index + 1) * BLOCK_LENGTH])
    yield _scale(samples[(num_blocks - 1) * BLOCK_LENGTH :] if num_blocks > 1 else samples)


__all__ = ["stream_audio", "stream_windows"]
