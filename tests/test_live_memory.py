"""What a stream keeps does not grow with it: few lengths are computed, and memory stays as it is."""

import json
import subprocess
import sys

import numpy as np
import psutil
import pytest

from processing.pipeline_timepro import TemporalAudioGroundingPipeline

RATE = 16000
OPTIONS = {"min_score": 0.0, "event_labels": ["dog", "cat", "siren"], "max_events": 3}


@pytest.fixture(scope="module")
def pipe(lively_checkpoint):
    model, processor = lively_checkpoint
    return TemporalAudioGroundingPipeline(model=model, processor=processor)


def test_what_is_computed_has_few_lengths(pipe):
    # torch and oneDNN keep code and buffers for every length that they have met.
    rng, pushed, heard = np.random.default_rng(0), set(), set()
    stream = pipe.live(RATE, **OPTIONS, look_every_s=0.5)
    make_stem, tower = stream.stem, pipe.model.model.audio_tower

    def counted_stem():
        stem = make_stem()
        push, frames = stem.push, stem.frames
        stem.push = lambda columns: pushed.add(columns.shape[-1]) or push(columns)
        stem.frames = lambda columns: pushed.add(-columns.shape[-1]) or frames(columns)
        return stem

    stream.stem = counted_stem
    hook = tower.register_forward_pre_hook(
        lambda module, args, options: heard.add(options["stem_features"].shape[1]), with_kwargs=True
    )
    for length in rng.integers(1, 12000, 120):
        stream.push(0.003 * rng.standard_normal(length).astype(np.float32))
    hook.remove()
    assert stream.position > 40 * RATE and stream.num_looks > 50
    # Windows of 4 s (50 frames) and looks after 1.44, 1.92, ... s; four blocks, and what remains of looks and windows.
    assert heard == {50, *range(18, 50, 6)}, heard
    assert pushed <= {512, 128, 32, 16, -16}, pushed


@pytest.mark.slow
def test_memory_of_the_embedded_checkpoint_is_flat_between_five_and_fifteen_minutes():
    command = ["tests/benchmarks/bench_live.py", "--seconds", "900", "--gap", "15", "--rss-every", "300", "--live-only"]
    run = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True)
    used = json.loads(run.stdout)["rss_mib"]
    # It grew by some 150 where hops, and so lengths, were counted from the start of the stream.
    assert len(used) == 4 and used[3] - used[1] < 50, used


@pytest.mark.slow
def test_memory_and_state_stay_as_they_are_for_twenty_minutes(pipe):
    rng, process, kept, sizes = np.random.default_rng(0), psutil.Process(), [], []
    stream = pipe.live(RATE, **OPTIONS, look_every_s=1.0)
    for second in range(1200):
        chunk = 0.003 * rng.standard_normal(RATE).astype(np.float32)
        # Half a second of loud noise every ten.
        chunk[: RATE // 2] *= 30 if second % 10 == 3 else 1
        stream.push(chunk)
        if second % 100 == 99:
            kept.append(process.memory_info().rss / 2**20)
            sizes.append(len(stream.state.samples) / RATE)
    assert stream.num_looks > 50
    assert max(sizes) < 15 and len(stream.report.reported) < 30
    assert kept[-1] - kept[3] < 20, kept
