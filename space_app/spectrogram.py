"""What the eye needs of a recording, however long: the envelope of its samples and its log-mel spectrogram."""

import numpy as np

WINDOW_SECONDS, HOP_SECONDS, NUM_MELS = 0.032, 0.01, 96
# Of a long recording many frames share a column; then they may overlap less: a click between two frames loses 10 dB.
LONG_HOP_SECONDS, FRAMES_PER_COLUMN = 0.02, 16
LOWEST_HERTZ, FLOOR = 50, 1e-10
FREQUENCIES = (125, 250, 500, 1000, 2000, 4000, 8000, 16000)
CHUNK = 2048  # frames at once, so that memory does not grow with the recording


def checked_waveform(waveform, sampling_rate) -> np.ndarray:
    """Return samples as float32.

    Raises:
        ValueError: the waveform is not one-dimensional, is empty or has samples that are not finite, or the sampling
            rate is not positive.
    """
    waveform = np.asarray(waveform, dtype=np.float32)
    if waveform.ndim != 1 or not len(waveform):
        raise ValueError(f"waveform has shape {waveform.shape}; give (num_samples,) with one sample or more.")
    if not sampling_rate > 0:
        raise ValueError(f"sampling_rate is {sampling_rate}; give samples per second.")
    if not np.isfinite(waveform.min() + waveform.max()):
        raise ValueError("waveform has samples that are not finite; replace them first.")
    return waveform


def envelope(waveform, max_columns) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and the highest sample of each column `(num_columns,)`; a line of every sample would smear."""
    starts = np.linspace(0, len(waveform), min(len(waveform), max_columns), endpoint=False).astype(int)
    return np.minimum.reduceat(waveform, starts), np.maximum.reduceat(waveform, starts)


def log_mel(waveform, sampling_rate, max_columns=None) -> tuple[np.ndarray, np.ndarray]:
    """Return a spectrogram for the eye: decibels below its maximum `(NUM_MELS, num_columns)`, and the edges in Hz.

    Hann windows of 32 ms every 10 ms; triangular filters evenly spaced in mel (O'Shaughnessy 1987). With `max_columns`
    a column holds the loudest of its frames, which keeps short sounds in sight; frames of long recordings are up to
    20 ms apart. Digital silence is at -100 dB.
    """
    size, hop = int(WINDOW_SECONDS * sampling_rate), max(1, int(HOP_SECONDS * sampling_rate))
    if max_columns and len(waveform) > FRAMES_PER_COLUMN * max_columns * hop:
        hop = int(LONG_HOP_SECONDS * sampling_rate)
    size = max(size, 1)
    padded = np.pad(np.asarray(waveform, dtype=np.float32), size // 2 + 1)
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    # Zero padding, so that every low filter covers some bins.
    num_points = max(2 ** int(np.ceil(np.log2(sampling_rate / 25))), size)
    filters, edges = _mel_filters(sampling_rate, num_points)
    window = np.hanning(size).astype(np.float32)
    power = np.empty((len(frames), NUM_MELS), dtype=np.float32)
    for start in range(0, len(frames), CHUNK):
        spectrum = np.fft.rfft(frames[start : start + CHUNK] * window, n=num_points, axis=1)
        power[start : start + CHUNK] = (spectrum.real**2 + spectrum.imag**2) @ filters
    if max_columns and len(power) > max_columns:
        power = np.maximum.reduceat(power, np.linspace(0, len(power), max_columns, endpoint=False).astype(int))
    decibels = 10 * np.log10(power.T + FLOOR)
    peak = decibels.max()
    if not power.any():
        peak += 100
    return decibels - peak, edges


def mel_ticks(edges) -> list[tuple[float, int]]:
    """Return the rows of a spectrogram that hold round frequencies from 250 Hz on, and those frequencies in Hz."""
    # The rows are even in mel, so frequencies are marked at the rows that hold them.
    rows = np.interp(FREQUENCIES, edges[1:], [*range(NUM_MELS), NUM_MELS - 0.5], left=np.nan, right=np.nan)
    pairs = zip(rows.tolist(), FREQUENCIES, strict=True)
    return [(row, hertz) for row, hertz in pairs if np.isfinite(row) and hertz >= 250]


def _mel_filters(sampling_rate, num_points):
    lowest, top = (2595 * np.log10(1 + hertz / 700) for hertz in (LOWEST_HERTZ, sampling_rate / 2))
    edges = 700 * (10 ** (np.linspace(lowest, top, NUM_MELS + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(num_points, 1 / sampling_rate)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.clip(np.minimum(rising, falling), 0, None).astype(np.float32), edges
