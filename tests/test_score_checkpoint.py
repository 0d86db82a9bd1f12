"""Scoring a checkpoint end to end: questions, answers that are kept and resumed, failures, and the report's files."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

from recipes.cli.main import main
from recipes.evaluation.report_tables import format_markdown, format_report
from recipes.evaluation.score import score_checkpoint, score_predictions

SPAN = "<1.20>-<3.44>"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Write three clips; the second has no events. Return the path of their JSON Lines."""
    tmp_path = tmp_path_factory.mktemp("data")
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


@pytest.fixture(scope="module")
def scored(scripted_checkpoint, data, tmp_path_factory):
    """Score a checkpoint that always says the same on these clips; return it, the report and its folder."""
    model, folder = scripted_checkpoint(f"dog: {SPAN}"), tmp_path_factory.mktemp("scored") / "out"
    return model, score_checkpoint(model, data, folder, batch_size=2), folder


def write_noise(path, seconds=1):
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(seconds * 16000), 16000)


@pytest.fixture
def many(tmp_path):
    """Write seven clips of a dog without their audio. Return the path of their JSON Lines, and the audio's paths."""
    files = [tmp_path / f"{index}.wav" for index in range(7)]
    events = [{"onset": 0.2, "offset": 0.5, "event_label": "dog"}]
    rows = [{"id": file.stem, "audio": file.name, "duration": 1.0, "events": events} for file in files]
    path = tmp_path / "many.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path, files


def test_report_of_a_checkpoint_that_always_says_the_same(scored):
    _, report, folder = scored
    # Three answers "dog", of which one is right; three references.
    assert report["detection"]["micro"] == pytest.approx({"f1": 1 / 3, "precision": 1 / 3, "recall": 1 / 3})
    low, high = report["detection"]["intervals"]["micro_f1"]
    assert low <= 1 / 3 <= high
    assert report["detection"]["parse_failure_rate"] == 0
    written = json.loads((folder / "report.json").read_text())
    assert written == json.loads(json.dumps(report))


def test_grounding_and_rejection(scripted_checkpoint, data, tmp_path):
    report = score_checkpoint(scripted_checkpoint(SPAN), data, tmp_path / "out")
    # The queries dog (IoU 2.15 / 2.24), cat (1.0) and the second dog (0.0) are present; two absent ones for each clip.
    assert report["grounding"]["num_pairs"] == 3
    assert report["grounding"]["R@0.9"] == pytest.approx(2 / 3)
    assert report["grounding"]["miou_union"] == pytest.approx((2.15 / 2.24 + 1) / 3, abs=1e-6)
    assert report["rejection"]["num_absent"] == 6 and report["rejection"]["true_rejection_rate"] == 0
    assert "grounding: 3 queries" in format_report(report) and "  R@0.5 " in format_report(report)


def test_resumes_after_a_broken_line_and_refuses_other_settings(scripted_checkpoint, data, tmp_path):
    model, out = scripted_checkpoint(SPAN), tmp_path / "out"
    report = score_checkpoint(model, data, out)
    predictions = (out / "predictions.jsonl").read_text()
    lines = predictions.splitlines(keepends=True)
    kept = "".join(lines[:4]).replace('"text": "', '"text": "kept ')
    (out / "predictions.jsonl").write_text(kept + lines[4][:20])
    assert score_checkpoint(model, data, out) == report
    again = (out / "predictions.jsonl").read_text()
    assert again.startswith(kept) and sorted(again.replace("kept ", "")) == sorted(predictions)
    other = scripted_checkpoint("none")
    with pytest.raises(ValueError, match="run with other settings, .*choose another --out, or pass --overwrite"):
        score_checkpoint(other, data, out)
    assert score_checkpoint(other, data, out, overwrite=True)["rejection"]["true_rejection_rate"] == 1


@pytest.mark.slow
def test_kill_9_loses_one_batch_at_most(scripted_checkpoint, many, tmp_path, capsys):
    data, files = many
    for file in files:
        write_noise(file)
    # The command waits forever for the audio of clip 5, in the middle of its third batch of two.
    files[5].unlink()
    os.mkfifo(files[5])
    out = tmp_path / "out"
    predictions = out / "predictions.jsonl"
    arguments = ["score", "--data", str(data), "--model", str(scripted_checkpoint(f"dog: {SPAN}")), "--batch-size", "2"]
    arguments += ["--out", str(out)]
    process = subprocess.Popen([sys.executable, "-m", "recipes.cli.main", *arguments], stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 300
        while not (predictions.exists() and predictions.read_bytes().count(b"\n") >= 4) and time.monotonic() < end:
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    before = predictions.read_bytes()
    assert [json.loads(line)["id"] for line in before.splitlines()] == ["0", "1", "2", "3"]
    assert not (out / "report.json").exists()

    files[5].unlink()
    write_noise(files[5])
    assert main(arguments) == 0
    assert "4/14" in capsys.readouterr().err  # where the progress bar goes on
    after = predictions.read_bytes()
    questions = [(row["id"], row["task"]) for row in map(json.loads, after.splitlines())]
    assert after.startswith(before) and len(questions) == len(set(questions)) == 14
    arguments[-1] = str(tmp_path / "undisturbed")
    assert main(arguments) == 0
    for name in ("report.json", "report.md", "predictions.jsonl"):
        assert (tmp_path / "undisturbed" / name).read_bytes() == (out / name).read_bytes()


def test_a_failing_clip_costs_no_other_its_answer(scripted_checkpoint, many, tmp_path, capsys):
    data, files = many
    for file in files:
        write_noise(file)
    files[1].unlink()
    files[2].write_text("this is no audio")
    soundfile.write(files[6], np.zeros(160), 16000)
    out = tmp_path / "out"
    arguments = ["score", str(data), "--model", str(scripted_checkpoint(f"dog: {SPAN}")), "--out", str(out)]
    assert main([*arguments, "--batch-size", "4"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("timepro: 3 of 7 recordings failed and were not scored, for instance '1': source ")
    assert "1.wav' does not exist" in error and f"All are listed in {out / 'report.json'}" in error
    report = json.loads((out / "report.json").read_text())
    assert [failure["id"] for failure in report["failures"]] == ["1", "2", "6"]
    assert report["failures"][0]["audio"] == str(files[1])
    messages = ("does not exist", "is not audio", "too short for one frame")
    for failure, message in zip(report["failures"], messages, strict=True):
        assert message in failure["error"] and failure["error"] in (out / "report.md").read_text()
    assert report["num_clips"] == 7 and report["detection"]["num_clips"] == report["grounding"]["num_pairs"] == 4
    predictions = (out / "predictions.jsonl").read_text()
    assert sorted(json.loads(line)["id"] for line in predictions.splitlines()) == sorted(2 * ["0", "3", "4", "5"])

    for index in (1, 2, 6):
        write_noise(files[index])
    assert main(arguments) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["failures"] == [] and report["detection"]["num_clips"] == 7
    assert (out / "predictions.jsonl").read_text().startswith(predictions)


def test_nothing_but_failures(scripted_checkpoint, many, tmp_path):
    report = score_checkpoint(scripted_checkpoint(SPAN), many[0], tmp_path / "all.json")
    assert len(report["failures"]) == 7 and report["worst_clips"] == [] and "detection" not in report
    assert "7.wav" not in format_report(report) and not list(tmp_path.glob("*.png"))


def test_files_of_a_report(scored, data, tmp_path):
    model, report, folder = scored
    folder = shutil.copytree(folder, tmp_path / "out")
    names = {"predictions.jsonl", "settings.json", "report.json", "report.md", "worst_clips.png"}
    assert {path.name for path in folder.iterdir()} == names
    # A folder and the report in it are the same place; reports of other names share the folder.
    predictions = (folder / "predictions.jsonl").read_bytes()
    assert score_checkpoint(model, data, folder / "report.json") == report
    assert (folder / "predictions.jsonl").read_bytes() == predictions
    score_checkpoint(model, data, folder / "half.json", limit=1)
    assert {path.name for path in folder.iterdir()} - names == {
        "half.json", "half.md", "half_predictions.jsonl", "half_settings.json", "half_worst_clips.png",
    }  # fmt: skip
    with pytest.raises(ValueError, match="a file; give a folder or a path that ends in .json"):
        score_checkpoint(model, data, data)


def test_markdown_has_the_figures_of_the_report(scored):
    _, report, folder = scored
    text = (folder / "report.md").read_text()
    low, high = report["detection"]["intervals"]["micro_f1"]
    assert f"| Eb-F1 micro | 0.333 [{low:.3f}, {high:.3f}] | over all events, onsets within 0.2 s" in text
    # Two of three references are missed and two of three predictions wrong; "dog" at 1.20-3.44 s for "cat" is a
    # substitution: 1 and 1 deletion and 1 insertion, 3 errors for 3 references.
    errors = "per reference event; 1 substitution, 1 deletion, 1 insertion"
    low, high = report["detection"]["intervals"]["error_rate"]
    assert f"| event-based error rate | 1.000 [{low:.3f}, {high:.3f}] | {errors} |\n" in text
    low, high = report["detection"]["intervals"]["micro_recall"]
    (full,) = (line.split(" | ") for line in text.splitlines() if line.startswith("| event-based, micro |"))
    assert full[3] == f"0.333 [{low:.3f}, {high:.3f}]" and full[5:] == ["0.333", "0.333", "0.333 |"]
    # One of two references "dog" is found by three predictions; no "cat". Segments of 1 s: the reference "dog" is
    # active in 1-3 of the first clip and 0 of the last, the prediction in 1-3 of all three: 3 of both, 2 * 3 / (4 + 9).
    assert "| dog | 0.400 | 0.333 | 0.500 | 0.462 | 2 | 3 |\n" in text
    assert "| cat | 0.000 | 0.000 | 0.000 | 0.000 | 1 | 0 |\n" in text
    assert "| clip 2 | 0.000 | 2 | 1 | 0 |\n" in text and "(worst_clips.png)" in text and "Failures" not in text
    report = report | {"failures": [{"id": "a|b", "audio": "x", "error": "two\nlines"}]}
    assert "| a\\|b | two lines |\n" in format_markdown(report)


def test_predictions_of_a_checkpoint_are_scored_alike(scored, data, tmp_path):
    _, report, folder = scored
    again = score_predictions(folder / "predictions.jsonl", data, tmp_path / "again")
    assert {**again, "model": report["model"]} == {**report, "predictions": again["predictions"]}


def test_unparseable_answers_count(scripted_checkpoint, data, tmp_path):
    report = score_checkpoint(scripted_checkpoint("well"), data, tmp_path / "out", limit=2, constrained=False)
    assert report["num_clips"] == 2 and report["detection"]["parse_failure_rate"] == 1
    assert report["grounding"]["R@0.3"] == 0 and report["rejection"]["true_rejection_rate"] == 0


def test_command(scripted_checkpoint, data, tmp_path, capsys):
    arguments = ["score", str(data), "--out", str(tmp_path / "out"), "--model", str(scripted_checkpoint(SPAN))]
    assert main([*arguments, "--limit", "1"]) == 0
    assert "absent queries rejected" in capsys.readouterr().out


def test_the_command_takes_a_least_score_and_lifts_the_constraint(scripted_checkpoint, data, tmp_path):
    def ask(answer, *options):
        out = tmp_path / "-".join(["out", *options])
        model = str(scripted_checkpoint(answer))
        assert main(["score", str(data), "--limit", "1", "--model", model, "--out", str(out), *options]) == 0
        return json.loads((out / "report.json").read_text()), (out / "predictions.jsonl").read_text()

    report, _ = ask("well", "--unconstrained")
    assert report["detection"]["parse_failure_rate"] == 1
    report, answers = ask(f"dog: {SPAN}", "--min-score", "1")
    # No event is that sure; it is kept, though, for PSDS.
    assert report["min_score"] == 1 and report["detection"]["micro"]["recall"] == 0 and '"onset": 1.2' in answers
