"""Matching against trying everything, golden cases, symmetries, and large files."""

import random
import runpy
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processing.events import Event
from recipes.scoring import (
    PSDS1,
    TIME_TOLERANCE,
    collar_edges,
    count_events,
    count_matched_spans,
    event_based_f1,
    event_f1,
    match_events,
    psds,
    segment_based_f1,
    unmatched_labels,
)
from recipes.scoring.matching import maximum_matching

LABELS = ("dog", "car horn")
TIMES = st.integers(0, 12).map(lambda i: i * 0.1)


@st.composite
def events(draw):
    times = sorted((draw(TIMES), draw(TIMES)))
    return Event(times[0], times[1], draw(st.sampled_from(LABELS)))


SIDE = st.lists(events(), max_size=6)
CLIPS = st.lists(st.tuples(SIDE, SIDE), min_size=1, max_size=4)


def largest_matching(edges, num_references, used=frozenset(), i=0):
    """Try everything: the next reference stays alone or takes any free candidate."""
    if i == num_references:
        return 0
    best = largest_matching(edges, num_references, used, i + 1)
    for _, j in (edge for edge in edges if edge[0] == i and edge[1] not in used):
        best = max(best, 1 + largest_matching(edges, num_references, used | {j}, i + 1))
    return best


@given(st.sets(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=20))
def test_maximum_matching_of_any_graph(edges):
    edges = sorted(edges)
    matching = maximum_matching(edges)
    assert set(matching.items()) <= set(edges)
    assert len(set(matching.values())) == len(matching) == largest_matching(edges, 6)


@given(SIDE, SIDE, st.booleans())
def test_matching_is_as_large_as_can_be(reference, prediction, time_only):
    def fits(a, b):
        return (
            (time_only or a.event_label == b.event_label)
            and abs(a.onset - b.onset) <= 0.2 + 1e-6
            and abs(a.offset - b.offset) <= max(0.2, 0.2 * (a.offset - a.onset)) + 1e-6
        )

    edges = [(i, j) for i, a in enumerate(reference) for j, b in enumerate(prediction) if fits(a, b)]
    pairs = match_events(reference, prediction, time_only=time_only)
    assert set(pairs) <= set(edges) and pairs == sorted(pairs)
    assert len(dict(pairs)) == len({j for _, j in pairs}) == len(pairs) == largest_matching(edges, len(reference))


@given(CLIPS, st.booleans())
def test_one_clip_alone_and_among_others(pairs, time_only):
    for reference, prediction in pairs:
        whole = event_based_f1([reference], [prediction], time_only=time_only, tolerance=TIME_TOLERANCE)
        assert event_f1(reference, prediction, time_only=time_only) == whole["micro"]["f1"]
        assert len(match_events(reference, prediction, time_only=time_only)) == sum(
            scores["num_matches"] for scores in whole["class_wise"].values()
        )
    assert event_f1([], None) == event_f1([Event(1, 2)], None) == event_f1([Event(1, 2)], []) == 0.0
    assert event_f1([], []) == 1.0
    assert match_events([Event(1, 2)], None) == match_events([], [Event(1, 2)]) == []


@given(CLIPS, st.randoms())
def test_symmetries(pairs, random_):
    shuffled = [tuple(random_.sample(side, len(side)) for side in pair) for pair in random_.sample(pairs, len(pairs))]
    references, predictions = zip(*pairs, strict=True)
    for score in (event_based_f1, segment_based_f1):
        ours, again = score(references, predictions), score(*zip(*shuffled, strict=True))
        for name in ("micro", "macro", "class_wise", "macro_errors"):
            assert ours[name] == again[name]
        if score is segment_based_f1:  # its substitutions do not depend on any order
            assert ours == again
        perfect = score(references, references)
        assert perfect["micro"] == perfect["macro"] == {"f1": 1.0, "precision": 1.0, "recall": 1.0}
        assert perfect["micro_errors"]["error_rate"] == 0.0
        silent = score(references, [[] for _ in references])
        is_something = any(scores["num_references"] for scores in silent["class_wise"].values())
        assert silent["micro"]["f1"] == float(not is_something)
        assert score(references, [None for _ in references])["micro"] == silent["micro"]
        # A false alarm in one more file, which has no events, counts.
        more = score([*references, []], [*predictions, [Event(0, 1, "dog")]])
        assert more["micro_errors"]["num_insertions"] == ours["micro_errors"]["num_insertions"] + 1


def test_errors_by_hand():
    references = [[Event(1, 2, "dog"), Event(3, 4, "cat"), Event(5, 6, "dog")], [Event(7, 8, "cat")]]
    predictions = [[Event(1.1, 2.1, "dog"), Event(3, 4, "dog")], [Event(9, 9.5, "bird")]]
    scores = event_based_f1(references, predictions)
    # 4 references, 3 predictions, 1 match; the cat at 3 s is called a dog: 1 substitution.
    # Deletions 4 - 1 - 1 = 2, insertions 3 - 1 - 1 = 1, error rate (1 + 2 + 1) / 4.
    assert scores["micro_errors"] == {
        "error_rate": 1.0, "substitution_rate": 0.25, "deletion_rate": 0.5, "insertion_rate": 0.25,
        "num_substitutions": 1, "num_deletions": 2, "num_insertions": 1,
    }  # fmt: skip
    # dog: 1 of 2 by 2, one deleted and one inserted; cat: 0 of 2 by 0, two deleted; bird: one inserted, divided by 1.
    dog, cat, bird = (scores["class_wise"][label] for label in ("dog", "cat", "bird"))
    assert dog == {"f1": 0.5, "precision": 0.5, "recall": 0.5, "error_rate": 1.0, "deletion_rate": 0.5,
                   "insertion_rate": 0.5, "num_matches": 1, "num_references": 2, "num_predictions": 2}  # fmt: skip
    assert (cat["f1"], cat["error_rate"], cat["deletion_rate"], cat["insertion_rate"]) == (0, 1, 1, 0)
    assert (bird["f1"], bird["error_rate"], bird["insertion_rate"]) == (0, 1, 1)
    # Means over dog and cat: error rate (1 + 1) / 2, deletions (0.5 + 1) / 2, insertions (0.5 + 0) / 2.
    assert scores["macro_errors"] == {"error_rate": 1.0, "deletion_rate": 0.75, "insertion_rate": 0.25}
    counts = count_events(references, predictions)
    assert counts.labels == ["bird", "cat", "dog"]
    # By clip and label: matches, references, predictions.
    table = np.zeros((2, 3, 3), dtype=int)
    np.add.at(table, (counts.label_rows[:, 0], counts.label_rows[:, 1]), counts.label_rows[:, 2:])
    assert table.tolist() == [[[0, 0, 0], [0, 1, 0], [1, 2, 2]], [[0, 0, 1], [0, 1, 0], [0, 0, 0]]]


def test_without_a_tolerance_float64_alone_decides_edges_of_collars():
    def match(reference, prediction):
        return match_events([Event(*reference)], [Event(*prediction)], tolerance=0.0) == [(0, 0)]

    # 0.1 + 0.2 is 0.30000000000000004: beside 0.5 it is 0.19999999999999996 away, within 0.2.
    assert match((0.5, 1), (0.1 + 0.2, 1))
    # 1.2 - 1.0 is 0.19999999999999996, but 1.0 - 0.8 is 0.19999999999999996 and 3.2 - 3.0 is 0.20000000000000018.
    assert match((1.0, 2), (1.2, 2)) and match((1.0, 2), (0.8, 2)) and not match((3.0, 4), (3.2, 4))
    # 20 % of 1.5 s is 0.30000000000000004 s; 2.3 - 2.0 is 0.2999999999999998.
    assert match((0.5, 2.0), (0.5, 2.3))


@given(
    st.integers(0, 1_000_000),
    st.integers(1, 500),
    st.sampled_from([10, 12.5, 20, 25, 40]),
    st.sampled_from([0.1, 0.2, 0.25, 0.5]),
    st.sampled_from([-1, 1]),
)
def test_what_is_exactly_a_collar_away_matches_wherever_it_is_in_the_clip(start, length, grid, collar, sign):
    step = grid / 1000
    num_steps = round(collar / step)
    if num_steps * Fraction(grid) != Fraction(str(collar)) * 1000 or start + sign * num_steps < 0:
        return
    onset, late = start * step, (start + sign * num_steps) * step
    reference = [Event(onset, onset + length * step, "dog")]
    prediction = [Event(late, late + length * step, "dog")]
    assert match_events(reference, prediction, collar) == [(0, 0)]
    assert event_f1(reference, prediction, collar) == 1.0
    # One step of the grid more is too far.
    beyond = late + sign * step
    if beyond >= 0:
        prediction = [Event(beyond, max(beyond, reference[0].offset), "dog")]
        assert event_f1(reference, prediction, collar) == 0.0
    found = collar_edges([reference], [[Event(late, late + length * step, "dog")]], collar, 0.0)
    assert found["num_matches_on_collar"] == found["micro"]["f1"] == 1
    strict = event_based_f1([reference], [[Event(late, late + length * step, "dog")]], collar, 0.0)
    assert found["num_refused"] == 1 - strict["micro"]["f1"]


@given(st.integers(0, 10_000), st.integers(1, 1000), st.sampled_from([10, 20, 40]), st.sampled_from([-1, 1]))
def test_offsets_exactly_the_fraction_of_the_length_away_match(start, length, grid, sign):
    step, length = grid / 1000, 5 * length  # a fifth of it is on the grid
    event = Event(start * step, (start + length) * step, "dog")
    moved = Event(start * step, (start + length + sign * length // 5) * step, "dog")
    assert match_events([event], [moved], t_collar=0.0) == [(0, 0)]


def test_labels_that_look_equal_match():
    references, predictions = [[Event(1, 2, "cafe\u0301 door")]], [[Event(1, 2, " caf\u00e9\u00a0 door ")]]
    for score in (event_based_f1, segment_based_f1):
        scores = score(references, predictions)
        assert scores["micro"]["f1"] == 1.0 and list(scores["class_wise"]) == ["caf\u00e9 door"]
    assert event_f1(references[0], predictions[0]) == 1.0
    assert psds(references, [[Event(1, 2, " caf\u00e9 door", 0.5)]], [10.0], PSDS1)["psds"] == 1.0
    assert unmatched_labels(references, predictions) == {"only_in_references": {}, "only_in_predictions": {}}


def test_labels_that_only_one_side_has_are_counted_most_frequent_first():
    references = [[Event(0, 1, "Dog"), Event(1, 2, "cat")], [Event(0, 1, "owl"), Event(2, 3, "owl")]]
    assert unmatched_labels(references, [[Event(0, 1, "dog"), Event(1, 2, "cat")], None]) == {
        "only_in_references": {"owl": 2, "Dog": 1},
        "only_in_predictions": {"dog": 1},
    }


def test_a_large_file_is_scored_as_its_parts_are():
    generator = random.Random(0)
    parts = []
    for start in range(0, 1000, 10):
        reference = [Event(t, t + 0.5, generator.choice(LABELS)) for t in np.arange(start, start + 9, 0.25)]
        moved = [(e, generator.uniform(-0.3, 0.3)) for e in reference]
        parts.append((reference, [Event(max(0, e.onset + d), e.offset + d, e.event_label) for e, d in moved]))
    references, predictions = zip(*parts, strict=True)
    apart = event_based_f1(references, predictions)
    whole = event_based_f1([sum(references, [])], [sum(predictions, [])])
    assert whole["micro"] == apart["micro"] and whole["class_wise"] == apart["class_wise"]
    assert 0.3 < whole["micro"]["f1"] < 0.95


def test_a_hundred_thousand_events_in_one_file():
    # Every 0.3 s; predictions 0.1 s late, so each is near its own reference and (0.2 s away) perhaps the next one.
    reference = [Event(0.3 * k, 0.3 * k + 0.2, "dog") for k in range(100_000)]
    prediction = [Event(event.onset + 0.1, event.offset + 0.1, "dog") for event in reference]
    assert event_f1(reference, prediction) == 1.0
    # 0.2 s in steps of 0.3 s: events and pauses of 2 and 1 segments of 0.1 s; half of each event is found.
    assert 0.4 < segment_based_f1([reference], [prediction], 0.1)["micro"]["f1"] < 0.9


def test_too_dense_events_are_refused(monkeypatch):
    monkeypatch.setattr("recipes.scoring.matching._MAX_PAIRS", 1000)
    assert event_f1([Event(1, 2)] * 30, [Event(1, 2)] * 33) == pytest.approx(60 / 63)
    with pytest.raises(ValueError, match="40 predicted events, so dense that over 1000 pairs"):
        event_f1([Event(1, 2)] * 40, [Event(1, 2)] * 40)


def test_matched_spans_are_counted_in_lists_and_arrays():
    references, predictions = [(0.0, 1.0), (2.0, 3.0)], [(0.1, 1.1)]
    assert count_matched_spans(references, predictions) == 1
    assert count_matched_spans(np.array(references), np.array(predictions)) == 1
    assert count_matched_spans([], predictions) == count_matched_spans(references, []) == 0


def test_the_benchmark_finds_equal_figures(capsys):
    bench = runpy.run_path(str(Path(__file__).parent / "benchmarks" / "bench_scoring.py"))
    result = bench["compare_with_sed_eval"](200, seed=1)
    assert result["largest_difference"] < 1e-9 and 0.2 < result["micro_f1"] < 0.8
