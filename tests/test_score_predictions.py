"""Scoring predictions from a file: what is read, what is refused, and that no model is needed."""

import json
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from processing.events import Event
from recipes.cli.main import main
from recipes.evaluation.predictions import read_predictions, score_predictions
from recipes.evaluation.score_questions import read_objects, read_rows

DOG, CAT = {"onset": 1.0, "offset": 2.0, "event_label": "dog"}, {"onset": 3.0, "offset": 5.0, "event_label": "cat"}


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def detection(name, **values):
    return {"id": name, "task": "detection", "query": None, **values}


def grounding(name, query, **values):
    return {"id": name, "task": "grounding", "query": query, **values}


@pytest.fixture
def data(tmp_path):
    """Write annotations of three clips, without any audio; return their path."""
    clips = [("a", [DOG, CAT]), ("b", [DOG]), ("c", [])]
    rows = [
        {"id": name, "duration": 6.0, "events": events, "absent": ["owl", "horn", "siren"]} for name, events in clips
    ]
    return write_lines(tmp_path / "data.jsonl", rows)


@pytest.fixture
def predictions(tmp_path):
    """Return a function that writes predictions and returns their path."""
    return lambda *rows: write_lines(tmp_path / "predictions.jsonl", rows)


def test_events_null_and_text(data, predictions, tmp_path):
    path = predictions(
        detection("a", events=[DOG], text="ignored where there are events"),
        detection("b", events=None, text="dog: 1.00-2.00"),
        detection("c", text="dog: 1.00-2.00, 5.50-7.00; owl: 6.00-6.50"),
    )
    answers = read_predictions(path, read_rows(data, keys=("id", "events")))
    assert answers == {
        ("a", "detection", None): [Event(1.0, 2.0, "dog")],
        ("b", "detection", None): None,
        ("c", "detection", None): [Event(1.0, 2.0, "dog"), Event(5.5, 7.0, "dog"), Event(6.0, 6.5, "owl")],
    }
    report = score_predictions(path, data, tmp_path / "out")
    # Cut at the clip's 6 s; what starts there is dropped.
    assert report["clipping"]["num_cut_events"] == report["clipping"]["num_dropped_events"] == 1
    # 1 match, 3 references, 3 predictions. Macro: dog 1 match of 2 references and 3 predictions, cat 0: (2/5 + 0) / 2.
    assert report["detection"]["micro"] == pytest.approx({"f1": 2 / 6, "precision": 1 / 3, "recall": 1 / 3})
    assert report["detection"]["macro"]["f1"] == pytest.approx(0.2)
    assert report["detection"]["parse_failure_rate"] == pytest.approx(1 / 3)
    assert "grounding" not in report and report["failures"] == []
    # Two false alarms and one missed event have F1 0; with 2 matches of 3 the first clip is the best.
    assert [clip["id"] for clip in report["worst_clips"]] == ["c", "b", "a"]
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == json.loads(json.dumps(report))


def test_grounding_alone_with_any_absent_queries(data, predictions, tmp_path):
    path = predictions(
        grounding("a", "dog", text="from 1 to 2 seconds"),
        grounding("a", "cat", text="none"),
        grounding("b", "dog", text="[[1.0, 2.0]]"),
        grounding("c", "owl", text="none"),
        grounding("c", "siren", text="The siren is heard from 1.0 to 2.0 seconds."),
    )
    report = score_predictions(path, data, tmp_path / "out")
    assert report["grounding"]["num_pairs"] == 3 and report["grounding"]["miou_union"] == pytest.approx(2 / 3)
    assert report["rejection"]["num_absent"] == 2 and report["rejection"]["true_rejection_rate"] == 0.5
    assert "detection" not in report


def test_own_queries(tmp_path, predictions):
    rows = [{"id": 7, "query": "a dog barks", "events": [{"onset": 1.0, "offset": 2.0}]}]
    data = write_lines(tmp_path / "data.jsonl", rows)
    report = score_predictions(predictions(grounding(7, "a dog barks", text="1.00-2.00")), data, tmp_path / "out")
    assert report["grounding"]["R@0.9"] == 1 and report["worst_clips"][0]["f1"] == 1


def test_missing_and_superfluous_answers_are_named_all_at_once(data, predictions):
    path = predictions(
        detection("a", events=[]),
        detection("zebra", events=[]),
        detection("yak", events=[]),
        grounding("a", "dog", events=[]),
        grounding("a", "volcano", events=[]),
    )
    with pytest.raises(ValueError) as error:
        read_predictions(path, read_rows(data, keys=("id", "events")))
    message = str(error.value)
    assert "2 ids without an answer: 'b', 'c'" in message
    assert "2 ids that are not in the data: 'zebra', 'yak'" in message
    assert "1 missing answer: 'a' (grounding of 'cat')" in message
    assert "1 answer to a question not in the data: 'a' (grounding of 'volcano')" in message


def test_long_lists_are_counted(data, predictions):
    rows = read_rows(data, keys=("id", "events"))
    path = predictions(*(detection(f"clip {i}", events=[]) for i in range(30)))
    with pytest.raises(ValueError, match="30 ids that are not in the data: 'clip 0', .*'clip 19', and 10 more"):
        read_predictions(path, rows)


@pytest.mark.parametrize(
    "row, message",
    [
        ({"task": "detection", "events": []}, "id is None"),
        (detection(["a"], events=[]), r"id is \['a'\]"),
        ({"id": "a", "events": []}, "task is None; choose one of grounding, detection"),
        ({"id": "a", "task": "transcription", "text": ""}, "task is 'transcription'"),
        ({"id": True, "task": "detection", "text": ""}, "id is True"),
        (detection("a", text="none", duration=0), "duration is 0"),
        (detection("a"), "give events or text"),
        (detection("a", text=None), "text is None; give a string"),
        (detection("a", events="none"), "events is none; give a list"),
        (detection("a", events=[[1, 2]]), r"events is \[\[1, 2\]\]; give a list of objects"),
        (detection("a", events=[{"onset": 2.0, "offset": 1.0}]), "before the onset"),
        (detection("a", events=[{"onset": float("nan"), "offset": 1.0}]), "onset is nan"),
        (detection("a", events=[{"onset": -1, "offset": 1.0}]), "onset is -1.0"),
        (detection("a", events=[{"start": 1, "end": 2}]), r"missing \['onset', 'offset'\], unknown \['start', 'end'\]"),
        (detection("a", query="dog", events=[]) | {"query": "dog"}, "query is 'dog' for detection"),
        (grounding("a", None, events=[]), "query is None for grounding"),
    ],
)
def test_wrong_lines(data, predictions, row, message):
    row.setdefault("query", None)
    path = predictions(detection("b", events=[]), row)
    with pytest.raises(ValueError, match=f"predictions.jsonl' with 1 wrong line: line 2: .*{message}"):
        read_predictions(path, read_rows(data, keys=("id", "events")))


def test_all_wrong_lines_and_second_answers_are_named(data, predictions):
    path = predictions(detection("a", events=[]), detection("a", text="none"), detection("b"))
    with pytest.raises(ValueError, match=r"2 wrong lines: line 2: answers 'a' \(detection\) a second time, line 3: "):
        read_predictions(path, read_rows(data, keys=("id", "events")))


def test_files_that_are_no_json_lines(tmp_path):
    path = tmp_path / "x.jsonl"
    for content, message in (
        (b"", "has no rows"),
        (b'\n{"id": 1}\n{"id": \n', "line 3 is not JSON"),
        (b"[1]\n", r"line 1 is '\[1\]'; give a JSON object"),
        (b"\xff\xfe", "not UTF-8"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"x.jsonl.*{message}"):
            read_objects(path)
    with pytest.raises(FileNotFoundError):
        read_objects(tmp_path / "absent.jsonl")


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_any_text_survives_a_line(tmp_path, text, end, mark):
    # Line separators within labels, CRLF, and a byte order mark.
    text = text.encode("utf-8", "ignore").decode()
    path = tmp_path / "x.jsonl"
    line = json.dumps({"text": text}, ensure_ascii=False)
    path.write_bytes((line + end + line + end).encode("utf-8-sig" if mark else "utf-8"))
    assert read_objects(path) == [(f"{path}, line {number}", {"text": text}) for number in (1, 2)]


def test_wrong_events_in_the_data(tmp_path):
    for events in ([{"onset": 2.0, "offset": 1.0}], [{"onset": 1.0}], [3], 4, [{"onset": 1.0, "offset": float("inf")}]):
        path = write_lines(tmp_path / "data.jsonl", [{"id": "a", "events": events}])
        with pytest.raises(ValueError, match="line 1 has events that cannot be read"):
            read_rows(path, keys=("id", "events"))


def test_command_without_model_audio_or_torch(data, predictions, tmp_path):
    path = predictions(detection("a", events=[DOG, CAT]), detection("b", events=[DOG]), detection("c", events=[]))
    code = "import sys; from recipes.cli.main import main; code = main(sys.argv[1:]);"
    code += "print('torch' in sys.modules); sys.exit(code)"
    arguments = ["score", "--data", str(data), "--predictions", str(path), "--out", str(tmp_path / "theirs.json")]
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[-1] == "False" and lines[2].split()[:3] == ["Eb-F1", "micro", "1.000"]
    assert {file.name for file in tmp_path.glob("theirs*")} == {"theirs.json", "theirs.md", "theirs_worst_clips.png"}


def test_command_reports_what_does_not_fit(data, predictions, tmp_path, capsys):
    path = predictions(detection("a", events=[]))
    out = tmp_path / "out"
    assert main(["score", str(data), "--predictions", str(path), "--out", str(out)]) == 1
    assert "2 ids without an answer: 'b', 'c'" in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--out", "x"], "one of the arguments DATA --data is required"),
        (["a.jsonl", "--data", "b.jsonl", "--out", "x"], "not allowed with argument"),
        (["a.jsonl", "--out", "x", "--model", "m", "--predictions", "p.jsonl"], "not allowed with argument --model"),
        (["a.jsonl"], "required: --out"),
    ],
)
def test_wrong_arguments(capsys, arguments, message):
    with pytest.raises(SystemExit) as error:
        main(["score", *arguments])
    assert error.value.code == 2 and message in capsys.readouterr().err
