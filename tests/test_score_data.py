"""Scoring on annotations of other formats: what is asked, where recordings are, absent queries, aliases."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile

from processing.events import Event
from recipes.cli.main import build_parser, main
from recipes.data.event_loaders import load_events
from recipes.data.task_rows import make_task_rows
from recipes.evaluation.predictions import score_predictions
from recipes.evaluation.score_checkpoint import score
from recipes.evaluation.score_data import read_clips
from recipes.evaluation.score_questions import questions_of, read_rows

FIXTURES = Path(__file__).parent / "fixtures"
DESED, DURATIONS = FIXTURES / "desed_validation.tsv", FIXTURES / "desed_durations.tsv"
NAMES = ("Y0bjUq9XMMmQ_30.000_40.000.wav", "Y-made_up_0.000_10.000.wav", "Ytwo_dogs_60.000_70.000.wav")


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    "name, asked",
    [
        ("ftar_grounding.json", [("grounding", "dogs barking"), ("grounding", "a man's voice")]),
        ("ftar_captions.json", [("captioning", None)] * 2),
        ("castella.jsonl", [("grounding", "A car horn blares"), ("grounding", "Something is fried in oil")]),
        (
            "audiogrounding.json",
            [("grounding", "a dog barks"), ("grounding", "wind blows"), ("grounding", "birds sing")],
        ),
        ("living_room.txt", [("detection", None), ("grounding", "click"), ("grounding", "door")]),
    ],
)
def test_what_is_asked_of_each_kind_of_row(name, asked):
    rows, about = read_clips(FIXTURES / name)
    questions = [(task, query) for row in rows for _, task, query in questions_of(row, num_absent=0)]
    assert questions == asked
    assert about["absent_queries"]["source"] == ("drawn" if name == "living_room.txt" else None)
    assert all(isinstance(event, Event) for row in rows for event in row["events"])


def test_absent_labels_are_those_of_task_rows():
    rows, about = read_clips(DESED, durations=DURATIONS, num_absent=1)
    made = make_task_rows(load_events(DESED, durations=DURATIONS), tasks=("grounding",), num_absent=1)
    expected = {(row["id"].split("/")[0], row["query"]) for row in made}
    asked = {(clip, query) for row in rows for clip, task, query in questions_of(row) if task == "grounding"}
    assert asked == expected and len(asked) == 3 + 3
    assert about["absent_queries"] == {"source": "drawn", "seed": 0, "num_labels": 3}
    # The first clip alone is asked the same.
    assert read_clips(DESED, durations=DURATIONS, num_absent=1, limit=1)[0] == rows[:1]


def test_absent_labels_of_the_data_are_kept(tmp_path):
    rows = [
        {"id": "a", "events": [{"onset": 0, "offset": 1, "event_label": "dog"}], "absent": ["owl"]},
        {"id": "b", "events": [], "absent": []},
    ]
    path = write_lines(tmp_path / "data.jsonl", rows)
    rows, about = read_clips(path, num_absent=3)
    assert [row["absent"] for row in rows] == [["owl"], []] and about["absent_queries"] == {"source": "data"}
    assert about["data_format"] == "jsonl"


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
    assert report["absent_queries"] == {"source": "drawn", "seed": 0, "num_labels": 3, "num_queries": 2}
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
    options = {"num_absent": 1, "audio_dir": audio, "constrained": False}
    report = score(model, DESED, tmp_path / "out", **options)
    assert [failure["id"] for failure in report["failures"]] == [NAMES[2]]
    assert report["detection"]["num_clips"] == 2 and report["absent_queries"]["num_queries"] == 2
    # The recordings last 3 s. Detection of two clips, and grounding of two labels and two absent ones, all end at
    # 3.44 s; but the reference of the first goes on to 10 s. So 1 and 1 answers of the second clip are cut.
    assert report["clipping"] == {"num_cut_events": 2, "num_dropped_events": 0, "num_clips_of_unknown_duration": 1,
                                  "num_clips_with_later_references": 1}  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert {line["duration"] for line in lines} == {3.0}
    assert {event["offset"] for line in lines for event in line["events"]} == {3.44}
    assert score(model, DESED, tmp_path / "out", **options) == report
    # The file holds everything that is needed to score it alone.
    clips = tmp_path / "clips.jsonl"
    rows = [row for row in load_events(DESED) if row["id"] != NAMES[2]]
    write_lines(clips, [{**row, "absent": ["Dog", "Frying", "Running_water"]} for row in rows])
    again = score_predictions(tmp_path / "out" / "predictions.jsonl", clips, tmp_path / "again")
    assert again["detection"]["micro"] == report["detection"]["micro"]
    assert again["clipping"]["num_cut_events"] == 2
    with pytest.raises(ValueError, match="choose another folder or pass --overwrite"):
        score(model, DESED, tmp_path / "out", audio_dir=tmp_path)


def test_a_checkpoint_is_asked_for_captions_and_for_queries_alone(scripted_checkpoint, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(16000 * 4), 16000)
    dog = {"onset": 1.2, "offset": 3.44, "event_label": "a dog"}
    rows = [
        {"id": "c", "audio": "a.wav", "task": "captioning", "events": [dog]},
        {"id": "g", "audio": "a.wav", "query": "a dog barks", "events": [dog]},
    ]
    report = score(scripted_checkpoint("dog: <1.20>-<3.44>"), write_lines(tmp_path / "x.jsonl", rows), tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert [(line["id"], line["task"], line["query"]) for line in lines] == [
        ("g", "grounding", "a dog barks"), ("c", "captioning", None),
    ]  # fmt: skip
    assert report["captioning"]["num_clips"] == report["grounding"]["num_pairs"] == 1 and "detection" not in report


def test_durations_from_headers_and_missing_recordings(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(16000 * 4), 16000)
    path = write_lines(tmp_path / "x.jsonl", [{"id": i, "audio": f"{i}.wav", "events": []} for i in "abc"])
    with pytest.raises(FileNotFoundError, match="2 of 3 recordings are missing(.|\n)*b.wav\n(.|\n)*c.wav"):
        read_clips(path, audio_dir=tmp_path)
    assert read_clips(path, audio_dir=tmp_path, limit=1)[0][0]["duration"] == 4
    (tmp_path / "durations.csv").write_text("filename,duration\na.wav,4.0\n")
    with pytest.raises(ValueError, match="durations lacks 2 recordings of .*\n  b.wav\n  c.wav"):
        read_clips(path, durations=tmp_path / "durations.csv")


@pytest.mark.parametrize(
    "values, message",
    [
        ({"task": "transcription"}, "the task 'transcription'; choose one of"),
        ({"task": "detection", "query": "dog"}, "the query 'dog' for detection"),
        ({"task": "grounding"}, "the query None for grounding"),
        ({"query": " "}, "the query ' '; give a text"),
        ({"duration": -1}, "duration is -1"),
        ({"absent": "dog"}, "the absent labels 'dog'"),
        ({"audio": None}, "the audio None"),
        ({"id": True}, "the id True"),
    ],
)
def test_wrong_rows_are_named(tmp_path, values, message):
    path = write_lines(tmp_path / "x.jsonl", [{"id": "a", "audio": "a.wav", "events": [], **values}])
    with pytest.raises(ValueError, match=f"x.jsonl, line 1.*{message}"):
        read_rows(path)


def test_formats_that_cannot_be_told(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("hello\n")
    with pytest.raises(ValueError, match="fits no known format.*--data-format"):
        read_clips(path)
    with pytest.raises(ValueError, match="format is 'xml'; choose one of desed, csv"):
        read_clips(path, "xml")
    with pytest.raises(ValueError, match="a folder; if it holds label tracks"):
        read_clips(tmp_path)


@pytest.mark.parametrize("path", ["README.md", "docs/scoring.md"])
def test_documented_commands_are_understood(path):
    text = (FIXTURES.parents[1] / path).read_text(encoding="utf-8")
    commands = re.findall(r"^timepro (score .*)$", text, re.MULTILINE)
    assert len(commands) >= 3
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
