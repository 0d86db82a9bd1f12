"""`plot_events`: one picture of a recording and its events, waveform above spectrogram above bars, on one time axis."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from space_app.palette import FAINT, INK, LIGHT, WAVE, ink_on, ordered_labels, shorten
from space_app.spectrogram import NUM_MELS, checked_waveform, envelope, log_mel, mel_ticks

# Inches: lanes and left margin grow with the labels, everything else keeps its size.
WIDTH, _MARGIN_LEFT, _MARGIN_RIGHT, _MARGIN_TOP, _MARGIN_BOTTOM = 9.0, 0.85, 0.25, 0.5, 0.55
_WAVE_HEIGHT, _MEL_HEIGHT, _LANE_HEIGHT, GAP = 0.85, 1.7, 0.42, 0.14


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
        ValueError: the waveform is not one-dimensional, is empty or has samples that are not finite, or the sampling
            rate is not positive.
    """
    waveform = checked_waveform(waveform, sampling_rate)
    labels = ordered_labels(events, reference or [])
    figure, (wave, mel, lanes) = _panels([shorten(label) for label in labels])
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


def _panels(labels):
    heights = (_WAVE_HEIGHT, _MEL_HEIGHT, _LANE_HEIGHT * max(len(labels), 1) + 0.1)
    left = max(_MARGIN_LEFT, 0.3 + 0.078 * max(map(len, labels), default=0))
    height = _MARGIN_TOP + sum(heights) + 2 * GAP + _MARGIN_BOTTOM
    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    FigureCanvasAgg(figure)
    axes, top = [], height - _MARGIN_TOP
    for name, panel in zip(("waveform", "spectrogram", "events"), heights, strict=True):
        top -= panel
        box = [left / WIDTH, top / height, (WIDTH - left - _MARGIN_RIGHT) / WIDTH, panel / height]
        axis = figure.add_axes(box, label=name, sharex=axes[0] if axes else None)
        for side in ("top", "right", "left"):
            axis.spines[side].set_visible(False)
        axis.spines["bottom"].set_color(FAINT)
        axis.tick_params(labelsize=8.5, labelcolor=INK, color=FAINT, length=3, labelbottom=False)
        axis.yaxis.set_label_coords(-0.6 / (WIDTH - left - _MARGIN_RIGHT), 0.5)
        axes.append(axis)
        top -= GAP
    return figure, axes


def _draw_waveform(axis, waveform, duration):
    """Draw the envelope of many samples as a band, which a line of 160,000 points would only smear."""
    low, high = envelope(waveform, 1600)
    times = np.linspace(0, duration, len(low))
    axis.fill_between(times, low, high, color=WAVE, linewidth=0.4, edgecolor=WAVE)
    peak = float(np.abs(waveform).max()) or 1.0
    axis.set(xlim=(0, duration), ylim=(-1.08 * peak, 1.08 * peak), yticks=[-peak, 0, peak])
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}".replace("-", "\u2212")))
    axis.spines["bottom"].set_visible(False)
    axis.tick_params(bottom=False)
    axis.set_ylabel("amplitude", fontsize=8.5, color=INK)


def _draw_spectrogram(axis, waveform, sampling_rate, duration):
    decibels, edges = log_mel(waveform, sampling_rate, 3200)
    axis.imshow(
        decibels, origin="lower", aspect="auto", cmap="Greys", vmin=-70, vmax=0, interpolation="bilinear",
        extent=(0, duration, -0.5, NUM_MELS - 0.5),
    )  # fmt: skip
    shown = mel_ticks(edges)
    axis.set_yticks([row for row, _ in shown], [f"{hertz / 1000:g}" for _, hertz in shown])
    axis.set_ylabel("frequency (kHz)", fontsize=8.5, color=INK)
    axis.spines["bottom"].set_visible(False)
    axis.tick_params(bottom=False)


def _draw_lanes(axis, labels, events, reference, duration):
    for lane, label in enumerate(labels):
        colour = LIGHT[lane % len(LIGHT)]
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
    axis.set_yticks(range(len(labels)), [shorten(label) for label in labels], parse_math=False)
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
            axis.text(middle, lane, text, ha="center", color=ink_on(colour), **style)
            continue
        for (start, end), align, x in ((right, "left", span[1] + gap), (left, "right", span[0] - gap)):
            if start >= 0 and end <= duration and _is_free((start, end), others):
                plate = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}  # hides the lane's line
                axis.text(x, lane, text, ha=align, color=INK, bbox=plate, **style)
                taken.append((start, end))
                break


def _is_free(span, others) -> bool:
    return all(span[1] <= onset or offset <= span[0] for onset, offset in others)
