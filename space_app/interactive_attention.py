"""`attention_figure`: what an answer attends to, a row for each time in it, on the time axis of the recording."""

import numpy as np
import plotly.graph_objects as go

from space_app.plot_style import HEADING, MARGIN_BOTTOM, MARGIN_TOP, PAGES, heading, page_layout, panel_axis, quiet_key

ROW_HEIGHT, MIN_HEIGHT = 26, 52  # pixels
# From the page to the ink, through the blue of the lanes.
SCALES = {
    False: ((0, "#F4F5F7"), (0.5, "#6FA6CC"), (1, "#0F3F63")),
    True: ((0, "#2F3137"), (0.5, "#3F7DBD"), (1, "#D5E8FF")),
}


def attention_figure(times, attention, said, dark=False, decimals=2) -> go.Figure:
    """Draw attention over the ticks of a prompt, one row of cells for each time said.

    Args:
        times: seconds of the ticks `(num_ticks,)`, evenly spaced; at least one.
        attention: weights `(num_said, num_ticks)`, zero or more, or a dict of such by what they are paid to, as
            `{"ticks": ..., "frames": ...}`; each gets a panel, all one scale of colours.
        said: the times said `(num_said,)`, seconds.
        dark: colours for a dark page.
        decimals: of the times shown.

    Returns:
        The figure; its heatmaps have `meta` `{"kind": "attention", "to"}` and a row for each time, the first on top.

    Raises:
        ValueError: the shapes do not fit each other, or a weight is not finite.
    """
    times = np.asarray(times, dtype=float)
    panels = {"ticks": attention} if not isinstance(attention, dict) else attention
    panels = {name: np.asarray(weights, dtype=float) for name, weights in panels.items()}
    said = [float(seconds) for seconds in said]
    for name, weights in panels.items():
        if weights.shape != (len(said), len(times)) or not weights.size:
            raise ValueError(
                f"attention to {name} has shape {weights.shape}; give ({len(said)}, {len(times)}), a row for each time "
                "said and a column for each tick, at least one each."
            )
        if not np.isfinite(weights).all():
            raise ValueError(f"attention to {name} has weights that are not finite.")
    step = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 1.0
    start, end = times[0], times[-1] + step
    height = max(MIN_HEIGHT, ROW_HEIGHT * len(said))
    inner = len(panels) * (height + HEADING) - HEADING
    layout = page_layout(dark, inner + MARGIN_TOP + MARGIN_BOTTOM, end)
    axis = layout["xaxis"]
    axis |= {"range": [start, end], "minallowed": start, "maxallowed": end, "showgrid": False}
    axis["anchor"] = "y" if len(panels) == 1 else f"y{len(panels)}"
    layout |= {"meta": {"duration": end}, "annotations": [], "shapes": []}
    highest = max(float(weights.max()) for weights in panels.values()) or 1.0
    traces = []
    for index, (name, weights) in enumerate(panels.items()):
        top = 1 - index * (height + HEADING) / inner
        suffix = "" if index == 0 else str(index + 1)
        layout[f"yaxis{suffix}"] = panel_axis(
            dark, top - height / inner, top, range=[len(said) - 0.5, -0.5], ticks="",
            tickvals=list(range(len(said))), ticktext=[f"{seconds:.{decimals}f} s" for seconds in said],
        )  # fmt: skip
        layout["annotations"].append(heading(f"Attention to {name}", dark, top, yshift=2))
        traces.append(_cells(times + step / 2, said, name, weights, highest, f"y{suffix}", dark, decimals))
        layout["shapes"] += [_mark(seconds, row, f"y{suffix}", dark) for row, seconds in enumerate(said)]
        layout["shapes"] += [_edge(row, f"y{suffix}", dark) for row in range(1, len(said))]
    # The keys are at the right of the first and of the last panel.
    keys = (("line: time said", 1), (f"full colour: {highest:.2g}", 1 - (inner - height) / inner))
    if len(panels) == 1:
        keys = ((" \u00b7 ".join(text for text, _ in keys), 1),)
    layout["annotations"] += [quiet_key(text, dark, top) for text, top in keys]
    return go.Figure(data=traces, layout=layout)


def _cells(middles, said, name, weights, highest, axis, dark, decimals):
    return go.Heatmap(
        x=middles, y=list(range(len(said))), z=weights.round(5).astype(np.float32), zmin=0, zmax=highest,
        colorscale=[list(stop) for stop in SCALES[dark]], showscale=False, yaxis=axis,
        customdata=[[seconds] * len(middles) for seconds in said], meta={"kind": "attention", "to": name},
        hovertemplate=f"said %{{customdata:.{decimals}f}} s<br>looks at %{{x:.{decimals}f}} s<br>attention %{{z:.3f}}"
        "<extra></extra>",
        hoverlabel={"bordercolor": PAGES[dark]["faint"]},
    )  # fmt: skip


def _mark(seconds, row, axis, dark) -> dict:
    """Return a line at the time that a row says."""
    return {
        "type": "line", "x0": seconds, "x1": seconds, "yref": axis, "y0": row - 0.5, "y1": row + 0.5,
        "line": {"color": PAGES[dark]["lanes"][1], "width": 2}, "name": "said",
    }  # fmt: skip


def _edge(row, axis, dark) -> dict:
    return {
        "type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": axis, "y0": row - 0.5, "y1": row - 0.5,
        "line": {"color": PAGES[dark]["page"], "width": 1},
    }  # fmt: skip
