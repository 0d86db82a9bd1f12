"""Two processes train as one does on the same global batch."""

import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, write_clips
from safetensors.torch import load_file

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def run_worker(checkpoint, folder, out, start, **settings):
    out.mkdir()
    paths = [checkpoint[0].config._name_or_path, str(folder / "data"), str(out)]
    result = subprocess.run(
        [sys.executable, *start, "tests/grpo_worker.py", *paths, json.dumps(settings)], cwd=ROOT, capture_output=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}, text=True, timeout=400,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    return load_file(out / "weights.safetensors")


@pytest.mark.slow
def test_two_processes_reward_and_learn_as_one(lively_checkpoint, tmp_path):
    write_clips(tmp_path / "data", num_clips=4)
    starts = {"one": [], "two": TORCHRUN}
    settings = {"per_device_train_batch_size": 16, "max_steps": 1}
    learnt = [run_worker(lively_checkpoint, tmp_path, tmp_path / name, starts[name], **settings) for name in starts]
    one, two = (json.loads((tmp_path / name / "table.json").read_text()) for name in starts)
    assert one["completion"] == two["completion"] and len(one["completion"]) == 16
    for name in one.keys() - {"completion"}:
        torch.testing.assert_close(torch.tensor(two[name]), torch.tensor(one[name]), rtol=0, atol=1e-6)
    assert len(set(one["adaptive_temporal_reward"])) > 6 and any(one["advantage"])
    logs = [json.loads((tmp_path / name / "log.json").read_text()) for name in starts]
    for name in ("loss", "grad_norm", "reward", "tied_groups", "kl", "entropy", "rewards/auxiliary_reward/mean"):
        assert logs[1][name] == pytest.approx(logs[0][name], rel=1e-5, abs=1e-6), name
    # The last two of four groups are tied.
    assert logs[0]["tied_groups"] == 0.5 and logs[0]["grad_norm"] > 0
    one, two = learnt
    before = dict(lively_checkpoint[0].named_parameters())
    change = sum((one[name] - before[name]).norm() ** 2 for name in one) ** 0.5
    assert change > 0
    # Adam divides by the size of gradients, so that rounding shows where these are all but 0.
    assert sum((one[name] - two[name]).norm() ** 2 for name in one) ** 0.5 < 1e-2 * change


@pytest.mark.slow
def test_two_processes_resume_bit_for_bit(lively_checkpoint, tmp_path):
    write_clips(tmp_path / "data", num_clips=4)
    # Two of four prompts a step: two steps an epoch, and the third is in the middle of the second.
    settings = {"per_device_train_batch_size": 8, "max_steps": 4, "save_strategy": "steps", "save_steps": 3}
    whole = run_worker(lively_checkpoint, tmp_path, tmp_path / "whole", TORCHRUN, **settings)
    settings["resume_from_checkpoint"] = str(tmp_path / "whole" / "out" / "checkpoint-3")
    resumed = run_worker(lively_checkpoint, tmp_path, tmp_path / "resumed", TORCHRUN, **settings)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
