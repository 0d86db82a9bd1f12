"""Scores against sed_eval itself, cases counted by hand, and symmetries."""

import math
import random

import numpy as np
import pytest
import sed_eval
from hypothesis import given
from hypothesis import strategies as st

from processing.events import Event
from recipes.scoring import (
    bootstrap_interval,
    count_accuracy,
    count_events,
    event_based_f1,
    f_scores,
    match_events,
    recall_at_iou,
    rejection_rates,
    union_iou,
)

LABELS = ("dog", "car horn", "speech")
# Times on a coarse grid put many differences on or just beside the collar.
TIMES = st.one_of(st.integers(0, 60).map(lambda i: i * 0.1), st.floats(0, 6, width=32))


@st.composite
def events(draw):
    times = sorted((draw(TIMES), draw(TIMES)))
    return Event(times[0], times[1], draw(st.sampled_from(LABELS)))


clips = st.lists(st.tuples(st.lists(events(), max_size=6), st.lists(events(), max_size=6)), min_size=1, max_size=4)


def sed_eval_scores(references, predictions, labels, t_collar, percentage_of_length):
    metrics = sed_eval.sound_event.EventBasedMetrics(
        event_label_list=labels,
        t_collar=t_collar,
        percentage_of_length=percentage_of_length,
        empty_system_output_handling="zero_score",
    )
    for i, sides in enumerate(zip(references, predictions, strict=True)):
        rows = [
            [{"filename": str(i), "onset": e.onset, "offset": e.offset, "event_label": e.event_label} for e in side]
            for side in sides
        ]
        metrics.evaluate(reference_event_list=rows[0], estimated_event_list=rows[1])
    return metrics


@given(clips, st.sampled_from([0.1, 0.2, 0.25, 0.5]), st.sampled_from([0.0, 0.2, 0.5, 1.0]))
def test_equal_to_sed_eval(pairs, t_collar, percentage_of_length):
    references, predictions = [list(side) for side in zip(*pairs, strict=True)]
    labels = sorted({event.event_label for clip in references for event in clip})
    ours = event_based_f1(references, predictions, t_collar, percentage_of_length)
    if not labels:  # sed_eval has no score for this
        assert ours["micro"]["f1"] == float(not any(predictions))
        return
    metrics = sed_eval_scores(references, predictions, labels, t_collar, percentage_of_length)
    overall = metrics.results_overall_metrics()["f_measure"]
    class_mean = metrics.results_class_wise_average_metrics()["f_measure"]
    for ours_part, theirs in ((ours["micro"], overall), (ours["macro"], class_mean)):
        assert ours_part["f1"] == pytest.approx(theirs["f_measure"], abs=1e-9)
        assert ours_part["precision"] == pytest.approx(theirs["precision"], abs=1e-9)
        assert ours_part["recall"] == pytest.approx(theirs["recall"], abs=1e-9)
    for label in labels:
        theirs = metrics.class_wise_f_measure(label)
        assert ours["class_wise"][label]["f1"] == pytest.approx(theirs["f_measure"], abs=1e-9)


def test_counts_by_hand():
    references = [
        [Event(1.0, 2.0, "dog"), Event(3.0, 8.0, "car horn")],
        [],
        [Event(0.0, 1.0, "dog")],
    ]
    predictions = [
        [Event(1.1, 2.15, "dog"), Event(3.1, 7.1, "car horn"), Event(9.0, 9.5, "dog")],
        [Event(4.0, 5.0, "speech")],
        None,
    ]
    scores = event_based_f1(references, predictions)
    # The horn ends 0.9 s early, within 20 % of its 5 s; 2 of 3 references are found by 4 predictions.
    assert scores["micro"] == pytest.approx({"f1": 4 / 7, "precision": 2 / 4, "recall": 2 / 3})
    # dog: 1 of 2 by 2; car horn: 1 of 1 by 1; speech has no reference and is not averaged.
    assert scores["macro"] == pytest.approx({"f1": (0.5 + 1) / 2, "precision": (0.5 + 1) / 2, "recall": (0.5 + 1) / 2})
    assert scores["class_wise"]["speech"]["num_predictions"] == 1
    assert scores["parse_failure_rate"] == pytest.approx(1 / 3)


def test_offset_collars_are_alternatives():
    short, long = Event(0.0, 0.5, "dog"), Event(0.0, 10.0, "dog")
    assert match_events([short], [Event(0.0, 0.7, "dog")]) == [(0, 0)]  # 0.2 s, though 40 % of the length
    assert match_events([long], [Event(0.0, 8.0, "dog")]) == [(0, 0)]  # 20 %, though 2 s
    assert match_events([long], [Event(0.0, 7.99, "dog")]) == []
    assert match_events([short], [Event(0.3, 0.5, "dog")]) == []


def test_matching_is_optimal():
    # The first prediction fits both references, the second only the first: greedy pairing finds one, optimal two.
    references = [Event(1.0, 2.0, "dog"), Event(1.3, 2.3, "dog")]
    predictions = [Event(1.15, 2.15, "dog"), Event(0.9, 1.9, "dog")]
    assert sorted(match_events(references, predictions)) == [(0, 1), (1, 0)]


def test_time_only_ignores_labels():
    references, predictions = [[Event(1, 2, "dog")]], [[Event(1, 2, "cat")]]
    assert event_based_f1(references, predictions)["micro"]["f1"] == 0.0
    assert event_based_f1(references, predictions, time_only=True)["micro"]["f1"] == 1.0


@given(clips, st.randoms())
def test_order_and_identity(pairs, random_):
    references, predictions = [list(side) for side in zip(*pairs, strict=True)]
    assert event_based_f1(references, references)["micro"]["f1"] == 1.0
    shuffled = list(zip(references, predictions, strict=True))
    random_.shuffle(shuffled)
    shuffled = [(random_.sample(a, len(a)), random_.sample(b, len(b))) for a, b in shuffled]
    again = event_based_f1([a for a, _ in shuffled], [b for _, b in shuffled])
    assert again["micro"] == event_based_f1(references, predictions)["micro"]


@given(st.lists(events(), max_size=5), st.lists(events(), max_size=5))
def test_iou_properties(reference, prediction):
    iou = union_iou(reference, prediction)
    assert -1e-12 <= iou <= 1 + 1e-9
    assert iou == pytest.approx(union_iou(prediction, reference))
    assert union_iou(reference, reference) == pytest.approx(1.0)
    assert union_iou(reference + reference, prediction) == pytest.approx(iou)
    # Measured a second way: by counting the points of a fine grid.
    grid = np.linspace(0, 6, 3001) + 1e-4
    inside = [np.any([(e.onset <= grid) & (grid < e.offset) for e in side], axis=0) if side else 0 * grid > 0
              for side in (reference, prediction)]  # fmt: skip
    if np.any(inside[0] | inside[1]) and np.sum(inside[0] | inside[1]) > 300:
        assert iou == pytest.approx(np.sum(inside[0] & inside[1]) / np.sum(inside[0] | inside[1]), abs=0.08)


def test_grounding_by_hand():
    references = [[Event(0, 10)], [Event(0, 4), Event(6, 10)], [], [], [Event(1, 2)], [Event(1, 2)]]
    predictions = [[Event(0, 3)], [Event(2, 8)], [], [Event(0, 1)], [], None]
    # 3/10, 4/10, right rejection, false alarm, miss, unparseable
    scores = recall_at_iou(references, predictions)
    assert scores["R@0.3"] == 3 / 6 and scores["R@0.5"] == scores["R@0.9"] == 1 / 6
    assert scores["miou_union"] == pytest.approx((0.3 + 0.4 + 1) / 6)
    assert scores["parse_failure_rate"] == pytest.approx(1 / 6)
    assert count_accuracy(references, predictions) == pytest.approx(2 / 6)
    assert rejection_rates(references, predictions) == {
        "true_rejection_rate": 0.5, "false_rejection_rate": 0.25, "num_absent": 2, "num_present": 4,
    }  # fmt: skip


def test_unparseable_is_no_rejection():
    assert union_iou([], None) == 0.0
    assert rejection_rates([[]], [None])["true_rejection_rate"] == 0.0


def test_events_without_length():
    assert union_iou([Event(1, 1)], [Event(1, 1)]) == 1.0
    assert union_iou([Event(1, 1)], [Event(2, 2)]) == 0.0
    assert union_iou([Event(1, 1)], []) == 0.0


def test_bootstrap_covers_and_repeats():
    values = np.random.default_rng(3).normal(5.0, 1.0, size=400)
    low, high = bootstrap_interval(values, np.mean)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 / math.sqrt(400), rel=0.15)
    assert bootstrap_interval(values, np.mean) == (low, high)
    assert bootstrap_interval(values, np.mean, seed=1) != (low, high)


def test_bootstrap_of_f1_over_clips():
    generator = random.Random(0)
    references = [[Event(i, i + 1, "dog") for i in range(generator.randint(0, 4))] for _ in range(40)]
    predictions = [[event for event in clip if generator.random() < 0.6] for clip in references]
    counts = count_events(references, predictions).totals[:, :3]
    low, high = bootstrap_interval(counts, lambda rows: f_scores(rows.sum(axis=0))["f1"])
    assert low < event_based_f1(references, predictions)["micro"]["f1"] < high
    assert 0.03 < high - low < 0.4


def test_wrong_arguments():
    with pytest.raises(ValueError, match="references has 1 entries and predictions 2"):
        event_based_f1([[]], [[], []])
    with pytest.raises(ValueError, match="t_collar is -1"):
        event_based_f1([[]], [[]], t_collar=-1)
    with pytest.raises(ValueError, match="percentage_of_length is 20"):
        event_based_f1([[]], [[]], percentage_of_length=20)
    with pytest.raises(ValueError, match="references is empty"):
        recall_at_iou([], [])
    with pytest.raises(ValueError, match="values is empty"):
        bootstrap_interval(np.zeros((0, 3)), np.mean)
