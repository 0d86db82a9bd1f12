"""The clips with the worst answers, and a plot of them: reference above prediction, with a lane per label."""

from collections import Counter
from dataclasses import replace

from recipes.scoring import count_events, f_scores
from space_app.palette import FAINT, INK, LIGHT, ordered_labels, shorten

HATCHES = ("", "////", "....")  # more labels than colours
MAX_LANES, MAX_STYLES = 12, len(LIGHT) * len(HATCHES)
# Inches; the height of panels grows with their lanes, the left margin with the labels.
WIDTH, HEADING, TITLE, LANE, AXIS, LEGEND_ROW = 12.0, 0.5, 0.42, 0.38, 0.3, 0.19


def worst_clips(clips, asked, answers, limit=12) -> list[dict]:
    """Return the clips with the lowest event-based F1, worst first; ties by the number of errors, then by the id.

    A clip is judged by its detection answer; without one, by its captioning answer, where only times count; otherwise
    by all its grounding answers together, with the queries as labels. An unparseable answer finds nothing, as in
    [`~recipes.scoring.event_based_f1`].

    Args:
        clips, asked, answers: see [`~recipes.evaluation.report.make_report`].
        limit: maximum number of clips; clips without answers are excluded.

    Returns:
        Dicts of `id`, `f1`, `num_missed` and `num_false_alarms` (unmatched events), `num_unparseable` answers,
        `duration` in seconds or `None`, and the events `reference` and `prediction`.
    """
    asked_of = {}
    for question in asked:
        if question.key in answers:
            asked_of.setdefault(question.id, {}).setdefault(question.task, []).append(question)
    clips = [_judged(clip, asked_of[clip.id], answers) for clip in clips if clip.id in asked_of]
    counts = count_events([clip["reference"] for clip in clips], [clip["prediction"] for clip in clips])
    for clip, count in zip(clips, counts.totals[:, :3], strict=True):
        num_matches, num_references, num_predictions = count.tolist()
        clip["f1"] = float(f_scores(count)["f1"])
        clip["num_missed"], clip["num_false_alarms"] = num_references - num_matches, num_predictions - num_matches
    return sorted(
        clips, key=lambda clip: (clip["f1"], -clip["num_missed"] - clip["num_false_alarms"], str(clip["id"]))
    )[:limit]


def plot_worst_clips(clips, num_clips, path=None):
    """Draw one panel per clip: in every lane the reference is the upper bar and the prediction the lower one.

    Args:
        clips: from [`worst_clips`], at least one.
        num_clips: total number of clips.
        path: file to save (png, svg or pdf by its suffix); `None` saves nothing.

    Returns:
        The `matplotlib` figure; its axes are labelled with the ids of the clips. A clip with more than 12 labels shows
        the first 12 and the number of the others.

    Raises:
        ValueError: no clips.
    """
    if not clips:
        raise ValueError("clips is empty; give at least one clip.")
    lanes = [ordered_labels(clip["reference"], clip["prediction"])[:MAX_LANES] for clip in clips]
    common = Counter(label for labels in lanes for label in labels)
    # The most common labels get the most distinguishable colours.
    styles = {label: _style(i) for i, label in enumerate(sorted(common, key=lambda label: (-common[label], label)))}
    figure, axes, title_x = _panels(lanes, styles, num_clips)
    for clip, labels, axis in zip(clips, lanes, axes, strict=True):
        _draw_clip(axis, clip, labels, styles, title_x)
    if path is not None:
        figure.savefig(path, dpi=130)
    return figure


def _judged(clip, asked, answers) -> dict:
    task = next(task for task in ("detection", "captioning", "grounding") if task in asked)
    judged = {"id": clip.id, "duration": clip.duration, "num_unparseable": 0, "reference": [], "prediction": []}
    for question in asked[task]:
        prediction = answers[question.key]
        judged["num_unparseable"] += prediction is None
        for side, events in (("reference", question.reference), ("prediction", prediction or ())):
            # One lane for all captions: different words would not match, and each would need its own lane.
            label = question.query if task == "grounding" else "captions" if task == "captioning" else None
            judged[side] += [event if label is None else replace(event, event_label=label) for event in events]
    return judged


def _style(index) -> dict:
    if index >= MAX_STYLES:
        return {"facecolor": FAINT, "hatch": ""}
    return {"facecolor": LIGHT[index % len(LIGHT)], "hatch": HATCHES[index // len(LIGHT)]}


def _panels(lanes, styles, num_clips):
    """Return a figure with heading and legend, empty axes for each list of lanes, and the x position of titles."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    names = [shorten(label) for label in styles]
    num_columns = min(2, len(lanes))
    left = 0.4 + 0.067 * max(map(len, names), default=0)
    width = WIDTH / num_columns - left - 0.25
    rows = [lanes[i : i + num_columns] for i in range(0, len(lanes), num_columns)]
    heights = [LANE * max(max(map(len, row)), 1) for row in rows]
    handles = [
        Patch(facecolor="none", edgecolor=INK, linewidth=1.2, label="upper bar: reference"),
        Patch(facecolor=INK, edgecolor=INK, label="lower bar: prediction"),
        *(Patch(**styles[label], edgecolor="white", label=shorten(label)) for label in list(styles)[:MAX_STYLES]),
    ]
    if len(names) > MAX_STYLES:
        handles.append(Patch(facecolor=FAINT, label=f"{len(names) - MAX_STYLES} more labels"))
    longest = max(len(handle.get_label()) for handle in handles)
    num_legend_columns = int((WIDTH - 0.4) / (0.62 + 0.07 * longest))
    legend = LEGEND_ROW * -(-len(handles) // num_legend_columns) + 0.15
    height = HEADING + legend + sum(heights) + len(rows) * (TITLE + AXIS) + 0.1
    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    FigureCanvasAgg(figure)
    heading = f"The worst {len(lanes)} of {num_clips} clips by event-based F1"
    figure.text(0.25 / WIDTH, 1 - 0.3 / height, heading, fontsize=13, color=INK, va="center", weight="bold")
    entries = figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.17 / WIDTH, 1 - HEADING / height), frameon=False,
        ncols=num_legend_columns, fontsize=9, labelcolor=INK, borderaxespad=0, borderpad=0.2, handlelength=1.8,
    )  # fmt: skip
    for text in entries.get_texts():
        text.set_parse_math(False)
    axes, top = [], height - HEADING - legend
    for row, panel in zip(rows, heights, strict=True):
        for column, labels in enumerate(row):
            mine = LANE * max(len(labels), 1)
            x, y = column * WIDTH / num_columns + left, top - TITLE - mine
            axes.append(figure.add_axes([x / WIDTH, y / height, width / WIDTH, mine / height]))
        top -= TITLE + panel + AXIS
    # Titles begin above the labels, to use the width of the whole cell.
    return figure, axes, (0.25 - left) / width


def _draw_clip(axis, clip, labels, styles, title_x):
    from matplotlib.ticker import MaxNLocator

    events = (*clip["reference"], *clip["prediction"])
    duration = clip["duration"] or max((event.offset for event in events), default=0) or 1.0
    for lane, label in enumerate(labels):
        if lane % 2 == 0:
            axis.axhspan(lane - 0.5, lane + 0.5, color="#F3F3F3", linewidth=0, zorder=0)
        colour = styles[label]["facecolor"]
        for kind, bottom in (("reference", lane - 0.38), ("prediction", lane + 0.04)):
            spans = [(e.onset, e.offset - e.onset) for e in clip[kind] if e.event_label == label]
            is_reference = kind == "reference"
            fill = {"facecolor": _pale(colour)} if is_reference else {**styles[label], "edgecolor": "white"}
            axis.broken_barh(spans, (bottom, 0.34), **fill, linewidth=0, zorder=2, label=kind)
            # The outline also shows events shorter than a pixel.
            edge = {"edgecolor": INK if is_reference else colour, "linewidth": 1.1, "zorder": 3}
            axis.broken_barh(spans, (bottom, 0.34), facecolor="none", **edge, label="outline")
    num_lanes = max(len(labels), 1)
    axis.set(xlim=(0, duration), ylim=(num_lanes - 0.5, -0.5), label=str(clip["id"]))
    axis.set_yticks(range(len(labels)), [shorten(label) for label in labels], parse_math=False)
    axis.tick_params(axis="y", length=0, pad=6, labelsize=9, labelcolor=INK)
    axis.tick_params(axis="x", labelsize=8, labelcolor=INK, color=FAINT, length=3, pad=2)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g} s")
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_color(FAINT)
    title = _title(clip, len(ordered_labels(clip["reference"], clip["prediction"])) - len(labels))
    axis.set_title(title, loc="left", x=title_x, fontsize=9.2, color=INK, parse_math=False, pad=5)
    if not labels:
        axis.text(duration / 2, 0, "no events", ha="center", va="center", color=INK, fontsize=9)


def _title(clip, num_hidden) -> str:
    notes = [
        f"{clip['num_missed']} missed",
        f"{clip['num_false_alarms']} false",
        "unreadable" if clip["num_unparseable"] else "",
        f"+{num_hidden} labels" if num_hidden else "",
    ]
    return f"{shorten(str(clip['id']), 28)}   Eb-F1 {clip['f1']:.2f}   {', '.join(filter(None, notes))}"


def _pale(colour) -> tuple:
    """Return a colour mixed with three parts white."""
    return tuple(1 - (1 - int(colour[i : i + 2], 16) / 255) / 4 for i in (1, 3, 5))
