"""The scores of answers about annotated clips, with intervals."""

from recipes.evaluation.score_questions import grounding_pairs
from recipes.scoring import (
    METEOR_NAMES,
    PSDS1,
    PSDS2,
    count_accuracy,
    count_events,
    count_sums,
    detection_intervals,
    event_based_f1,
    grounding_intervals,
    meteor_by_clip,
    meteor_sums,
    parse_failure_rate,
    psds,
    psds_interval,
    psds_statistics,
    recall_at_iou,
    rejection_rates,
    segment_based_f1,
    sum_intervals,
)

COLLARS = {"t_collar": 0.2, "percentage_of_length": 0.2}
SEGMENTS = {"segment_1s": 1.0, "segment_0.1s": 0.1}
NO_NLTK = "nltk is not installed; run `pip install '.[train]'` and the command again."
NO_WORDNET = (
    "WordNet is not there; run `apt-get install wordnet-base`, or `python -m nltk.downloader wordnet` where there is a "
    "network, and the command again."
)
SCENARIOS = {"psds1": PSDS1, "psds2": PSDS2}


def apply_min_score(answers, min_score) -> dict:
    """Return the answers without the detected events whose score is below `min_score`; `None` leaves out none."""
    if min_score is None:
        return answers
    return {
        question: [event for event in events if event.score is None or event.score >= min_score]
        if events and question[1] == "detection"
        else events
        for question, events in answers.items()
    }


def make_report(rows, answers, num_absent=2, min_score=None) -> dict:
    """Return scores with seeded 95 % bootstrap intervals over clips. The order of the clips changes nothing.

    Args:
        rows: annotated clips, see `recipes/evaluation/score_questions.py`.
        answers: events, or `None` for an unparseable answer, by question `(id, task, query)`.
        num_absent: as it was when the questions were asked.
        min_score: detected events with a lower score count for PSDS alone, which looks at every threshold.

    Returns:
        Parts `detection`, `grounding` (queries that are present), `rejection` (all queries) and `captioning`, each with
        `intervals` by name; parts without questions are absent. `detection` is what `event_based_f1` returns, with
        `segment_1s` and `segment_0.1s` from `segment_based_f1`, and `psds`. `captioning` has METEOR and, in
        `time_only`, `event_based_f1` of the times alone.
    """
    # Draws of the bootstrap and the last digits of sums depend on the order.
    rows = sorted(rows, key=lambda row: (str(row["id"]), isinstance(row["id"], str)))
    report = {}
    if detected := [row for row in rows if (row["id"], "detection", None) in answers]:
        questions = [(row["id"], "detection", None) for row in detected]
        every = [answers[question] for question in questions]
        kept = apply_min_score(answers, min_score)
        report["detection"] = _detection(detected, [kept[question] for question in questions], every)
    # Queries about one recording are not independent, even if each is a row.
    triples = [
        (str(row.get("audio") or row["id"]), reference, prediction)
        for row in rows
        for _, reference, prediction in grounding_pairs(row, answers, num_absent)
    ]
    if present := [triple for triple in triples if triple[1]]:
        report["grounding"] = _grounding(*zip(*present, strict=True))
    if triples:
        report["rejection"] = _rejection(*zip(*triples, strict=True))
    if captioned := [row for row in rows if (row["id"], "captioning", None) in answers]:
        references = [row["events"] for row in captioned]
        report["captioning"] = _captioning(references, [answers[row["id"], "captioning", None] for row in captioned])
    return report


def _detection(rows, predictions, all_predictions) -> dict:
    references = [row["events"] for row in rows]
    scores, psds_intervals = _psds(references, all_predictions, [row.get("duration") for row in rows])
    return {
        **COLLARS,
        **event_based_f1(references, predictions, **COLLARS),
        **{name: segment_based_f1(references, predictions, resolution) for name, resolution in SEGMENTS.items()},
        "psds": scores,
        "intervals": {**detection_intervals(references, predictions, **COLLARS), **psds_intervals},
    }


def _psds(references, predictions, durations) -> tuple[dict, dict]:
    """Return PSDS, or why there is none; and its intervals."""
    num_events = sum(len(prediction or ()) for prediction in predictions)
    num_without = sum(event.score is None for prediction in predictions for event in prediction or ())
    num_unknown = sum(duration is None for duration in durations)
    reasons = []
    if num_without:
        reasons.append(f"{num_without} of {num_events} predicted events bear no score")
    if num_unknown:
        reasons.append(f"the durations of {num_unknown} of {len(durations)} clips are unknown (--durations tells them)")
    if not any(event.offset > event.onset for reference in references for event in reference):
        reasons.append("the reference has no events with a length")
    if reasons:
        return {**dict.fromkeys(SCENARIOS), "not_computed": "; ".join(reasons)}, {}
    scores, class_wise, intervals = {}, {}, {}
    for name, scenario in SCENARIOS.items():
        inputs = references, predictions, durations, scenario
        statistics = psds_statistics(*inputs)
        found = psds(*inputs, statistics=statistics)
        scores[name], class_wise[name] = found["psds"], found["class_wise"]
        try:
            intervals[name] = psds_interval(*inputs, statistics=statistics)
        except ValueError:
            pass  # of many rare labels, each resample may lack one
    rest = {"class_wise": class_wise, "num_other_labels": found["num_other_labels"], "not_computed": None}
    return {**scores, **rest}, intervals


def _grounding(clips, references, predictions) -> dict:
    intervals = grounding_intervals(references, predictions, clips)
    return {
        **recall_at_iou(references, predictions),
        "count_accuracy": count_accuracy(references, predictions),
        "intervals": {name: interval for name, interval in intervals.items() if "rejection" not in name},
    }


def _rejection(clips, references, predictions) -> dict:
    intervals = grounding_intervals(references, predictions, clips)
    names = ("true_rejection_rate", "false_rejection_rate", "parse_failure_rate")
    return {
        **rejection_rates(references, predictions),
        "parse_failure_rate": parse_failure_rate(predictions),
        "intervals": {name: intervals[name] for name in names if intervals[name] is not None},
    }


def _captioning(references, predictions) -> dict:
    try:
        values, reason = meteor_by_clip(references, predictions), None
    except (ImportError, FileNotFoundError) as error:  # the other scores need neither nltk nor WordNet
        values, reason = None, NO_NLTK if isinstance(error, ImportError) else NO_WORDNET
    counts = count_events(references, predictions, **COLLARS, time_only=True)
    intervals = sum_intervals(count_sums({"time_only_": counts}, predictions))
    if reason is None:
        intervals |= sum_intervals(meteor_sums(values, predictions))
    return {
        **(dict(zip(METEOR_NAMES, values.mean(axis=0).tolist(), strict=True)) if reason is None else {}),
        "meteor_not_computed": reason,
        "time_only": {**COLLARS, **event_based_f1(references, predictions, **COLLARS, time_only=True)},
        "parse_failure_rate": parse_failure_rate(predictions),
        "num_clips": len(references),
        "intervals": intervals,
    }


__all__ = ["apply_min_score", "make_report"]
