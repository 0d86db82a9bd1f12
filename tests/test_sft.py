"""Supervised fine-tuning: what reaches the loss, what stays frozen, and a real launch that is killed and resumed."""

import copy
import json
import os
import runpy
import signal
import sys
import time

import numpy as np
import pytest
import soundfile
import torch
from conftest import PATIENCE, ROOT, launch, make_tiny_checkpoint, write_clips
from safetensors.torch import load_file
from torch.nn import functional as F

from recipes.conversion.checkpoint import save_checkpoint
from recipes.training import sft
from recipes.training.collator import TimeProCollator, branch_mask, common_prefix, mask_for
from recipes.training.freezing import freeze_time_embeddings
from recipes.training.sft_trainer import time_aware_loss


@pytest.fixture(scope="module")
def checkpoint(tokenizer_folder):
    return make_tiny_checkpoint(tokenizer_folder)


TURNS = [
    {"question": "What events?", "answer": "dog bark: <0.48>-<1.04>"},
    {"question": "When is 'dog bark'?", "answer": "<0.48>-<1.04>"},
    {"question": "When is 'drum'?", "answer": "none"},
]


def sample(folder, turns, name="0.wav", seed=0):
    path = folder / name
    waveform = np.random.default_rng(seed).normal(size=32000) * 0.1
    soundfile.write(path, waveform, 16000)
    return {"pieces": [{"audio": str(path), "start": 0.0, "duration": None}], "duration": 2.0, "turns": turns}


def loss_of(model, batch):
    batch = dict(batch)
    labels = batch.pop("labels")
    with torch.no_grad():
        logits = model.eval()(**batch).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum")


def test_changing_the_waveform_changes_the_loss(checkpoint, tmp_path):
    model, processor = checkpoint
    collator = TimeProCollator(processor)
    first = loss_of(model, collator([sample(tmp_path, TURNS, "a.wav", 0)]))
    second = loss_of(model, collator([sample(tmp_path, TURNS, "b.wav", 1)]))
    assert abs(first - second) > 1e-4


def test_labels_are_the_answers_and_nothing_else(checkpoint, tmp_path):
    _, processor = checkpoint
    batch = TimeProCollator(processor)([sample(tmp_path, TURNS)])
    learnt = processor.tokenizer.decode(batch["labels"][batch["labels"] != -100])
    assert learnt == "".join(turn["answer"] + "<|im_end|>" for turn in TURNS)


def test_name_targets_stand_where_an_answer_says_a_time_or_none(checkpoint, tmp_path):
    _, processor = checkpoint
    turns = [turn | {"event_label": label} for turn, label in zip(TURNS, (None, "dog bark", "drum"), strict=True)]
    batch = TimeProCollator(processor, name_targets=True)([sample(tmp_path, turns)])
    dog, drum = (processor.tokenizer(label)["input_ids"][0] for label in ("dog bark", "drum"))
    named = batch["name_targets"][0] != -100
    said = processor.tokenizer.convert_ids_to_tokens(batch["input_ids"][0][named])
    assert said[:4] == ["<0.48>", "<1.04>"] * 2 and said[4].startswith("no")
    assert batch["name_targets"][0][named].tolist() == [dog] * 4 + [drum]


def test_questions_that_share_an_audio_prompt_equal_separate_sequences(checkpoint, tmp_path):
    model, processor = checkpoint
    collator = TimeProCollator(processor)
    longer = {"question": "Is there a long question about the siren?", "answer": "<0.08>-<0.16>, <0.80>-<1.60>"}
    other = [TURNS[0], longer]
    clips = [sample(tmp_path, TURNS, "a.wav", 0), sample(tmp_path, other, "b.wav", 1)]
    shared = loss_of(model, collator(clips))
    separate = sum(loss_of(model, collator([clip | {"turns": [turn]}])) for clip in clips for turn in clip["turns"])
    assert shared == pytest.approx(separate.item(), rel=1e-5)


def test_shared_prompts_mean_the_same_to_eager_attention(checkpoint, tmp_path):
    model, processor = checkpoint
    batch = TimeProCollator(processor)([sample(tmp_path, TURNS)])
    expected = loss_of(model, batch)
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    mask = mask_for("eager", batch["attention_mask"], torch.float32)
    torch.testing.assert_close(loss_of(eager, batch | {"attention_mask": mask}), expected, rtol=1e-5, atol=1e-5)
    # As it was before, the mask would let every answer see the others and what is yet to come.
    assert abs(loss_of(eager, batch) - expected) > 1e-3
    assert mask_for("sdpa", batch["attention_mask"], torch.float32) is batch["attention_mask"]


def test_shared_prompts_give_the_gradients_of_separate_sequences(checkpoint, tmp_path):
    model, processor = checkpoint
    collator = TimeProCollator(processor)
    clip = sample(tmp_path, TURNS)

    def gradients(batches):
        model.zero_grad()
        for batch in batches:
            labels = batch.pop("labels")
            logits = model.eval()(**batch).logits
            F.cross_entropy(
                logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum"
            ).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    shared = gradients([collator([clip])])
    separate = gradients([collator([clip | {"turns": [turn]}]) for turn in TURNS])
    model.zero_grad()
    for name, gradient in separate.items():
        torch.testing.assert_close(shared[name], gradient, rtol=1e-4, atol=1e-4 * gradient.abs().max().item() + 1e-7)


def test_branches_are_blind_to_each_other():
    mask = branch_mask(2, [1, 2], 6)
    assert mask.int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [1, 1, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]
    assert common_prefix([[1, 2, 3], [1, 2, 4], [1, 2]]) == 2


def test_a_sequence_over_max_length_is_refused(checkpoint, tmp_path):
    with pytest.raises(ValueError, match="max_length is 20"):
        TimeProCollator(checkpoint[1], max_length=20)([sample(tmp_path, TURNS)])


def test_soft_targets_prefer_near_times_and_equal_cross_entropy_without_spread():
    logits = torch.zeros(1, 20)
    near, far = logits.clone(), logits.clone()
    near[0, 11], far[0, 18] = 4.0, 4.0
    label, ticks = torch.tensor([10]), range(8, 20)
    assert time_aware_loss(near, label, ticks, 0.1, 0.08) < time_aware_loss(far, label, ticks, 0.1, 0.08)
    torch.manual_seed(0)
    logits, labels = torch.randn(5, 20), torch.tensor([1, 9, 10, 2, 19])
    hard = F.cross_entropy(logits, labels, reduction="sum")
    torch.testing.assert_close(time_aware_loss(logits, labels, ticks, 1e-4, 0.08), hard)
    torch.testing.assert_close(time_aware_loss(logits, labels, ticks, 0.0, 0.08), hard)


def test_frozen_ticks_get_no_gradient(tokenizer_folder, tmp_path):
    model, processor = make_tiny_checkpoint(tokenizer_folder)
    handle = freeze_time_embeddings(model)
    batch = TimeProCollator(processor)([sample(tmp_path, TURNS)])
    labels = batch.pop("labels")
    logits = model(**batch).logits
    F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100).backward()
    gradient = model.get_input_embeddings().weight.grad
    ids = list(model.config.time_token_ids)
    assert gradient[ids].abs().max() == 0
    assert gradient.abs().max() > 0
    handle.remove()


def write_config(folder, output, **settings):
    values = {
        "model_name_or_path": str(folder / "checkpoint"), "data": str(folder / "data"), "output_dir": str(output),
        "learning_rate": 5.0e-3, "lr_scheduler_type": "constant", "per_device_train_batch_size": 4, "max_steps": 12,
        "logging_steps": 1, "save_strategy": "steps", "save_steps": 4, "use_cpu": True, "bf16": False, "seed": 0,
        "gradient_checkpointing": False, "report_to": "none", "weight_decay": 0.1, "num_prompts": 1,
    } | settings  # fmt: skip
    path = folder / f"{output.name}.yaml"
    # JSON is YAML.
    path.write_text(json.dumps(values))
    return path


@pytest.fixture(scope="module")
def workplace(tokenizer_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sft")
    write_clips(folder / "data")
    model, processor = make_tiny_checkpoint(tokenizer_folder)
    save_checkpoint(model, processor, folder / "checkpoint")
    with pytest.MonkeyPatch.context() as patch:
        # As `python recipes/sft.py` does it, which changes both.
        patch.setattr(sys, "argv", ["recipes/sft.py", "--config", str(write_config(folder, folder / "whole"))])
        patch.setattr(sys, "path", [*sys.path])
        runpy.run_path(str(ROOT / "recipes" / "sft.py"), run_name="__main__")
    return folder


def test_a_run_lowers_the_loss_and_leaves_ticks_alone(workplace):
    state = json.loads((workplace / "whole" / "final" / "trainer_state.json").read_text())
    losses = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert len(losses) == 12
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    before = load_file(workplace / "checkpoint" / "model.safetensors")
    after = load_file(workplace / "whole" / "final" / "model.safetensors")
    config = json.loads((workplace / "checkpoint" / "config.json").read_text())
    ticks = slice(config["time_token_start_id"], config["time_token_start_id"] + config["num_time_tokens"])
    name = "model.language_model.embed_tokens.weight"
    assert torch.equal(before[name][ticks], after[name][ticks])
    assert not torch.equal(before[name], after[name])
    assert not torch.equal(before["lm_head.weight"][ticks], after["lm_head.weight"][ticks])


@pytest.mark.slow
def test_a_killed_run_resumes_bit_for_bit(workplace):
    output = workplace / "killed"
    config = write_config(workplace, output)
    process = launch("sft", config, wait=False)
    deadline = time.monotonic() + PATIENCE
    # The state file is written last, so the checkpoint is whole once it is there.
    while not (output / "checkpoint-4" / "trainer_state.json").is_file():
        assert process.poll() is None, process.stdout.read()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (output / "final").exists()
    launch("sft", config, "--resume_from_checkpoint", str(output / "checkpoint-4"))
    whole = load_file(workplace / "whole" / "final" / "model.safetensors")
    resumed = load_file(output / "final" / "model.safetensors")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_missing_audio_is_listed_before_training(workplace, tmp_path):
    data = tmp_path / "data"
    write_clips(data, num_clips=3)
    (data / "train" / "0.wav").unlink()
    (data / "train" / "2.wav").unlink()
    config = write_config(workplace, tmp_path / "out", data=str(data))
    with pytest.raises(FileNotFoundError, match=r"2 of 3 recordings are missing(?s:.*)train/0\.wav(?s:.*)train/2\.wav"):
        sft.main(["--config", str(config)])
