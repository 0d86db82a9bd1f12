"""Reports on answers about annotated clips: scores with intervals as JSON and Markdown, and a plot of worst clips."""

import json
import os
from pathlib import Path

from recipes.evaluation.predictions import apply_min_score
from recipes.evaluation.report_tables import format_markdown
from recipes.evaluation.worst_clips import plot_worst_clips, worst_clips
from recipes.scoring import (
    METEOR_NAMES,
    PSDS1,
    PSDS2,
    collar_edges,
    count_accuracy,
    count_accuracy_by_number,
    count_events,
    count_sums,
    detection_sums,
    event_based_f1,
    false_alarms_by_number,
    grounding_sums,
    meteor_by_clip,
    meteor_sums,
    paired_bootstrap,
    parse_failure_rate,
    psds,
    psds_statistics,
    psds_sums,
    recall_at_iou,
    rejection_rates,
    segment_based_f1,
    sum_intervals,
    unmatched_labels,
)

COLLARS = {"t_collar": 0.2, "percentage_of_length": 0.2}
SEGMENTS = {"segment_1s": 1.0, "segment_0.1s": 0.1}
SCENARIOS = {"psds1": PSDS1, "psds2": PSDS2}
NO_NLTK = "nltk is not installed; run `pip install '.[train]'` and the command again."
NO_WORDNET = (
    "WordNet is not there; run `apt-get install wordnet-base`, or `python -m nltk.downloader wordnet` where there is a "
    "network, and the command again."
)


def report_paths(out) -> dict[str, Path]:
    """Return the paths of a report's files, and create their folder.

    Args:
        out: a path ending in `.json`, or a folder, short for `report.json` in it. Next to `NAME.json` is `NAME.md`; the
            names of the other files begin with `NAME_`, unless NAME is `report`, so that reports can share a folder.

    Returns:
        `json, markdown, plot, predictions, settings`.

    Raises:
        ValueError: `out` is an existing file that does not end in `.json`.
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


def write_report(paths, head, clips, asked, answers, failures=(), other=None) -> dict:
    """Score answers, write all files of the report except the answers, and return the report.

    Args:
        paths: from [`report_paths`].
        head: first entries of the report: `model`, `data`, `min_score` and so on.
        clips, asked, answers: see [`make_report`].
        failures: `{"id", "audio", "error"}` of clips that could not be answered; these are not scored.
        other: answers to compare with: `predictions` (their source), `min_score` and `answers`.
    """
    min_score = head.get("min_score")
    report = {**head, "num_clips": len(clips), **make_report(clips, asked, answers, min_score)}
    if "absent_queries" in head:
        own = {clip.id for clip in clips if clip.query is not None}
        num_queries = sum(
            q.key in answers and not q.reference and q.id not in own for q in asked if q.task == "grounding"
        )
        report["absent_queries"] = {**head["absent_queries"], "num_queries": num_queries}
    if other is not None:
        answered = [q for q in asked if q.key in answers and q.key in other["answers"]]
        sides = [[(answers, min_score)], [(other["answers"], other["min_score"])]]
        report["against"] = {"predictions": other["predictions"], "min_score": other["min_score"]}
        report["against"] |= compare_answers(clips, answered, *sides)
    worst = worst_clips(clips, asked, apply_min_score(answers, min_score))
    names = ("id", "f1", "num_missed", "num_false_alarms", "num_unparseable")
    report["worst_clips"] = [{name: clip[name] for name in names} for clip in worst]
    report["failures"] = list(failures)
    if worst:
        part = paths["plot"].with_name(f"part_{paths['plot'].name}")
        plot_worst_clips(worst, len(clips) - len(report["failures"]), part)
        os.replace(part, paths["plot"])
    else:
        paths["plot"].unlink(missing_ok=True)
    _write(paths["markdown"], format_markdown(report, paths["plot"].name if worst else None))
    _write(paths["json"], json.dumps(report, indent=2) + "\n")
    return report


def make_report(clips, asked, answers, min_score=None) -> dict:
    """Return scores with seeded 95 % bootstrap intervals over clips, independent of the order of clips.

    Args:
        clips: [`~recipes.data.clip.AnnotatedClip`]s.
        asked: [`~recipes.data.questions.Question`]s about them.
        answers: events, or `None` for an unparseable answer, by key `(id, task, query)`, from
            [`~recipes.evaluation.predictions.prepare_answers`].
        min_score: detected events with a lower score count only for PSDS, which uses all thresholds.

    Returns:
        Parts `detection`, `grounding` (present queries), `rejection` (all queries) and `captioning`, if answered, each
        with `intervals` by name. `detection` is the result of `event_based_f1`, with `collar_edges` and
        `unmatched_labels` of the functions of that name, `segment_1s` and `segment_0.1s` from `segment_based_f1` (with
        `sed_eval`, the scores by its rounding, `None` if they are the same), and `psds`. `captioning` has METEOR and,
        in `time_only`, `event_based_f1` of the times alone.
    """
    makers = {"detection": _detection, "grounding": _grounding, "rejection": _rejection, "captioning": _captioning}
    report = {}
    for part, (clips_of, references, kept, every) in _parts(clips, asked, answers, min_score).items():
        sums, more = _sums(part, clips_of, references, kept, every)
        intervals = {name: interval for side in sums for name, interval in sum_intervals(side).items()}
        report[part] = {
            **makers[part](references, kept),
            **more,
            "intervals": {name: interval for name, interval in intervals.items() if interval is not None},
        }
    return report


def compare_answers(clips, asked, runs, other_runs) -> dict:
    """Return the figures of two systems and their paired differences by part, see `paired_bootstrap`.

    Args:
        asked: questions that all runs have answered.
        runs, other_runs: answers by key and `min_score` of each run, such as each seed.
    """
    sides = [[_parts(clips, asked, *run) for run in side] for side in (runs, other_runs)]
    compared = {}
    for part in sides[0][0]:
        # Detection and captioning have several sums, not all of which every run has.
        sums = [list(zip(*(_sums(part, *run[part])[0] for run in side), strict=False)) for side in sides]
        found = {n: v for pair in zip(*sums, strict=False) for n, v in paired_bootstrap(*pair).items()}
        compared[part] = {name: value for name, value in found.items() if value["interval"] is not None}
    return compared


def _parts(clips, asked, answers, min_score) -> dict[str, tuple]:
    """Return clips, references, predictions, and predictions with events of any score, for each part of a report."""
    # Bootstrap draws and the last digits of sums depend on the order.
    asked = sorted((question for question in asked if question.key in answers), key=lambda question: question.id)
    by_id, kept = {clip.id: clip for clip in clips}, apply_min_score(answers, min_score)
    grounding = [question for question in asked if question.task == "grounding"]
    parts = {
        "detection": [question for question in asked if question.task == "detection"],
        "grounding": [question for question in grounding if question.reference],
        "rejection": grounding,
        "captioning": [question for question in asked if question.task == "captioning"],
    }
    return {
        part: (
            [by_id[question.id] for question in some],
            [list(question.reference) for question in some],
            [kept[question.key] for question in some],
            [answers[question.key] for question in some],
        )
        for part, some in parts.items()
        if some
    }


def _sums(part, clips, references, predictions, every) -> tuple[list, dict]:
    """Return the figures with intervals as `ClipSums`, and scores computed along the way."""
    if part == "detection":
        psds_sums_, scores = _psds(references, every, [clip.duration for clip in clips])
        return [detection_sums(references, predictions, **COLLARS), *psds_sums_], {"psds": scores}
    if part == "captioning":
        try:
            values, reason = meteor_by_clip(references, predictions), None
        except (ImportError, FileNotFoundError) as error:  # other scores do not need nltk and WordNet
            values, reason = None, NO_NLTK if isinstance(error, ImportError) else NO_WORDNET
        counts = count_events(references, predictions, **COLLARS, time_only=True)
        sums, scores = [count_sums({"time_only_": counts}, predictions)], {}
        if reason is None:
            sums.append(meteor_sums(values, predictions))
            scores = dict(zip(METEOR_NAMES, values.mean(axis=0).tolist(), strict=True))
        return sums, {**scores, "meteor_not_computed": reason}
    # Queries about one recording are not independent, even if each is a clip of its own.
    sums = grounding_sums(references, predictions, [clip.audio or clip.id for clip in clips])
    rejection = ("true_rejection_rate", "false_rejection_rate", "parse_failure_rate")

    def chosen(values):
        found = sums.statistics(values).items()
        return {name: x for name, x in found if (name in rejection if part == "rejection" else "rejection" not in name)}

    return [sums._replace(statistics=chosen)], {}


def _detection(references, predictions) -> dict:
    segments = {}
    for name, resolution in SEGMENTS.items():
        segments[name], theirs = (
            segment_based_f1(references, predictions, resolution, sed_eval_rounding) for sed_eval_rounding in (0, 1)
        )
        parts = ("micro", "macro", "micro_errors")
        differs = any(segments[name][part] != theirs[part] for part in parts)
        segments[name]["sed_eval"] = {part: theirs[part] for part in parts} if differs else None
    return {
        **COLLARS,
        **event_based_f1(references, predictions, **COLLARS),
        "collar_edges": collar_edges(references, predictions, **COLLARS),
        "unmatched_labels": unmatched_labels(references, predictions),
        "false_alarms_by_number": false_alarms_by_number(references, predictions, **COLLARS),
        **segments,
    }


def _psds(references, predictions, durations) -> tuple[list, dict]:
    """Return the sums of PSDS, and its values or the reason why there are none."""
    num_events = sum(len(prediction or ()) for prediction in predictions)
    num_without = sum(event.score is None for prediction in predictions for event in prediction or ())
    num_unknown = sum(duration is None for duration in durations)
    reasons = []
    if num_without:
        reasons.append(f"{num_without} of {num_events} predicted events have no score")
    if num_unknown:
        reasons.append(f"the durations of {num_unknown} of {len(durations)} clips are unknown (--durations gives them)")
    if not any(event.offset > event.onset for reference in references for event in reference):
        reasons.append("the reference has no events with a length")
    if reasons:
        return [], {**dict.fromkeys(SCENARIOS), "not_computed": "; ".join(reasons)}
    sums, scores, class_wise = [], {}, {}
    for name, scenario in SCENARIOS.items():
        inputs = references, predictions, durations, scenario
        statistics = psds_statistics(*inputs)
        found = psds(*inputs, statistics=statistics)
        scores[name], class_wise[name] = found["psds"], found["class_wise"]
        sums.append(psds_sums(statistics, scenario, name))
    rest = {"class_wise": class_wise, "num_other_labels": found["num_other_labels"], "not_computed": None}
    return sums, {**scores, **rest}


def _grounding(references, predictions) -> dict:
    return {
        **recall_at_iou(references, predictions),
        "count_accuracy": count_accuracy(references, predictions),
        "count_accuracy_by_number": count_accuracy_by_number(references, predictions),
    }


def _rejection(references, predictions) -> dict:
    return {**rejection_rates(references, predictions), "parse_failure_rate": parse_failure_rate(predictions)}


def _captioning(references, predictions) -> dict:
    times = {**COLLARS, "time_only": True}
    scores = {**COLLARS, **event_based_f1(references, predictions, **times)}
    return {
        "time_only": scores | {"collar_edges": collar_edges(references, predictions, **times)},
        "parse_failure_rate": parse_failure_rate(predictions),
        "num_clips": len(references),
    }


def _write(path, text):
    """Write a file atomically."""
    part = path.with_name(f"part_{path.name}")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
