"""Write a report of scores: JSON, Markdown, and a picture of the worst clips."""

import json
import os
from pathlib import Path

from recipes.evaluation.answers import prepare_answers
from recipes.evaluation.report import apply_min_score, make_report
from recipes.evaluation.report_tables import format_markdown
from recipes.evaluation.score_questions import grounding_pairs
from recipes.evaluation.worst_clips import plot_worst_clips, worst_clips


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


def write_report(
    paths, head, rows, answers, num_absent=2, failures=(), aliases=None, min_score: float | None = None
) -> dict:
    """Score answers, write all files of the report but the answers, and return the report.

    Args:
        paths: what [`report_paths`] returns.
        head: entries that come first: `model`, `data` and what [`~recipes.evaluation.score_data.read_clips`] says.
        rows: annotated clips, see `recipes/evaluation/score_questions.py`.
        answers: events, or `None` for an unparseable answer, by question `(id, task, query)`. Labels are replaced by
            what aliases stand for, and events cut at the ends of the clips; `clipping` counts these, see
            [`~recipes.evaluation.answers.prepare_answers`].
        num_absent: as it was when the questions were asked.
        failures: `{"id", "audio", "error"}` of clips that could not be asked about. What was not answered is not
            scored.
        aliases: other names for labels, see [`~recipes.scoring.read_label_aliases`].
        min_score: detected events with a lower score count for PSDS alone.
    """
    answers, clipping = prepare_answers(rows, answers, aliases or {})
    report = {**head, "num_clips": len(rows), "clipping": clipping, **make_report(rows, answers, num_absent, min_score)}
    answers = apply_min_score(answers, min_score)
    if "absent_queries" in head:
        report["absent_queries"] = {
            **head["absent_queries"],
            "num_queries": sum(
                not reference and not row.get("query")
                for row in rows
                for _, reference, _ in grounding_pairs(row, answers, num_absent)
            ),
        }
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


def _write(path, text):
    """Write a file as a whole or not at all."""
    part = path.with_name(f"part_{path.name}")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
