"""A disk of a few kilobytes, which `annotate` fills: every recording still ends once, however many runs it takes."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from recipes.cli.main import main

NAMES = [f"{index:02}.wav" for index in range(24)]


@pytest.fixture
def disk(tmp_path):
    """Return a folder that is a disk of its own, and what sets its size in kilobytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"nothing may be mounted here: {mounted.stderr.decode()}")
    yield folder, lambda size: subprocess.run(["mount", "-o", f"remount,size={size}k", str(folder)], check=True)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def arguments(tmp_path, scripted_checkpoint):
    """Return arguments of the command, for 24 recordings and one that is none."""
    clips = tmp_path / "sounds"
    clips.mkdir()
    for index, name in enumerate(NAMES):
        soundfile.write(clips / name, 0.1 * np.random.default_rng(index).standard_normal(64000), 16000)
    (clips / "bad.wav").write_text("this is no audio")
    return ["annotate", str(clips), "--model", str(scripted_checkpoint("dog: <1.20>-<3.44>")), "--shard-size", "3"]


def recordings(out, kind):
    return sorted(row["recording"] for path in (out / kind).glob("*") for row in pq.read_table(path).to_pylist())


def test_a_disk_that_fills_again_and_again_loses_nothing(disk, arguments, capsys):
    (out, resize), places = disk, set()
    for size in range(8, 200, 4):
        resize(size)
        code = main([*arguments, "--out", str(out)])
        told = capsys.readouterr().err.strip().splitlines()
        if "annotated in" in told[-1]:
            break
        assert code == 1 and told[-1].startswith("timepro: [Errno 28] No space left on device"), told
        names = {path.parent.name if path.is_file() else path.name for path in out.glob("*/*")}
        places.add((*sorted(names), (out / "plan.parquet").exists()))
        found = recordings(out, "annotations")
        assert len(set(found)) == len(found)
    # It was full before the plan, amid answers and amid files of annotations.
    assert len(places) > 2 and size > 40
    assert recordings(out, "annotations") == NAMES and recordings(out, "failures") == ["bad.wav"]
    assert sorted(os.listdir(out)) == ["annotations", "failures", "manifest.json"]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_a_full_disk_under_several_processes_is_one_error_and_loses_nothing(engine, disk, arguments, tmp_path):
    if engine == "ray":
        pytest.importorskip("ray")
    (out, resize), root = disk, Path(__file__).parents[1]
    resize(48)
    command = [sys.executable, "-m", "recipes.cli.main", *arguments, "--out", str(out)]
    command += ["--engine", engine, "--num-workers", "2"]
    environment = os.environ | {"PYTHONPATH": str(root), "RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    environment.pop("RAY_ADDRESS", None)

    def run():
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)

    done = run()
    errors = [line for line in done.stderr.splitlines() if "No space left on device" in line]
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert len(errors) == 1 and errors[0].startswith("timepro: [Errno 28]"), done.stderr
    found = recordings(out, "annotations")
    assert 0 < len(found) < len(NAMES) and len(set(found)) == len(found)
    resize(1024)
    done = run()
    assert done.returncode == 1 and "24 recordings annotated" in done.stderr, done.stderr
    assert recordings(out, "annotations") == NAMES and recordings(out, "failures") == ["bad.wav"]
    assert sorted(os.listdir(out)) == ["annotations", "failures", "manifest.json"]
