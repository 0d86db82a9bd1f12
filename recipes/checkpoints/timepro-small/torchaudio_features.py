"""Resampling and magnitudes on the model's device, through torchaudio where it imports; nothing else imports it.

torchaudio is an extra of GPU installs. Without it everything runs through NumPy and soxr on the CPU, with the same
results.
"""

from collections.abc import Sequence

import numpy as np
import torch

# Flat up to 90% of the lower Nyquist frequency, as soxr at high quality is; torchaudio's own "kaiser_best" of half the
# width is 0.02% off there.
LOWPASS = {"lowpass_filter_width": 128, "rolloff": 0.96, "resampling_method": "sinc_interp_kaiser", "beta": 14.77}


def import_torchaudio():
    """Return torchaudio, or `None` where it is missing or does not fit the build of torch."""
    try:
        import torchaudio
    except (ImportError, OSError):
        return None
    return torchaudio


def resample_batch(waveforms: torch.Tensor, sampling_rate: int, new_sampling_rate: int) -> torch.Tensor:
    """Resample waveforms on their device.

    Args:
        waveforms: float tensor `(..., num_samples)` at `sampling_rate` samples per second.
        new_sampling_rate: samples per second of the result.

    Returns:
        `(..., ceil(num_samples * new_sampling_rate / sampling_rate))`. Tones up to 90% of the lower Nyquist
        frequency are exact to -90 dB. soxr at high quality is within -80 dB of that between rates of small ratios, and
        within -70 dB from 11,025, 22,050 and 44,100 Hz, where soxr itself is that far from the tone.

    Raises:
        ImportError: torchaudio does not import.
    """
    torchaudio = import_torchaudio()
    if torchaudio is None:
        raise ImportError("torchaudio does not import beside this torch; use load_audio, which resamples by soxr.")
    return torchaudio.functional.resample(waveforms, sampling_rate, new_sampling_rate, **LOWPASS)


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
