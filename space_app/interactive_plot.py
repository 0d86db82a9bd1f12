"""`interactive_figure`: a recording to look into, waveform above spectrogram above bars, on one time axis.

The same picture as `space_app/plots.py` draws for paper, for a page: zoom with the mouse, point at a bar to read it.
Labels are above their bars, so that nothing needs a legend or a wide margin.
"""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from space_app.palette import ink_on, ordered_labels
from space_app.plot_style import (
    HEADING,
    MARGIN_BOTTOM,
    MARGIN_TOP,
    PAGES,
    as_text,
    fitted,
    heading,
    page_layout,
    panel_axis,
    quiet_key,
    wrapped,
)
from space_app.spectrogram import NUM_MELS, checked_waveform, envelope, log_mel, mel_ticks

# In the head of a Gradio page this makes bars play their spans in its player of recordings; where there are several
# players, give the one that is meant `elem_classes="plays-spans"`.
PLAY_SPAN_JS = (Path(__file__).parent / "play_span.js").read_text(encoding="utf-8")
MAX_COLUMNS = 1000  # of waveform and spectrogram: more than a screen shows, and the same bytes for an hour
LOWEST_DECIBELS = -70
# Pixels: panels keep their height, the picture grows with its lanes.
WAVE_HEIGHT, MEL_HEIGHT, MIN_LANES_HEIGHT = 64, 150, 40
MANY_LANES = 14  # from here on lanes are lower
SHORT = 12  # the longest short event is a twelfth of the recording: on a phone the width of a finger


class Bar(NamedTuple):
    """Hold an event as it is drawn, in seconds. This folder runs without the rest of the package."""

    onset: float
    offset: float
    event_label: str
    score: float | None


def interactive_figure(waveform, sampling_rate, events, reference=None, dark=False, decimals=2) -> go.Figure:
    """Draw a recording, its spectrogram and one lane of bars per label.

    Args:
        waveform: samples `(num_samples,)`, mono, in [-1, 1].
        sampling_rate: samples per second.
        events: objects or dicts with `onset`, `offset` (seconds), `event_label` and, if known, `score`.
        reference: true events, outlined over the bars of their label.
        dark: colours for a dark page.
        decimals: of the times shown, `processor.grid.decimals`.

    Returns:
        The figure. Bars are horizontal, one trace for each label, then one for the reference: `base` holds the onsets,
        `x` the lengths in seconds, `customdata` `[onset, offset]`, `meta` `{"kind": "event", "label"}` or
        `{"kind": "reference", "labels"}`.

    Raises:
        ValueError: the waveform is not one-dimensional, is empty or has samples that are not finite, the sampling rate
            is not positive, or an event has times other than 0 <= onset <= offset.
    """
    waveform = checked_waveform(waveform, sampling_rate)
    events, reference = ([_as_bar(item) for item in side or ()] for side in (events, reference))
    lanes, lanes_height = _place_lanes(events, reference)
    duration = len(waveform) / sampling_rate
    heights = (WAVE_HEIGHT, MEL_HEIGHT, max(lanes_height, MIN_LANES_HEIGHT))
    gap = HEADING if reference else HEADING // 2
    inner = sum(heights) + HEADING + gap
    edges = np.cumsum([0, heights[0], HEADING, heights[1], gap, heights[2]])
    domains = [((inner - edges[i + 1]) / inner, (inner - edges[i]) / inner) for i in (0, 2, 4)]
    layout = page_layout(dark, inner + MARGIN_TOP + MARGIN_BOTTOM, duration)
    layout["xaxis"]["anchor"] = "y3"
    layout["meta"] = {"duration": duration}
    wave, wave_axis = _waveform(waveform, duration, dark)
    mel, mel_axis = _spectrogram(waveform, sampling_rate, duration, dark)
    layout |= {
        "yaxis": panel_axis(dark, *domains[0], **wave_axis),
        "yaxis2": panel_axis(dark, *domains[1], **mel_axis),
        "yaxis3": panel_axis(dark, *domains[2], range=[heights[2], 0], showticklabels=False, ticks=""),
        "barmode": "overlay",
        "annotations": [
            heading("Amplitude", dark, domains[0][1], yshift=2),
            heading("Frequency (kHz)", dark, domains[1][1], yshift=2),
        ],
        "shapes": [],
    }
    bars = []
    for index, lane in enumerate(lanes):
        bars.append(_bars(lane, index, duration, dark, decimals))
        layout["annotations"].append(_label(lane, dark))
        layout["shapes"].append(_track(lane, dark))
    if short := [(lane, index) for lane in lanes for index in _short(lane, duration)]:
        bars.append(_targets(short, bars, lanes))
    if reference:
        bars.append(_outlines(lanes, dark, decimals))
        layout["annotations"].append(quiet_key("filled: answer \u00b7 outlined: reference", dark, domains[2][1]))
    if not lanes:
        layout["annotations"].append(_nothing(duration, heights[2], dark))
    return go.Figure(data=[wave, mel, *bars], layout=layout)


def _as_bar(item) -> Bar:
    values = item if isinstance(item, dict) else {name: getattr(item, name, None) for name in Bar._fields}
    score = values.get("score")
    bar = Bar(*(float(values[name]) for name in ("onset", "offset")), str(values["event_label"]), score)
    if not (0 <= bar.onset <= bar.offset < math.inf):
        raise ValueError(f"event has onset {bar.onset} and offset {bar.offset}; give 0 <= onset <= offset, seconds.")
    return bar._replace(score=float(score) if score is not None and math.isfinite(score) else None)


def _place_lanes(events, reference) -> tuple[list[dict], float]:
    """Return a lane for each label, its bars in as many rows as overlap, and the height of all, pixels."""
    labels = ordered_labels(events, reference)
    strip, bar, gap = (17, 18, 9) if len(labels) < MANY_LANES else (15, 12, 5)
    lanes, top = [], 0
    for label in labels:
        mine = sorted((event for event in events if event.event_label == label), key=lambda event: event.onset)
        rows, ends = [], []
        for event in mine:
            row = next((row for row, end in enumerate(ends) if end <= event.onset), len(ends))
            ends[row : row + 1] = [event.offset]
            rows.append(row)
        height = bar if len(ends) < 2 else max(4, min(bar - 4, 72 // len(ends)))
        lanes.append(
            {
                "label": label, "events": mine, "top": top, "bars_top": top + strip, "bar": height,
                "middles": [top + strip + (row + 0.5) * height + row for row in rows],
                "height": height * max(len(ends), 1) + max(len(ends) - 1, 0),
                "reference": [event for event in reference if event.event_label == label],
            }
        )  # fmt: skip
        top += strip + lanes[-1]["height"] + gap
    return lanes, top


def _waveform(waveform, duration, dark):
    low, high = envelope(waveform, MAX_COLUMNS)
    times = (np.arange(len(low)) + 0.5) * (duration / len(low))
    peak = float(np.abs(waveform).max()) or 1.0
    trace = go.Scatter(
        x=np.concatenate([times, times[::-1]]).round(4),
        y=np.concatenate([high, low[::-1]]).round(4).astype(np.float32),
        mode="lines", fill="toself", fillcolor=PAGES[dark]["wave"], line={"color": PAGES[dark]["wave"], "width": 0.5},
        yaxis="y", hoverinfo="skip", meta={"kind": "waveform"},
    )  # fmt: skip
    ticks = [-peak, 0, peak]
    axis = {
        "range": [-1.05 * peak, 1.05 * peak], "tickvals": ticks,
        "ticktext": [f"{value:.2g}".replace("-", "\u2212") for value in ticks],
    }  # fmt: skip
    return trace, axis


def _spectrogram(waveform, sampling_rate, duration, dark):
    decibels, edges = log_mel(waveform, sampling_rate, MAX_COLUMNS)
    levels = np.clip(decibels.round(), LOWEST_DECIBELS, 0).astype(np.int8)
    trace = go.Heatmap(
        z=levels, x0=0.5 * duration / levels.shape[1], dx=duration / levels.shape[1], zmin=LOWEST_DECIBELS, zmax=0,
        # Rows are named, so that the pointer reads a frequency where the axis counts mels.
        y=[f"{hertz / 1000:.2f} kHz" for hertz in edges[1:-1]],
        colorscale=[list(stop) for stop in PAGES[dark]["levels"]], showscale=False, zsmooth="fast", yaxis="y2",
        hovertemplate="%{x:.2f} s, %{y}, %{z} dB<extra></extra>", meta={"kind": "spectrogram"},
        hoverlabel={"bordercolor": PAGES[dark]["faint"]},
    )  # fmt: skip
    ticks = mel_ticks(edges)
    axis = {
        "type": "category", "range": [-0.5, NUM_MELS - 0.5], "tickvals": [row for row, _ in ticks],
        "ticktext": [f"{hertz / 1000:g}" for _, hertz in ticks],
    }  # fmt: skip
    return trace, axis


def _bars(lane, index, duration, dark, decimals):
    colours = PAGES[dark]["lanes"]
    colour, events = colours[index % len(colours)], lane["events"]
    return go.Bar(
        orientation="h", yaxis="y3", name=as_text(fitted(lane["label"])), width=lane["bar"],
        base=[event.onset for event in events], x=[_length(event) for event in events], y=lane["middles"],
        # The outline alone shows events that are shorter than a pixel.
        marker={"color": colour, "line": {"color": colour, "width": 1}},
        text=["" if event.score is None else f"{event.score:.2f}" for event in events],
        textposition=_score_places(lane, duration), insidetextanchor="middle", textangle=0, constraintext="none",
        textfont={"size": 10}, insidetextfont={"color": ink_on(colour)}, outsidetextfont={"color": PAGES[dark]["ink"]},
        customdata=[[event.onset, event.offset] for event in events],
        hovertext=[_hover(event, decimals) for event in events], hovertemplate="%{hovertext}<extra></extra>",
        hoverlabel={"bordercolor": colour}, meta={"kind": "event", "label": lane["label"]},
    )  # fmt: skip


def _outlines(lanes, dark, decimals):
    pairs = [(lane, event) for lane in lanes for event in lane["reference"]]
    ink = PAGES[dark]["ink"]
    return go.Bar(
        orientation="h", yaxis="y3", name="reference", width=[lane["height"] + 5 for lane, _ in pairs],
        base=[event.onset for _, event in pairs], x=[_length(event) for _, event in pairs],
        y=[lane["bars_top"] + lane["height"] / 2 for lane, _ in pairs],
        marker={"color": "rgba(0,0,0,0)", "line": {"color": ink, "width": 1.25}},
        customdata=[[event.onset, event.offset] for _, event in pairs],
        hovertext=[_hover(event, decimals, "reference") for _, event in pairs],
        hovertemplate="%{hovertext}<extra></extra>", hoverlabel={"bordercolor": ink},
        meta={"kind": "reference", "labels": [event.event_label for _, event in pairs]},
    )  # fmt: skip


def _short(lane, duration) -> list[int]:
    """Return which events of a lane are too short to be hit with a finger."""
    return [i for i, event in enumerate(lane["events"]) if event.offset - event.onset < duration / SHORT]


def _targets(short, bars, lanes):
    """Return unseen marks in the middle of short events, which take what points beside them."""
    pairs = [(bars[lanes.index(lane)], lane["events"][index], lane["middles"][index], index) for lane, index in short]
    return go.Scatter(
        x=[(event.onset + event.offset) / 2 for _, event, _, _ in pairs], y=[middle for *_, middle, _ in pairs],
        yaxis="y3", mode="markers", marker={"size": 4, "opacity": 0}, meta={"kind": "targets"},
        customdata=[[event.onset, event.offset] for _, event, _, _ in pairs],
        hovertext=[bar.hovertext[index] for bar, *_, index in pairs], hovertemplate="%{hovertext}<extra></extra>",
        hoverlabel={"bordercolor": [bar.marker.color for bar, *_ in pairs]},
    )  # fmt: skip


def _length(event) -> float:
    """Return the length of a bar; a bar of no length would not be drawn."""
    return max(event.offset - event.onset, 1e-6)


def _score_places(lane, duration) -> list[str]:
    """Write a score into its bar or, where that is too short and nothing follows soon, behind it.

    A tenth of the time axis holds four digits on a phone.
    """
    room, positions = duration / 10, []
    for event, middle in zip(lane["events"], lane["middles"], strict=True):
        later = [
            other.onset
            for other, row in zip(lane["events"], lane["middles"], strict=True)
            if row == middle and other.onset >= event.offset and other is not event
        ]
        is_free = min([*later, duration]) - event.offset >= room
        is_short = event.offset - event.onset < room
        positions.append(("outside" if is_free else "none") if is_short else "inside")
    return positions


def _hover(event, decimals, kind=None) -> str:
    times = f"{event.onset:.{decimals}f}\u2013{event.offset:.{decimals}f} s"
    notes = [kind, times, None if event.score is None else f"score {event.score:.2f}"]
    return f"<b>{wrapped(event.event_label)}</b><br>" + " \u00b7 ".join(filter(None, notes))


def _label(lane, dark) -> dict:
    short = fitted(lane["label"])
    is_whole = short == " ".join(lane["label"].split())
    return heading(
        as_text(short), dark, lane["bars_top"], "y3", yshift=1, name="label",
        hovertext=None if is_whole else wrapped(lane["label"]), captureevents=not is_whole,
    )  # fmt: skip


def _track(lane, dark) -> dict:
    return {
        "type": "rect", "xref": "paper", "x0": 0, "x1": 1, "yref": "y3", "y0": lane["bars_top"],
        "y1": lane["bars_top"] + lane["height"], "layer": "below", "line": {"width": 0},
        "fillcolor": PAGES[dark]["track"],
    }  # fmt: skip


def _nothing(duration, height, dark) -> dict:
    return {
        "text": "no events", "x": 0.5, "xref": "paper", "y": height / 2, "yref": "y3", "showarrow": False,
        "font": {"size": 13, "color": PAGES[dark]["faint"]},
    }  # fmt: skip
