"""The `evaluate` modules where events lie exactly on collars and edges, and where labels differ between the sides."""

from pathlib import Path

import evaluate
import pytest

FOLDER = Path(__file__).parents[1] / "recipes" / "metrics"
DOG, CAT = ({"onset": 1.0, "offset": 2.0, "event_label": label} for label in ("dog", "cat"))


@pytest.fixture
def load(tmp_path):
    return lambda name: evaluate.load(str(FOLDER / name), cache_dir=str(tmp_path))


def test_a_collar_and_an_edge_hit_exactly(load):
    # 3.0 - 2.8 is 0.2000000000000002 in float64: sed_eval refuses it.
    late = {**DOG, "onset": 2.8, "offset": 4.0}
    results = load("event_based_f1").compute(references=[[{**DOG, "onset": 3.0, "offset": 4.0}]], predictions=[[late]])
    names = ("micro_f1", "micro_f1_with_tolerance", "num_matches_on_collar", "num_refused")
    assert [results[name] for name in names] == [0, 1, 1, 1]
    clips = {"references": [[{**DOG, "onset": 0.3, "offset": 0.4}]],
             "predictions": [[{**DOG, "onset": 0.2, "offset": 0.3}]], "time_resolution": 0.1}  # fmt: skip
    assert load("segment_based_f1").compute(**clips)["micro_f1"] == 0
    assert load("segment_based_f1").compute(**clips, sed_eval_rounding=True)["micro_f1"] == pytest.approx(2 / 3)


def test_labels_of_one_side_are_counted_and_named(load, caplog):
    results = load("event_based_f1").compute(references=[[DOG, CAT]], predictions=[[{**DOG, "event_label": "Dog "}]])
    assert (results["num_labels_only_in_references"], results["num_labels_only_in_predictions"]) == (2, 1)
    assert "only in references, with the number of events: {'cat': 1, 'dog': 1}" in caplog.text
    results = load("event_based_f1").compute(
        references=[[{**DOG, "event_label": "cafe\u0301"}]], predictions=[[{**DOG, "event_label": "caf\u00e9 "}]]
    )
    assert results["micro_f1"] == 1 and results["num_labels_only_in_references"] == 0
