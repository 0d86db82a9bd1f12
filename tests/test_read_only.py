"""Checkpoints where nothing can be written but the two folders that the card names, and where soxr is missing."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from processing.audio_io import load_audio, stream_audio
from recipes import DEFAULT_CHECKPOINT
from recipes.conversion.checkpoint_folder import make_room_for_code

ALONE = Path(__file__).parents[1] / "recipes" / "publishing" / "isolated_load.py"
# A root of its own that nobody can write to, not even root; `/dev` stays as it is.
SEALED = """
set -e
mount --rbind / /
mount -o remount,bind,ro /
for folder in $WRITABLE; do mount -t tmpfs none $folder; done
if touch "$SEALED_FOLDER/x" 2>/dev/null; then echo "not sealed" >&2; exit 9; fi
exec "$@"
"""


def sealed(*command, writable=(), folder, **environment):
    """Run a command on a read-only file system with empty folders that can be written to; `None` if that is refused."""
    if shutil.which("unshare") is None:
        return None
    environment = os.environ | {"WRITABLE": " ".join(map(str, writable)), "SEALED_FOLDER": str(folder), **environment}
    command = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", SEALED, "bash", *map(str, command)]
    return subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder that can be sealed, or skip."""
    folder = tmp_path_factory.mktemp("sealed")
    for name in ("modules", "tmp"):
        (folder / name).mkdir()
    result = sealed("true", folder=folder)
    if result is None or result.returncode:
        reason = "unshare is missing" if result is None else result.stderr.strip()
        pytest.skip(f"this machine allows no mounts of one's own: {reason}")
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not DEFAULT_CHECKPOINT.exists(), reason="the embedded checkpoint is not in this copy")
def test_two_folders_are_all_that_is_written(folder):
    names = {"HF_MODULES_CACHE": str(folder / "modules"), "TMPDIR": str(folder / "tmp")}
    result = sealed(
        sys.executable, "-I", ALONE, DEFAULT_CHECKPOINT, writable=names.values(), folder=folder,
        HF_HOME=str(folder / "none"), HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", **names,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["classes"][0] == "TemporalAudioGroundingPipeline" and report["result"]["duration"] == 1.0
    assert report["unpickled"] == [] and report["written"]
    assert not [path for path in report["written"] if not path.startswith(tuple(names.values()))]
    assert not list((folder / "modules").iterdir()), "it was written outside"


@pytest.mark.slow
@pytest.mark.skipif(not DEFAULT_CHECKPOINT.exists(), reason="the embedded checkpoint is not in this copy")
def test_the_code_may_have_been_copied_before(folder, tmp_path):
    names = {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HOME": str(folder / "none"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-I", ALONE, DEFAULT_CHECKPOINT]
    subprocess.run(list(map(str, command)), env=os.environ | names, check=True, capture_output=True)
    names["TMPDIR"] = str(folder / "tmp")
    result = sealed(*command, writable=[folder / "tmp"], folder=folder, **names)
    assert result.returncode == 0, result.stderr[-3000:]
    names["HF_MODULES_CACHE"] = str(tmp_path / "none")
    result = sealed(*command, writable=[folder / "tmp"], folder=folder, **names)
    assert result.returncode == 1 and "Read-only file system" in result.stderr


@pytest.mark.slow
@pytest.mark.skipif(not DEFAULT_CHECKPOINT.exists(), reason="the embedded checkpoint is not in this copy")
def test_the_command_needs_a_temporary_folder_and_nothing_else(folder, tmp_path):
    soundfile.write(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(48000), 16000)
    shutil.copytree(DEFAULT_CHECKPOINT, tmp_path / "copy")
    names = {"HOME": str(folder / "none"), "HF_HOME": "", "XDG_CACHE_HOME": "", "HF_MODULES_CACHE": "",
             "TMPDIR": str(folder / "tmp"), "OMP_NUM_THREADS": "1"}  # fmt: skip
    for model in (DEFAULT_CHECKPOINT, tmp_path / "copy"):
        command = [sys.executable, "-m", "recipes.cli.main", "detect", tmp_path / "a.wav", "--json", "--model", model]
        result = sealed(*command, writable=[folder / "tmp"], folder=folder, **names)
        assert result.returncode == 0, result.stderr[-3000:]
        assert json.loads(result.stdout)["duration"] == 3.0


def test_code_is_copied_to_a_temporary_folder_where_the_cache_is_read_only(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    make_room_for_code()
    assert os.environ["HF_MODULES_CACHE"] == str(tmp_path / "modules")
    (tmp_path / "file").touch()
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "file" / "modules"))
    make_room_for_code()
    assert Path(os.environ["HF_MODULES_CACHE"]).parent == tmp_path and Path(os.environ["HF_MODULES_CACHE"]).is_dir()


def test_without_soxr_one_rate_is_heard(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "soxr", None)
    samples = 0.1 * np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    for rate in (16000, 44100):
        soundfile.write(tmp_path / f"{rate}.wav", samples, rate, subtype="FLOAT")
    np.testing.assert_array_equal(load_audio(tmp_path / "16000.wav"), samples)
    message = (
        r"44100\.wav' has 44100 Hz and is to be heard at 16000 Hz, for which soxr is missing; run `pip install soxr`"
    )
    with pytest.raises(ImportError, match=message):
        load_audio(tmp_path / "44100.wav")
    with pytest.raises(ImportError, match=message):
        list(stream_audio(tmp_path / "44100.wav")[1])
