"""Resampling and mel features on the model's device by torchaudio, if it imports; no other module imports it.

torchaudio is an extra for GPU installs. Without it, NumPy and soxr compute everything on the CPU. Mel features agree to
1e-4. The resampling filters of torchaudio and soxr roll off differently just below the Nyquist frequency: up to 0.85 of
it resampled noise agrees to -76 dB, over all frequencies to -31 dB. Events of the examples in space_app are the same,
and their scores agree to 0.01. tests/test_torchaudio_features.py measures this.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
import torch

# torchaudio's best filter: 64 zero crossings, a Kaiser window, and a cut-off near that of soxr's high quality.
FILTER = {"resampling_method": "sinc_interp_kaiser", "lowpass_filter_width": 64, "rolloff": 0.96, "beta": 14.77}
# The size of the filter grows with the reduced rates; 44,100 to 16,000 Hz is 441 to 160.
MAX_REDUCED_RATE = 1000


@cache
def import_torchaudio():
    """Return torchaudio, or `None` if it is missing or does not match the build of torch."""
    try:
        import torchaudio
    except (ImportError, OSError):
        return None
    return torchaudio


def accelerator(device: torch.device) -> torch.device | None:
    """Return a model's device if its audio features should be computed there; `None` for the CPU."""
    return None if device.type == "cpu" else device


def resample_on_device(
    blocks: Iterator[np.ndarray], sampling_rate: float, new_sampling_rate: float, device: str | torch.device
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
    return _resample_blocks(blocks, *rates, torch.device(device))


def _resample_blocks(blocks, rate, new_rate, device):
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
        device: where the features are computed and stay.

    Returns:
        float32 `(batch, num_mel_bins, longest num_samples // hop_length)`; shorter waveforms are padded with silence.
        `None` if torchaudio does not import.
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
