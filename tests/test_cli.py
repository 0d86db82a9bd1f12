"""The command line: what it prints where, its exit codes, and its errors."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from recipes import DEFAULT_CHECKPOINT
from recipes.cli import format_table, main

SPAN = "<1.20>-<3.44>"
needs_default_checkpoint = pytest.mark.skipif(
    not DEFAULT_CHECKPOINT.exists(), reason="the embedded checkpoint is not in this copy"
)


@pytest.fixture
def clip(tmp_path):
    """Return the path of 5 s of noise in stereo at 44.1 kHz."""
    path = tmp_path / "clip ü.wav"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal((5 * 44100, 2)), 44100)
    return str(path)


def run(*arguments):
    """Run the command in a fresh process."""
    command = [sys.executable, "-m", "recipes.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_help_names_every_command_and_loads_nothing_heavy():
    code = (
        "import sys; from recipes.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.stdout.splitlines()[-1] == "0 False False", result.stderr
    for command in ("detect", "ground", "info", "synthesize", "score"):
        assert command in result.stdout


def test_help_imports_nothing_heavy():
    code = "import sys, recipes.cli as c; c.build_parser(); print([m for m in ('torch', 'numpy') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "required: COMMAND"),
        (["listen"], "invalid choice: 'listen'"),
        (["detect"], "required: FILE"),
        (["ground", "x.wav"], "required: --query"),
        (["ground", "x.wav", "--query", " "], "--query is empty"),
        (["detect", "x.wav", "y.wav", "--plot", "z.png"], "--plot draws one recording, but 2 are given"),
        (["detect", "x.wav", "--plot", "no/such/folder/z.png"], "the folder 'no/such/folder' does not exist"),
        (["synthesize", "--out", "x", "--num-clips", "0", "--seed", "1"], "0 given; give 1 or more"),
        (["synthesize", "--out", "x", "--num-clips", "1", "--seed", "1", "--split", "exam"], "invalid choice: 'exam'"),
    ],
)
def test_wrong_arguments(capsys, arguments, message):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_folder_without_checkpoint(tmp_path, capsys):
    for arguments in (["info", str(tmp_path)], ["detect", "x.wav", "--model", str(tmp_path)]):
        assert main(arguments) == 1
        captured = capsys.readouterr()
        assert captured.out == "" and "holds no config.json; give a TimePro checkpoint's folder" in captured.err
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert main(["info", str(tmp_path)]) == 1
    assert "model_type 'bert'" in capsys.readouterr().err


def test_table():
    events = [
        {"onset": 1.2, "offset": 3.44, "event_label": "dog bark"},
        {"onset": 10, "offset": 12, "event_label": "x"},
    ]
    lines = format_table("a.wav", 12.5, events).splitlines()
    assert lines[0] == "a.wav  (12.50 s)"
    assert [line.split(maxsplit=2) for line in lines[1:]] == [
        ["onset", "offset", "event"], ["1.20", "3.44", "dog bark"], ["10.00", "12.00", "x"],
    ]  # fmt: skip
    assert "no events match 'cat'" in format_table("a.wav", 1, [], "cat")
    assert "no events" in format_table("a.wav", 1, [])


def test_info(scripted_checkpoint, capsys):
    folder = scripted_checkpoint(SPAN)
    assert main(["info", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(folder.resolve())
    rows = dict(line.split(maxsplit=1) for line in lines[1:] if not line.startswith("ti"))
    assert rows["backbone"] == "timepro_yamnet + qwen2" and rows["answers"] == "ticks"
    assert int(rows["parameters"].replace(",", "")) > 100_000
    assert "ticks         375, every 0.08 s, for clips of up to 30.0 s" in lines
    assert "time prompt   on" in lines and "torch 2." in rows["versions"]


def test_ground_prints_one_json_object_and_nothing_else(scripted_checkpoint, clip):
    result = run("ground", clip, "--query", "dog barking", "--json", "--model", str(scripted_checkpoint(SPAN)))
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {
        "file": clip,
        "duration": pytest.approx(5.0),
        "events": [{"onset": 1.2, "offset": 3.44, "event_label": "dog barking", "score": None}],
    }
    assert result.stdout.count("\n") == 1


def test_detect_goes_on_after_a_bad_file(scripted_checkpoint, clip, tmp_path, capsys):
    broken, empty = tmp_path / "broken.wav", tmp_path / "empty.wav"
    broken.write_text("this is no audio")
    empty.touch()
    files = [str(broken), clip, str(tmp_path / "absent.wav"), str(empty), clip]
    assert main(["detect", *files, "--json", "--model", str(scripted_checkpoint(f"dog: {SPAN}"))]) == 1
    captured = capsys.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert [row["file"] for row in rows] == [clip, clip]
    assert rows[0]["events"] == [{"onset": 1.2, "offset": 3.44, "event_label": "dog", "score": None}]
    assert "broken.wav" in captured.err and "does not exist" in captured.err and "is empty" in captured.err
    assert "3 of 5 recordings failed" in captured.err.splitlines()[-1]


def test_long_recording(scripted_checkpoint, tmp_path, capsys):
    path = tmp_path / "long.wav"
    soundfile.write(path, np.zeros(31 * 16000), 16000)
    assert main(["detect", str(path), "--json", "--model", str(scripted_checkpoint(f"dog: {SPAN}"))]) == 0
    row = json.loads(capsys.readouterr().out)
    # Longer than max_time, so heard in windows, 6.64 s apart, whose first four have the dog in their cores.
    assert row["duration"] == 31.0 and [event["onset"] for event in row["events"]] == [1.2, 7.84, 14.48, 21.12]


def test_unreadable_answer_is_an_error(scripted_checkpoint, clip, capsys):
    assert main(["ground", clip, "--query", "dog", "--model", str(scripted_checkpoint("well"))]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and "'well' names no events" in captured.err


def test_none_and_plot(scripted_checkpoint, clip, tmp_path, capsys):
    model, picture = str(scripted_checkpoint(f"dog: {SPAN}")), tmp_path / "events.png"
    assert main(["detect", clip, "--model", model, "--plot", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 10_000
    assert "1.20      3.44  dog" in capsys.readouterr().out
    assert main(["ground", clip, "--query", "cat", "--model", str(scripted_checkpoint("none"))]) == 0
    assert "no events match 'cat'" in capsys.readouterr().out


@needs_default_checkpoint
def test_default_checkpoint_answers_quickly_and_in_little_memory(clip):
    code = (
        "import resource, sys; from recipes.cli import main; code = main(sys.argv[1:]);"
        "usage = resource.getrusage(resource.RUSAGE_SELF);"
        "print(usage.ru_utime + usage.ru_stime, usage.ru_maxrss, file=sys.stderr); sys.exit(code)"
    )
    arguments = ["ground", clip, "--query", "dog barking", "--json"]
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert set(json.loads(result.stdout)) == {"file", "duration", "events"}
    # Processor time, which is the time to wait on a machine that does nothing else, and other work cannot spoil.
    seconds, kilobytes = result.stderr.split()[-2:]
    assert float(seconds) < 10
    assert int(kilobytes) < 1_500_000


@needs_default_checkpoint
def test_info_names_the_default_checkpoint(capsys):
    assert main(["info"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == str(DEFAULT_CHECKPOINT.resolve())
