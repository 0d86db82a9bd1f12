"""Write a report of scores: JSON, Markdown, and a picture of the worst clips; and print it as a table."""

import json
import os
from pathlib import Path

from recipes.score_report import make_report
from recipes.scoring import IOU_THRESHOLDS
from recipes.worst_clips import plot_worst_clips, worst_clips


def report_paths(out) -> dict[str, Path]:
    """Return where the files of a report lie; the folder is made.

    Args:
        out: a folder, which stands for `report.json` in it, or a path that ends in `.json`. Beside `NAME.json` lies
            `NAME.md`; the names of the other files begin with `NAME_`, unless it is `report`, so that several reports
            may share a folder.

    Returns:
        `json, markdown, plot, predictions, settings`.

    Raises:
        ValueError: `out` is a file that does not end in `.json`.
    """
    out = Path(out)
    if out.suffix == ".json" and not out.is_dir():
        folder, name = out.parent, out.stem
    elif out.exists() and not out.is_dir():
        raise ValueError(f"out is {str(out)!r}, a file; give a folder or a path that ends in .json.")
    else:
        folder, name = out, "report"
    folder.mkdir(parents=True, exist_ok=True)
    prefix = "" if name == "report" else f"{name}_"
    return {
        "json": folder / f"{name}.json",
        "markdown": folder / f"{name}.md",
        "plot": folder / f"{prefix}worst_clips.png",
        "predictions": folder / f"{prefix}predictions.jsonl",
        "settings": folder / f"{prefix}settings.json",
    }


def write_report(paths, head, rows, answers, num_absent=2, failures=()) -> dict:
    """Score answers, write all files of the report but the answers, and return the report.

    Args:
        paths: what [`report_paths`] returns.
        head: entries that come first: `model` and `data`.
        rows: annotated clips, see `recipes/score_questions.py`.
        answers: events, or `None` for an unparseable answer, by question `(id, task, query)`.
        num_absent: as it was when the questions were asked.
        failures: `{"id", "audio", "error"}` of clips that could not be asked about. What was not answered is not
            scored.
    """
    report = {**head, "num_clips": len(rows), **make_report(rows, answers, num_absent)}
    worst = worst_clips(rows, answers, num_absent)
    names = ("id", "f1", "num_missed", "num_false_alarms", "num_unparseable")
    report["worst_clips"] = [{name: clip[name] for name in names} for clip in worst]
    report["failures"] = list(failures)
    if worst:
        part = paths["plot"].with_name(f"part_{paths['plot'].name}")
        plot_worst_clips(worst, len(rows) - len(report["failures"]), part)
        os.replace(part, paths["plot"])
    else:
        paths["plot"].unlink(missing_ok=True)
    _write(paths["markdown"], format_markdown(report, paths["plot"].name if worst else None))
    _write(paths["json"], json.dumps(report, indent=2) + "\n")
    return report


def format_report(report) -> str:
    """Return a report as a short table."""
    lines = [f"{report['data']}: {report['num_clips']} clips, {_source(report)}"]
    for name, detail, value, interval in _metrics(report):
        text = "-" if value is None else f"{value:.3f}"
        lines.append(
            f"  {f'  {detail}' if detail else name:<34}{text:>7}"
            + (f"  [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")
        )
    return "\n".join(lines)


def format_markdown(report, plot=None) -> str:
    """Return a report as Markdown: all metrics, detection by label, the worst clips and what failed.

    Args:
        report: what [`write_report`] returns.
        plot: name of the picture of the worst clips.
    """
    metrics = [
        [
            f"{name}, {detail}" if detail else name,
            "-" if value is None else f"{value:.3f}",
            "[{:.3f}, {:.3f}]".format(*interval) if interval else "",
        ]
        for name, detail, value, interval in _metrics(report)
    ]
    parts = [
        f"# Scores of {_source(report)}\n\nData: {report['data']}, {report['num_clips']} clips. Intervals: 95 %, "
        "bootstrap over clips.\n",
        _table(["metric", "value", "interval"], metrics),
    ]
    if detection := report.get("detection"):
        figures = ("f1", "precision", "recall")
        by_label = [
            [label, *(f"{scores[name]:.3f}" for name in figures), scores["num_references"], scores["num_predictions"]]
            for label, scores in detection["class_wise"].items()
        ]
        parts += [
            "## Detection by label\n",
            _table(["label", "Eb-F1", *figures[1:], "references", "predictions"], by_label),
        ]
    if report["worst_clips"]:
        worst = [[f"{v:.3f}" if k == "f1" else v for k, v in clip.items()] for clip in report["worst_clips"]]
        parts += ["## Worst clips\n", _table(["clip", "Eb-F1", "missed", "false alarms", "unparseable answers"], worst)]
        parts += [f"![Reference and prediction of the worst clips]({plot})\n"] if plot else []
    if report["failures"]:
        failures = [[failure["id"], failure["error"]] for failure in report["failures"]]
        parts += ["## Failures\n\nThese clips were not scored.\n", _table(["clip", "error"], failures)]
    return "\n".join(parts)


def _metrics(report) -> list[tuple]:
    """Return `(name, detail, value, interval)` of the metrics that a table shows; a detail belongs to its name."""
    found = []
    if detection := report.get("detection"):
        for average in ("micro", "macro"):
            name, scores = f"detection: Eb-F1 {average}", detection[average]
            found.append((name, "", scores["f1"], detection["intervals"][f"{average}_f1"]))
            found += [(name, detail, scores[detail], None) for detail in ("precision", "recall")]
        found.append(("detection", "unparseable answers", detection["parse_failure_rate"], None))
    if grounding := report.get("grounding"):
        for name in (*(f"R@{threshold:g}" for threshold in IOU_THRESHOLDS), "miou_union"):
            found.append((f"grounding: {name}", "", grounding[name], grounding["intervals"][name]))
        found.append(("grounding", "count accuracy", grounding["count_accuracy"], None))
        found.append(("grounding", "unparseable answers", grounding["parse_failure_rate"], None))
    if rejection := report.get("rejection"):
        interval = rejection.get("intervals", {}).get("true_rejection_rate")
        found.append(("absent queries rejected", "", rejection["true_rejection_rate"], interval))
        found.append(("present queries rejected", "", rejection["false_rejection_rate"], None))
    return found


def _source(report) -> str:
    return report["model"] or report["predictions"]


def _table(header, rows) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(map(_cell, line)) + " |\n" for line in lines)


def _cell(value) -> str:
    # A bar would end the cell, a line break the row.
    return " ".join(str(value).split()).replace("|", "\\|")


def _write(path, text):
    """Write a file as a whole or not at all."""
    part = path.with_name(f"part_{path.name}")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
