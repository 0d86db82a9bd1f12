"""`plot_events`: one picture of a recording and its events, waveform above spectrogram above bars, on one time axis."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

# Okabe and Ito 2008, "Color Universal Design", without black, and with the yellow darkened to be read on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#B8A800")
INK, FAINT, WAVE = "#222222", "#8A8A8A", "#5B6770"
WINDOW_SECONDS, HOP_SECONDS, NUM_MELS = 0.032, 0.01, 96
FREQUENCIES = (125, 250, 500, 1000, 2000, 4000, 8000, 16000)
# Inches: lanes and left margin grow with the labels, everything else keeps its size.
WIDTH, MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 9.0, 0.85, 0.25, 0.5, 0.55
WAVE_HEIGHT, MEL_HEIGHT, LANE_HEIGHT, GAP = 0.85, 1.7, 0.42, 0.14


def plot_events(waveform, sampling_rate, events, path=None, title=None, reference=None) -> Figure:
    """Draw the waveform, its log-mel spectrogram and one lane of bars per label.

    Args:
        waveform: samples `(num_samples,)`, mono, in [-1, 1].
        sampling_rate: samples per second.
        events: objects with `onset`, `offset` (seconds) and `event_label`, as `processing.Event`.
        path: where to save the picture (png, svg or pdf by its suffix); `None` saves nothing.
        title: heading.
        reference: true events, outlined around the bars of their label.

    Returns:
        The figure; its axes are named `waveform`, `spectrogram` and `events`.

    Raises:
        ValueError: the waveform is not one-dimensional or is empty, or the sampling rate is not positive.
    """
    waveform = np.asarray(waveform, dtype=np.float32)
    if waveform.ndim != 1 or not len(waveform):
        raise ValueError(f"waveform has shape {waveform.shape}; give (num_samples,) with one sample or more.")
    if not sampling_rate > 0:
        raise ValueError(f"sampling_rate is {sampling_rate}; give samples per second.")
    labels = _labels(events, reference or [])
    figure, (wave, mel, lanes) = _panels([_shorten(label) for label in labels])
    duration = len(waveform) / sampling_rate
    _draw_waveform(wave, waveform, duration)
    _draw_spectrogram(mel, waveform, sampling_rate, duration)
    _draw_lanes(lanes, labels, events, reference, duration)
    left, right = wave.get_position().intervalx
    heading = {"y": 1 - 0.3 / figure.get_figheight(), "va": "center", "parse_math": False}
    if title:
        figure.text(left, s=title, fontsize=11, color=INK, **heading)
    if reference:
        figure.text(right, s="dashed: reference", fontsize=8.5, color=INK, ha="right", **heading)
    if path is not None:
        figure.savefig(path, dpi=160)
    return figure


def log_mel(waveform, sampling_rate) -> tuple[np.ndarray, np.ndarray]:
    """Return a spectrogram for the eye: decibels below its maximum `(NUM_MELS, num_frames)`, and the mels' edges in Hz.

    Hann windows of 32 ms every 10 ms; triangular filters evenly spaced in mel (O'Shaughnessy 1987).
    """
    size, hop = int(WINDOW_SECONDS * sampling_rate), max(1, int(HOP_SECONDS * sampling_rate))
    padded = np.pad(waveform, size // 2 + 1)
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    num_bins = max(size, 2048)  # zero padding, so that every low filter covers some bins
    power = np.abs(np.fft.rfft(frames * np.hanning(size), n=num_bins, axis=1)) ** 2
    top = 2595 * np.log10(1 + sampling_rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(2595 * np.log10(1 + 50 / 700), top, NUM_MELS + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(num_bins, 1 / sampling_rate)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    mel = power @ np.clip(np.minimum(rising, falling), 0, None)
    decibels = 10 * np.log10(mel.T + 1e-10)
    return decibels - decibels.max(), edges


def _labels(*sides) -> list[str]:
    """Return every label once, in order of its first onset."""
    events = sorted((event.onset, event.event_label) for side in sides for event in side)
    return list(dict.fromkeys(label for _, label in events))


def _panels(labels):
    heights = (WAVE_HEIGHT, MEL_HEIGHT, LANE_HEIGHT * max(len(labels), 1) + 0.1)
    left = max(MARGIN_LEFT, 0.3 + 0.078 * max(map(len, labels), default=0))
    height = MARGIN_TOP + sum(heights) + 2 * GAP + MARGIN_BOTTOM
    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    FigureCanvasAgg(figure)
    axes, top = [], height - MARGIN_TOP
    for name, panel in zip(("waveform", "spectrogram", "events"), heights, strict=True):
        top -= panel
        box = [left / WIDTH, top / height, (WIDTH - left - MARGIN_RIGHT) / WIDTH, panel / height]
        axis = figure.add_axes(box, label=name, sharex=axes[0] if axes else None)
        for side in ("top", "right", "left"):
            axis.spines[side].set_visible(False)
        axis.spines["bottom"].set_color(FAINT)
        axis.tick_params(labelsize=8.5, labelcolor=INK, color=FAINT, length=3, labelbottom=False)
        axis.yaxis.set_label_coords(-0.6 / (WIDTH - left - MARGIN_RIGHT), 0.5)
        axes.append(axis)
        top -= GAP
    return figure, axes


def _draw_waveform(axis, waveform, duration):
    """Draw the envelope of many samples as a band, which a line of 160,000 points would only smear."""
    num_columns = min(len(waveform), 1600)
    starts = np.linspace(0, len(waveform), num_columns, endpoint=False).astype(int)
    times = np.linspace(0, duration, num_columns)
    low, high = np.minimum.reduceat(waveform, starts), np.maximum.reduceat(waveform, starts)
    axis.fill_between(times, low, high, color=WAVE, linewidth=0.4, edgecolor=WAVE)
    peak = float(np.abs(waveform).max()) or 1.0
    axis.set(xlim=(0, duration), ylim=(-1.08 * peak, 1.08 * peak), yticks=[-peak, 0, peak])
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}".replace("-", "\u2212")))
    axis.spines["bottom"].set_visible(False)
    axis.tick_params(bottom=False)
    axis.set_ylabel("amplitude", fontsize=8.5, color=INK)


def _draw_spectrogram(axis, waveform, sampling_rate, duration):
    decibels, edges = log_mel(waveform, sampling_rate)
    # The rows are even in mel, so frequencies are marked at the rows that hold them.
    rows = np.interp(FREQUENCIES, edges[1:], [*range(NUM_MELS), NUM_MELS - 0.5], left=np.nan, right=np.nan)
    axis.imshow(
        decibels, origin="lower", aspect="auto", cmap="Greys", vmin=-70, vmax=0, interpolation="bilinear",
        extent=(0, duration, -0.5, NUM_MELS - 0.5),
    )  # fmt: skip
    shown = [(row, hertz) for row, hertz in zip(rows, FREQUENCIES, strict=True) if np.isfinite(row) and hertz >= 250]
    axis.set_yticks([row for row, _ in shown], [f"{hertz / 1000:g}" for _, hertz in shown])
    axis.set_ylabel("frequency (kHz)", fontsize=8.5, color=INK)
    axis.spines["bottom"].set_visible(False)
    axis.tick_params(bottom=False)


def _draw_lanes(axis, labels, events, reference, duration):
    for lane, label in enumerate(labels):
        colour = COLOURS[lane % len(COLOURS)]
        axis.axhline(lane, color="#E4E4E4", linewidth=0.8, zorder=0)
        for event in reference or []:
            if event.event_label == label:
                axis.broken_barh(
                    [(event.onset, event.offset - event.onset)], (lane - 0.4, 0.8), facecolor="none", edgecolor=INK,
                    linewidth=1.0, linestyle=(0, (3, 2)), zorder=3, label="reference",
                )  # fmt: skip
        mine = sorted((event.onset, event.offset) for event in events if event.event_label == label)
        for onset, offset in mine:
            axis.broken_barh(
                [(onset, offset - onset)], (lane - 0.27, 0.54), facecolor=colour, edgecolor="white", linewidth=0.8,
                zorder=2, label="event",
            )  # fmt: skip
        _write_times(axis, lane, mine, colour, duration)
    num_lanes = max(len(labels), 1)
    axis.set(xlim=(0, duration), ylim=(num_lanes - 0.4, -0.6))
    axis.set_yticks(range(len(labels)), [_shorten(label) for label in labels], parse_math=False)
    for text, lane in zip(axis.get_yticklabels(), range(len(labels)), strict=True):
        text.set(color=INK, fontsize=9.5)
        text.set_gid(f"label-{lane}")
    axis.tick_params(axis="y", length=0, pad=6)
    axis.tick_params(axis="x", labelbottom=True)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=10, steps=[1, 2, 5, 10]))
    axis.set_xlabel("time (s)", fontsize=9, color=INK)
    if not labels:
        axis.text(duration / 2, 0, "no events", ha="center", va="center", color=FAINT, fontsize=10)


def _write_times(axis, lane, spans, colour, duration):
    """Write `onset-offset` into each bar if it fits, else beside it, and not at all rather than over another bar."""
    inches = axis.figure.get_figwidth() * axis.get_position().width
    taken = list(spans)
    for span in spans:
        text = f"{span[0]:.2f}\u2013{span[1]:.2f}"
        width, gap = 0.06 * len(text) * duration / inches, 0.05 * duration / inches
        middle = (span[0] + span[1]) / 2
        others = [other for other in taken if other is not span]
        inside = (middle - width / 2 - gap, middle + width / 2 + gap)
        right, left = (span[1], span[1] + width + 2 * gap), (span[0] - width - 2 * gap, span[0])
        style = {"va": "center_baseline", "fontsize": 7.5, "zorder": 4}
        if span[0] <= inside[0] and _is_free(inside, others):
            axis.text(middle, lane, text, ha="center", color=_ink_on(colour), **style)
            continue
        for (start, end), align, x in ((right, "left", span[1] + gap), (left, "right", span[0] - gap)):
            if start >= 0 and end <= duration and _is_free((start, end), others):
                plate = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}  # hides the lane's line
                axis.text(x, lane, text, ha=align, color=INK, bbox=plate, **style)
                taken.append((start, end))
                break


def _is_free(span, others) -> bool:
    return all(span[1] <= onset or offset <= span[0] for onset, offset in others)


def _ink_on(colour) -> str:
    """Return white or dark ink, whichever is read better on a colour (relative luminance of WCAG 2)."""
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return "white" if float(linear @ (0.2126, 0.7152, 0.0722)) < 0.28 else INK


def _shorten(label, limit=24) -> str:
    return label if len(label) <= limit else label[: limit - 1].rstrip() + "\u2026"
