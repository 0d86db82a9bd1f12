"""Intervals of whole reports: those of single statistics, drawn by clip, and reproducible."""

import random

import numpy as np
import pytest

from processing.events import Event
from recipes.scoring import (
    PSDS1,
    ClipSums,
    bootstrap_interval,
    count_accuracy,
    detection_intervals,
    detection_sums,
    event_based_f1,
    grounding_sums,
    paired_bootstrap,
    psds,
    psds_statistics,
    psds_sums,
    recall_at_iou,
    segment_based_f1,
    sum_intervals,
)


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
    intervals = detection_intervals(references, predictions, num_resamples=100)

    def drawn(score, draw):
        return score([references[i] for i in draw], [predictions[i] for i in draw])

    indices = np.arange(len(references))
    for average in ("micro", "macro"):
        for name in ("f1", "precision", "recall"):
            expected = bootstrap_interval(
                indices, lambda draw: drawn(event_based_f1, draw)[average][name], num_resamples=100
            )
            assert intervals[f"{average}_{name}"] == pytest.approx(expected)
    failures = np.array([prediction is None for prediction in predictions])
    assert intervals["parse_failure_rate"] == pytest.approx(bootstrap_interval(failures, np.mean, num_resamples=100))


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
    intervals = sum_intervals(grounding_sums(references, predictions, clips))
    scores = recall_at_iou(references, predictions)
    scores |= {"count_accuracy": count_accuracy(references, predictions)}
    assert set(scores) - {"num_pairs"} == set(intervals) - {"true_rejection_rate", "false_rejection_rate"}
    for name, (low, high) in intervals.items():
        assert name not in scores or low <= scores[name] <= high
    assert intervals["true_rejection_rate"][0] < 0.5 < intervals["true_rejection_rate"][1]
    assert intervals["false_rejection_rate"] == (0.0, 0.0)
    low, high = intervals["R@0.5"]
    alone = sum_intervals(grounding_sums(references, predictions))["R@0.5"]
    # Three pairs that stand or fall together count as one: sqrt(3) times as wide as if they were independent.
    assert high - low == pytest.approx(3**0.5 * (alone[1] - alone[0]), rel=0.25)


def test_rates_without_queries_have_no_interval():
    intervals = sum_intervals(grounding_sums([[Event(0, 1)]], [[]]))
    assert intervals["true_rejection_rate"] is None and intervals["false_rejection_rate"] == (1.0, 1.0)


def test_statistics_of_sums():
    values = np.random.default_rng(0).normal(size=(50, 2))
    intervals = sum_intervals(ClipSums(values, lambda sums: {"mean": sums[:, 0] / 50, "none": sums[:, 0] * np.nan}))
    assert intervals["mean"] == pytest.approx(bootstrap_interval(values, lambda rows: rows[:, 0].mean()))
    assert intervals["none"] is None
    odd = sum_intervals(ClipSums(values, lambda sums: {"mean": sums[:, 0] / 50}), num_resamples=73)["mean"]
    assert odd == pytest.approx(bootstrap_interval(values, lambda rows: rows[:, 0].mean(), num_resamples=73))


def test_wrong_arguments():
    with pytest.raises(ValueError, match="references is empty"):
        detection_intervals([], [])
    with pytest.raises(ValueError, match="references has 1 entries and predictions 0"):
        sum_intervals(grounding_sums([[]], []))
    with pytest.raises(ValueError, match="clips has 2 entries for 1 references"):
        sum_intervals(grounding_sums([[]], [[]], ["a", "b"]))
    with pytest.raises(ValueError, match="confidence is 95"):
        detection_intervals([[]], [[]], confidence=95)


def worse(predictions, seed=1, fraction=0.2):
    """Lose a part of the events."""
    generator = random.Random(seed)
    return [clip and [event for event in clip if generator.random() > fraction] for clip in predictions]


def test_a_paired_bootstrap_is_that_of_scoring_every_resample_again():
    references, predictions = some_clips()
    others = worse(predictions)
    found = paired_bootstrap(
        detection_sums(references, predictions), detection_sums(references, others), num_resamples=60, seed=3
    )
    generator = np.random.default_rng(3)
    scores = {
        "micro_f1": lambda *sides: event_based_f1(*sides)["micro"]["f1"],
        "macro_recall": lambda *sides: event_based_f1(*sides)["macro"]["recall"],
        "error_rate": lambda *sides: event_based_f1(*sides)["micro_errors"]["error_rate"],
        "segment_0.1s_micro_f1": lambda *sides: segment_based_f1(*sides, 0.1)["micro"]["f1"],
    }
    differences = {name: [] for name in scores}
    for _ in range(60):
        draw = generator.integers(len(references), size=len(references))
        drawn = [[side[i] for i in draw] for side in (references, predictions, others)]
        for name, score in scores.items():
            differences[name].append(score(drawn[0], drawn[1]) - score(drawn[0], drawn[2]))
    for name, score in scores.items():
        values = np.array(differences[name])
        ours = found[name]
        assert ours["value"] == pytest.approx(score(references, predictions))
        assert ours["other"] == pytest.approx(score(references, others))
        assert ours["difference"] == pytest.approx(ours["value"] - ours["other"])
        assert ours["interval"] == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])))
        smaller = min((values <= 1e-12).sum(), (values >= -1e-12).sum())
        assert ours["p"] == pytest.approx(min(1, 2 * (smaller + 1) / 61))


def test_pairs_tell_apart_what_two_intervals_do_not():
    references, predictions = some_clips(num_clips=60)
    others = worse(predictions, fraction=0.1)
    sums, other_sums = (detection_sums(references, side) for side in (predictions, others))
    difference = paired_bootstrap(sums, other_sums)["micro_f1"]
    low, high = difference["interval"]
    assert 0 < low < difference["difference"] < high and difference["p"] < 0.05
    first, second = (sum_intervals(side)["micro_f1"] for side in (sums, other_sums))
    assert first[0] < second[1]  # they overlap
    assert high - low < 0.7 * (first[1] - first[0])
    opposite = paired_bootstrap(other_sums, sums)["micro_f1"]
    assert opposite["interval"] == (-high, -low) and opposite["p"] == difference["p"]


def test_a_system_beside_itself_differs_by_nothing():
    references, predictions = some_clips()
    sums = detection_sums(references, predictions)
    for difference in paired_bootstrap(sums, sums, num_resamples=50).values():
        assert difference["difference"] == 0 and difference["interval"] == (0, 0) and difference["p"] == 1


def test_runs_of_several_seeds_are_compared_together():
    references, predictions = some_clips(num_clips=60)
    others = worse(predictions, fraction=0.1)
    good, bad = (detection_sums(references, side) for side in (predictions, others))
    one, three = paired_bootstrap(good, bad)["micro_f1"], paired_bootstrap([good] * 3, [bad] * 3)["micro_f1"]
    # Seeds that are all alike say no more than one.
    assert three["difference"] == pytest.approx(one["difference"]) and three["p"] == one["p"]
    assert three["interval"] == pytest.approx(one["interval"])
    # Where seeds disagree, the interval holds what either alone would say.
    mixed = paired_bootstrap([good, bad], [bad, bad])["micro_f1"]
    assert mixed["difference"] == pytest.approx(one["difference"] / 2)
    assert mixed["interval"][0] <= 0 and mixed["interval"][1] > one["difference"] and mixed["p"] > 0.2
    with pytest.raises(ValueError, match="other has 1 runs and sums 2"):
        paired_bootstrap([good, good], [bad])


def test_pairs_of_queries_are_drawn_by_clip_and_undefined_rates_have_no_interval():
    references = [[Event(1, 3)], [Event(1, 3)], [Event(5, 6)]]
    sums = [grounding_sums(references, side, ["a", "a", "b"]) for side in (references, [[], [], []])]
    found = paired_bootstrap(*sums, num_resamples=100)
    assert found["miou_union"] == {"value": 1, "other": 0, "difference": 1, "interval": (1, 1), "p": 2 / 101}
    assert found["true_rejection_rate"]["interval"] is None and found["true_rejection_rate"]["p"] is None
    with pytest.raises(ValueError, match="other has 3 clips and sums 2; give the same clips in both"):
        paired_bootstrap(sums[0], grounding_sums(references, references))


def test_psds_is_compared_in_pairs_too():
    references, predictions = some_clips()
    scored = [[Event(e.onset, e.offset, e.event_label, 0.5) for e in clip or ()] for clip in predictions]
    durations = [10.0] * len(references)
    sums = [psds_sums(psds_statistics(references, side, durations, PSDS1), PSDS1) for side in (scored, worse(scored))]
    found = paired_bootstrap(*sums, num_resamples=100)["psds"]
    assert found["value"] == pytest.approx(psds(references, scored, durations, PSDS1)["psds"])
    assert found["difference"] > 0 and found["p"] < 0.5
