"""`timepro listen` hears a microphone: the monitor of a sink of a sound server of the test's own.

It needs `apt install pulseaudio pulseaudio-utils libasound2-plugins libportaudio2` and `pip install sounddevice`.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("sounddevice")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (shutil.which("pulseaudio") and shutil.which("paplay")), reason="no PulseAudio"),
]
EXAMPLE = "space_app/examples/farmyard.flac"


@pytest.fixture
def sound_server(tmp_path):
    """Start a sound server, whose microphone is what is played, and return the environment that leads to it."""
    socket = tmp_path / "socket"
    (tmp_path / "asound.conf").write_text("</usr/share/alsa/alsa.conf>\npcm.!default { type pulse }\n")
    environment = os.environ | {"XDG_RUNTIME_DIR": str(tmp_path), "PULSE_SERVER": f"unix:{socket}",
                                "ALSA_CONFIG_PATH": str(tmp_path / "asound.conf")}  # fmt: skip
    modules = [f"module-native-protocol-unix socket={socket} auth-anonymous=1", "module-null-sink rate=44100"]
    command = ["pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--disable-shm=yes"]
    server = subprocess.Popen(
        command + [f"-L{module}" for module in modules], env=environment, stderr=subprocess.DEVNULL
    )
    wait_for(lambda: subprocess.run(["pactl", "info"], env=environment, capture_output=True).returncode == 0)
    yield environment
    server.terminate()
    server.wait(timeout=30)


def wait_for(condition):
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("it took more than two minutes")


def test_what_is_played_is_heard_by_the_microphone_until_ctrl_c(sound_server):
    command = [sys.executable, "-m", "recipes.cli.main", "listen", "microphone"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=sound_server, **pipes)
    # Again and again: nothing tells when the microphone is open.
    again = ["sh", "-c", f"while paplay {EXAMPLE}; do :; done"]
    player = subprocess.Popen(again, env=sound_server, start_new_session=True)
    try:
        first = process.stdout.readline()
    finally:
        os.killpg(player.pid, signal.SIGTERM)
        process.send_signal(signal.SIGINT)
    # `communicate` would leave out what `readline` has read ahead.
    rest, errors = process.stdout.readlines(), process.stderr.read()
    assert process.wait(timeout=120) == 0 and "Traceback" not in errors, errors
    lines = [json.loads(line) for line in (first, *rest)]
    # A busy machine loses samples, so times and some labels may differ.
    annotated = {line.split("\t")[3] for line in Path(EXAMPLE).with_suffix(".tsv").read_text().splitlines()[1:]}
    assert annotated & {line["event_label"] for line in lines}
    assert set({line["id"]: line["state"] for line in lines}.values()) <= {"closed", "withdrawn"}
