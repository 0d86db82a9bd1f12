"""Resampling and magnitudes on the model's device, through torchaudio where it imports; nothing else imports it.

torchaudio is an extra of GPU installs. Without it everything runs through NumPy and soxr on the CPU, with the same
results.
"""

import math
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache

import numpy as np
import torch

# transformers refuses a checkpoint whose code imports what is missing, unless it stands in a `try`.
try:
    import soxr
except ImportError:
    soxr = None

# Of soxr's filter at high quality nothing is left beyond so many samples of the lower rate.
FILTER_REACH = 200
# soxr leaves out what one of its stages tells the next about the time before a recording: 50 samples are another.
NUM_FIRST = 100
# A filter is as large as the reduced rates; 44,100 and 16,000 Hz are 441 to 160.
MAX_REDUCED_RATE = 1000


@cache
def import_torchaudio():
    """Return torchaudio, or `None` where it is missing or does not fit the build of torch."""
    try:
        import torchaudio
    except (ImportError, OSError):
        return None
    return torchaudio


def accelerator(device: torch.device) -> torch.device | None:
    """Return the device of a model if audio for it should be computed there; `None` for the CPU."""
    return None if device.type == "cpu" else device


def resample_on_device(
    blocks: Iterator[np.ndarray], sampling_rate: float, new_sampling_rate: float, device: str | torch.device
) -> Iterator[np.ndarray] | None:
    """Resample a recording block by block on a device.

    torchaudio is given the filter that soxr has at high quality, not its own: theirs differ by 0.1 % and more at high
    frequencies. So the result is that of soxr to -110 dB. The first samples are from soxr itself.

    Args:
        blocks: float arrays `(num_samples,)` of one recording, in order.
        sampling_rate, new_sampling_rate: samples per second of blocks and result.

    Returns:
        float32 arrays `(num_samples,)`, together as many samples as soxr gives; `None` where torchaudio or soxr
        is missing, or the rates are in no ratio of numbers up to `MAX_REDUCED_RATE`.
    """
    is_whole = float(sampling_rate).is_integer() and float(new_sampling_rate).is_integer()
    if import_torchaudio() is None or soxr is None or not is_whole:
        return None
    rates = int(sampling_rate), int(new_sampling_rate)
    if max(rates) // math.gcd(*rates) > MAX_REDUCED_RATE:
        return None
    return _resample_blocks(blocks, *rates, _resampler(*rates, torch.device(device)), device)


def _resample_blocks(blocks, rate, new_rate, resampler, device):
    period, new_period = rate // resampler.gcd, new_rate // resampler.gcd
    # Before and behind what is kept, in whole periods.
    context = math.ceil(resampler.width / period)
    num_needed = math.ceil((NUM_FIRST + FILTER_REACH) * max(1.0, rate / new_rate))
    held, num_read, num_yielded, is_over = np.zeros(context * period, dtype=np.float32), 0, 0, False
    while not is_over:
        block = next(blocks, None)
        is_over = block is None
        if is_over:
            block = np.zeros((context + 1) * period, dtype=np.float32)
        else:
            num_read += len(block)
        held = np.concatenate([held, block])
        num_periods = len(held) // period - 2 * context
        is_first, samples = not num_yielded, held[context * period :]
        if num_periods > 0 and (is_over or not is_first or len(samples) >= num_needed):
            piece = torch.from_numpy(held[: (num_periods + 2 * context) * period].astype(np.float32)).to(device)
            found = resampler(piece)[context * new_period :][: num_periods * new_period].cpu().numpy()
            if is_first:
                first = soxr.resample(samples[:num_needed].astype(np.float32), rate, new_rate, quality="HQ")
                found[:NUM_FIRST] = first[: len(found[:NUM_FIRST])]
            held = held[num_periods * period :]
            # soxr rounds the length.
            found = found[: math.floor(num_read * new_rate / rate + 0.5) - num_yielded] if is_over else found
            num_yielded += len(found)
            if len(found):
                yield found


@lru_cache(maxsize=16)
def _resampler(rate: int, new_rate: int, device: torch.device):
    """Return torchaudio's resampler with soxr's filter: what soxr makes of one impulse at each place of a period."""
    resampler = import_torchaudio().transforms.Resample(rate, new_rate, lowpass_filter_width=1)
    period, new_period = rate // resampler.gcd, new_rate // resampler.gcd
    width = math.ceil(FILTER_REACH * max(1.0, rate / new_rate))
    reach = math.ceil(width / period) + 1
    impulses = np.zeros(((2 * reach + 1) * period, period))
    impulses[reach * period :][:period] = np.eye(period)
    responses = soxr.resample(impulses, rate, new_rate, quality="HQ")[: (2 * reach + 1) * new_period]
    # From (later periods, place in the new period, place in the period) to the samples that a new sample is made of.
    kernel = responses.reshape(2 * reach + 1, new_period, period)[::-1].transpose(1, 0, 2).reshape(new_period, -1)
    spare = reach * period - width
    resampler.width = width
    resampler.kernel = torch.tensor(kernel[:, None, spare : kernel.shape[1] - spare].copy(), dtype=torch.float32)
    return resampler.to(device)


def log_mel_batch(
    waveforms: Sequence[np.ndarray],
    window: np.ndarray,
    mel_filters: np.ndarray,
    hop_length: int,
    log_offset: float,
    device: str | torch.device,
) -> torch.Tensor | None:
    """Compute log-mel features of several waveforms at once.

    Args:
        waveforms: float arrays `(num_samples,)`.
        window: `(window_length,)`, centred at multiples of `hop_length`.
        mel_filters: `(num_frequencies, num_mel_bins)`, multiplied onto magnitudes.
        log_offset: added before the logarithm.
        device: where it is computed and stays.

    Returns:
        float32 `(batch, num_mel_bins, longest num_samples // hop_length)`, what lies behind shorter waveforms being
        that of silence; `None` where torchaudio does not import.
    """
    torchaudio = import_torchaudio()
    if torchaudio is None:
        return None
    longest = max(len(waveform) for waveform in waveforms)
    batch = np.zeros((len(waveforms), longest), dtype=np.float32)
    for row, waveform in enumerate(waveforms):
        batch[row, : len(waveform)] = waveform
    magnitudes = torchaudio.functional.spectrogram(
        torch.from_numpy(batch).to(device),
        pad=0,
        window=torch.from_numpy(window).to(device),
        n_fft=2 * (len(mel_filters) - 1),
        hop_length=hop_length,
        win_length=len(window),
        power=1.0,
        normalized=False,
        center=True,
        pad_mode="constant",
    )[..., : longest // hop_length]
    filters = torch.from_numpy(mel_filters).to(device)
    return torch.log(filters.T @ magnitudes + log_offset)
