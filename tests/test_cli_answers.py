"""Asking recordings on the command line: formats, many files of which some are bad, and runs that are stopped."""

import csv
import json
import logging
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
from recipes.cli.output import LineFormatter, format_answers, format_json, write_answers
from recipes.data.label_files import LABEL_FORMATS, read_labels
from recipes.evaluation.runner import Request, run

SPAN = "<1.20>-<3.44>"
DOG = f"dog: {SPAN}"


def write_clip(path, seconds=5.0, rate=44100):
    """Write noise in stereo and return its path."""
    noise = np.random.default_rng(0).standard_normal((int(seconds * rate), 2))
    soundfile.write(path, 0.1 * noise, rate)
    return str(path)


@pytest.fixture
def clip(tmp_path):
    return write_clip(tmp_path / "clip ü.wav")


@pytest.fixture
def clips(tmp_path):
    """Return a folder of three short recordings, and one that is none."""
    folder = tmp_path / "sounds"
    folder.mkdir()
    for name in "abc":
        write_clip(folder / f"{name}.wav", 4.0, 16000)
    (folder / "bad.wav").write_text("this is no audio")
    return folder


@pytest.fixture
def model(scripted_checkpoint):
    return str(scripted_checkpoint(DOG))


def test_table():
    events = [
        {"onset": 10, "offset": 12, "event_label": "x", "score": None},
        {"onset": 1.2, "offset": 3.44, "event_label": "dog bark", "score": 0.806},
    ]
    lines = format_answers("a.wav", 12.5, [{"query": None, "events": events}]).splitlines()
    assert lines[0] == "a.wav  (12.50 s)"
    assert [line.split(maxsplit=3) for line in lines[1:]] == [
        ["onset", "offset", "score", "event"], ["1.20", "3.44", "0.81", "dog bark"], ["10.00", "12.00", "-", "x"],
    ]  # fmt: skip
    assert format_answers("a.wav", 1, [{"query": None, "events": []}]).splitlines()[1] == "  no events"
    several = [{"query": "cat", "events": []}, {"query": "x", "events": events}]
    assert format_answers("a.wav", 1, several).splitlines()[-1] == "  no events match 'cat'"


def test_json_names_the_query_where_there_are_several():
    one = [{"query": "cat", "events": []}]
    assert json.loads(format_json("a.wav", 1.0, one)) == {"file": "a.wav", "duration": 1.0, "events": []}
    lines = format_json("a.wav", 1.0, [*one, {"query": "dog", "events": []}]).splitlines()
    assert [json.loads(line)["query"] for line in lines] == ["cat", "dog"]


def test_stdout_has_results_alone_and_the_exit_code_tells_of_failures(scripted_checkpoint, clip, tmp_path, capfd):
    checkpoint, missing = str(scripted_checkpoint(SPAN)), str(tmp_path / "no.wav")
    assert main(["ground", clip, missing, "--query", "dog barking", "--json", "--model", checkpoint]) == 1
    output, errors = capfd.readouterr()
    row = json.loads(output)
    assert 0 <= row["events"][0].pop("score") <= 1
    assert row == {
        "file": clip,
        "duration": pytest.approx(5.0),
        "events": [{"onset": 1.2, "offset": 3.44, "event_label": "dog barking"}],
    }
    assert output.count("\n") == 1
    *_, named, summary = errors.splitlines()
    assert "no.wav" in named and "does not exist" in named and summary == "timepro: 1 of 2 recordings failed."


def test_bad_files_are_listed_at_the_end(model, clip, clips, tmp_path, capsys):
    empty = tmp_path / "empty.wav"
    empty.touch()
    # Too short for one frame: that is found when the batch is made, and must not cost its neighbours their answers.
    short = write_clip(tmp_path / "short.wav", 0.01)
    files = [clip, short, str(clips), str(tmp_path / "absent.wav"), str(empty), clip, str(tmp_path / "*.ogg")]
    assert main(["detect", *files, "--json", "--model", model]) == 1
    captured = capsys.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    # The recording that is named twice is asked once.
    assert [row["file"] for row in rows] == [clip, *(str(clips / f"{name}.wav") for name in "abc")]
    assert all((event["onset"], event["event_label"]) == (1.2, "dog") for row in rows for event in row["events"])
    *named, summary = captured.err.splitlines()[-6:]
    assert {line.split(": ")[1] for line in named} == {
        str(clips / "bad.wav"), str(tmp_path / "absent.wav"), str(empty), short, str(tmp_path / "*.ogg")
    }  # fmt: skip
    assert summary == "timepro: 5 of 9 recordings failed."


def test_each_failure_in_a_batch_is_its_own(model, clip, tmp_path):
    from recipes.conversion.checkpoint_folder import load_pipeline

    pipe = load_pipeline(model)
    short, last = (write_clip(tmp_path / name, 0.01) for name in ("short.wav", "last.wav"))
    files = [clip, str(tmp_path / "no.wav"), short, clip, clip, last]
    for task, queries in (("detection", (None,)), ("grounding", ("dog", "cat"))):
        for batch_size in (1, 3, 100):
            jobs = [Request(file, task, queries) for file in files]
            found = [(job.audio, results) for job, results in run(pipe, jobs, batch_size=batch_size)]
            assert [file for file, _ in found] == files
            assert [isinstance(outcome, Exception) for _, outcome in found] == [False, True, True, False, False, True]
            assert "does not exist" in str(found[1][1])
            assert {len(outcome) for _, outcome in found if isinstance(outcome, list)} == {len(queries)}


def test_several_queries(scripted_checkpoint, clip, tmp_path, capsys):
    arguments = [clip, "--query", "dog", "--query", "cat", "--model", str(scripted_checkpoint(SPAN))]
    assert main(["ground", *arguments, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["query"], row["events"][0]["event_label"]) for row in rows] == [("dog", "dog"), ("cat", "cat")]
    # In other formats the label tells the query.
    assert main(["ground", *arguments, "--out", str(tmp_path / "events.csv")]) == 0
    assert [row["event_label"] for row in csv.DictReader((tmp_path / "events.csv").open())] == ["dog", "cat"]
    assert capsys.readouterr().out == ""


def test_captions(scripted_checkpoint, clip, capsys):
    checkpoint = str(scripted_checkpoint(f"{SPAN}: a dog barks"))
    assert main(["caption", clip, "--format", "srt", "--model", checkpoint]) == 0
    assert capsys.readouterr().out == "1\n00:00:01,200 --> 00:00:03,440\na dog barks\n"


def test_formats(model, clips, tmp_path, capsys):
    (clips / "bad.wav").unlink()
    files = [str(clips / f"{name}.wav") for name in "abc"]
    for format, suffix in (("tsv", ".tsv"), ("jsonl", ".jsonl"), ("rttm", ".rttm")):
        assert main(["detect", str(clips), "--format", format, "--model", model]) == 0
        printed = capsys.readouterr().out
        assert main(["detect", str(clips), "--out", str(tmp_path / f"x{suffix}"), "--model", model]) == 0
        # Read as bytes are: the lines of some end in CR LF.
        assert (tmp_path / f"x{suffix}").read_bytes().decode() == printed
        recordings = read_labels(tmp_path / f"x{suffix}")
        assert [[event["event_label"] for event in recording["events"]] for recording in recordings] == [["dog"]] * 3
    assert [row["file"] for row in read_labels(tmp_path / "x.jsonl")] == files
    # Formats without scores are written without them, to a folder that need not be there.
    assert (
        main(["detect", str(clips), "--format", "audacity", "--out", str(tmp_path / "tracks"), "--model", model]) == 0
    )
    assert sorted(os.listdir(tmp_path / "tracks")) == ["a.txt", "b.txt", "c.txt"]
    assert (tmp_path / "tracks" / "a.txt").read_text().split() == ["1.200", "3.440", "dog"]


def test_every_format_is_written(model, tmp_path):
    # RTTM has no white space.
    clip = write_clip(tmp_path / "clip.wav")
    for format, kind in LABEL_FORMATS.items():
        folder = tmp_path / format
        assert main(["detect", clip, "--format", format, "--out", str(folder), "--model", model]) == 0
        assert os.listdir(folder) == [f"clip{kind.suffix}"]
        (recording,) = read_labels(folder, format)
        (event,) = recording["events"]
        assert (event["onset"], event["offset"], event["event_label"]) == (1.2, 3.44, "dog"), format


def test_scores_windows_and_limits(model, tmp_path, capsys):
    path = write_clip(tmp_path / "long.wav", 31, 16000)

    def onsets(*options):
        assert main(["detect", path, "--json", "--model", model, *options]) == 0
        return [event["onset"] for event in json.loads(capsys.readouterr().out)["events"]]

    # Every window answers 1.20 to 3.44; those of 10 s start every 10 - 2 * 1.68 = 6.64 s.
    assert onsets() == [1.2, 7.84, 14.48, 21.12]
    # Windows of 20 s without overlap start at 0 and, as the last ends with the recording, at 11.04 s: in that, 12.24 s
    # to 14.48 s lie before 20 s, where it is trusted.
    assert onsets("--chunk-length", "20", "--stride-length", "0") == [1.2]
    assert onsets("--min-score", "1") == []
    assert onsets("--max-events", "1") == [1.2, 7.84, 14.48, 21.12]
    with pytest.raises(SystemExit) as end:
        main(["detect", path, "--chunk-length", "60", "--model", model])
    assert end.value.code == 2 and "at most max_time, 30" in capsys.readouterr().err


def test_what_cannot_be_read_is_an_error_unless_answers_are_held_to_the_grammar(scripted_checkpoint, clip, capsys):
    arguments = ["ground", clip, "--query", "dog", "--model", str(scripted_checkpoint("well"))]
    assert main([*arguments, "--unconstrained"]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and "answer 'well' cannot be read" in captured.err
    assert main(arguments) == 0


def test_none_and_plot(scripted_checkpoint, model, clip, tmp_path, capsys):
    picture = tmp_path / "events.png"
    assert main(["detect", clip, "--model", model, "--plot", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 10_000
    (line,) = capsys.readouterr().out.splitlines()[2:]
    onset, offset, score, label = line.split()
    assert (onset, offset, label) == ("1.20", "3.44", "dog") and 0 <= float(score) <= 1
    assert main(["ground", clip, "--query", "cat", "--model", str(scripted_checkpoint("none"))]) == 0
    assert "no events match 'cat'" in capsys.readouterr().out


@pytest.mark.slow
def test_a_killed_run_goes_on(model, tmp_path, capsys):
    folder, out = tmp_path / "sounds", tmp_path / "events.jsonl"
    folder.mkdir()
    for index in range(20):
        write_clip(folder / f"{index:02}.wav", 4.0, 16000)
    partial = tmp_path / "events.jsonl.partial.jsonl"
    arguments = ["detect", str(folder), "--out", str(out), "--batch-size", "1", "--model", model]
    process = subprocess.Popen([sys.executable, "-m", "recipes.cli.main", *arguments])
    deadline = time.monotonic() + 100
    while not partial.exists() or partial.read_bytes().count(b"\n") < 4:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not out.exists()
    num_kept = partial.read_bytes().count(b"\n") - 1
    assert 3 <= num_kept < 20
    # What a machine that loses its power may leave.
    with partial.open("ab") as file:
        file.write(b'{"file": "')
    other = [*arguments, "--min-score", "0.5"]
    assert main(other) == 1 and not out.exists()
    assert "run that command again to finish it" in capsys.readouterr().err
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert captured.out == "" and f"{num_kept} of 20 recordings were answered before" in captured.err
    assert not partial.exists()
    expected = [str(folder / f"{index:02}.wav") for index in range(20)]
    assert [row["file"] for row in read_labels(out)] == expected
    again = tmp_path / "again.jsonl"
    assert main(["detect", str(folder), "--out", str(again), "--batch-size", "1", "--model", model]) == 0
    assert again.read_bytes() == out.read_bytes()


def test_after_failures_only_what_is_missing_or_changed_is_asked(model, clips, tmp_path, capsys):
    out, partial = tmp_path / "out", tmp_path / "out" / "timepro.partial.jsonl"
    arguments = ["detect", str(clips), "--out", str(out), "--format", "json", "--model", model]
    assert main(arguments) == 1
    assert "are kept in" in capsys.readouterr().err
    assert sorted(os.listdir(out)) == ["a.json", "b.json", "c.json", partial.name]
    # What a machine that loses its power may leave.
    with partial.open("ab") as file:
        file.write(b'{"file": "')
    assert main([*arguments, "--min-score", "0.5"]) == 1
    assert "run that command again to finish it" in capsys.readouterr().err
    write_clip(clips / "bad.wav", 4.0, 16000)
    write_clip(clips / "b.wav", 5.0, 16000)
    assert main(arguments) == 0
    assert "2 of 4 recordings were answered before" in capsys.readouterr().err
    assert sorted(os.listdir(out)) == ["a.json", "b.json", "bad.json", "c.json"]
    durations = [recording["duration"] for recording in read_labels(out, "json")]
    assert durations == [4.0, 5.0, 4.0, 4.0]


def test_what_a_format_cannot_hold_fails_alone_and_another_format_has_it(model, clips, tmp_path, capsys):
    (clips / "bad.wav").rename(clips / "<NA>.wav")
    write_clip(clips / "<NA>.wav", 4.0, 16000)
    arguments = ["detect", str(clips), "--model", model]
    assert main([*arguments, "--out", str(tmp_path / "x.rttm")]) == 1
    assert "<NA>.wav" in capsys.readouterr().err
    assert len(read_labels(tmp_path / "x.rttm")) == 3
    assert main([*arguments, "--format", "tsv", "--out", str(tmp_path / "x.rttm")]) == 0
    assert "4 of 4 recordings were answered before" in capsys.readouterr().err


def test_rttm_cannot_tell_recordings_of_one_name_apart(scripted_checkpoint, clip, tmp_path, capsys):
    (tmp_path / "again").mkdir()
    other = shutil.copy(clip, tmp_path / "again")
    checkpoint = str(scripted_checkpoint("none"))
    with pytest.raises(SystemExit):
        main(["detect", str(clip), str(other), "--format", "rttm", "--model", checkpoint])
    assert "are named alike; rename one of them, or choose another format" in capsys.readouterr().err


def test_rttm_leaves_out_recordings_without_events_and_says_so(scripted_checkpoint, clip, tmp_path, capsys):
    out = tmp_path / "x.rttm"
    arguments = ["ground", clip, "--query", "cat", "--model", str(scripted_checkpoint("none")), "--out", str(out)]
    assert main(arguments) == 0
    assert out.read_text() == "" and "1 recordings without events are left out" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["clip ü.wav", "x.rttm"]


def test_standard_input_is_a_recording(model, clip, monkeypatch, capsys):
    with subprocess.Popen(["cat", clip], stdout=subprocess.PIPE, text=True) as pipe:
        monkeypatch.setattr(sys, "stdin", pipe.stdout)
        assert main(["detect", "-", "--json", "--model", model]) == 0
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert line["file"] == "-" and line["duration"] == 5.0 and line["events"]


def test_warnings_are_lines_that_begin_with_the_command_and_the_recording():
    record = logging.LogRecord(
        "a.long.module", logging.WARNING, "x.py", 1, "source %r breaks off", ("b/it's.mp3",), None
    )
    assert LineFormatter().format(record) == "timepro: warning: b/it's.mp3: breaks off"
    record.msg, record.args = "b.wav: 1 of 2 answers ran out of room.", ()
    assert LineFormatter().format(record) == "timepro: warning: b.wav: 1 of 2 answers ran out of room."


def test_answers_that_ran_out_of_room_are_marked_where_a_format_can(tmp_path, capsys):
    answers = [{"query": None, "events": [{"onset": 1.0, "offset": 2.0, "event_label": "dog", "score": 0.5}]}]
    cut = [answers[0] | {"truncated": True}]
    rows = [{"file": f"{name}.wav", "duration": 3.0, "answers": a} for name, a in (("a", answers), ("b", cut))]
    for format in ("jsonl", "json"):
        assert write_answers(rows, format, str(tmp_path / f"x.{format}"), None) == {}
        assert [row.get("truncated") for row in read_labels(tmp_path / f"x.{format}")] == [None, True]
    assert write_answers(rows, "tsv", str(tmp_path / "x.tsv"), None) == {}
    (tmp_path / "x.jsonl").write_text('{"file": "a", "events": [], "truncated": 1}')
    with pytest.raises(ValueError, match="line 1: truncated is 1; give true or false"):
        read_labels(tmp_path / "x.jsonl")


def test_labels_lie_in_folders_as_their_recordings_do(model, tmp_path, capsys):
    for folder in ("a", "b/c"):
        (tmp_path / "night" / folder).mkdir(parents=True)
        write_clip(tmp_path / "night" / folder / "x.wav", 2.0)
    out = tmp_path / "labels"
    assert main(["detect", str(tmp_path / "night"), "--out", str(out), "--format", "tsv", "--model", model]) == 0
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.tsv")) == ["a/x.tsv", "b/c/x.tsv"]


def test_damaged_recordings_are_heard_or_strictly_refused(model, clip, tmp_path, capsys):
    cut = tmp_path / "cut.wav"
    cut.write_bytes(open(clip, "rb").read()[:400_000])
    assert main(["detect", str(cut), "--json", "--model", model]) == 0
    assert json.loads(capsys.readouterr().out)["duration"] == pytest.approx(2.267, abs=0.01)
    assert main(["detect", str(cut), clip, "--json", "--model", model, "--strict", "--channel", "1"]) == 1
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 1 and "breaks off: of the 5.00 s that its header promises" in captured.err
