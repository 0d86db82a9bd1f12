"""IoU of unions and of best matches, by hand and against plainer formulas."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processing.events import Event
from recipes.scoring import best_match_iou, recall_at_iou, rejection_rates, union_iou

TIMES = st.one_of(st.integers(0, 20).map(lambda i: i * 0.5), st.floats(0, 10))
EVENTS = st.builds(lambda a, b: Event(min(a, b), max(a, b)), TIMES, TIMES)
SIDE = st.lists(EVENTS, max_size=6)


def single_iou(a, b):
    if (a.onset, a.offset) == (b.onset, b.offset):
        return 1.0
    shared = max(0.0, min(a.offset, b.offset) - max(a.onset, b.onset))
    covered = a.duration + b.duration - shared
    return shared / covered if covered > 0 else 0.0


@given(SIDE, SIDE)
def test_best_match_is_the_best_of_all(reference, prediction):
    if reference and prediction:
        best = [max(single_iou(a, b) for b in prediction) for a in reference]
        assert best_match_iou(reference, prediction) == pytest.approx(sum(best) / len(best), abs=1e-9)
    else:
        assert best_match_iou(reference, prediction) == float(not reference and not prediction)
    assert best_match_iou(reference, reference) == pytest.approx(1.0)
    assert best_match_iou(reference, prediction[::-1]) == best_match_iou(reference, prediction)


@given(EVENTS, EVENTS)
def test_both_are_the_same_for_single_intervals(a, b):
    assert best_match_iou([a], [b]) == pytest.approx(union_iou([a], [b]), abs=1e-9)


@given(SIDE, SIDE)
def test_union_against_all_pieces(reference, prediction):
    edges = sorted({time for event in reference + prediction for time in (event.onset, event.offset)})
    both = either = 0.0
    for start, end in zip(edges, edges[1:], strict=False):
        inside = [any(e.onset <= start and end <= e.offset for e in side) for side in (reference, prediction)]
        both += (end - start) * all(inside)
        either += (end - start) * any(inside)
    if either > 1e-6:
        assert union_iou(reference, prediction) == pytest.approx(both / either, abs=1e-9)


def test_by_hand():
    references = [[Event(0, 10)], [Event(0, 4), Event(6, 10)], [], [], [Event(1, 2)], [Event(1, 2)]]
    predictions = [[Event(0, 3), Event(5, 9)], [Event(2, 8)], [], [Event(0, 1)], [], None]
    # Best matches: 4/10 (not 3/10); (2/8 + 2/8) / 2, the one prediction serving both; right rejection 1; three times 0.
    # Unions: 7/10; 4/10; 1; 0; 0; 0.
    scores = recall_at_iou(references, predictions)
    assert scores["miou_best_match"] == pytest.approx((0.4 + 0.25 + 1) / 6)
    assert scores["miou_union"] == pytest.approx((0.7 + 0.4 + 1) / 6)
    # 0.7 is reached by 7 / 10, whatever its binary fraction is.
    assert (scores["R@0.3"], scores["R@0.5"], scores["R@0.7"], scores["R@0.9"]) == (3 / 6, 2 / 6, 2 / 6, 1 / 6)


def test_events_without_length():
    assert best_match_iou([Event(1, 1)], [Event(1, 1), Event(0, 2)]) == 1.0
    assert best_match_iou([Event(1, 1)], [Event(0, 2)]) == 0.0
    assert best_match_iou([Event(0, 2)], [Event(1, 1)]) == 0.0


def test_unparseable_answers():
    assert best_match_iou([], None) == best_match_iou([Event(0, 1)], None) == 0.0
    rates = rejection_rates([[], [], [Event(0, 1)], [Event(0, 1)]], [None, [], [], None])
    assert rates["true_rejection_rate"] == 0.5 and rates["false_rejection_rate"] == 0.5
    only_present = rejection_rates([[Event(0, 1)]], [[]])
    assert only_present["true_rejection_rate"] is None and only_present["false_rejection_rate"] == 1.0


def test_a_hundred_thousand_intervals():
    reference = [Event(k, k + 0.5) for k in range(100_000)]
    prediction = [Event(k + 0.25, k + 0.75) for k in range(100_000)]
    # Each overlaps by 0.25 s of 0.75 s.
    assert union_iou(reference, prediction) == pytest.approx(1 / 3)
    assert best_match_iou(reference, prediction) == pytest.approx(1 / 3)
