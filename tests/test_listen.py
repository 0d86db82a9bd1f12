"""`timepro listen` in a process of its own: raw PCM is piped in, lines of JSON come out while it still flows."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

from recipes.cli.main import main
from recipes.conversion.checkpoint_folder import load_pipeline

COMMAND = [sys.executable, "-m", "recipes.cli.main", "listen"]
EXAMPLE = "space_app/examples/farmyard.flac"


@pytest.fixture(scope="module")
def sound():
    """Return 14 s of a farmyard, which goes on with its beginning, at 16 kHz."""
    sound = soundfile.read(EXAMPLE, dtype="int16")[0]
    return np.concatenate([sound, sound])[: 14 * 16000]


def start(*arguments, **options):
    pipes = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
    return subprocess.Popen([*COMMAND, *arguments], **pipes | options)


def finish(process):
    """Return what else a process writes; `communicate` would leave out what `readline` has read ahead."""
    process.stdin.close()
    rest, errors = process.stdout.read(), process.stderr.read()
    process.wait(timeout=300)
    return rest, errors


def run_in_pipe(monkeypatch, data, *arguments):
    """Run the command in this process, with bytes in a real pipe as its standard input."""
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    with os.fdopen(reader, "r") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        return main(["listen", *arguments])


def test_events_come_while_sound_is_piped_in(scripted_checkpoint):
    process = start("-", "--min-score", "0", "--model", str(scripted_checkpoint("dog: <0.08>-<0.80>")))
    noise = (3000 * np.random.default_rng(0).standard_normal(16000 * 12)).astype("<i2").tobytes()
    # More than a pipe holds: it is read while it is heard.
    process.stdin.write(noise)
    process.stdin.flush()
    first = json.loads(process.stdout.readline())
    # The sound has not ended, and yet there is an event.
    assert process.poll() is None
    assert (first["state"], first["onset"], first["offset"], first["heard"]) == ("closed", 0.08, 0.8, 10.0)
    rest, errors = finish(process)
    # The last window, of 2 to 12 s, says the same of its own beginning, in which it is not trusted.
    assert (process.returncode, rest, errors) == (0, b"", b"")


@pytest.mark.slow
def test_events_of_a_pipe_are_those_of_the_pipeline(sound):
    process = start("-")
    # More than a pipe holds: it is read while it is heard.
    process.stdin.write(sound.tobytes())
    process.stdin.flush()
    lines = [json.loads(process.stdout.readline()) for _ in range(2)]
    # The sound has not ended, and yet there are events.
    assert process.poll() is None
    rest, errors = finish(process)
    lines += map(json.loads, rest.splitlines())
    assert process.returncode == 0 and errors == b""
    expected = list(load_pipeline().stream([sound], 16000))
    assert [{**line, "score": None} for line in lines] == [{**line, "score": None} for line in expected]
    assert lines[-1]["heard"] == 14.0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_closes_what_is_open(sound, number):
    process = start("-")
    process.stdin.write(sound[: 8 * 16000].tobytes())
    process.stdin.flush()
    first = json.loads(process.stdout.readline())
    time.sleep(3)
    process.send_signal(number)
    rest, errors = finish(process)
    lines = [first, *map(json.loads, rest.splitlines())]
    assert process.returncode == 0 and b"Traceback" not in errors
    states = {line["id"]: line["state"] for line in lines}
    assert set(states.values()) <= {"closed", "withdrawn"} and "closed" in states.values()


@pytest.mark.slow
def test_ffmpeg_can_be_piped_in(sound, tmp_path):
    soundfile.write(tmp_path / "yard.flac", np.stack([sound, sound], 1), 16000)
    command = ["ffmpeg", "-v", "error", "-i", tmp_path / "yard.flac", "-f", "f32le", "-ar", "44100", "-"]
    try:
        ffmpeg = subprocess.Popen(command, stdout=subprocess.PIPE)
    except FileNotFoundError:
        pytest.skip("no ffmpeg")
    process = start("-", "--format", "f32le", "--sampling-rate", "44100", "--channels", "2", stdin=ffmpeg.stdout)
    ffmpeg.stdout.close()
    lines, errors = process.communicate(timeout=300)
    assert (process.returncode, errors, ffmpeg.wait()) == (0, b"", 0)
    found = {json.loads(line)["event_label"] for line in lines.splitlines()}
    assert found == {event["event_label"] for event in load_pipeline().stream([sound], 16000)}


@pytest.mark.slow
def test_a_reader_that_leaves_ends_it(sound):
    process = start("-")
    process.stdin.write(sound.tobytes())
    process.stdin.flush()
    process.stdout.readline()
    process.stdout.close()
    process.stdin.close()
    assert process.wait(timeout=120) == 1
    assert b"Traceback" not in process.stderr.read()


@pytest.mark.parametrize(
    "head, kind",
    [(b"RIFF\x24\x00\x00\x00WAVE", "wav"), (b"fLaC" + bytes(40), "flac"), (b"\x1aE\xdf\xa3" + bytes(9), "mkv")],
)
def test_files_are_not_taken_for_samples(monkeypatch, capsys, scripted_checkpoint, head, kind):
    model = str(scripted_checkpoint("<0.08>-<0.80>"))
    assert run_in_pipe(monkeypatch, head + bytes(2000), "-", "--model", model) == 1
    error = capsys.readouterr().err
    assert f"begins like a file of {kind}" in error and "ffmpeg" in error


def test_what_is_piped_in_is_heard_without_a_name_and_its_end_is_said(monkeypatch, capsys, scripted_checkpoint):
    model = str(scripted_checkpoint("<0.08>-<0.80>"))
    noise = (3000 * np.random.default_rng(0).standard_normal(16000 * 3)).astype("<i2").tobytes()
    assert run_in_pipe(monkeypatch, noise[:60000] + b"!", "--model", model, "--query", "dog") == 0
    streams = capsys.readouterr()
    (line,) = map(json.loads, streams.out.splitlines())
    assert (line["state"], line["event_label"], line["onset"], line["offset"]) == ("closed", "dog", 0.08, 0.8)
    assert "the last 1 bytes are no whole sample of 2 bytes" in streams.err
    assert run_in_pipe(monkeypatch, b"", "--model", model) == 1
    assert "no sound came in" in capsys.readouterr().err


def test_arguments_of_the_other_source_are_refused(monkeypatch, capsys):
    for arguments, message in (
        (["-", "--device", "1"], "--device applies only to the microphone"),
        (["microphone", "--sampling-rate", "8000"], "--sampling-rate applies only to standard input"),
        (["-", "--channel", "loudest"], "give the number of the channel"),
    ):
        with pytest.raises(SystemExit):
            main(["listen", *arguments])
        assert message in capsys.readouterr().err


def test_without_a_microphone_the_error_says_what_to_do(capsys):
    assert main(["listen", "microphone", "--device", "no such input"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("timepro: ") and "raw PCM into `timepro listen -`" in error and "Traceback" not in error
