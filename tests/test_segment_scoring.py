"""Segment-based scores by hand; `test_scoring_sed_eval.py` compares them with sed_eval."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processing.events import Event
from recipes.scoring import count_segments, segment_based_f1

TIMES = st.one_of(st.integers(0, 30).map(lambda i: i * 0.1), st.floats(0, 3))
EVENTS = st.builds(
    lambda a, b, label: Event(min(a, b), max(a, b), label), TIMES, TIMES, st.sampled_from(["dog", "cat", "bird"])
)
CLIPS = st.lists(st.tuples(st.lists(EVENTS, max_size=6), st.lists(EVENTS, max_size=6)), max_size=3)


def test_by_hand():
    references = [[Event(0, 2, "dog"), Event(1, 3, "cat")]]
    predictions = [[Event(0, 1, "dog"), Event(1, 2, "bird"), Event(2.2, 4, "cat")]]
    scores = segment_based_f1(references, predictions)
    # second   reference   prediction
    #   0      dog         dog          match
    #   1      dog, cat    bird         1 substitution, 1 deletion
    #   2      cat         cat          match
    #   3                  cat          1 insertion
    # 2 matches of 4 by 4; error rate (1 + 1 + 1) / 4.
    assert scores["micro"] == {"f1": 0.5, "precision": 0.5, "recall": 0.5}
    assert scores["micro_errors"] == {
        "error_rate": 0.75, "substitution_rate": 0.25, "deletion_rate": 0.25, "insertion_rate": 0.25,
        "num_substitutions": 1, "num_deletions": 1, "num_insertions": 1,
    }  # fmt: skip
    # dog: 1 of 2 by 1, F1 2 / 3; cat: 1 of 2 by 2, F1 1 / 2. Errors: dog (1 + 0) / 2, cat (1 + 1) / 2.
    assert scores["macro"] == pytest.approx({"f1": (2 / 3 + 1 / 2) / 2, "precision": (1 + 1 / 2) / 2, "recall": 0.5})
    assert scores["macro_errors"] == {"error_rate": 0.75, "deletion_rate": 0.5, "insertion_rate": 0.25}
    assert scores["class_wise"]["bird"]["num_predictions"] == 1
    assert scores["time_resolution"] == 1.0 and scores["num_clips"] == 1


@pytest.mark.parametrize(
    ("onset", "offset", "num_segments"),
    [
        (0.6, 0.7, 2),  # 0.6 / 0.1 is 5.999999999999999 and 0.7 / 0.1 is 6.999999999999999: segments 5 and 6
        (0.5, 0.6, 1),  # 5.0 and 5.999999999999999
        (0.1 + 0.2, 0.4, 1),  # 0.30000000000000004 / 0.1 is 3.0000000000000004
        (0.3, 0.4, 2),  # 0.3 / 0.1 is 2.9999999999999996: segments 2 and 3
        (0.25, 0.25, 1),  # no length, yet the segment that it lies in
        (0.5, 0.5, 0),  # no length, on an edge
        (0.0, 3.0, 30),
    ],
)
def test_with_sed_eval_rounding_float64_alone_decides_edges_of_segments(onset, offset, num_segments):
    counts = count_segments([[Event(onset, offset, "dog")]], [[]], 0.1, sed_eval_rounding=True)
    assert counts.totals.tolist() == [[0, num_segments, 0, 0, num_segments, 0]]


@given(
    st.integers(0, 100_000),
    st.integers(1, 2000),
    st.sampled_from([10, 12.5, 20, 25, 40]),
    st.sampled_from([20, 100, 250, 1000]),
)
def test_events_on_a_grid_fill_the_segments_that_they_overlap_wherever_they_lie(start, length, grid, resolution):
    # In exact fractions of a second.
    onset, offset = Fraction(start) * Fraction(grid) / 1000, Fraction(start + length) * Fraction(grid) / 1000
    size = Fraction(resolution, 1000)
    expected = math.ceil(offset / size) - math.floor(onset / size)
    events = [Event(float(onset), float(offset), "dog")]
    # The same times as sums and products of floats.
    events.append(Event(start * (grid / 1000), start * (grid / 1000) + length * (grid / 1000), "dog"))
    for event in events:
        assert count_segments([[event]], [[]], resolution / 1000).totals[0, 1] == expected


def test_an_event_however_short_is_active_in_a_segment():
    for onset, offset in ((0.3, 0.3 + 1e-9), (0.3 - 1e-9, 0.3), (0.3 - 1e-9, 0.3 + 1e-9)):
        assert count_segments([[Event(onset, offset, "dog")]], [[]], 0.1).totals[0, 1] == 1


def test_events_that_do_not_meet_share_no_segment():
    scores = segment_based_f1([[Event(0.3, 0.4, "dog")]], [[Event(0.2, 0.3, "dog")]], 0.1)
    assert scores["micro"]["f1"] == 0.0 and scores["micro_errors"]["error_rate"] == 2.0
    theirs = segment_based_f1([[Event(0.3, 0.4, "dog")]], [[Event(0.2, 0.3, "dog")]], 0.1, sed_eval_rounding=True)
    assert theirs["micro"]["f1"] == pytest.approx(2 / 3)


@given(CLIPS, st.sampled_from([1.0, 0.1, 0.25]))
def test_equal_to_looking_at_every_segment(pairs, time_resolution):
    expected = []
    for pair in pairs:
        active = np.zeros((2, 3, 100), dtype=int)
        for side, events in enumerate(pair):
            for event in events:
                onset, offset = (round(time / time_resolution, 6) for time in (event.onset, event.offset))
                first, end = np.floor(onset), max(np.ceil(offset), np.floor(onset) + (event.onset < event.offset))
                active[side, ["bird", "cat", "dog"].index(event.event_label), int(first) : int(end)] = 1
        reference, prediction = active.sum(axis=1)
        matches = active.min(axis=0).sum(axis=0)
        errors = [np.minimum(reference, prediction) - matches, reference - prediction, prediction - reference]
        columns = [matches, reference, prediction, *(np.maximum(part, 0) for part in errors)]
        expected.append([int(column.sum()) for column in columns])
    references, predictions = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    assert count_segments(references, predictions, time_resolution).totals.tolist() == expected


def test_unparseable_and_empty_clips():
    scores = segment_based_f1([[Event(0, 1, "dog")], []], [None, [Event(0, 2, "dog")]])
    # 0 matches of 1 by 2
    assert scores["micro"]["f1"] == 0.0 and scores["parse_failure_rate"] == 0.5
    assert scores["micro_errors"]["error_rate"] == 3.0  # (1 deletion + 2 insertions) / 1
    assert segment_based_f1([], [])["micro"]["f1"] == 1.0
    assert segment_based_f1([[]], [[]])["macro"]["f1"] == 1.0


def test_fine_segments_of_long_files_cost_nothing():
    day = 86400.0
    scores = segment_based_f1([[Event(0, day, "rain")]], [[Event(0, day / 2, "rain")]], 1e-6)
    assert scores["micro"]["recall"] == pytest.approx(0.5)


def test_wrong_arguments():
    for time_resolution in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="time_resolution is"):
            segment_based_f1([[]], [[]], time_resolution)
    with pytest.raises(ValueError, match="references has 1 entries and predictions 0"):
        segment_based_f1([[]], [])
