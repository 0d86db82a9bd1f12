"""Event-based and segment-based scores against sed_eval 0.2.1 itself, and where the two differ on purpose."""

import math

import numpy as np
import pytest
import sed_eval
from hypothesis import given
from hypothesis import strategies as st

from processing.events import Event
from recipes.scoring import event_based_f1, match_events, segment_based_f1

LABELS = ("dog", "car horn", "speech")
# A coarse grid makes touching events, and differences that are exactly a collar or an edge of a segment or, by the
# rounding of binary fractions, just beside it.
GRID = st.one_of(st.integers(0, 60).map(lambda i: i * 0.1), st.integers(0, 60).map(lambda i: i / 10))
TIMES = st.one_of(GRID, st.floats(0, 6), st.integers(0, 6).map(float))
SHIFTS = st.sampled_from([-0.25, -0.2, -0.1, 0.0, 0.1, 0.2, 0.2 + 1e-12, 0.25, 0.3 - 0.1])


@st.composite
def events(draw):
    onset = draw(TIMES)
    offset = draw(st.one_of(TIMES, st.just(onset)))
    return Event(min(onset, offset), max(onset, offset), draw(st.sampled_from(LABELS)))


@st.composite
def clip(draw):
    """Draw a reference and a prediction that is partly made from it: copies, moved, and with other labels."""
    reference = draw(st.lists(events(), max_size=5))
    prediction = draw(st.lists(events(), max_size=3))
    if reference:
        for event in draw(st.lists(st.sampled_from(reference), max_size=5)):
            onset = max(0.0, event.onset + draw(SHIFTS))
            label = draw(st.sampled_from((event.event_label, *LABELS)))
            prediction.append(Event(onset, max(onset, event.offset + draw(SHIFTS)), label))
        reference = reference + draw(st.lists(st.sampled_from(reference), max_size=2))
    return draw(st.permutations(reference)), draw(st.permutations(prediction))


CLIPS = st.lists(clip(), min_size=1, max_size=4)


def evaluate(metrics, pairs):
    for index, pair in enumerate(pairs):
        rows = [
            [{"filename": str(index), "onset": e.onset, "offset": e.offset, "event_label": e.event_label} for e in side]
            for side in pair
        ]
        metrics.evaluate(reference_event_list=rows[0], estimated_event_list=rows[1])
    return metrics


def event_metrics(pairs, t_collar=0.2, percentage_of_length=0.2, **kwargs):
    return evaluate(
        sed_eval.sound_event.EventBasedMetrics(
            list(LABELS), t_collar=t_collar, percentage_of_length=percentage_of_length, **kwargs
        ),
        pairs,
    )


def segment_metrics(pairs, time_resolution, empty_system_output_handling="zero_score"):
    metrics = sed_eval.sound_event.SegmentBasedMetrics(list(LABELS), time_resolution=time_resolution)
    # Its constructor does not take this argument, though its formulas heed it.
    metrics.empty_system_output_handling = empty_system_output_handling
    return evaluate(metrics, pairs)


def check_all(ours, metrics, errors):
    """Compare everything that both compute; `errors` names sed_eval's counts of the three errors."""
    counts = ours["class_wise"].values()
    num_references, num_predictions = (sum(c[name] for c in counts) for name in ("num_references", "num_predictions"))
    assert num_references == metrics.overall["Nref"] and num_predictions == metrics.overall["Nsys"]
    numbers = [ours["micro_errors"][f"num_{name}"] for name in ("substitutions", "deletions", "insertions")]
    assert numbers == [metrics.overall[name] for name in errors]
    check(ours["micro"], ours["micro_errors"], metrics.results_overall_metrics(), num_references, num_predictions)
    theirs = metrics.results_class_wise_metrics()
    for label, scores in ours["class_wise"].items():
        check(scores, scores, theirs[label], scores["num_references"], scores["num_predictions"])

    counted = [theirs[label] for label, scores in ours["class_wise"].items() if scores["num_references"]]
    if counted:
        means = metrics.results_class_wise_average_metrics()
        # Labels without references are NaN in these two and left out of their means.
        assert ours["macro"]["f1"] == pytest.approx(means["f_measure"]["f_measure"], abs=1e-9)
        assert ours["macro"]["recall"] == pytest.approx(means["f_measure"]["recall"], abs=1e-9)
        # Here sed_eval averages a precision of 0 and an error rate of 1e15 over such labels; we leave them out.
        precision = np.mean([scores["f_measure"]["precision"] for scores in counted])
        assert ours["macro"]["precision"] == pytest.approx(precision, abs=1e-9)
        for name, value in ours["macro_errors"].items():
            assert value == pytest.approx(np.mean([scores["error_rate"][name] for scores in counted]), abs=1e-9)


def check(scores, rates, theirs, num_references, num_predictions):
    for name, their_name in (("f1", "f_measure"), ("precision", "precision"), ("recall", "recall")):
        expected = theirs["f_measure"][their_name]
        if not num_references:
            # sed_eval: NaN, or a precision of 0 where nothing was predicted either.
            assert math.isnan(expected) or name == "precision"
            expected = float(not num_predictions)
        assert scores[name] == pytest.approx(expected, abs=1e-9)
    for name, expected in theirs["error_rate"].items():
        if not num_references:
            expected *= np.spacing(1)  # what sed_eval divides by; we divide by 1
        assert rates[name] == pytest.approx(expected, abs=1e-9)


@given(CLIPS, st.sampled_from([0.1, 0.2, 0.25, 0.5]), st.sampled_from([0.0, 0.2, 0.5, 1.0]))
def test_event_based_scores_are_those_of_sed_eval(pairs, t_collar, percentage_of_length):
    references, predictions = [list(side) for side in zip(*pairs, strict=True)]
    ours = event_based_f1(references, predictions, t_collar, percentage_of_length)
    handling = {"empty_system_output_handling": "zero_score"}
    metrics = event_metrics(pairs, t_collar, percentage_of_length, **handling)
    check_all(ours, metrics, ("Nsubs", "Nfn", "Nfp"))


@pytest.mark.parametrize("time_resolution", [1.0, 0.1, 0.25])
def test_segment_based_scores_are_those_of_sed_eval(time_resolution):
    @given(CLIPS)
    def compare(pairs):
        references, predictions = [list(side) for side in zip(*pairs, strict=True)]
        ours = segment_based_f1(references, predictions, time_resolution, sed_eval_rounding=True)
        check_all(ours, segment_metrics(pairs, time_resolution), ("S", "D", "I"))

    compare()


def test_no_references_at_all():
    # sed_eval: F and recall are NaN, the error rate is 1 / 2.2e-16.
    pairs = [([], [Event(1, 2, "dog")])]
    theirs = event_metrics(pairs).results_overall_metrics()
    assert math.isnan(theirs["f_measure"]["f_measure"]) and theirs["error_rate"]["error_rate"] > 1e15
    ours = event_based_f1([[]], [[Event(1, 2, "dog")]])
    assert ours["micro"] == ours["macro"] == {"f1": 0.0, "precision": 0.0, "recall": 0.0}
    assert ours["micro_errors"]["error_rate"] == ours["macro_errors"]["error_rate"] == 1.0
    nothing = event_based_f1([[]], [[]])
    assert nothing["micro"]["f1"] == 1.0 and nothing["micro_errors"]["error_rate"] == 0.0


def test_silence_about_a_label_is_no_way_to_a_better_mean():
    # dog is found, speech never predicted: sed_eval's segment-based mean is that of dog alone, 1 / 1; ours (1 + 0) / 2.
    pairs = [([Event(0, 1, "dog"), Event(2, 3, "speech")], [Event(0, 1, "dog")])]
    theirs = segment_metrics(pairs, 1.0, empty_system_output_handling=None)
    assert theirs.results_class_wise_average_metrics()["f_measure"]["f_measure"] == 1.0
    assert segment_based_f1(*zip(*pairs, strict=True))["macro"]["f1"] == 0.5
    assert event_based_f1(*zip(*pairs, strict=True))["macro"]["f1"] == 0.5


def test_files_without_references_count():
    # Two files; the second has no events and gets a false alarm. DESED's script goes through the files of the reference
    # and sees 1 of 1; we see 1 reference, 2 predictions, 1 match: 2 * 1 / (1 + 2).
    pairs = [([Event(1, 2, "dog")], [Event(1, 2, "dog")]), ([], [Event(3, 4, "dog")])]
    only_referenced = [pair for pair in pairs if pair[0]]
    assert event_metrics(only_referenced).results_overall_metrics()["f_measure"]["f_measure"] == 1.0
    for score in (event_based_f1, segment_based_f1):
        ours = score(*zip(*pairs, strict=True))
        assert ours["micro"]["f1"] == ours["macro"]["f1"] == pytest.approx(2 / 3)
        assert ours["micro_errors"]["num_insertions"] == 1
    assert event_metrics(pairs).results_overall_metrics()["f_measure"]["f_measure"] == pytest.approx(2 / 3)


def test_substitutions_depend_on_the_order_as_in_sed_eval():
    # The first reference (1.0 s) is near both predictions, the second (1.3 s) only near that at 1.15 s. Which one the
    # first takes decides whether the second finds any.
    reference = [Event(1.0, 2.0, "dog"), Event(1.3, 2.3, "dog")]
    prediction = [Event(1.15, 2.15, "speech"), Event(0.9, 1.9, "speech")]
    for order, num_substitutions in ((prediction, 1), (prediction[::-1], 2)):
        ours = event_based_f1([reference], [order])
        assert ours["micro_errors"]["num_substitutions"] == num_substitutions
        assert event_metrics([(reference, order)]).overall["Nsubs"] == num_substitutions
        assert ours["micro"]["f1"] == 0


def test_a_long_chain_of_events():
    # Each prediction is near two references, 0.15 s before and after; given backwards, the first guesses must all be
    # changed along one path through all events, too deep for sed_eval's recursion.
    num_events = 3000
    reference = [Event(0.3 * k, 0.3 * k + 0.1, "dog") for k in range(num_events)][::-1]
    prediction = [Event(0.3 * k + 0.15, 0.3 * k + 0.25, "dog") for k in range(num_events)]
    assert len(match_events(reference, prediction)) == num_events
    graph = {}
    for i, event in enumerate(reference):
        for j in range(max(0, num_events - i - 2), num_events - i):
            assert abs(event.onset - prediction[j].onset) < 0.16
            graph.setdefault(j, []).append(i)
    with pytest.raises(RecursionError):
        sed_eval.util.bipartite_match(graph)
