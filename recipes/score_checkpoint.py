"""Score a checkpoint on annotated recordings: ask it through its pipeline, keep the answers, report with intervals.

    timepro score soundscapes/test_unseen.jsonl --out runs/test_unseen --model recipes/checkpoints/timepro-small

Each clip is asked for all its events (detection), for each of its labels (grounding), and for a few labels that it does
not hold (rejection). Answers go to `predictions.jsonl` as they come, so an interrupted run continues where it stopped.
"""

import json
import logging
from pathlib import Path

import numpy as np
from tqdm import tqdm

from processing.events import Event
from recipes.checkpoint_folder import load_pipeline
from recipes.scoring import (
    IOU_THRESHOLDS,
    IOU_TOLERANCE,
    bootstrap_interval,
    count_accuracy,
    event_based_f1,
    event_counts,
    macro_scores,
    micro_scores,
    recall_at_iou,
    rejection_rates,
    union_iou,
)

logger = logging.getLogger(__name__)


def score(model, data, out, batch_size=8, num_absent=2, limit=None, overwrite=False) -> dict:
    """Answer every question about the recordings of `data` and return the report.

    Writes `predictions.jsonl` (`id, task, query, text, events`), `settings.json` and `report.json` to `out`.

    Args:
        model: checkpoint folder or Hub id.
        data: JSON Lines with `id, audio, duration, task, query, events` and perhaps `absent`, labels that are not
            heard; audio paths are relative to the file.
        out: folder to write.
        batch_size: questions answered together.
        num_absent: absent labels to ask for in each clip, at most.
        limit: only the first clips.
        overwrite: answer anew, although `out` holds answers of another checkpoint or data set.

    Raises:
        ValueError: rows without events' times, ids that repeat, or answers in `out` that belong to other settings.
        OSError: a file is missing.
    """
    rows = read_rows(data, limit)
    questions = [question for row in rows for question in questions_of(row, num_absent)]
    out = Path(out)
    answers = _resume(out, _settings(model, data), overwrite)
    todo = [question for question in questions if question not in answers]
    logger.info("%d questions about %d clips, %d of them answered before", len(questions), len(rows), len(answers))
    if todo:
        audio = {row["id"]: str(Path(data).parent / row["audio"]) for row in rows}
        _ask(load_pipeline(model), todo, audio, batch_size, answers, out / "predictions.jsonl")
    report = {"model": str(model), "data": str(data), "num_clips": len(rows), **make_report(rows, answers, num_absent)}
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def read_rows(data, limit=None) -> list[dict]:
    """Return annotated clips, their events as [`Event`].

    Raises:
        ValueError: no rows, an id that repeats, or a row that lacks a key.
    """
    lines = Path(data).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line.strip()][:limit]
    if not rows:
        raise ValueError(f"data is {str(data)!r}, which has no rows; give JSON Lines with annotated recordings.")
    seen = set()
    for number, row in enumerate(rows, 1):
        missing = [key for key in ("id", "audio", "events") if key not in row]
        if missing:
            raise ValueError(f"data is {str(data)!r}: row {number} lacks {missing}; it has {sorted(row)}.")
        if row["id"] in seen:
            raise ValueError(f"data is {str(data)!r}: the id {row['id']!r} of row {number} repeats; make ids unique.")
        seen.add(row["id"])
        row["events"] = [Event(e["onset"], e["offset"], e.get("event_label", "")) for e in row["events"]]
    return rows


def questions_of(row, num_absent=2) -> list[tuple]:
    """Return the questions `(id, task, query)` about a clip: its own query if it has one, else all of them."""
    if row.get("query"):
        return [(row["id"], "grounding", row["query"])]
    present = sorted({event.event_label for event in row["events"]})
    absent = sorted(set(row.get("absent") or []) - set(present))
    # Drawn by the clip's id, so that the same clip is always asked the same, whatever stands around it.
    generator = np.random.default_rng(list(str(row["id"]).encode()) or [0])
    absent = [absent[i] for i in sorted(generator.permutation(len(absent))[:num_absent])]
    return [(row["id"], "detection", None), *((row["id"], "grounding", label) for label in present + absent)]


def make_report(rows, answers, num_absent=2) -> dict:
    """Return scores with 95 % bootstrap intervals over clips.

    Args:
        rows: annotated clips, see [`read_rows`].
        answers: events, or `None` for an unparseable answer, by question `(id, task, query)`.
        num_absent: as it was when the questions were asked.

    Returns:
        `detection` (event-based F1), `grounding` (queries that are present) and `rejection` (all queries), each with
        `intervals`; parts without questions are absent.
    """
    report = {}
    detected = [row for row in rows if (row["id"], "detection", None) in answers]
    if detected:
        references = [row["events"] for row in detected]
        predictions = [answers[row["id"], "detection", None] for row in detected]
        _, counts = event_counts(references, predictions)
        report["detection"] = {"t_collar": 0.2, "percentage_of_length": 0.2, **event_based_f1(references, predictions)}
        report["detection"]["intervals"] = {
            "micro_f1": bootstrap_interval(counts, lambda sample: micro_scores(sample)["f1"]),
            "macro_f1": bootstrap_interval(counts, lambda sample: macro_scores(sample)["f1"]),
        }
    pairs = [pair for row in rows for pair in _grounding_pairs(row, answers, num_absent)]
    present = [pair for pair in pairs if pair[1]]
    if present:
        _, references, predictions = zip(*present, strict=True)
        report["grounding"] = {
            **recall_at_iou(references, predictions),
            "count_accuracy": count_accuracy(references, predictions),
            "intervals": _grounding_intervals(present),
        }
    if pairs:
        report["rejection"] = rejection_rates([pair[1] for pair in pairs], [pair[2] for pair in pairs])
        absent = [(clip, reference, prediction) for clip, reference, prediction in pairs if not reference]
        if absent:
            rejected = [(clip, float(prediction == [])) for clip, _, prediction in absent]
            report["rejection"]["intervals"] = {"true_rejection_rate": _clip_interval(rejected)}
    return report


def format_report(report) -> str:
    """Return a report as a short table."""
    lines = [f"{report['data']}: {report['num_clips']} clips, {report['model']}"]

    def add(name, value, interval=None):
        text = "-" if value is None else f"{value:.3f}"
        lines.append(f"  {name:<34}{text:>7}" + (f"  [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""))

    if detection := report.get("detection"):
        for average in ("micro", "macro"):
            add(f"detection: Eb-F1 {average}", detection[average]["f1"], detection["intervals"][f"{average}_f1"])
            for name in ("precision", "recall"):
                add(f"  {name}", detection[average][name])
        add("  unparseable answers", detection["parse_failure_rate"])
    if grounding := report.get("grounding"):
        for name in (*(f"R@{threshold:g}" for threshold in IOU_THRESHOLDS), "miou_union"):
            add(f"grounding: {name}", grounding[name], grounding["intervals"][name])
        add("  count accuracy", grounding["count_accuracy"])
        add("  unparseable answers", grounding["parse_failure_rate"])
    if rejection := report.get("rejection"):
        interval = rejection.get("intervals", {}).get("true_rejection_rate")
        add("absent queries rejected", rejection["true_rejection_rate"], interval)
        add("present queries rejected", rejection["false_rejection_rate"])
    return "\n".join(lines)


def _ask(pipe, questions, audio, batch_size, answers, path):
    """Answer questions in batches of one task, and append each batch to the file at once."""
    with path.open("a", encoding="utf-8") as file, tqdm(total=len(questions), desc="questions") as progress:
        for task in ("detection", "grounding"):
            mine = [question for question in questions if question[1] == task]
            for start in range(0, len(mine), batch_size):
                batch = mine[start : start + batch_size]
                queries = [query for _, _, query in batch] if task == "grounding" else None
                clips = [audio[clip] for clip, _, _ in batch]
                results = pipe(clips, task=task, query=queries, batch_size=batch_size)
                for question, result in zip(batch, results, strict=True):
                    row = dict(zip(("id", "task", "query"), question, strict=True), text=result["text"])
                    file.write(json.dumps({**row, "events": result["events"]}, ensure_ascii=False) + "\n")
                    answers[question] = _events(result["events"])
                file.flush()
                progress.update(len(batch))


def _resume(out, settings, overwrite) -> dict:
    """Return the answers that `out` holds, and forget a last line that was not written to its end."""
    out.mkdir(parents=True, exist_ok=True)
    path, settings_path = out / "predictions.jsonl", out / "settings.json"
    if path.exists() and not overwrite:
        before = json.loads(settings_path.read_text(encoding="utf-8")) if settings_path.exists() else None
        if before != settings:
            raise ValueError(
                f"out is {str(out)!r}, with answers made with {before}, not {settings}; choose another folder or pass "
                "--overwrite."
            )
        whole = path.read_bytes().rpartition(b"\n")[0]
        lines = whole.decode("utf-8").split("\n") if whole else []
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        rows = [json.loads(line) for line in lines]
        return {(row["id"], row["task"], row["query"]): _events(row["events"]) for row in rows}
    path.write_text("", encoding="utf-8")
    settings_path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return {}


def _settings(model, data) -> dict:
    # A checkpoint that was trained on has the same path, so the state of its files counts.
    files = sorted(Path(model).glob("*.safetensors")) if Path(model).is_dir() else []
    states = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    return {"model": str(model), "weights": states, "data": str(Path(data).resolve())}


def _events(events) -> list[Event] | None:
    return None if events is None else [Event.from_dict(event) for event in events]


def _grounding_pairs(row, answers, num_absent):
    """Return `(clip, reference, prediction)` of every grounding question about a clip."""
    pairs = []
    for question in questions_of(row, num_absent):
        if question[1] == "grounding" and question in answers:
            is_own = bool(row.get("query"))
            reference = [event for event in row["events"] if is_own or event.event_label == question[2]]
            pairs.append((row["id"], reference, answers[question]))
    return pairs


def _grounding_intervals(pairs) -> dict:
    ious = [(clip, union_iou(reference, prediction)) for clip, reference, prediction in pairs]
    intervals = {"miou_union": _clip_interval(ious)}
    for threshold in IOU_THRESHOLDS:
        hits = [(clip, float(iou >= threshold - IOU_TOLERANCE)) for clip, iou in ious]
        intervals[f"R@{threshold:g}"] = _clip_interval(hits)
    return intervals


def _clip_interval(values) -> tuple[float, float]:
    """Return the interval of the mean of `(clip, value)` pairs, resampled by clip."""
    sums = {}
    for clip, value in values:
        total, count = sums.get(clip, (0.0, 0))
        sums[clip] = (total + value, count + 1)
    return bootstrap_interval(np.array(list(sums.values())), lambda rows: rows[:, 0].sum() / rows[:, 1].sum())


if __name__ == "__main__":
    import sys

    from recipes.cli import main

    sys.exit(main(["score", *sys.argv[1:]]))
