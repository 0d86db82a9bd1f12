"""Blocks of a recording as one channel at another rate, with a look at what makes answers wrong unsaid.

soxr resamples on the CPU, and torchaudio, an extra for GPU installs, on the model's device; what `import_torchaudio`
returns also computes mel features there, which agree to 1e-4. The filters of the two roll off differently just below
the Nyquist frequency: up to 0.85 of it resampled noise agrees to -76 dB, over all frequencies to -31 dB. Events of an
example in space_app are the same, and their scores agree to 0.01; of three copies of it in a row, one window of five
has other events. tests/test_torchaudio_features.py measures this.
"""

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

# Floats beyond the first are said to be loud, those beyond the second to be integers that nobody has scaled.
LOUD, UNSCALED = 2.0, 100.0
# Pieces (seconds) in which channels are compared, the part of their power that a mix must keep, and what is silence.
PIECE, CANCELLED, SILENCE = 0.25, 0.01, 1e-9
# torchaudio's best filter: 64 zero crossings, a Kaiser window, and a cut-off near that of soxr's high quality.
FILTER = {"resampling_method": "sinc_interp_kaiser", "lowpass_filter_width": 64, "rolloff": 0.96, "beta": 14.77}
# The size of the filter grows with the reduced rates; 44,100 to 16,000 Hz is 441 to 160.
MAX_REDUCED_RATE = 1000


def resample_blocks(
    blocks: Iterator[np.ndarray], name: str, rate: float, sampling_rate: int, device: Any = None
) -> Iterator[np.ndarray]:
    """Yield blocks `(num_samples,)` of one recording at another rate, by soxr or on a device as [`load_audio`] does.

    Args:
        name: what errors call the recording.

    Raises:
        ImportError: soxr is missing.
    """
    if device is not None and (resampled := resample_on_device(blocks, rate, sampling_rate, device)) is not None:
        yield from resampled
        return
    stream = _soxr_stream(name, rate, sampling_rate)
    last = np.zeros(0, dtype=np.float32)
    for block, is_last in itertools.chain(zip(blocks, itertools.repeat(False)), [(last, True)]):
        resampled = stream.resample_chunk(block, last=is_last)
        if len(resampled):
            yield resampled


def _soxr_stream(name, rate, sampling_rate):
    # transformers refuses a checkpoint whose code imports what is missing, unless it stands in a `try`.
    try:
        import soxr
    except ImportError as error:
        raise ImportError(
            f"{name} has {rate} Hz and is to be heard at {sampling_rate} Hz, for which soxr is missing; run "
            "`pip install soxr`, or pass audio of that rate."
        ) from error
    return soxr.ResampleStream(rate, sampling_rate, 1, dtype="float32", quality="HQ")


@functools.cache
def import_torchaudio():
    """Return torchaudio, or `None` if it is missing or does not match the build of torch."""
    try:
        import torchaudio
    except (ImportError, OSError):
        return None
    return torchaudio


def resample_on_device(
    blocks: Iterator[np.ndarray], sampling_rate: float, new_sampling_rate: float, device: Any
) -> Iterator[np.ndarray] | None:
    """Resample a recording block by block on a device.

    Args:
        blocks: float arrays `(num_samples,)` of one recording, in order.
        sampling_rate, new_sampling_rate: in hertz, of the blocks and the result.

    Returns:
        float32 arrays `(num_samples,)`, in total as many samples as soxr returns; `None` if torchaudio is missing or
        the reduced rates exceed `MAX_REDUCED_RATE`.
    """
    is_whole = float(sampling_rate).is_integer() and float(new_sampling_rate).is_integer()
    if import_torchaudio() is None or not is_whole:
        return None
    rates = int(sampling_rate), int(new_sampling_rate)
    if max(rates) // math.gcd(*rates) > MAX_REDUCED_RATE:
        return None
    return _resample_by_torchaudio(blocks, *rates, device)


def _resample_by_torchaudio(blocks, rate, new_rate, device):
    import torch

    resampler = import_torchaudio().transforms.Resample(rate, new_rate, **FILTER).to(device)
    period, new_period = rate // resampler.gcd, new_rate // resampler.gcd
    # Context on both sides, in whole periods.
    context = math.ceil(resampler.width / period)
    held, num_read, num_yielded = np.zeros(context * period, dtype=np.float32), 0, 0
    for block in itertools.chain(blocks, [None]):
        is_over = block is None
        num_read += 0 if is_over else len(block)
        held = np.concatenate([held, np.zeros((context + 1) * period, dtype=np.float32) if is_over else block])
        num_periods = len(held) // period - 2 * context
        if num_periods <= 0:
            continue
        piece = torch.from_numpy(held[: (num_periods + 2 * context) * period].astype(np.float32)).to(device)
        found = resampler(piece)[context * new_period :][: num_periods * new_period].cpu().numpy()
        held = held[num_periods * period :]
        # soxr rounds the length.
        found = found[: math.floor(num_read * new_rate / rate + 0.5) - num_yielded] if is_over else found
        num_yielded += len(found)
        if len(found):
            yield found


class StreamResampler:
    """Resample a stream of one channel piece by piece, and go on elsewhere from the end of its sound.

    Args:
        rate, sampling_rate: whole samples per second that come in, and that go out; nothing is done where they agree.
        tail: `(num_samples,)` float32, the end of the sound so far, as another resampler has kept it.
        start: position of its first sample in the stream; the two rates meet there.
        position: how many samples went out so far.

    Raises:
        ImportError: soxr is needed and missing.
    """

    # Seconds; far longer than the filter.
    TAIL = 0.25

    def __init__(self, rate: int, sampling_rate: int, tail: np.ndarray, start: int = 0, position: int = 0):
        self.rate, self.tail, self.start = rate, tail, start
        self.period = rate // math.gcd(rate, sampling_rate)
        self._stream = None if rate == sampling_rate else _soxr_stream("stream", rate, sampling_rate)
        self._skipped, self._ready = position - start * sampling_rate // rate, tail[:0]
        if self._stream is not None and len(tail):
            self._ready = self._new(self._stream.resample_chunk(tail))

    def push(self, samples: np.ndarray, is_last: bool = False) -> np.ndarray:
        """Return what the next samples `(num_samples,)` float32 bring; the rest, too, where they are the last."""
        if self._stream is None:
            return samples
        tail = np.concatenate([self.tail, samples])
        kept = int(self.start + len(tail) - self.TAIL * self.rate) // self.period * self.period
        kept = max(0, kept - self.start)
        self.tail, self.start = tail[kept:], self.start + kept
        ready, self._ready = self._ready, self._ready[:0]
        return np.concatenate([ready, self._new(self._stream.resample_chunk(samples, last=is_last))])

    def _new(self, resampled):
        count = min(self._skipped, len(resampled))
        self._skipped -= count
        return resampled[count:]


def mix_channels(
    blocks: Iterator[tuple[float, np.ndarray]], name: str, channel: int | None, notes: list[str]
) -> Iterator[tuple[float, np.ndarray]]:
    """Yield `(rate, float32 samples)` of the mean of the channels of a recording, or of one of them.

    Args:
        blocks: `(rate, floats (num_samples, num_channels))`.
        name: what errors call the recording.
        channel: the one to take; `None` for the mean.
        notes: what a listener should know is added to it at the end: silence, channels that cancel out, a high peak.

    Raises:
        ValueError: samples that are not finite, or on the scale of integers; no such channel; no samples.
    """
    peak, loudest, cancelled, is_empty = 0.0, 0.0, 0.0, True
    for rate, block in blocks:
        num_channels = block.shape[1]
        largest = max(block.max(), -block.min())
        if not np.isfinite(largest):
            wrong = (~np.isfinite(block)).sum(0)
            listed = ", ".join(map(str, np.flatnonzero(wrong)))
            raise ValueError(
                f"{name} holds {wrong.sum()} NaN or infinite samples (channel {listed}); repair or drop it."
            )
        if largest > UNSCALED:
            raise ValueError(
                f"{name} has a peak of {largest:.6g}, where full scale is 1: these are integers as floats. Divide them "
                "by the range of their type, such as 32768, or pass them as integers."
            )
        block = block.astype(np.float32, copy=False)
        if channel is not None and channel >= num_channels:
            raise ValueError(f"channel is {channel}, but {name} has {num_channels}, from 0 on; choose one of them.")
        if channel is not None or num_channels == 1:
            mixed = np.ascontiguousarray(block[:, channel or 0])
        else:
            mixed = block @ np.full(num_channels, 1 / num_channels, dtype=np.float32)
            cancelled += _cancelled_seconds(block, mixed, rate)
        peak, loudest = max(peak, largest), max(loudest, mixed.max(), -mixed.min())
        is_empty = False
        yield rate, mixed
    if is_empty:
        raise ValueError(f"{name} is empty; give at least one sample.")
    if peak > LOUD:
        notes.append(f"has a peak of {peak:.3g}, where full scale is 1 (is it scaled right?)")
    if cancelled:
        notes.append(
            f"has channels that cancel each other out in {cancelled:.2f} s (opposite phase); take one of them: "
            "channel=0 or channel='loudest' (--channel)"
        )
    elif loudest < 2.0**-15:
        notes.append("is silent" if channel is None else f"is silent in channel {channel}")


def _cancelled_seconds(block, mixed, rate) -> float:
    """Return how long channels sound, but hardly their mean, far less than if they had nothing to do with another."""
    # Differences of samples: low noise alone, such as wind, would go up and down against itself by chance.
    block, mixed = np.diff(block, axis=0, prepend=block[:1]), np.diff(mixed, prepend=mixed[:1])
    length = max(1, min(len(block), round(PIECE * rate)))
    count, num_channels = len(block) // length, block.shape[1]
    pieces = block[: count * length].reshape(count, length, num_channels)
    powers = np.einsum("plc,plc->p", pieces, pieces) / (length * num_channels)
    mixed = mixed[: count * length].reshape(count, length)
    kept = np.einsum("pl,pl->p", mixed, mixed) / length
    return float(((powers > SILENCE) & (kept * num_channels < CANCELLED * powers)).sum()) * length / rate


def loudest_channel(blocks: Iterator[tuple[float, np.ndarray]]) -> tuple[int, int]:
    """Return which channel has the most power in blocks `(rate, (num_samples, num_channels))`, and of how many."""
    powers = np.zeros(1)
    for _, block in blocks:
        own = np.square(block, dtype=np.float64).sum(0)
        powers = np.pad(powers, (0, max(0, len(own) - len(powers))))
        powers[: len(own)] += own
    return int(powers.argmax()), len(powers)
