"""The command line: what it prints where, its exit codes, and its errors."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from recipes import DEFAULT_CHECKPOINT
from recipes.cli.main import main

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


def test_help_names_every_command_and_loads_nothing_heavy():
    code = (
        "import sys; from recipes.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: print(end.code, {'torch', 'transformers', 'numpy'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.stdout.splitlines()[-1] == "0 set()", result.stderr
    for command in ("detect", "ground", "caption", "info", "convert", "synthesize", "score"):
        assert command in result.stdout


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "required: COMMAND"),
        (["hear"], "invalid choice: 'hear'"),
        (["detect"], "required: FILE"),
        (["ground", "x.wav"], "required: --query"),
        (["ground", "x.wav", "--query", " "], "--query is empty"),
        (["ground", "x.wav", "--query", "dog", "--query", "dog"], "give each query once"),
        (["detect", "x.wav", "y.wav", "--plot", "z.png"], "--plot draws one recording, but 2 are given"),
        (["detect", "x.wav", "--plot", "no/such/folder/z.png"], "the folder 'no/such/folder' does not exist"),
        (["detect", "x.wav", "--min-score", "1.5"], "1.5 given; give a number from 0 to 1"),
        (["detect", "x.wav", "--chunk-length", "nan"], "nan given; give seconds"),
        (["detect", "x.wav", "--max-events", "3", "--unconstrained"], "--max-events given with --unconstrained"),
        (["detect", "x.wav", "--format", "xls"], "invalid choice: 'xls' (choose from 'tsv',"),
        (["detect", "x.wav", "--format", "tsv", "--json"], "not allowed with argument"),
        (["detect", "x.wav", "--json", "--out", "x.jsonl"], "give --format jsonl instead"),
        (["detect", "x.wav", "--out", "x.txt"], "does not imply a format; choose --format from audacity, elan"),
        (["detect", "x.wav", "--out", "no/such/folder/x.tsv"], "the folder 'no/such/folder' does not exist"),
        (["detect", "x.wav", "--out", "./x.wav", "--format", "tsv"], "one of the recordings"),
        (["detect", "x.wav", "y.wav", "--format", "vtt"], "hold one recording, but 2 are given; give a folder"),
        (["detect", "a/x.wav", "a/x.flac", "--out", "o", "--format", "csv"], "would be written to one file"),
        (["score", "x.jsonl", "--out", "o", "--predictions", "p.jsonl", "--unconstrained"], "leave one of them out"),
        (["detect", "x.wav", "--channel", "left"], "left given; give a number, counted from 0, or 'loudest'"),
        (["score", "x.jsonl", "--out", "o", "--min-score", "2"], "2 given; give a number from 0 to 1"),
        (["convert", "--out", "x"], "required: --backbone"),
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


@needs_default_checkpoint
def test_default_checkpoint_answers_quickly_in_little_memory_and_writes_nothing(clip):
    code = (
        "import os, resource, sys, tempfile; from recipes.cli.main import main; written = set();"
        "sys.addaudithook(lambda event, args: event == 'open' and (args[2] or 0) & (os.O_WRONLY | os.O_RDWR)"
        " and written.add(str(args[0])));"
        # Torch looks for a temporary folder.
        "code = main(sys.argv[1:]); folder = tempfile.gettempdir(); written -= {'/dev/null'};"
        "written = {path for path in written if '__pycache__' not in path and os.path.dirname(path) != folder};"
        "assert not written, written;"
        "usage = resource.getrusage(resource.RUSAGE_SELF);"
        # Not `ru_maxrss`, which a process has from the one that started it.
        "peak = open('/proc/self/status').read().split('VmHWM:')[1].split()[0];"
        "print(usage.ru_utime + usage.ru_stime, peak, file=sys.stderr); sys.exit(code)"
    )
    arguments = ["ground", clip, "--query", "dog barking", "--json"]
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert set(json.loads(result.stdout)) == {"file", "duration", "events"}
    # Processor time, which is the time to wait on a machine that does nothing else, and other work cannot spoil.
    seconds, kilobytes = result.stderr.split()[-2:]
    assert float(seconds) < 10
    assert int(kilobytes) < 1_500_000


def test_convert_has_a_help_and_overwrites_nothing(capsys, tmp_path):
    with pytest.raises(SystemExit) as end:
        main(["convert", "--help"])
    assert end.value.code == 0
    assert "--backbone DIR" in capsys.readouterr().out
    (tmp_path / "full").touch()
    assert main(["convert", "--backbone", str(tmp_path), "--out", str(tmp_path)]) == 1
    assert "pass --overwrite" in capsys.readouterr().err


@needs_default_checkpoint
def test_info_names_the_default_checkpoint(capsys):
    assert main(["info"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == str(DEFAULT_CHECKPOINT.resolve())
