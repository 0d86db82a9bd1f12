"""Very many recordings by Ray: a cluster of two nodes on this machine, whose actors, nodes and driver are killed."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

pytest.importorskip("ray")
psutil = pytest.importorskip("psutil")
pytestmark = pytest.mark.slow
RAY = [sys.executable, "-m", "ray.scripts.scripts"]


@pytest.fixture
def cluster(monkeypatch):
    """Start a head and a worker node, each for one actor; return the processes of the worker node's raylet."""
    # Ray's sockets have long names.
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    # A node cannot join a head that found the token of an earlier run in the home folder.
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    # By default actors have so low a priority that they starve beside other tests.
    monkeypatch.setenv("RAY_worker_niceness", "0")
    common = ["--num-cpus", "1", "--object-store-memory", "100000000", "--disable-usage-stats"]
    head = ["--head", "--port", str(port), "--include-dashboard", "false", "--temp-dir", folder]
    try:
        subprocess.run([*RAY, "start", *head, *common], check=True, stdout=subprocess.DEVNULL)
        before = raylets(folder)
        node = ["--address", f"127.0.0.1:{port}"]
        subprocess.run([*RAY, "start", *node, *common], check=True, stdout=subprocess.DEVNULL)
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        yield raylets(folder) - before
    finally:
        for process in psutil.process_iter(["cmdline"]):
            if folder in " ".join(process.info["cmdline"] or ()):
                with contextlib.suppress(psutil.Error):
                    process.kill()
        shutil.rmtree(folder, ignore_errors=True)


def raylets(folder):
    running = psutil.process_iter(["name", "cmdline"])
    return {p.pid for p in running if p.info["name"] == "raylet" and folder in " ".join(p.info["cmdline"])}


def actors():
    return [p.pid for p in psutil.process_iter(["cmdline"]) if "MapWorker" in " ".join(p.info["cmdline"] or ())]


def rows_of(out, kind):
    return sorted(row["recording"] for path in (out / kind).glob("*") for row in pq.read_table(path).to_pylist())


def test_every_recording_ends_once_though_an_actor_a_node_and_the_driver_are_killed(
    cluster, scripted_checkpoint, tmp_path
):
    clips, out = tmp_path / "sounds", tmp_path / "out"
    clips.mkdir()
    for index in range(60):
        soundfile.write(clips / f"{index:02}.wav", 0.1 * np.random.default_rng(index).standard_normal(64000), 16000)
    (clips / "bad.wav").write_text("this is no audio")
    model = str(scripted_checkpoint("dog: <1.20>-<3.44>"))
    command = [sys.executable, "-m", "recipes.cli.main", "annotate", "sounds", "--out", "out", "--model", model]
    command += ["--engine", "ray", "--num-workers", "2", "--shard-size", "3"]

    def start():
        log = (tmp_path / "log").open("w")
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=tmp_path)

    def wait_for_shards(number):
        for _ in range(6000):
            if len(list((out / "annotations").glob("*.parquet"))) >= number:
                return
            assert process.poll() is None, (tmp_path / "log").read_text()[-3000:]
            time.sleep(0.1)
        raise AssertionError((tmp_path / "log").read_text()[-3000:])

    process = start()
    wait_for_shards(1)
    (clips / "59.wav").unlink()  # a source that vanishes
    os.kill(actors()[0], signal.SIGKILL)
    wait_for_shards(4)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process = start()
    wait_for_shards(8)
    for pid in cluster:
        os.kill(pid, signal.SIGKILL)
    assert process.wait(timeout=900) == 1, (tmp_path / "log").read_text()[-3000:]
    assert rows_of(out, "annotations") == [f"{index:02}.wav" for index in range(59)]
    assert rows_of(out, "failures") == ["59.wav", "bad.wav"]
