"""Scores that mean what they say: figures by hand."""

import json

import pytest

from processing.events import Event
from recipes.data.clip import AnnotatedClip
from recipes.data.questions import SCORING, questions
from recipes.evaluation.calibration import (
    calibrate,
    calibration,
    grounding_by_threshold,
    scored_events,
    scores_by_threshold,
)


def test_figures_by_hand():
    # Bins of a half: [0.1, 0.3] with one right, [0.6, 1.0] with both right.
    report = calibration([0.1, 0.3, 0.6, 1.0], [True, False, True, True], num_bins=2)
    # 2/4 * |1/2 - 0.2| + 2/4 * |1 - 0.8| = 0.15 + 0.10
    assert report["ece"] == pytest.approx(0.25)
    # Of the pairs (0.1, 0.3), (0.6, 0.3), (1.0, 0.3), two are in order.
    assert report["auroc"] == pytest.approx(2 / 3)
    # Right ones come first, second and fourth: (1/1 + 2/2 + 3/4) / 3.
    assert report["average_precision"] == pytest.approx(2.75 / 3)
    assert [part["num_events"] for part in report["bins"]] == [2, 2]
    assert report["bins"][1] == {
        "low": 0.5, "high": 1.0, "num_events": 2, "mean_score": pytest.approx(0.8), "fraction_right": 1.0
    }  # fmt: skip


def test_ties_count_half():
    report = calibration([0.5, 0.5], [True, False])
    assert (report["auroc"], report["average_precision"], report["ece"]) == (0.5, 0.5, 0.0)


def test_one_kind_alone_ranks_nothing():
    assert calibration([0.5], [True])["auroc"] is None
    assert calibration([0.5], [False])["average_precision"] is None


@pytest.mark.parametrize("values", [([], []), ([0.5], [True, False]), ([1.2], [True]), ([float("nan")], [True])])
def test_refusals(values):
    with pytest.raises(ValueError, match="scores"):
        calibration(*values)


def test_an_event_is_right_once():
    rows = [AnnotatedClip("a", (Event(1.0, 2.0, "dog"),))]
    answers = {("a", "detection", None): [Event(1.0, 2.0, "dog", 0.9), Event(1.1, 2.1, "dog", 0.4)]}
    scores, is_right = scored_events(rows, answers)
    assert scores == [0.9, 0.4] and sorted(is_right) == [False, True]


def test_files_in_report_and_plot_out(tmp_path):
    rows = [
        {"id": str(i), "audio": f"{i}.wav", "duration": 10.0,
         "events": [{"onset": 1.0, "offset": 3.0, "event_label": "dog"}]} for i in range(4)
    ]  # fmt: skip
    # Two are right, with 0.75; two wrong, with 0.25: |1 - 0.75| and |0 - 0.25|, ECE 0.25.
    answers = [
        {"id": str(i), "task": "detection", "query": None, "duration": 10.0, "text": "",
         "events": [{"onset": 1.0 if i < 2 else 6.0, "offset": 3.0 if i < 2 else 8.0, "event_label": "dog",
                     "score": 0.75 if i < 2 else 0.25}]} for i in range(4)
    ]  # fmt: skip
    for name, lines in (("data", rows), ("predictions", answers)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = calibrate(tmp_path / "data.jsonl", tmp_path / "predictions.jsonl", tmp_path / "out" / "cal.json")
    assert report["ece"] == pytest.approx(0.25) and report["auroc"] == 1.0
    assert report["unmatched_labels"] == {"only_in_references": {}, "only_in_predictions": {}}
    assert json.loads((tmp_path / "out" / "cal.json").read_text()) == report
    assert (tmp_path / "out" / "cal.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_an_event_without_score_is_refused():
    rows = [AnnotatedClip("a", ())]
    with pytest.raises(ValueError, match="give every event a score"):
        scored_events(rows, {("a", "detection", None): [Event(1.0, 2.0, "dog")]})


def test_a_threshold_leaves_out_what_is_less_sure():
    rows = [AnnotatedClip("1", (Event(1, 2, "dog"),))]
    answers = {("1", "detection", None): [Event(1, 2, "dog", 0.5), Event(5, 6, "dog", 0.2)]}
    # 1 of 2 right, 1 of 1, none at all; a score of the threshold itself is kept.
    found = scores_by_threshold(rows, answers, (0.0, 0.5, 0.6))
    figures = [(t["num_events"], round(t["f1"], 3), t["precision"], t["recall"]) for t in found]
    assert figures == [(2, 0.667, 0.5, 1.0), (1, 1.0, 1.0, 1.0), (0, 0.0, 0.0, 0.0)]


def test_a_threshold_of_grounding_rejects_what_is_absent_and_what_is_there():
    clip = AnnotatedClip("1", (Event(1, 2, "dog"),), absent=("cat",))
    rows = questions(clip, SCORING)
    answers = {("1", "grounding", "dog"): [Event(1, 2, "", 0.5)], ("1", "grounding", "cat"): [Event(3, 4, "", 0.3)]}
    # IoUs of dog and cat: 1 and 0, 1 and 1, 0 and 1.
    found = grounding_by_threshold(rows, answers, (0.0, 0.4, 0.6))
    figures = [(t["miou_union"], t["true_rejection_rate"], t["false_rejection_rate"]) for t in found]
    assert figures == [(0.5, 0.0, 0.0), (1.0, 1.0, 0.0), (0.5, 1.0, 1.0)]
    answers["1", "grounding", "dog"] = [Event(1, 2, "")]
    assert grounding_by_threshold(rows, answers) == [] == grounding_by_threshold(rows, {})
