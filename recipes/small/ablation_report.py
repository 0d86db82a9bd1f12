"""The tables and the picture of an ablation, written into a page whose other text stays."""

import json
import re
from pathlib import Path
from statistics import mean

from recipes.evaluation.report_tables import markdown_table
from space_app.palette import FAINT, INK, LIGHT

# Columns: heading, and where a report has the value and its interval.
FIGURES = {
    "R@.5": (("grounding", "R@0.5"), "R@0.5"),
    "R@.7": (("grounding", "R@0.7"), "R@0.7"),
    "R@.9": (("grounding", "R@0.9"), "R@0.9"),
    "mIoU": (("grounding", "miou_union"), "miou_union"),
    "right count": (("grounding", "count_accuracy"), "count_accuracy"),
    "absent rejected": (("rejection", "true_rejection_rate"), "true_rejection_rate"),
    "Eb-F1": (("detection", "micro", "f1"), "micro_f1"),
    "precision": (("detection", "micro", "precision"), "micro_precision"),
    "recall": (("detection", "micro", "recall"), "micro_recall"),
    "METEOR": (("captioning", "meteor_text"), "meteor_text"),
    "captions' Eb-F1": (("captioning", "time_only", "micro", "f1"), "time_only_micro_f1"),
}
BLUE, ORANGE = LIGHT[:2]


def read_results(out, published=None) -> list[dict]:
    """Return the results of all arms that have been scored, in no order that means anything.

    Args:
        out: folder of the results.
        published: an `ablation.json` from earlier; what it has and `out` lacks comes along, so that seeds may be added
            where the earlier ones no longer are.
    """
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(Path(out).glob("*/result.json"))]
    found = {(result["arm"], result["seed"]) for result in results}
    kept = _published(published).get("results", [])
    return results + [result for result in kept if (result["arm"], result["seed"]) not in found]


def _published(path) -> dict:
    return json.loads(Path(path).read_text(encoding="utf-8")) if path and Path(path).is_file() else {}


def value_of(report, column):
    """Return `(value, interval)` of a column, each `None` where the report lacks it.

    Args:
        report: of `make_report`, or the figures of one as `ablation.json` has them.
        column: of `FIGURES`.
    """
    if column in report:
        value, interval = report[column]["value"], report[column]["interval"]
        return value, None if interval is None else tuple(interval)
    path, name = FIGURES[column]
    value = report
    for key in path:
        value = (value or {}).get(key)
    interval = report.get(path[0], {}).get("intervals", {}).get(name)
    return value, None if interval is None else tuple(interval)


def difference_of(report, column) -> dict | None:
    """Return the paired `difference` of a column to the first arm, its `interval` and `p`; `None` if there is none."""
    if column in report:
        return report[column].get("paired")
    path, name = FIGURES[column]
    found = report.get("against", {}).get(path[0], {}).get(name)
    return found and {key: found[key] for key in ("difference", "interval", "p")}


def arm_table(results, arms, split) -> str:
    """Return the Markdown table of some arms on one test: means over seeds, and below them of the intervals' ends.

    Arms of several seeds say how many, and have below that the least and the greatest value over them.
    """
    shown = [column for column in FIGURES if any(value_of(r["scores"][split], column)[0] is not None for r in results)]
    rows = []
    for arm in arms:
        mine = [result["scores"][split] for result in results if result["arm"] == arm]
        if mine:
            name = arm if len(mine) == 1 else f"{arm}<br><sub>{len(mine)} seeds</sub>"
            rows.append([name, *(_cell(mine, column) for column in shown)])
    return markdown_table(["", *shown], rows)


def shared_seeds(results, arms) -> list[dict]:
    """Return the results of some arms with the seeds that all those have which have any."""
    seeds = {arm: {result["seed"] for result in results if result["arm"] == arm} for arm in arms}
    shared = set.intersection(*(found for found in seeds.values() if found)) if any(seeds.values()) else set()
    return [result for result in results if result["arm"] in seeds and result["seed"] in shared]


def _cell(reports, column) -> str:
    values, intervals = zip(*(value_of(report, column) for report in reports), strict=True)
    if None in values:
        return ""
    text = f"{mean(values):.3f}"
    if None not in intervals:
        low, high = (mean(ends) for ends in zip(*intervals, strict=True))
        text += f"<br><sub>{low:.3f} to {high:.3f}</sub>"
    if len(values) > 1:
        text += f"<br><sub>seeds {min(values):.3f} to {max(values):.3f}</sub>"
    pairs = [difference_of(report, column) for report in reports]
    if None not in pairs:
        sure = sum(pair["p"] < 0.05 for pair in pairs)
        text += f"<br><sub>{mean(pair['difference'] for pair in pairs):+.3f} to the first arm, "
        text += f"p {pairs[0]['p']:.3f}</sub>" if len(pairs) == 1 else f"p < 0.05 in {sure} of {len(pairs)} seeds</sub>"
    return text


def stride_table(results, strides, costs) -> str:
    """Return the Markdown table of the stride sweep.

    Args:
        results: of [`read_results`].
        strides: arm by what is written for its stride.
        costs: by arm `{"tokens_10s", "tokens_30s", "prefill_seconds_10s", "prefill_seconds_30s"}`, or `{}`.
    """
    shown = ("Eb-F1", "R@.5", "mIoU")
    heads = [f"{column}, {split}" for split in ("unseen", "seen") for column in shown]
    rows = []
    dense = costs.get(strides.get("none"), {})
    for name, arm in strides.items():
        mine = [result["scores"] for result in results if result["arm"] == arm]
        if not mine:
            continue
        cells = [_cell([s[f"test_{split}"] for s in mine], c) for split in ("unseen", "seen") for c in shown]
        cost = costs.get(arm)
        cells += [str(cost[f"tokens_{length}"]) if cost else "" for length in ("10s", "30s")]
        keys = ("prefill_seconds_10s", "prefill_seconds_30s")
        cells += [f"{cost[key] / dense[key]:.2f} x" if cost and dense else "" for key in keys]
        rows.append([name, *cells])
    header = ["a tick every", *heads, "tokens, 10 s", "tokens, 30 s", "prefill, 10 s", "prefill, 30 s"]
    return markdown_table(header, rows)


def plot_strides(results, strides, costs, path):
    """Draw quality and cost of a prompt against how densely ticks stand in it; return the figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.6), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    known = {name: arm for name, arm in strides.items() if any(result["arm"] == arm for result in results)}
    for split, colour, shift in (("test_seen", ORANGE, 0.06), ("test_unseen", BLUE, -0.06)):
        places, values, lows, highs = [], [], [], []
        for place, arm in enumerate(known.values()):
            pairs = [value_of(r["scores"][split], "Eb-F1") for r in results if r["arm"] == arm]
            value = mean(value for value, _ in pairs)
            places.append(place + shift)
            values.append(value)
            lows.append(value - mean(interval[0] for _, interval in pairs))
            highs.append(mean(interval[1] for _, interval in pairs) - value)
        name = {"test_seen": "recordings seen in training", "test_unseen": "recordings never seen"}[split]
        left.errorbar(places, values, (lows, highs), color=colour, marker="o", ms=5, lw=1.5, capsize=3, label=name)
    left.set_xticks(range(len(known)), known)
    left.set(xlabel="frames (0.08 s) from tick to tick", ylabel="event-based F1", ylim=(0, None))
    left.legend(frameon=False, fontsize=9)
    # Costs are measured last.
    if all(arm in costs for arm in known.values()):
        dense = costs[known["none"]]
        for key, colour, marker, name in (
            ("tokens_30s", INK, "s", "tokens"),
            ("prefill_seconds_30s", FAINT, "o", "time to read it"),
        ):
            ratios = [costs[arm][key] / dense[key] for arm in known.values()]
            right.plot(range(len(known)), ratios, color=colour, marker=marker, ms=5, lw=1.5, label=name)
        right.set_xticks(range(len(known)), known)
        right.set(xlabel="frames (0.08 s) from tick to tick", ylabel="prompt of 30 s, times that without ticks")
        right.set_ylim(0, None)
        right.legend(frameon=False, fontsize=9)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#E6E6E6", lw=0.8)
        axes.set_axisbelow(True)
    figure.savefig(path)
    return figure


def fill_tables(text, tables) -> str:
    """Return a page with what stands between the marks of each table replaced.

    Raises:
        ValueError: the page lacks a mark.
    """
    for name, table in tables.items():
        start, end = f"<!-- table: {name} -->", "<!-- end of table -->"
        pattern = re.compile(re.escape(start) + ".*?" + re.escape(end), re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"the page lacks the marks {start} ... {end}; put them where the table belongs.")
        text = pattern.sub(lambda _: f"{start}\n{table}{end}", text, count=1)  # noqa: B023
    return text


def write_ablation(out, report, arms, grpo_arms, strides):
    """Write tables and picture into `ablation.md` of the folder `report`, and all figures as `ablation.json`.

    Args:
        out: folder of the results.
        report: folder with the page; it must have the marks of the tables. What its `ablation.json` has is kept.
        arms, grpo_arms, strides: arms in the order of the tables; `strides` by what is written for them.
    """
    published, costs_path = report / "ablation.json", Path(out) / "prompt_costs.json"
    results = read_results(out, published)
    costs = _published(costs_path) or _published(published).get("prompt_costs", {})
    tables = {}
    for split in ("test_unseen", "test_seen"):
        tables[f"prompt, {split}"] = arm_table([r for r in results if r["arm"] in arms], arms, split)
        tables[f"GRPO, {split}"] = arm_table([r for r in results if r["arm"] in grpo_arms], grpo_arms, split)
    swept = shared_seeds(results, strides.values())
    tables["strides"] = stride_table(swept, strides, costs)
    page = report / "ablation.md"
    page.write_text(fill_tables(page.read_text(encoding="utf-8"), tables), encoding="utf-8")
    if swept:
        (report / "images").mkdir(exist_ok=True)
        plot_strides(swept, strides, costs, report / "images" / "time_stride.png")
    results.sort(key=lambda result: (result["seed"], result["arm"]))
    kept = {"results": [_figures(result) for result in results], "prompt_costs": costs}
    published.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def _figures(result) -> dict:
    """Return a result with the figures of the tables alone."""
    scores = {}
    for split, report in result["scores"].items():
        found = {column: dict(zip(("value", "interval"), value_of(report, column))) for column in FIGURES}
        for column, figure in found.items():
            figure |= {"paired": pair} if (pair := difference_of(report, column)) else {}
        scores[split] = {column: figure for column, figure in found.items() if figure["value"] is not None}
    return result | {"scores": scores}
