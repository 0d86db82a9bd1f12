"""LoRA fine-tuning: the adapter reaches the language model and nothing else."""

import json
import re

import numpy as np
import pytest
import soundfile
import torch
from conftest import write_tiny_qwen2_audio
from peft import PeftModel
from safetensors.torch import load_file

from recipes.conversion.checkpoint import load_checkpoint
from recipes.training import sft
from recipes.training.collator import TimeProCollator

# A list of names would match the audio tower's projections too; TRL passes a list of one on as a regular expression.
TARGETS = r"model\.language_model\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
RANK, ALPHA = 8, 32
TURNS = [{"question": "What events?", "answer": "dog bark: 0.48-1.04"}]


def write_clips(folder):
    (folder / "train").mkdir(parents=True)
    rng, rows = np.random.default_rng(0), []
    for index in range(4):
        soundfile.write(folder / f"train/{index}.wav", 0.1 * rng.normal(size=16000 + 1600 * index), 16000)
        events = [{"onset": 0.2 * index, "offset": 0.2 * index + 0.32, "event_label": ("dog bark", "siren")[index % 2]}]
        rows.append({"id": str(index), "audio": f"train/{index}.wav", "duration": 1 + index / 10, "events": events,
                     "absent": ["drum"]})  # fmt: skip
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(folder):
    values = {
        "model_name_or_path": str(folder / "checkpoint"), "data": str(folder / "data"),
        "output_dir": str(folder / "run"), "save_strategy": "no",
        "use_peft": True, "lora_r": RANK, "lora_alpha": ALPHA, "lora_dropout": 0.0, "lora_target_modules": [TARGETS],
        "learning_rate": 1.0e-2, "lr_scheduler_type": "constant", "per_device_train_batch_size": 4, "max_steps": 3,
        "logging_steps": 1, "use_cpu": True, "bf16": False, "seed": 0, "report_to": "none",
        "gradient_checkpointing": True, "weight_decay": 0.1, "num_prompts": 1,
    }  # fmt: skip
    # JSON is YAML.
    (folder / "config.yaml").write_text(json.dumps(values))
    sft.main(["--config", str(folder / "config.yaml")])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with the checkpoint, four clips and the run of three steps on them."""
    folder = tmp_path_factory.mktemp("lora")
    write_tiny_qwen2_audio(folder)
    write_clips(folder / "data")
    run(folder)
    return folder


@pytest.fixture(scope="module")
def weights(folder):
    """Return the weights of the checkpoint, of the run's merged result, and of its adapter."""
    return (
        load_file(folder / "checkpoint" / "model.safetensors"),
        load_file(folder / "run" / "final" / "model.safetensors"),
        load_file(folder / "run" / "adapter" / "adapter_model.safetensors"),
    )


def test_clips_of_any_length_have_as_many_placeholders_as_frames(folder, tmp_path):
    model, processor = load_checkpoint(folder / "checkpoint")
    samples = []
    for num_samples in range(16000, 16640, 80):
        path = tmp_path / f"{num_samples}.wav"
        soundfile.write(path, 0.1 * np.random.default_rng(0).normal(size=num_samples), 16000)
        piece = {"audio": str(path), "start": 0.0, "duration": None}
        samples.append({"pieces": [piece], "duration": num_samples / 16000, "turns": TURNS})
    batch = TimeProCollator(processor)(samples)
    num_placeholders = (batch["input_ids"] == model.config.audio_token_id).sum(1)
    lengths = model.model.get_audio_lengths(batch["input_features_mask"].sum(1))
    assert num_placeholders.tolist() == lengths.tolist()


def test_the_run_learns(folder):
    history = json.loads((folder / "run" / "final" / "trainer_state.json").read_text())["log_history"]
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert len(losses) == 3 and losses[-1] < losses[0]


def test_the_adapter_is_saved_with_its_settings(folder, weights):
    settings = json.loads((folder / "run" / "adapter" / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["target_modules"]) == (RANK, ALPHA, TARGETS)
    assert settings["base_model_name_or_path"] == str(folder / "checkpoint")
    assert settings["task_type"] == "CAUSAL_LM" and not settings["modules_to_save"]
    adapter = weights[2]
    # Seven projections in each of two layers, two matrices each.
    assert len(adapter) == 28 and all(".language_model.layers." in name for name in adapter)
    assert all(adapter[name].abs().max() > 0 for name in adapter)


def test_only_the_targets_change(weights):
    before, after, _ = weights
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if re.fullmatch(TARGETS + r"\.weight", name)}
    still = [name for name in before if name not in changed]
    for part in ("audio_tower.", "multi_modal_projector.", "embed_tokens.", "lm_head."):
        assert any(part in name for name in still), part


def test_the_merged_weights_are_the_sum(weights):
    before, after, adapter = weights
    for name in before:
        if re.fullmatch(TARGETS + r"\.weight", name):
            down, up = (adapter[f"base_model.model.{name[:-7]}.lora_{part}.weight"] for part in "AB")
            assert down.shape[0] == up.shape[1] == RANK
            torch.testing.assert_close(after[name], before[name] + ALPHA / RANK * up @ down, rtol=0, atol=1e-6)


def test_checkpoint_and_adapter_together_are_the_merged_model(folder):
    base, processor = load_checkpoint(folder / "checkpoint")
    merged, merged_processor = load_checkpoint(folder / "run" / "final")
    piece = {"audio": str(folder / "data" / "train" / "0.wav"), "start": 0.0, "duration": None}
    batch = TimeProCollator(merged_processor)([{"pieces": [piece], "duration": 1.0, "turns": TURNS}])
    batch.pop("labels")
    with torch.no_grad():
        start = base.eval()(**batch).logits
        adapted = PeftModel.from_pretrained(base, folder / "run" / "adapter").eval()(**batch).logits
        logits = merged.eval()(**batch).logits
        other = merged(**batch | {"input_features": batch["input_features"].flip(-1)}).logits
    torch.testing.assert_close(adapted, logits, rtol=0, atol=1e-5)
    assert (logits - start).abs().max() > 1e-2
    assert (logits - other).abs().max() > 1e-3, "the trained model must still hear"
    assert processor.tokenizer.get_vocab() == merged_processor.tokenizer.get_vocab()
    ticks = list(merged.config.time_token_ids)
    assert len(ticks) == 750 and merged.config.answer_format == merged_processor.answer_format == "digits"
    assert merged.generation_config.suppress_tokens == [merged.config.audio_token_id, *ticks]
