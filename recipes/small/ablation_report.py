"""Write the tables and the plot of an ablation into a page, leaving its other text unchanged."""

import json
from pathlib import Path
from statistics import mean

import numpy as np

from recipes.evaluation.report_tables import markdown_table
from recipes.publishing.model_card import fill
from space_app.palette import FAINT, INK, LIGHT

# Columns: heading, path of the value in a report, and name of its interval.
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
    """Return the results of all scored arms with the [`figures_of`] their reports, in any order.

    Args:
        out: folder of the results.
        published: an earlier `ablation.json`; its results are added unless `out` has them, so that seeds can be added
            after the earlier results are gone.
    """
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(Path(out).glob("*/result.json"))]
    results = [r | {"scores": {split: figures_of(report) for split, report in r["scores"].items()}} for r in results]
    found = {(result["arm"], result["seed"]) for result in results}
    kept = _published(published).get("results", [])
    return results + [result for result in kept if (result["arm"], result["seed"]) not in found]


def _published(path) -> dict:
    return json.loads(Path(path).read_text(encoding="utf-8")) if path and Path(path).is_file() else {}


def figures_of(report) -> dict[str, dict]:
    """Return the figures for the tables from a report of `make_report`, by column.

    Each has a `value`, its `interval` (or `None`) and, if there was a comparison, `paired`: the `difference` to the
    first arm with its `interval` and `p`.
    """
    figures = {}
    for column, (path, name) in FIGURES.items():
        value = report
        for key in path:
            value = (value or {}).get(key)
        if value is None:
            continue
        figures[column] = {"value": value, "interval": report[path[0]]["intervals"].get(name)}
    for column, pair in paired_figures(report.get("against", {})).items():
        figures[column]["paired"] = pair
    return figures


def paired_figures(compared) -> dict[str, dict]:
    """Return `difference`, `interval` and `p` of a comparison by column of the tables."""
    pairs = {column: compared.get(path[0], {}).get(name) for column, (path, name) in FIGURES.items()}
    return {
        column: {key: pair[key] for key in ("difference", "interval", "p")} for column, pair in pairs.items() if pair
    }


def arm_table(results, arms, split, paired=None) -> str:
    """Return the Markdown table of some arms on one test: means over seeds of the values and of the interval bounds.

    For several seeds it adds their number, and the lowest and highest value. Last is the paired difference to the first
    arm, with its 95 % interval and p.

    Args:
        paired: `paired.json` of the ablation, with comparisons of arms with several seeds.
    """
    shown = [column for column in FIGURES if any(column in r["scores"][split] for r in results)]
    rows = []
    for arm in arms:
        mine = [result["scores"][split] for result in results if result["arm"] == arm]
        if mine:
            name = arm if len(mine) == 1 else f"{arm}<br><sub>{len(mine)} seeds</sub>"
            over_seeds = (paired or {}).get(arm, {}).get(split, {})
            rows.append([name, *(_cell(mine, column, over_seeds.get(column)) for column in shown)])
    return markdown_table(["", *shown], rows)


def shared_seeds(results, arms) -> list[dict]:
    """Return the results of some arms for the seeds that are common to all arms with results."""
    seeds = {arm: {result["seed"] for result in results if result["arm"] == arm} for arm in arms}
    shared = set.intersection(*(found for found in seeds.values() if found)) if any(seeds.values()) else set()
    return [result for result in results if result["arm"] in seeds and result["seed"] in shared]


def _cell(reports, column, paired=None) -> str:
    if any(column not in report for report in reports):
        return ""
    figures = [report[column] for report in reports]
    values, intervals = ([figure[key] for figure in figures] for key in ("value", "interval"))
    text = f"{mean(values):.3f}"
    if None not in intervals:
        low, high = (mean(ends) for ends in zip(*intervals, strict=True))
        text += f"<br><sub>{low:.3f} to {high:.3f}</sub>"
    if len(values) > 1:
        text += f"<br><sub>seeds {min(values):.3f} to {max(values):.3f}</sub>"
    pair = figures[0].get("paired") if len(figures) == 1 else paired
    if pair:
        low, high = pair["interval"]
        text += f"<br><sub>{pair['difference']:+.3f} to the first arm, {low:+.3f} to {high:+.3f}, "
        text += f"p {pair['p']:.3f}</sub>"
    return text


def stride_table(results, strides, costs) -> str:
    """Return the Markdown table of the stride sweep.

    Args:
        results: from [`read_results`].
        strides: arm by the name of its stride in the table.
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
    """Plot quality and cost of prompts against the stride of ticks; return the figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.6), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    known = {name: arm for name, arm in strides.items() if any(result["arm"] == arm for result in results)}
    for split, colour, shift in (("test_seen", ORANGE, 0.06), ("test_unseen", BLUE, -0.06)):
        rows = []
        for arm in known.values():
            figures = [result["scores"][split]["Eb-F1"] for result in results if result["arm"] == arm]
            rows.append([mean(column) for column in zip(*((f["value"], *f["interval"]) for f in figures))])
        values, lows, highs = np.transpose(rows)
        positions, errors = np.arange(len(known)) + shift, (values - lows, highs - values)
        name = {"test_seen": "recordings seen in training", "test_unseen": "recordings never seen"}[split]
        left.errorbar(positions, values, errors, color=colour, marker="o", ms=5, lw=1.5, capsize=3, label=name)
    left.set(ylabel="event-based F1")
    # Costs are measured last and may be missing.
    if all(arm in costs for arm in known.values()):
        dense = costs[known["none"]]
        drawn = (("tokens_30s", INK, "s", "tokens"), ("prefill_seconds_30s", FAINT, "o", "time to read it"))
        for key, colour, marker, name in drawn:
            ratios = [costs[arm][key] / dense[key] for arm in known.values()]
            right.plot(range(len(known)), ratios, color=colour, marker=marker, ms=5, lw=1.5, label=name)
        right.set(ylabel="prompt of 30 s, times that without ticks")
    for axes in (left, right):
        axes.set_xticks(range(len(known)), known)
        axes.set(xlabel="frames (0.08 s) from tick to tick", ylim=(0, None))
        if axes.has_data():
            axes.legend(frameon=False, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#E6E6E6", lw=0.8)
        axes.set_axisbelow(True)
    figure.savefig(path)
    return figure


def write_ablation(out, report, arms, grpo_arms, strides):
    """Write tables and plot into `ablation.md` in the folder `report`, and all figures to `ablation.json`.

    Args:
        out: folder of the results.
        report: folder of the page, which must have marks for the tables. Results in its `ablation.json` are kept.
        arms, grpo_arms, strides: arms in the order of the tables; `strides` by the name of their stride.
    """
    published, costs_path = report / "ablation.json", Path(out) / "prompt_costs.json"
    results = read_results(out, published)
    costs = _published(costs_path) or _published(published).get("prompt_costs", {})
    paired = _published(Path(out) / "paired.json") or _published(published).get("paired", {})
    tables = {}
    for split in ("test_unseen", "test_seen"):
        tables[f"prompt, {split}"] = arm_table([r for r in results if r["arm"] in arms], arms, split, paired)
        tables[f"GRPO, {split}"] = arm_table([r for r in results if r["arm"] in grpo_arms], grpo_arms, split, paired)
    swept = shared_seeds(results, strides.values())
    tables["strides"] = stride_table(swept, strides, costs)
    page = report / "ablation.md"
    text = page.read_text(encoding="utf-8")
    for name, table in tables.items():
        text = fill(text, (f"<!-- table: {name} -->", "<!-- end of table -->"), table)
    page.write_text(text, encoding="utf-8")
    if swept:
        (report / "images").mkdir(exist_ok=True)
        plot_strides(swept, strides, costs, report / "images" / "time_stride.png")
    results.sort(key=lambda result: (result["seed"], result["arm"]))
    kept = {"results": results, "prompt_costs": costs} | ({"paired": paired} if paired else {})
    published.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
