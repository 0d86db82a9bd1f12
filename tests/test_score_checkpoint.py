"""Scoring a checkpoint end to end: questions, answers that are kept and resumed, and the report."""

import json

import numpy as np
import pytest
import soundfile

from recipes.cli import main
from recipes.report_files import format_report
from recipes.score_checkpoint import score
from recipes.score_questions import questions_of, read_rows
from recipes.score_report import make_report

SPAN = "<1.20>-<3.44>"


@pytest.fixture
def data(tmp_path):
    """Write three clips; the second has no events. Return the path of their JSON Lines."""
    annotations = [
        [{"onset": 1.25, "offset": 3.4, "event_label": "dog"}],
        [],
        [{"onset": 0.5, "offset": 1.0, "event_label": "dog"}, {"onset": 1.2, "offset": 3.44, "event_label": "cat"}],
    ]
    generator = np.random.default_rng(0)
    (tmp_path / "test").mkdir()
    rows = []
    for index, events in enumerate(annotations):
        soundfile.write(tmp_path / "test" / f"{index}.flac", 0.1 * generator.standard_normal(4 * 16000), 16000)
        rows.append({"id": f"clip {index}", "audio": f"test/{index}.flac", "duration": 4.0, "task": "detection",
                     "query": None, "events": events, "absent": ["bird", "horn", "siren"]})  # fmt: skip
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_report_of_a_checkpoint_that_always_says_the_same(scripted_checkpoint, data, tmp_path):
    report = score(scripted_checkpoint(f"dog: {SPAN}"), data, tmp_path / "out", batch_size=2)
    # Three answers "dog", of which one is right; three references.
    assert report["detection"]["micro"] == pytest.approx({"f1": 1 / 3, "precision": 1 / 3, "recall": 1 / 3})
    low, high = report["detection"]["intervals"]["micro_f1"]
    assert low <= 1 / 3 <= high
    assert report["detection"]["parse_failure_rate"] == 0
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    assert written == json.loads(json.dumps(report))


def test_grounding_and_rejection(scripted_checkpoint, data, tmp_path):
    report = score(scripted_checkpoint(SPAN), data, tmp_path / "out")
    # The queries dog (IoU 2.15 / 2.24), cat (1.0) and the second dog (0.0) are present; two absent ones for each clip.
    assert report["grounding"]["num_pairs"] == 3
    assert report["grounding"]["R@0.9"] == pytest.approx(2 / 3)
    assert report["grounding"]["miou_union"] == pytest.approx((2.15 / 2.24 + 1) / 3, abs=1e-6)
    assert report["rejection"]["num_absent"] == 6 and report["rejection"]["true_rejection_rate"] == 0
    assert "grounding: R@0.5" in format_report(report)


def test_resumes_after_a_broken_line_and_refuses_other_settings(scripted_checkpoint, data, tmp_path):
    model, out = scripted_checkpoint(SPAN), tmp_path / "out"
    report = score(model, data, out)
    predictions = (out / "predictions.jsonl").read_text()
    lines = predictions.splitlines(keepends=True)
    kept = "".join(lines[:4]).replace('"text": "', '"text": "kept ')
    (out / "predictions.jsonl").write_text(kept + lines[4][:20])
    assert score(model, data, out) == report
    again = (out / "predictions.jsonl").read_text()
    assert again.startswith(kept) and sorted(again.replace("kept ", "")) == sorted(predictions)
    with pytest.raises(ValueError, match="choose another folder or pass --overwrite"):
        score(scripted_checkpoint("none"), data, out)
    assert score(scripted_checkpoint("none"), data, out, overwrite=True)["rejection"]["true_rejection_rate"] == 1


def test_unparseable_answers_count(scripted_checkpoint, data, tmp_path):
    report = score(scripted_checkpoint("well"), data, tmp_path / "out", limit=2)
    assert report["num_clips"] == 2 and report["detection"]["parse_failure_rate"] == 1
    assert report["grounding"]["R@0.3"] == 0 and report["rejection"]["true_rejection_rate"] == 0


def test_questions_are_the_same_in_any_company(data):
    rows = read_rows(data)
    assert [questions_of(row) for row in rows][::-1] == [questions_of(row) for row in rows[::-1]]
    assert questions_of(rows[1], num_absent=0) == [("clip 1", "detection", None)]
    row = {"id": "x", "query": "a dog", "events": []}
    assert questions_of(row) == [("x", "grounding", "a dog")]
    assert make_report([row], {("x", "grounding", "a dog"): []})["rejection"]["true_rejection_rate"] == 1


def test_wrong_data(data, tmp_path):
    with pytest.raises(ValueError, match="the id 'clip 0' of row 4 repeats"):
        data.write_text(data.read_text() + data.read_text())
        read_rows(data)
    (tmp_path / "bad.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(ValueError, match=r"row 1 lacks \['audio', 'events'\]"):
        read_rows(tmp_path / "bad.jsonl")
    (tmp_path / "bad.jsonl").write_text("")
    with pytest.raises(ValueError, match="has no rows"):
        read_rows(tmp_path / "bad.jsonl")


def test_command(scripted_checkpoint, data, tmp_path, capsys):
    arguments = ["score", str(data), "--out", str(tmp_path / "out"), "--model", str(scripted_checkpoint(SPAN))]
    assert main(arguments) == 0
    assert "absent queries rejected" in capsys.readouterr().out
