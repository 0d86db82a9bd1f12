"""PSDS against psds_eval itself, a search over all thresholds in exact fractions, cases by hand, and symmetries."""

import contextlib
import math
import random
from fractions import Fraction
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psds_eval import PSDSEval

from processing.events import Event
from recipes.scoring import PSDS1, PSDS2, PsdsScenario, psds, psds_statistics, psds_sums, sum_intervals

LABELS = ("car horn", "dog", "speech")
SCORES = (0.1, 0.25, 0.5, 0.75, 0.9)
DURATION = 12
DURATIONS = st.sampled_from([12.0, 300.0, 5000.0])


@st.composite
def apart(draw, labels=LABELS, max_length=9):
    """Events that do not overlap within a label; with lengths under 10 none has 0.1, 0.3 or 0.7 as an exact share."""
    events = []
    for label in labels:
        bounds = sorted(draw(st.lists(st.integers(0, DURATION), max_size=8)))
        for onset, offset in zip(bounds[::2], bounds[1::2], strict=False):
            if offset - onset <= max_length:
                events.append(Event(onset, offset, label, draw(st.sampled_from(SCORES[::2]))))
    return events


@st.composite
def any_events(draw):
    """Events that overlap, repeat, touch and have no length, with times whose shares fall on the criteria."""
    events = []
    for _ in range(draw(st.integers(0, 6))):
        onset, offset = sorted((draw(st.integers(0, DURATION * 10)), draw(st.integers(0, DURATION * 10))))
        events.append(Event(onset / 10, offset / 10, draw(st.sampled_from(LABELS)), draw(st.sampled_from(SCORES))))
    return events


def with_all_labels(references):
    """A last clip in which every label sounds, for a label without references has no true positive ratio."""
    return [*references, [Event(2.0 * i, 2.0 * i + 1.5, label) for i, label in enumerate(LABELS)]]


def psds_eval_score(references, predictions, durations, scenario):
    """Give psds_eval every operating point there is."""
    columns = ["filename", "onset", "offset", "event_label"]

    def table(clips, threshold=-math.inf):
        rows = [(f"{i}.wav", event.onset, event.offset, event.event_label) for i, clip in enumerate(clips)
                for event in clip if (event.score or 0) > threshold]  # fmt: skip
        return pd.DataFrame(rows, columns=columns).astype({"onset": float, "offset": float})

    evaluation = PSDSEval(
        dtc_threshold=scenario.dtc,
        gtc_threshold=scenario.gtc,
        cttc_threshold=1.0 if scenario.cttc is None else scenario.cttc,
        ground_truth=table(references),
        metadata=pd.DataFrame({"filename": [f"{i}.wav" for i in range(len(durations))], "duration": durations}),
        duration_unit="hour",
    )
    for threshold in (0.0, *SCORES):
        detections = table(predictions, threshold)
        if len(detections[detections.offset > detections.onset]):
            evaluation.add_operating_point(detections)
    if not evaluation.num_operating_points():
        return 0.0
    return evaluation.psds(alpha_ct=scenario.alpha_ct, alpha_st=scenario.alpha_st, max_efpr=scenario.max_efpr).value


@contextlib.contextmanager
def older_pandas_and_numpy():
    """Lend psds_eval 0.5.3 two behaviours that it relies on and that pandas 3 and numpy 2.4 dropped."""
    fillna, argwhere = pd.DataFrame.fillna, np.argwhere
    with (
        mock.patch.object(
            pd.DataFrame,
            "fillna",
            lambda self, value=None, method=None: self.ffill() if method == "ffill" else fillna(self, value),
        ),
        mock.patch.object(np, "argwhere", lambda found: argwhere(found).squeeze()),
    ):
        yield


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "scenario",
    [PSDS1, PSDS2, pytest.param(PSDS2._replace(max_efpr=1000.0), marks=pytest.mark.slow)],
    ids=["1", "2", "2-1000"],
)
def test_equal_to_psds_eval(scenario):
    @given(st.lists(st.tuples(apart(), apart(), DURATIONS), min_size=1, max_size=3), apart(), DURATIONS)
    @settings(max_examples=5)
    def check(clips, last_prediction, last_duration):
        references, predictions, durations = [list(side) for side in zip(*clips, strict=True)]
        references, predictions = with_all_labels(references), [*predictions, last_prediction]
        durations.append(last_duration)
        ours = psds(references, predictions, durations, scenario)["psds"]
        with older_pandas_and_numpy():
            theirs = psds_eval_score(references, predictions, durations, scenario)
        assert ours == pytest.approx(theirs, abs=1e-9)

    check()


def covered(events, start, end):
    """Seconds of the tenths of a second from start to end in which any event sounds, as a fraction."""
    return Fraction(sum(any(a <= t < b for a, b in events) for t in range(start, end)), 10)


def brute_force(references, predictions, durations, scenario):
    """Threshold the events at each score, judge what is left by the definition, and integrate the curve."""
    scenario = PsdsScenario(*(None if value is None else Fraction(str(value)) for value in scenario))

    def tenths(events, label):
        return [(round(event.onset * 10), round(event.offset * 10)) for event in events
                if event.event_label == label and event.offset > event.onset]  # fmt: skip

    hours = Fraction(sum(map(Fraction, durations)), 3600)
    curves = []
    for label in LABELS:
        others = [other for other in LABELS if other != label]
        points = [(Fraction(0), Fraction(0))]
        num_references = sum(len(tenths(clip, label)) for clip in references)
        for threshold in (0.0, *SCORES):
            found = false = 0
            crossed = dict.fromkeys(others, 0)
            for reference, prediction in zip(references, predictions, strict=True):
                left = tenths([event for event in prediction if event.score > threshold], label)
                relevant = []
                for a, b in left:
                    if covered(tenths(reference, label), a, b) >= scenario.dtc * Fraction(b - a, 10):
                        relevant.append((a, b))
                        continue
                    false += 1
                    for other in others if scenario.cttc is not None else ():
                        crossed[other] += covered(tenths(reference, other), a, b) >= scenario.cttc * Fraction(b - a, 10)
                found += sum(covered(relevant, a, b) >= scenario.gtc * Fraction(b - a, 10)
                             for a, b in tenths(reference, label))  # fmt: skip
            rate = false / hours
            for other, count in crossed.items():
                seconds = sum(covered(tenths(clip, other), 0, DURATION * 10 + 1) for clip in references)
                rate += scenario.alpha_ct * count / (seconds / 3600) / len(others)
            points.append((rate, Fraction(found, num_references)))
        curves.append(points)
    rates = sorted({rate for points in curves for rate, _ in points if rate < scenario.max_efpr})
    area = 0.0
    for rate, following in zip(rates, [*rates[1:], scenario.max_efpr], strict=True):
        ratios = [float(max(ratio for x, ratio in points if x <= rate)) for points in curves]
        area += float(following - rate) * max(np.mean(ratios) - float(scenario.alpha_st) * np.std(ratios), 0.0)
    return area / float(scenario.max_efpr)


@pytest.mark.parametrize("scenario", [PSDS1, PSDS2, PsdsScenario(0.5, 0.5, 0.5, 1.0, 0.5, 800.0)], ids="12x")
def test_equal_to_all_thresholds_by_brute_force(scenario):
    @given(st.lists(st.tuples(any_events(), any_events(), DURATIONS), min_size=1, max_size=3), any_events())
    def check(clips, last_prediction):
        references, predictions, durations = [list(side) for side in zip(*clips, strict=True)]
        references, predictions = with_all_labels(references), [*predictions, last_prediction]
        durations.append(float(DURATION))
        ours = psds(references, predictions, durations, scenario)["psds"]
        assert ours == pytest.approx(brute_force(references, predictions, durations, scenario), abs=1e-9)

    check()


# One hour in all, so that one false prediction is one per hour.
REFERENCES = [[Event(0, 10, "dog")], [Event(0, 10, "dog"), Event(20, 40, "cat")], []]
DURATIONS_BY_HAND = [1200.0, 1200.0, 1200.0]


def test_curve_by_hand():
    predictions = [
        [Event(0, 9, "dog", 0.9)],
        [Event(0, 10, "dog", 0.5), Event(20, 40, "cat", 0.9)],
        [Event(5, 6, "dog", 0.7)],
    ]
    scores = psds(REFERENCES, predictions, DURATIONS_BY_HAND, PSDS1._replace(alpha_st=0.0))
    # dog: below 0.9 one of 2 is found with none false, below 0.7 one is false, below 0.5 both are found: the ratio is
    # 1/2 from 0 to 1 per hour and 1 from there to 100. cat: 1 throughout.
    assert scores["class_wise"] == pytest.approx({"dog": (0.5 * 1 + 1 * 99) / 100, "cat": 1.0})
    assert scores["psds"] == pytest.approx((0.995 + 1.0) / 2)
    # With alpha_st the first hour's ratio is mean(1/2, 1) - std(1/2, 1) = 3/4 - 1/4.
    assert psds(REFERENCES, predictions, DURATIONS_BY_HAND, PSDS1)["psds"] == pytest.approx((0.5 * 1 + 1 * 99) / 100)


def test_criteria_by_hand():
    def found(onset, offset, scenario):
        return psds([[Event(0, 10, "dog")]], [[Event(onset, offset, "dog", 0.5)]], [3600.0], scenario)["psds"]

    assert found(3, 13, PSDS1) == 1.0  # 7 of 10 s either way, exactly the criteria
    assert found(3.01, 10, PSDS1) == 0.0  # 6.99 of the reference's 10 s are too few
    assert found(0, 14.3, PSDS1) == 0.0  # 10 of 14.3 s are 0.699 of the prediction
    assert found(9, 19, PSDS2) == 1.0  # 1 of 10 s
    assert found(9.1, 10, PSDS2) == 0.0


def test_cross_triggers_by_hand():
    # The dog heard in a cat is false, and at 12 of its 20 s a cross-trigger: 1 in 20 s of cat is 180 per hour, so its
    # rate is 1 + 0.5 * 180 = 91 per hour before any dog is found; the dog's ratio is 1 from there to 100.
    predictions = [
        [Event(0, 10, "dog", 0.5)],
        [Event(0, 10, "dog", 0.5), Event(28, 48, "dog", 0.9), Event(20, 40, "cat", 0.5)],
        [],
    ]
    scores = psds(REFERENCES, predictions, DURATIONS_BY_HAND, PSDS2._replace(dtc=0.7))
    assert scores["class_wise"] == pytest.approx({"dog": 9 / 100, "cat": 1.0})
    # At 5 of 20 s it is no cross-trigger: 1 per hour.
    predictions[1][1] = Event(35, 55, "dog", 0.9)
    scores = psds(REFERENCES, predictions, DURATIONS_BY_HAND, PSDS2._replace(dtc=0.7))
    assert scores["class_wise"] == pytest.approx({"dog": 99 / 100, "cat": 1.0})


def test_overlaps_count_once():
    # Two predictions of the same 5 s cover half of the reference, not all of it.
    twice = [Event(0, 5, "dog", 0.9), Event(0, 5, "dog", 0.8)]
    assert psds([[Event(0, 10, "dog")]], [twice], [3600.0], PSDS1)["psds"] == 0.0
    # Half of the prediction lies in the references, though each alone has half of it.
    assert psds([[Event(0, 5, "dog"), Event(0, 5, "dog")]], [[Event(0, 10, "dog", 0.9)]], [10.0], PSDS1)["psds"] == 0.0


@pytest.mark.parametrize("scenario", [PSDS1, PSDS2])
def test_perfect_empty_and_unparseable(scenario):
    perfect = [[Event(e.onset, e.offset, e.event_label, 0.5) for e in clip] for clip in REFERENCES]
    scores = psds(REFERENCES, perfect, DURATIONS_BY_HAND, scenario)
    assert scores == {"psds": 1.0, "class_wise": {"cat": 1.0, "dog": 1.0}, "num_other_labels": 0,
                      "parse_failure_rate": 0.0, "num_clips": 3}  # fmt: skip
    assert psds(REFERENCES, [[], [], []], DURATIONS_BY_HAND, scenario)["psds"] == 0.0
    scores = psds(REFERENCES, [None, *perfect[1:]], DURATIONS_BY_HAND, scenario)
    assert scores["parse_failure_rate"] == pytest.approx(1 / 3)
    assert scores["class_wise"] == {"cat": 1.0, "dog": 0.5}


def test_false_alarms_in_empty_clips_count():
    perfect = [[Event(e.onset, e.offset, e.event_label, 0.5) for e in clip] for clip in REFERENCES]
    perfect[2] = [Event(i, i + 0.5, "dog", 0.9) for i in range(10)]
    # 10 per hour before any dog is found: the dog's ratio is 1 from 10 to 100.
    assert psds(REFERENCES, perfect, DURATIONS_BY_HAND, PSDS1)["class_wise"]["dog"] == pytest.approx(0.9)
    # As many surer events of a label that is not scored are counted apart.
    perfect[2] = [Event(i, i + 0.5, "owl", 0.9) for i in range(10)]
    scores = psds(REFERENCES, perfect, DURATIONS_BY_HAND, PSDS1)
    assert (scores["psds"], scores["num_other_labels"]) == (1.0, 10)


def test_labels_choose_the_classes():
    predictions = [[], [Event(20, 40, "cat", 0.5)], []]
    assert psds(REFERENCES, predictions, DURATIONS_BY_HAND, PSDS1, labels=["cat"])["psds"] == 1.0
    assert psds(REFERENCES, predictions, DURATIONS_BY_HAND, PSDS1, labels=["dog"])["psds"] == 0.0


@given(st.lists(st.tuples(any_events(), any_events(), DURATIONS), min_size=1, max_size=4), st.randoms())
def test_order_and_scale_of_scores_change_nothing(clips, random_):
    clips = [*clips, (with_all_labels([])[0], [Event(0, 1.5, "dog", 0.9)], 12.0)]
    shuffled = random_.sample(clips, len(clips))
    shuffled = [(random_.sample(a, len(a)), random_.sample(b, len(b)), duration) for a, b, duration in shuffled]
    # Any rising map keeps the operating points; scores may be logits.
    shuffled = [(a, [Event(e.onset, e.offset, e.event_label, math.log(e.score) * 7) for e in b], duration)
                for a, b, duration in shuffled]  # fmt: skip
    before, after = [psds(*map(list, zip(*side, strict=True)), PSDS2) for side in (clips, shuffled)]
    assert after["psds"] == pytest.approx(before["psds"], abs=1e-9)
    assert after["class_wise"] == pytest.approx(before["class_wise"], abs=1e-9)


def test_interval():
    generator = random.Random(0)
    references = [[Event(0, 5, "dog"), Event(2, 8, "cat")] for _ in range(40)]
    predictions = [[Event(0, 5, "dog", generator.random()), Event(2, generator.uniform(4, 8), "cat", 0.5)]
                   for _ in references]  # fmt: skip
    durations = [60.0] * 40

    def interval(scenario, num_resamples=200):
        sums = psds_sums(psds_statistics(references, predictions, durations, scenario), scenario)
        return sum_intervals(sums, num_resamples=num_resamples)["psds"]

    low, high = interval(PSDS2)
    assert low <= psds(references, predictions, durations, PSDS2)["psds"] <= high
    assert (low, high) == interval(PSDS2)
    low, high = interval(PSDS1)
    # A resample of clips is worth what scoring these clips is worth: one draw by hand.
    draw = np.random.default_rng(0).integers(40, size=40)
    drawn = psds(*([side[i] for i in draw] for side in (references, predictions, durations)), PSDS1)["psds"]
    assert interval(PSDS1, 1) == pytest.approx((drawn, drawn))


def test_errors_name_what_is_wrong():
    dog = Event(0, 1, "dog", 0.5)
    with pytest.raises(ValueError, match=r"predictions\[0\]\[1\].*without a score"):
        psds([[dog]], [[dog, Event(0, 1, "dog")]], [10.0], PSDS1)
    with pytest.raises(ValueError, match=r"durations\[0\] is 0"):
        psds([[dog]], [[dog]], [0.0], PSDS1)
    with pytest.raises(ValueError, match=r"durations\[0\] is nan"):
        psds([[dog]], [[dog]], [math.nan], PSDS1)
    with pytest.raises(ValueError, match="1 entries, predictions 2 and durations 1"):
        psds([[dog]], [[dog], []], [10.0], PSDS1)
    with pytest.raises(ValueError, match="at least one clip"):
        psds([], [], [], PSDS1)
    with pytest.raises(ValueError, match=r"no reference events for \['cat'\]"):
        psds([[dog]], [[dog]], [10.0], PSDS1, labels=["dog", "cat"])
    with pytest.raises(ValueError, match="labels has no reference events"):
        psds([[Event(1, 1, "dog")]], [[dog]], [10.0], PSDS1)
    for change, name in (({"dtc": 0.0}, "dtc"), ({"gtc": 1.1}, "gtc"), ({"alpha_st": -1.0}, "alpha_st"),
                         ({"alpha_ct": 0.5}, "alpha_ct"), ({"max_efpr": 0.0}, "max_efpr")):  # fmt: skip
        with pytest.raises(ValueError, match=f"scenario.{name} is"):
            psds([[dog]], [[dog]], [10.0], PSDS1._replace(**change))
