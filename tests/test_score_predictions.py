"""Scoring predictions from a file: what is read, what is refused, and that no model is needed."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from processing.events import Event, normalize_label
from recipes.cli.main import main
from recipes.data.loading import load_clips
from recipes.data.questions import SCORING, questions
from recipes.evaluation.predictions import read_predictions
from recipes.evaluation.score import score_predictions

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


def answers_in(path, data):
    """Return the answers of a file about all that may be asked of clips."""
    clips = load_clips(data)
    asked = [question for clip in clips for question in questions(clip, replace(SCORING, num_absent=None))]
    return read_predictions(path, clips, asked).answers


def test_events_null_and_text(data, predictions, tmp_path):
    path = predictions(
        detection("a", events=[DOG], text="ignored where there are events"),
        detection("b", events=None, text="dog: 1.00-2.00"),
        detection("c", text="dog: 1.00-2.00, 5.50-7.00; owl: 6.00-6.50"),
    )
    answers = answers_in(path, data)
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
        answers_in(path, data)
    message = str(error.value)
    assert "2 ids without an answer: 'b', 'c'" in message
    assert "2 ids that are not in the data: 'zebra', 'yak'" in message
    assert "1 missing answer: 'a' (grounding of 'cat')" in message
    assert "1 answer to a question not in the data: 'a' (grounding of 'volcano')" in message


def test_long_lists_are_counted(data, predictions):
    path = predictions(*(detection(f"clip {i}", events=[]) for i in range(30)))
    with pytest.raises(ValueError, match="30 ids that are not in the data: 'clip 0', .*'clip 19', and 10 more"):
        answers_in(path, data)


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
        answers_in(path, data)


def test_all_wrong_lines_and_second_answers_are_named(data, predictions):
    path = predictions(detection("a", events=[]), detection("a", text="none"), detection("b"))
    with pytest.raises(ValueError, match=r"2 wrong lines: line 2: answers 'a' \(detection\) a second time, line 3: "):
        answers_in(path, data)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "has no rows"),
        (b'\n{"id": 1}\n{"id": \n', "line 3 is not JSON"),
        (b"[1]\n", r"line 1: it is \[1\]; give a JSON object"),
        (b"\xff\xfea", "not UTF-8"),
    ],
)
def test_files_that_are_no_json_lines(data, tmp_path, content, message):
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"x.jsonl.*{message}"):
        answers_in(path, data)
    with pytest.raises(FileNotFoundError):
        answers_in(tmp_path / "absent.jsonl", data)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(min_size=1).filter(str.strip), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_any_label_survives_a_line(data, tmp_path, label, end, mark):
    # Line separators within labels, CRLF, and a byte order mark.
    label = label.encode("utf-8", "ignore").decode()
    path = tmp_path / "x.jsonl"
    lines = [detection(name, events=[{**DOG, "event_label": label}]) for name in "abc"]
    text = "".join(json.dumps(line, ensure_ascii=False) + end for line in lines)
    path.write_bytes(text.encode("utf-8-sig" if mark else "utf-8"))
    assert [events[0].event_label for events in answers_in(path, data).values()] == 3 * [normalize_label(label)]


def test_a_label_is_the_same_in_any_unicode_form_and_with_blanks_around_it(tmp_path, capsys):
    lines = "filename\tonset\toffset\tevent_label\na.wav\t0.5\t1.25\tcafe\u0301 door\n"
    (tmp_path / "data.tsv").write_text(lines, encoding="utf-8")
    event = {"onset": 0.5, "offset": 1.25, "event_label": " caf\u00e9  door"}
    rows = [detection("a.wav", events=[event]), grounding("a.wav", "caf\u00e9 door ", text="0.50-1.25")]
    report = score_predictions(write_lines(tmp_path / "p.jsonl", rows), tmp_path / "data.tsv", tmp_path / "out")
    assert report["detection"]["micro"]["f1"] == report["grounding"]["R@0.9"] == 1
    assert list(report["detection"]["class_wise"]) == ["caf\u00e9 door"]
    assert report["detection"]["unmatched_labels"] == {"only_in_references": {}, "only_in_predictions": {}}


@pytest.mark.parametrize("name", ["csv_space_after_comma.csv", "label_nfd.tsv"])
def test_files_whose_labels_look_like_those_of_the_predictions(tmp_path, name):
    files = {
        "csv_space_after_comma.csv": (
            "filename, onset, offset, event_label\na.wav, 0.5, 1.25, dog\na.wav, 2.0, 3.0, cat\n",
            [{"onset": 0.5, "offset": 1.25, "event_label": "dog"}, {"onset": 2, "offset": 3, "event_label": "cat"}],
        ),
        "label_nfd.tsv": (
            "filename\tonset\toffset\tevent_label\na.wav\t0.5\t1.25\tcafe\u0301\n",
            [{"onset": 0.5, "offset": 1.25, "event_label": "caf\u00e9"}],
        ),
    }
    text, events = files[name]
    (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "durations.csv").write_text("filename,duration\na.wav,10\n")
    path = write_lines(tmp_path / "p.jsonl", [detection("a.wav", events=events)])
    report = score_predictions(path, tmp_path / name, tmp_path / "out", durations=tmp_path / "durations.csv")
    assert report["detection"]["micro"]["f1"] == 1


def test_answers_that_ran_out_of_room_are_counted(data, predictions, tmp_path, capsys):
    rows = [detection(name, text="dog: 1.00-2.00", truncated=name == "b") for name in "abc"]
    assert main(["score", str(data), "--predictions", str(predictions(*rows)), "--out", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "report.json").read_text())["num_truncated_answers"] == 1
    assert "1 answer ran out of room" in capsys.readouterr().out


def test_labels_that_only_one_side_has_are_named(data, predictions, tmp_path, capsys):
    dog = {**DOG, "event_label": "Dog"}
    path = predictions(detection("a", events=[dog, CAT]), detection("b", events=[dog]), detection("c", events=None))
    assert main(["score", str(data), "--predictions", str(path), "--out", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["detection"]["unmatched_labels"] == {
        "only_in_references": {"dog": 2}, "only_in_predictions": {"Dog": 2}
    }  # fmt: skip
    for text in (capsys.readouterr().out, (tmp_path / "out" / "report.md").read_text()):
        assert "1 label never predicted: dog (2)." in text and "1 label not in the references: Dog (2)." in text


def test_matches_on_a_collar_and_segments_by_rounding_get_second_figures(tmp_path, predictions, capsys):
    # 3.0 - 2.8 is over 0.2 in float64; 0.3 / 0.1 is under 3.
    events = [{"onset": 3.0, "offset": 4.0, "event_label": "dog"}, {"onset": 0.3, "offset": 0.4, "event_label": "cat"}]
    data = write_lines(tmp_path / "data.jsonl", [{"id": "a", "duration": 9.0, "events": events}])
    events = [{"onset": 2.8, "offset": 4.0, "event_label": "dog"}, {"onset": 0.1, "offset": 0.2, "event_label": "cat"}]
    path = predictions(detection("a", events=events))
    assert main(["score", str(data), "--predictions", str(path), "--out", str(tmp_path / "out")]) == 0
    detected = json.loads((tmp_path / "out" / "report.json").read_text())["detection"]
    assert (detected["micro"]["f1"], detected["collar_edges"]["micro"]["f1"]) == (0.5, 1)
    assert (detected["collar_edges"]["num_matches_on_collar"], detected["collar_edges"]["num_refused"]) == (2, 1)
    assert detected["segment_1s"]["sed_eval"] is None
    theirs = detected["segment_0.1s"]["sed_eval"]
    assert theirs["micro"]["f1"] != detected["segment_0.1s"]["micro"]["f1"]
    for text in (capsys.readouterr().out, (tmp_path / "out" / "report.md").read_text()):
        assert "2 matches lie exactly on a collar" in text and "refuses 1 of them" in text
        assert "Eb-F1 micro, tolerant" in text and f"by sed_eval's rounding {theirs['micro']['f1']:.3f}" in text


def test_two_systems_are_compared_on_the_same_clips(tmp_path, capsys):
    rows = [{"id": f"{i}", "duration": 6.0, "events": [DOG, CAT]} for i in range(20)]
    data = write_lines(tmp_path / "data.jsonl", rows)
    scored = [{**DOG, "score": 0.9}, {**CAT, "score": 0.3}]
    paths = []
    for name, kept in (("good", 15), ("bad", 5)):
        lines = [detection(str(i), events=scored[: 1 + (i < kept)]) for i in range(20)]
        lines += [grounding(str(i), "dog", events=[DOG] if i < kept else []) for i in range(20)]
        lines += [grounding(str(i), "cat", events=[CAT]) for i in range(20)]
        paths.append(write_lines(tmp_path / f"{name}.jsonl", lines))
    arguments = ["score", str(data), "--predictions", str(paths[0]), "--against", str(paths[1])]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    compared = report["against"]["detection"]["micro_f1"]
    # 35 of 40 events found and 25 of 40, without false alarms: 70 / 75 and 50 / 65.
    assert compared["value"] == pytest.approx(70 / 75) == report["detection"]["micro"]["f1"]
    assert compared["other"] == pytest.approx(50 / 65)
    assert 0 < compared["interval"][0] < compared["difference"] < compared["interval"][1] and compared["p"] < 0.05
    assert report["against"]["grounding"]["R@0.5"]["difference"] == pytest.approx(10 / 40)
    assert report["against"]["detection"]["psds1"]["difference"] > 0
    row = f"| Eb-F1 micro | 0.933 | 0.769 | +{70 / 75 - 50 / 65:.3f} |"
    assert row in (tmp_path / "out" / "report.md").read_text()
    assert f"against {paths[1]}: difference, 95 % interval, p" in capsys.readouterr().out
    # The other at its own threshold: with events of 0.5 and more it finds 20 of 40, both do then.
    assert main([*arguments, "--out", str(tmp_path / "out"), "--min-score", "0.5"]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["against"]["min_score"] == 0.5 and report["against"]["detection"]["micro_f1"]["difference"] == 0
    assert main([*arguments, "--out", str(tmp_path / "out"), "--against-min-score", "0.5"]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["against"]["detection"]["micro_f1"]["other"] == pytest.approx(40 / 60)


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
