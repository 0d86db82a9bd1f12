"""Intervals of whole reports: those of single statistics, drawn by clip, and reproducible."""

import random

import numpy as np
import pytest

from processing.events import Event
from recipes.scoring import (
    bootstrap_interval,
    count_accuracy,
    detection_intervals,
    event_based_f1,
    event_counts,
    grounding_intervals,
    macro_scores,
    micro_scores,
    recall_at_iou,
    segment_based_f1,
)
from recipes.scoring.bootstrap import sum_intervals


def some_clips(num_clips=40, seed=0):
    generator = random.Random(seed)
    references, predictions = [], []
    for _ in range(num_clips):
        times = [generator.uniform(0, 9) for _ in range(generator.randint(0, 4))]
        references.append([Event(t, t + 1, generator.choice(["dog", "cat", "horn"])) for t in times])
        predictions.append(
            [Event(e.onset, e.offset, e.event_label) for e in references[-1] if generator.random() < 0.6]
        )
        if generator.random() < 0.3:
            predictions[-1].append(Event(1, 2, "cat"))
    predictions[3] = None
    return references, predictions


def test_detection_intervals_are_those_of_single_statistics():
    references, predictions = some_clips()
    intervals = detection_intervals(references, predictions)
    _, counts = event_counts(references, predictions)
    for average, scores in (("micro", micro_scores), ("macro", macro_scores)):
        for name in ("f1", "precision", "recall"):
            expected = bootstrap_interval(counts, lambda rows: scores(rows)[name])
            assert intervals[f"{average}_{name}"] == pytest.approx(expected)
    failures = np.array([prediction is None for prediction in predictions])
    assert intervals["parse_failure_rate"] == pytest.approx(bootstrap_interval(failures, np.mean))


def test_detection_intervals_hold_all_scores():
    references, predictions = some_clips()
    intervals = detection_intervals(references, predictions)
    reports = {
        "": event_based_f1(references, predictions),
        "segment_1s_": segment_based_f1(references, predictions, 1.0),
        "segment_0.1s_": segment_based_f1(references, predictions, 0.1),
    }
    expected = {"parse_failure_rate": 1 / 40}
    for prefix, report in reports.items():
        expected |= {f"{prefix}micro_{name}": value for name, value in report["micro"].items()}
        expected |= {f"{prefix}macro_{name}": value for name, value in report["macro"].items()}
        expected[f"{prefix}error_rate"] = report["micro_errors"]["error_rate"]
    assert intervals.keys() == expected.keys()
    for name, value in expected.items():
        low, high = intervals[name]
        assert low <= value <= high and 0 < high - low < 0.6, name
    assert detection_intervals(references, predictions) == intervals
    assert detection_intervals(references, predictions, seed=1) != intervals
    narrow = detection_intervals(references, predictions, confidence=0.5)["micro_f1"]
    assert intervals["micro_f1"][0] < narrow[0] < narrow[1] < intervals["micro_f1"][1]


def test_order_of_labels_and_perfection():
    references, _ = some_clips()
    perfect = detection_intervals(references, references)
    assert perfect["micro_f1"] == perfect["segment_0.1s_macro_f1"] == (1.0, 1.0)
    assert perfect["error_rate"] == perfect["parse_failure_rate"] == (0.0, 0.0)
    nothing = detection_intervals([[]], [[]])
    assert nothing["macro_f1"] == (1.0, 1.0)


def test_grounding_intervals_draw_clips():
    generator = random.Random(0)
    references, predictions, clips = [], [], []
    for clip in range(30):
        is_easy = generator.random() < 0.5  # queries of one clip are answered well or badly together
        for _ in range(3):
            reference = [] if generator.random() < 0.3 else [Event(1, 3)]
            references.append(reference)
            predictions.append(reference if is_easy else [Event(2.5, 6)])
            clips.append(clip)
    predictions[0] = None
    intervals = grounding_intervals(references, predictions, clips)
    scores = recall_at_iou(references, predictions)
    scores |= {"count_accuracy": count_accuracy(references, predictions)}
    assert set(scores) - {"num_pairs"} == set(intervals) - {"true_rejection_rate", "false_rejection_rate"}
    for name, (low, high) in intervals.items():
        assert name not in scores or low <= scores[name] <= high
    assert intervals["true_rejection_rate"][0] < 0.5 < intervals["true_rejection_rate"][1]
    assert intervals["false_rejection_rate"] == (0.0, 0.0)
    low, high = intervals["R@0.5"]
    alone = grounding_intervals(references, predictions)["R@0.5"]
    # Three pairs that stand or fall together count as one: sqrt(3) times as wide as if they were independent.
    assert high - low == pytest.approx(3**0.5 * (alone[1] - alone[0]), rel=0.25)


def test_rates_without_queries_have_no_interval():
    intervals = grounding_intervals([[Event(0, 1)]], [[]])
    assert intervals["true_rejection_rate"] is None and intervals["false_rejection_rate"] == (1.0, 1.0)


def test_statistics_of_sums():
    values = np.random.default_rng(0).normal(size=(50, 2))
    intervals = sum_intervals(values, lambda sums: {"mean": sums[:, 0] / 50, "none": sums[:, 0] * np.nan})
    assert intervals["mean"] == pytest.approx(bootstrap_interval(values, lambda rows: rows[:, 0].mean()))
    assert intervals["none"] is None
    odd = sum_intervals(values, lambda sums: {"mean": sums[:, 0] / 50}, num_resamples=73)["mean"]
    assert odd == pytest.approx(bootstrap_interval(values, lambda rows: rows[:, 0].mean(), num_resamples=73))


def test_wrong_arguments():
    with pytest.raises(ValueError, match="references is empty"):
        detection_intervals([], [])
    with pytest.raises(ValueError, match="references has 1 entries and predictions 0"):
        grounding_intervals([[]], [])
    with pytest.raises(ValueError, match="clips has 2 entries for 1 references"):
        grounding_intervals([[]], [[]], ["a", "b"])
    with pytest.raises(ValueError, match="confidence is 95"):
        detection_intervals([[]], [[]], confidence=95)
