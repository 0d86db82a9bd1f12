"""A checkpoint as NeMo Curator asks for detectors; with Curator itself where it is installed."""

import contextlib
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from recipes.bulk.curator import TimeProSED


@pytest.fixture(scope="module")
def checkpoint(scripted_checkpoint):
    return str(scripted_checkpoint("dog: <1.20>-<3.44>"))


def noise(seconds):
    return (0.1 * np.random.default_rng(0).standard_normal(round(seconds * 16000))).astype(np.float32)


def end_monitors(folder):
    """End what Xenna may leave behind: an actor whose thread looks at all processes, and nothing stops it."""
    psutil = importlib.import_module("psutil")
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            is_monitor = "".join(process.cmdline()).startswith("ray::NodeResourceMonitor")
            if is_monitor and process.environ().get("TIMEPRO_TEST_FOLDER") == folder:
                process.kill()


def curator(name):
    return importlib.import_module(f"nemo_curator.{name}")


def test_frames_have_the_scores_of_the_events_in_them(checkpoint):
    adapter = TimeProSED(checkpoint, 16000, event_labels=["cat", "dog"], batch_size=2)
    adapter.download_weights_on_node()
    adapter.load_model(num_gpus=0)
    first, second = adapter.infer_batch([{"waveform": noise(4.0)}, {"waveform": noise(4.03)}])
    # 0.08 s a frame: 50 in 4 s, and a begun one more.
    assert (first.valid_frames, second.valid_frames, first.fps) == (50, 51, 12.5)
    assert first.framewise_output.shape == (50, 2) and first.original_num_samples == 64000
    score = adapter.pipe(noise(4.0), event_labels=["cat", "dog"])["events"][0]["score"]
    # 1.20 / 0.08 = 15, 3.44 / 0.08 = 43.
    assert np.flatnonzero(first.framewise_output[:, 1]).tolist() == list(range(15, 43))
    assert first.framewise_output[15:43, 1] == pytest.approx(score, abs=1e-5)
    assert not first.framewise_output[:, 0].any()


def test_what_cannot_be_is_refused(checkpoint):
    with pytest.raises(ValueError, match="sample_rate is 32000; set the stage's sample_rate to 16000"):
        TimeProSED(checkpoint, 32000)
    with pytest.raises(ValueError, match="event_labels is not given"):
        TimeProSED(checkpoint).load_model(num_gpus=0)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="num_gpus is 1, but PyTorch finds no GPU; give the stage resources"):
            TimeProSED(checkpoint).load_model(num_gpus=1)


def test_curators_own_stage_runs_it(checkpoint, tmp_path):
    stages = pytest.importorskip("nemo_curator.stages.audio.inference.sed.stage")
    tasks = curator("tasks")
    soundfile.write(tmp_path / "a.wav", noise(4.0), 16000)
    stage = stages.SEDInferenceStage(
        adapter_target="recipes.bulk.curator.TimeProSED", checkpoint_path=checkpoint, sample_rate=16000,
        adapter_kwargs={"event_labels": ["dog"]}, save_npz=True, output_dir=str(tmp_path / "sed"),
        resources=curator("stages.resources").Resources(cpus=1.0),
    )  # fmt: skip
    stage.setup_on_node()
    stage.setup()
    rows = [{"audio_filepath": str(tmp_path / name)} for name in ("a.wav", "missing.wav")]
    batch = [tasks.AudioTask(task_id=str(index), dataset_name="d", data=row) for index, row in enumerate(rows)]
    found, failed = stage.process_batch(batch)
    assert np.flatnonzero(found.data["_sed_framewise"][:, 0]).tolist() == list(range(15, 43))
    assert failed.data["_skipme"] == "audio_load_error"
    with np.load(found.data["npz_filepath"]) as stored:
        assert stored["framewise"].shape == (50, 1) and stored["fps"] == 12.5


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["ray_data.RayDataExecutor", "xenna.XennaExecutor"])
def test_a_pipeline_of_curator_runs_it_in_workers_of_their_own(executor, checkpoint, tmp_path, monkeypatch):
    ray, pipelines = pytest.importorskip("ray"), pytest.importorskip("nemo_curator.pipeline")
    readers, stages = curator("stages.audio"), curator("stages.audio.inference.sed.stage")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setenv("TIMEPRO_TEST_FOLDER", str(tmp_path))  # its processes are known by it
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    lengths = {str(tmp_path / f"{index}.wav"): 4.0 + index for index in range(5)}
    for name, seconds in lengths.items():
        soundfile.write(name, noise(seconds), 16000)
    names = [*lengths, str(tmp_path / "missing.wav")]
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text("".join(json.dumps({"audio_filepath": name}) + "\n" for name in names))
    # By default the stage asks for a GPU.
    stage = stages.SEDInferenceStage(
        adapter_target="recipes.bulk.curator.TimeProSED", checkpoint_path=checkpoint, sample_rate=16000,
        adapter_kwargs={"event_labels": ["dog"]}, save_npz=True, output_dir=str(tmp_path / "sed"), batch_size=2,
        resources=curator("stages.resources").Resources(cpus=1.0),
    )  # fmt: skip
    pipeline = pipelines.Pipeline(name="events", stages=[readers.ManifestReader(manifest_path=str(manifest)), stage])
    module, name = executor.split(".")
    make = getattr(curator(f"backends.{module}"), name)
    # Ray of its own, for whoever takes longer than 30 s to start is given up; Xenna asks the dashboard for its actors.
    ray.init(num_cpus=4, include_dashboard=module == "xenna", object_store_memory=100_000_000)
    try:
        found = pipeline.run(make())
    finally:
        ray.shutdown()
        end_monitors(str(tmp_path))
    tasks = {task.data["audio_filepath"]: task.data for task in found}
    assert len(found) == len(tasks) and set(tasks) == set(names)
    assert tasks.pop(names[-1])["_skipme"] == "audio_load_error"
    for name, seconds in lengths.items():
        assert np.flatnonzero(tasks[name]["_sed_framewise"][:, 0]).tolist() == list(range(15, 43))
        # 0.08 s a frame, a begun one included.
        assert tasks[name]["sed_valid_frames"] == -(-round(seconds * 100) // 8)
        with np.load(tasks[name]["npz_filepath"]) as stored:
            assert stored["framewise"].shape == (tasks[name]["sed_valid_frames"], 1)
