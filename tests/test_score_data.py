"""Scoring on annotations of other formats: what is asked, where recordings are, absent queries, aliases."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from recipes.cli.main import build_parser, main
from recipes.data.loading import load_clips
from recipes.data.questions import SCORING
from recipes.evaluation.score import score_checkpoint, score_predictions

FIXTURES = Path(__file__).parent / "fixtures"
DESED, DURATIONS = FIXTURES / "desed_validation.tsv", FIXTURES / "desed_durations.tsv"
NAMES = ("Y0bjUq9XMMmQ_30.000_40.000.wav", "Y-made_up_0.000_10.000.wav", "Ytwo_dogs_60.000_70.000.wav")


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_predictions_on_desed(tmp_path, capsys):
    """Aliases on both sides, ids that are file names, absent queries of the answers' own choice."""
    aliases = tmp_path / "aliases.json"
    aliases.write_text('{"dog barking": "Dog", "Running_water": "Water"}')
    lines = [
        {"id": NAMES[0], "task": "detection", "text": "Running_water: 2.11-3.58; Frying: 0.00-10.00"},
        {"id": NAMES[1], "task": "detection", "text": "none"},
        {"id": NAMES[2], "task": "detection", "text": "dog barking: 1.25-4.50, 2.00-3.00, 9.00-10.40"},
        {"id": NAMES[0], "task": "grounding", "query": "Water", "text": "2.11-3.58"},
        {"id": NAMES[0], "task": "grounding", "query": "Frying", "text": "0.00-10.00"},
        {"id": NAMES[2], "task": "grounding", "query": "dog barking", "text": "1.25-4.50"},
        {"id": NAMES[1], "task": "grounding", "query": "Frying", "text": "none"},
        {"id": NAMES[1], "task": "grounding", "query": "Dog", "text": "1.00-2.00"},
    ]
    path = write_lines(tmp_path / "p.jsonl", lines)
    arguments = ["score", "--data", str(DESED), "--data-format", "desed", "--durations", str(DURATIONS)]
    arguments += ["--label-aliases", str(aliases), "--predictions", str(path), "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    # 4 references and 5 predictions, of which the third dog is wrong.
    assert report["detection"]["micro"] == pytest.approx({"f1": 8 / 9, "precision": 4 / 5, "recall": 1})
    assert sorted(report["detection"]["class_wise"]) == ["Dog", "Frying", "Water"]
    assert report["clipping"]["num_cut_events"] == 1
    assert report["rejection"]["true_rejection_rate"] == 0.5
    assert report["absent_queries"] == {"source": "drawn", "num_labels": 3, "num_queries": 2}
    assert (report["data_format"], report["label_aliases"]) == ("desed", str(aliases))
    assert "aliases of" in capsys.readouterr().out
    lines[-1]["query"] = "Whale"
    write_lines(path, lines)
    assert main(arguments) == 1
    assert f"1 answer to a question not in the data: '{NAMES[1]}' (grounding of 'Whale')" in capsys.readouterr().err


def test_a_checkpoint_on_desed_with_missing_recordings(scripted_checkpoint, tmp_path):
    audio = tmp_path / "audio"
    audio.mkdir()
    for name in NAMES[:2]:
        soundfile.write(audio / name, 0.1 * np.random.default_rng(0).standard_normal(3 * 16000), 16000)
    model = scripted_checkpoint("dog: <1.20>-<3.44>")
    # What it says knows nothing of where recordings end.
    options = {"policy": replace(SCORING, num_absent=1), "audio_dir": audio, "constrained": False}
    report = score_checkpoint(model, DESED, tmp_path / "out", **options)
    assert [failure["id"] for failure in report["failures"]] == [NAMES[2]]
    assert report["detection"]["num_clips"] == 2 and report["absent_queries"]["num_queries"] == 2
    # The recordings last 3 s. Detection of two clips, and grounding of two labels and two absent ones, all end at
    # 3.44 s; but the reference of the first goes on to 10 s. So 1 and 1 answers of the second clip are cut.
    assert report["clipping"] == {"num_cut_events": 2, "num_dropped_events": 0, "num_clips_of_unknown_duration": 1,
                                  "num_clips_with_later_references": 1}  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert {line["duration"] for line in lines} == {3.0}
    assert {event["offset"] for line in lines for event in line["events"]} == {3.44}
    assert score_checkpoint(model, DESED, tmp_path / "out", **options) == report
    # The file holds everything that is needed to score it alone.
    clips = tmp_path / "clips.jsonl"
    rows = [clip.as_dict() for clip in load_clips(DESED) if clip.id != NAMES[2]]
    write_lines(clips, [{**row, "absent": ["Dog", "Frying", "Running_water"]} for row in rows])
    again = score_predictions(tmp_path / "out" / "predictions.jsonl", clips, tmp_path / "again")
    assert again["detection"]["micro"] == report["detection"]["micro"]
    assert again["clipping"]["num_cut_events"] == 2
    with pytest.raises(ValueError, match="other settings, .*choose another --out, or pass --overwrite"):
        score_checkpoint(model, DESED, tmp_path / "out", audio_dir=tmp_path)


def test_a_checkpoint_is_asked_for_captions_and_for_queries_alone(scripted_checkpoint, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(16000 * 4), 16000)
    dog = {"onset": 1.2, "offset": 3.44, "event_label": "a dog"}
    rows = [
        {"id": "c", "audio": "a.wav", "task": "captioning", "events": [dog]},
        {"id": "g", "audio": "a.wav", "query": "a dog barks", "events": [dog]},
    ]
    data = write_lines(tmp_path / "x.jsonl", rows)
    report = score_checkpoint(scripted_checkpoint("dog: <1.20>-<3.44>"), data, tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert [(line["id"], line["task"], line["query"]) for line in lines] == [
        ("g", "grounding", "a dog barks"), ("c", "captioning", None),
    ]  # fmt: skip
    assert report["captioning"]["num_clips"] == report["grounding"]["num_pairs"] == 1 and "detection" not in report


def test_durations_from_headers_and_missing_recordings(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(16000 * 4), 16000)
    path = write_lines(tmp_path / "x.jsonl", [{"id": i, "audio": f"{i}.wav", "events": []} for i in "abc"])
    lines = [{"id": i, "task": "detection", "query": None, "events": []} for i in "abc"]
    predictions = write_lines(tmp_path / "p.jsonl", lines)
    with pytest.raises(FileNotFoundError, match="2 of 3 recordings are missing(.|\n)*b.wav\n(.|\n)*c.wav"):
        score_predictions(predictions, path, tmp_path / "out", audio_dir=tmp_path)
    write_lines(predictions, lines[:1])
    report = score_predictions(predictions, path, tmp_path / "out", audio_dir=tmp_path, limit=1)
    assert report["num_clips"] == 1 and report["clipping"]["num_clips_of_unknown_duration"] == 0


def test_a_limit_changes_no_question(scripted_checkpoint, tmp_path):
    labels = ["dog", "cat", "owl", "rain"]
    rows = [{"id": x, "audio": "a.wav", "events": [{"onset": 0, "offset": 1, "event_label": x}]} for x in labels]
    path = write_lines(tmp_path / "x.jsonl", rows)
    soundfile.write(tmp_path / "a.wav", np.zeros(16000 * 4), 16000)

    def asked(limit):
        score_checkpoint(scripted_checkpoint("none"), path, tmp_path / str(limit), limit=limit)
        lines = (tmp_path / str(limit) / "predictions.jsonl").read_text().splitlines()
        return {(line["id"], line["query"]) for line in map(json.loads, lines)}

    every = asked(None)
    assert len(every) == 4 * (1 + 1 + 2) and asked(1) == {key for key in every if key[0] == "dog"}


@pytest.mark.parametrize("path", ["README.md", "docs/scoring.md"])
def test_documented_commands_are_understood(path):
    text = (FIXTURES.parents[1] / path).read_text(encoding="utf-8")
    commands = re.findall(r"^timepro (score .*)$", text, re.MULTILINE)
    assert path == "README.md" or len(commands) >= 3
    for command in commands:
        arguments = build_parser().parse_args(shlex.split(command, comments=True))
        names = vars(arguments).keys() - {"command", "run", "version"}
        assert path == "README.md" or all(f"`--{name.replace('_', '-')}" in text for name in names)


def test_documented_answers_are_read(tmp_path):
    text = (FIXTURES.parents[1] / "docs" / "scoring.md").read_text(encoding="utf-8")
    (tmp_path / "p.jsonl").write_text(re.search(r"```json\n(.*?)```", text, re.DOTALL)[1])
    events = [{"onset": 1.2, "offset": 3.4, "event_label": "dog"}]
    rows = [{"id": "a", "duration": 9, "events": events}, {"id": "b", "duration": 9, "events": []}]
    report = score_predictions(tmp_path / "p.jsonl", write_lines(tmp_path / "x.jsonl", rows), tmp_path / "out")
    assert report["detection"]["psds"]["psds1"] == report["grounding"]["miou_union"] == 1
    assert report["detection"]["parse_failure_rate"] == 0.5
