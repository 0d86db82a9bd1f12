"""Evaluate event scores: reliability, ECE, ranking, and F1 by threshold.

    python -m recipes.evaluation.calibration --data validation.jsonl --predictions predictions.jsonl \
        --out calibration.json

Writes a JSON report, and next to it the reliability plot as `.png`. No model is loaded.
"""

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from recipes.arguments import script_parser
from recipes.data.loading import load_clips
from recipes.data.questions import SCORING, labels_of
from recipes.evaluation.predictions import answerable_questions, apply_min_score, prepare_answers, read_predictions
from recipes.scoring import (
    TIME_TOLERANCE,
    count_events,
    count_sums,
    grounding_sums,
    match_events,
    recall_at_iou,
    rejection_rates,
    score_counts,
    sum_intervals,
    unmatched_labels,
)
from space_app.palette import FAINT, LIGHT

logger = logging.getLogger(__name__)

MIN_SCORES = tuple(step / 20 for step in range(15))


def calibration(scores, is_right, num_bins=10) -> dict:
    """Return how well scores predict which events are correct.

    ECE, the expected calibration error (Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3), is
    the mean over events of |fraction correct - mean score| of the event's bin. Bins have equal width, the last one
    includes 1. AUROC is the probability that a correct event scores higher than a wrong one, ties counting half;
    average precision is the mean over correct events of the precision among all events that score as high or higher.

    Args:
        scores: from 0 to 1 (num_events).
        is_right: whether each event is correct (num_events).
        num_bins: number of bins.

    Returns:
        `num_events, num_right, ece, auroc, average_precision` and the non-empty `bins`: `low, high, num_events,
        mean_score, fraction_right`. AUROC is `None` unless there are both correct and wrong events, average precision
        unless there are correct ones.

    Raises:
        ValueError: no events, lengths that differ, scores out of range, or `num_bins` below 1.
    """
    scores, is_right = np.asarray(scores, dtype=float), np.asarray(is_right, dtype=bool)
    if scores.ndim != 1 or scores.shape != is_right.shape or not len(scores):
        raise ValueError(
            f"scores has shape {scores.shape}, is_right {is_right.shape}; give both for at least one event."
        )
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError(f"scores reach from {scores.min()} to {scores.max()}; probabilities lie between 0 and 1.")
    if num_bins < 1:
        raise ValueError(f"num_bins is {num_bins}; give 1 or more.")
    indices = np.minimum((scores * num_bins).astype(int), num_bins - 1)
    bins, ece = [], 0.0
    for index in np.unique(indices):
        mine = indices == index
        mean_score, right = float(scores[mine].mean()), float(is_right[mine].mean())
        ece += mine.sum() / len(scores) * abs(right - mean_score)
        edges = {"low": float(index / num_bins), "high": float((index + 1) / num_bins)}
        bins.append({**edges, "num_events": int(mine.sum()), "mean_score": mean_score, "fraction_right": right})
    return {
        "num_events": len(scores),
        "num_right": int(is_right.sum()),
        "ece": float(ece),
        "auroc": _auroc(scores[is_right], scores[~is_right]),
        "average_precision": _average_precision(scores, is_right),
        "bins": bins,
    }


def _auroc(right, wrong) -> float | None:
    if not len(right) or not len(wrong):
        return None
    wrong = np.sort(wrong)
    below, up_to = np.searchsorted(wrong, right, "left"), np.searchsorted(wrong, right, "right")
    return float((below + up_to).sum() / (2 * len(right) * len(wrong)))


def _average_precision(scores, is_right) -> float | None:
    if not is_right.any():
        return None
    thresholds, numbers = np.unique(-scores, return_counts=True)
    right = np.array([is_right[scores == -threshold].sum() for threshold in thresholds])
    return float((right * right.cumsum() / numbers.cumsum()).sum() / right.sum())


def scored_events(clips, answers) -> tuple[list[float], list[bool]]:
    """Return the scores of all detected events, and whether each one matches, see [`~recipes.scoring.match_events`].

    Raises:
        ValueError: an event without a score.
    """
    scores, is_right = [], []
    for clip in clips:
        events = answers.get((clip.id, "detection", None)) or []
        missing = [event for event in events if event.score is None]
        if missing:
            raise ValueError(f"predictions of clip {clip.id!r} hold {missing[0]}; give every event a score.")
        matched = {j for _, j in match_events(clip.events, events)}
        scores += [event.score for event in events]
        is_right += [j in matched for j in range(len(events))]
    return scores, is_right


def scores_by_threshold(clips, answers, thresholds=MIN_SCORES) -> list[dict]:
    """Return micro-averaged event-based F1 of the detected events whose score reaches each threshold.

    Collars have the tolerance of [`~recipes.scoring.match_events`], as in [`scored_events`].

    Returns:
        Dicts of `min_score, num_events, f1, precision, recall, interval` (of F1, 95 %, bootstrap over clips).
    """
    references = [list(clip.events) for clip in clips]
    found = []
    for threshold in thresholds:
        answered = apply_min_score(answers, threshold)
        kept = [answered.get((clip.id, "detection", None)) or [] for clip in clips]
        counts = count_events(references, kept, tolerance=TIME_TOLERANCE)
        micro = score_counts(counts)["micro"]
        figures = {name: micro[name] for name in ("f1", "precision", "recall")}
        interval = list(sum_intervals(count_sums({"": counts}, kept))["micro_f1"])
        found.append({"min_score": threshold, "num_events": sum(map(len, kept)), **figures, "interval": interval})
    return found


def grounding_by_threshold(asked, answers, thresholds=MIN_SCORES) -> list[dict]:
    """Return how well queries are answered by the events whose score reaches each threshold.

    Returns:
        Dicts of `min_score`, `miou_union` over all queries (1 for an absent one that is rejected) with its `interval`
        (95 %, bootstrap over clips), `true_rejection_rate` and `false_rejection_rate`. Empty if no query was answered,
        or if an answer has no score.
    """
    asked = [question for question in asked if question.task == "grounding" and question.key in answers]
    predictions = [answers[question.key] for question in asked]
    if not asked or any(event.score is None for events in predictions for event in events or ()):
        return []
    references, clips, found = [list(question.reference) for question in asked], [q.id for q in asked], []
    for threshold in thresholds:
        kept = [events and [event for event in events if event.score >= threshold] for events in predictions]
        rates = rejection_rates(references, kept)
        interval = list(sum_intervals(grounding_sums(references, kept, clips))["miou_union"])
        found.append(
            {
                "min_score": threshold,
                "miou_union": recall_at_iou(references, kept)["miou_union"],
                "interval": interval,
                **{name: rates[name] for name in ("true_rejection_rate", "false_rejection_rate")},
            }
        )
    return found


def plot_reliability(report, path) -> None:
    """Plot the fraction of correct events over the mean score, with a circle per bin whose area shows its size."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color=FAINT, linestyle="--", label="calibrated")
    sizes = np.array([part["num_events"] for part in report["bins"]])
    points = [[part[name] for part in report["bins"]] for name in ("mean_score", "fraction_right")]
    axis.plot(*points, color=LIGHT[0])
    axis.scatter(*points, s=20 + 300 * sizes / sizes.max(), color=LIGHT[0], alpha=0.6, label="events, by their number")
    axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="mean score", ylabel="fraction of events that are right")
    axis.set_title(f"ECE {report['ece']:.3f}, {report['num_events']} events")
    axis.legend(loc="upper left", frameon=False)
    figure.savefig(path, dpi=150, format="png")


def calibrate(data, predictions, out, num_bins=10, limit=None) -> dict:
    """Write [`calibration`] of detected events, and figures by threshold, to `out`, and return the report.

    The plot is next to it. `unmatched_labels` are the labels that only one side has, whose events are never correct.

    Raises:
        ValueError: events without scores, or what [`~recipes.evaluation.predictions.read_predictions`] refuses.
    """
    clips = load_clips(data)
    policy = replace(SCORING, labels=labels_of(clips))
    clips = clips[:limit]
    asked = answerable_questions(predictions, clips, policy)
    answers, _ = prepare_answers(clips, read_predictions(predictions, clips, asked).answers)
    report = {"data": str(data), "predictions": str(predictions)}
    report |= calibration(*scored_events(clips, answers), num_bins)
    detected = {clip.id: answers[key] for clip in clips if (key := (clip.id, "detection", None)) in answers}
    references = [clip.events for clip in clips if clip.id in detected]
    report["unmatched_labels"] = unmatched_labels(references, detected.values())
    report["thresholds"] = scores_by_threshold(clips, answers)
    report["grounding_thresholds"] = grounding_by_threshold(asked, answers)
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    plot_reliability(report, out.with_suffix(".png"))
    return report


def main(argv=None):
    parser = script_parser(__doc__)
    parser.add_argument("--data", required=True, help="annotated clips")
    parser.add_argument("--predictions", required=True, help="predictions.jsonl whose events have scores")
    parser.add_argument("--out", required=True, help="JSON report to write")
    parser.add_argument("--num-bins", type=int, default=10, help="bins of scores (default 10)")
    parser.add_argument("--limit", type=int, help="only the first clips")
    report = calibrate(**vars(parser.parse_args(argv)))
    logger.info("ECE %.4f over %d events", report["ece"], report["num_events"])


if __name__ == "__main__":
    main()
