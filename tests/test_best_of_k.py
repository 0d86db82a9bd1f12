"""Best of several answers: the estimate, what counts as an answer, and a command that can be stopped."""

import itertools
import json

import numpy as np
import pytest
from conftest import write_clips

from recipes.data.questions import Question
from recipes.evaluation.best_of_k import best_of, best_of_k_report, main, question_values, read_difficulties

DOG = {"onset": 0.4, "offset": 1.2, "event_label": "dog bark", "score": 0.9}
LATE = DOG | {"onset": 1.6, "offset": 1.8, "score": 0.1}


def test_the_best_of_some_is_the_mean_over_all_choices():
    values = np.random.default_rng(0).random((3, 6)).round(1)
    for size in range(1, 7):
        expected = [np.mean([max(some) for some in itertools.combinations(row, size)]) for row in values]
        np.testing.assert_allclose(best_of(values, size), expected)
    with pytest.raises(ValueError, match="size is 7 for 6 samples"):
        best_of(values, 7)


def test_answers_are_worth_what_is_shipped_of_them():
    from processing.events import Event

    question = Question("a", "detection", reference=(Event(0.4, 1.2, "dog bark"),))
    row = {"greedy": [DOG, LATE], "samples": [[DOG], [], None, [LATE]]}
    every, shipped = (question_values(question, row, score)["eb_f1"] for score in (None, 0.25))
    np.testing.assert_allclose(every, [2 / 3, 1, 0, 0, 0])
    np.testing.assert_allclose(shipped, [1, 1, 0, 0, 0])


def test_figures_and_their_intervals_are_over_clips():
    values = [{"eb_f1": np.array([0.5, *row]), "iou": np.array([0.5, *row])} for row in (
        [0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 1], [0.2, 0.4, 0.2, 0.4])]  # fmt: skip
    report = best_of_k_report(values, ["a", "b", "c", "c"], [2, 4])["eb_f1"]
    figures = {name: figure["value"] for name, figure in report.items()}
    assert figures["greedy"] == 0.5 and figures["mean"] == pytest.approx((0 + 1 + 0.25 + 0.3) / 4)
    assert figures["best_of_4"] == pytest.approx((0 + 1 + 1 + 0.4) / 4)
    assert figures["gain_of_4"] == pytest.approx(figures["best_of_4"] - 0.5)
    assert figures["pass_2"] == pytest.approx((0 + 1 + 0.5 + 0) / 4)
    assert (figures["tied_4"], figures["tied_2"]) == (0.5, (1 + 1 + 0.5 + 0) / 4)
    for figure in report.values():
        low, high = figure["interval"]
        assert low - 1e-9 <= figure["value"] <= high + 1e-9


@pytest.fixture(scope="module")
def asked(lively_checkpoint, tmp_path_factory):
    """Return the folder of a run on four clips of two seconds, its arguments and its report."""
    folder = tmp_path_factory.mktemp("best")
    write_clips(folder, num_clips=4)
    checkpoint = lively_checkpoint[0].config._name_or_path
    arguments = ["--model", checkpoint, "--data", str(folder / "train.jsonl"), "--num-samples", "4", "--temperature",
                 "0.3", "--tasks", "detection", "grounding", "--min-score", "0.001"]  # fmt: skip
    return folder / "run", arguments, main([*arguments, "--out", str(folder / "run")])


def test_the_command_samples_constrained_answers_of_a_checkpoint(asked):
    folder, _, report = asked
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    # Each clip is asked for all events, its label and one that it lists as absent.
    assert len(rows) == 12 and report["num_questions"] == {"detection": 4, "grounding": 8}
    assert all(len(row["samples"]) == 4 for row in rows)
    events = [event for row in rows for answer in row["samples"] for event in answer or []]
    assert events and all(0 <= event["score"] <= 1 and event["offset"] <= 2.0 for event in events)
    assert any(len({json.dumps(answer) for answer in row["samples"]}) > 1 for row in rows)
    assert list(report["tasks"]["detection"]) == ["all events", "scores from 0.001 on"]
    assert "best of 4" in (folder / "best_of_k.md").read_text()


def rounded(value):
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return round(value, 5) if isinstance(value, float) else value


def test_a_run_that_was_stopped_goes_on_with_the_same_draws(asked, tmp_path):
    folder, arguments, report = asked
    lines = (folder / "samples.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "samples.jsonl").write_text("".join(lines[:5]) + lines[5][:20])
    (tmp_path / "settings.json").write_text((folder / "settings.json").read_text())
    assert rounded(main([*arguments, "--out", str(tmp_path)])) == rounded(report)
    # Scores differ by rounding: what was asked in one batch is now asked in others.
    again = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [rounded(row) for row in again] == [rounded(json.loads(line)) for line in lines]
    with pytest.raises(ValueError, match="other settings, {'seed': 0}, not {'seed': 1}"):
        main([*arguments, "--out", str(tmp_path), "--seed", "1"])


def test_questions_whose_samples_differ_have_a_difficulty(asked):
    from dataclasses import replace

    from recipes.data.clip import read_json_clips
    from recipes.data.questions import SCORING, key_name, questions

    folder, _, _ = asked
    clips, policy = read_json_clips(folder.parent / "train.jsonl"), replace(SCORING, num_absent=1)
    prompts = [{"id": key_name(q.key), "task": q.task, "query": q.query, "events": [e.as_dict() for e in q.reference]}
               for clip in clips for q in questions(clip, policy)]  # fmt: skip
    found = read_difficulties(folder, prompts)
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    same = [row for row in rows if len({json.dumps(answer) for answer in row["samples"]}) == 1]
    assert 0 < len(found) <= len(rows) - len(same) and all(0 <= value <= 1 for value in found.values())
    with pytest.raises(ValueError, match="holds no samples.jsonl"):
        read_difficulties(folder.parent, prompts)
