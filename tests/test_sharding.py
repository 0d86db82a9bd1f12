"""Whole runs with weights split over two processes: what comes out is what plain data parallel gives."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import stock_backbones
import torch
from conftest import write_clips
from safetensors.torch import load_file
from transformers import AutoTokenizer

from modeling_timepro import TimeProAudioForCausalLM
from recipes.conversion.backbone_files import built_whole, expected_shapes
from recipes.conversion.checkpoint import load_checkpoint
from recipes.conversion.convert import convert
from recipes.training.freezing import freeze_constants

RECIPES = Path(__file__).parents[1] / "recipes"
WORKER = Path(__file__).with_name("split_worker.py")
TARGETS = r"model\.language_model\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
COMMON = {
    "lr_scheduler_type": "constant", "bf16": "false", "report_to": "none", "save_strategy": "steps", "save_steps": 1,
    "logging_steps": 1, "seed": 0, "num_prompts": 1, "num_absent": 0,
}  # fmt: skip
LORA = {"use_peft": "true", "lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "lora_target_modules": TARGETS,
        "learning_rate": 1e-2}  # fmt: skip
ALL = {"use_peft": "false", "learning_rate": 1e-3}
SFT = {"per_device_train_batch_size": 1, "max_steps": 3, "gradient_checkpointing": "true"}
# What a random model says is worth nothing, so entropy has to move it.
GRPO = {"per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 8, "max_steps": 2,
        "entropy_coef": 0.1, "tasks": "detection"}  # fmt: skip
RUNS = {
    "sft, adapter": ("sft", SFT | LORA),
    "sft, all": ("sft", SFT | ALL),
    "grpo, adapter": ("grpo", GRPO | LORA),
    "grpo, all": ("grpo", GRPO | ALL | {"beta": 0.04}),
}


@pytest.fixture(scope="module")
def start(tokenizer_folder, tmp_path_factory):
    """Return a folder with a converted checkpoint and clips."""
    folder = tmp_path_factory.mktemp("split")
    stock_backbones.write_qwen2_audio(folder / "stock", AutoTokenizer.from_pretrained(tokenizer_folder))
    convert(folder / "stock", folder / "converted", time_init="place")
    write_clips(folder / "data", num_clips=8)
    return folder


@pytest.fixture(scope="module")
def trained(start):
    """Return a function that trains by an accelerate config, from a step on, and returns the weights at the end."""
    known = {}

    def train(run, setup, resume=False):
        if (run, setup, resume) in known:
            return known[run, setup, resume]
        recipe, settings = RUNS[run]
        out = start / f"{run.replace(', ', '_')}_{setup}"
        data = start / "data" / ("train.jsonl" if recipe == "grpo" else "")
        settings = {"model_name_or_path": start / "converted", "data": data, "output_dir": out} | COMMON | settings
        if resume:
            settings["resume_from_checkpoint"] = out / f"checkpoint-{settings['max_steps'] - 1}"
        text = (RECIPES / "configs" / "accelerate" / f"{setup}.yaml").read_text()
        text = text.replace("mixed_precision: bf16", "mixed_precision: 'no'")
        script = [str(WORKER), recipe]
        if setup == "ddp":
            # What accelerate does on the CPU by itself.
            text, script = text.replace("use_cpu: false", "use_cpu: true"), [str(RECIPES / f"{recipe}.py")]
            settings["use_cpu"] = "true"
        (start / "accelerate.yaml").write_text(text)
        command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(start / "accelerate.yaml"),
                   "--num_processes", "2", *script]  # fmt: skip
        command += [text for name, value in settings.items() for text in (f"--{name}", str(value))]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, (done.stdout + done.stderr)[-20000:]
        state = json.loads((out / "final" / "trainer_state.json").read_text())
        assert state["global_step"] == settings["max_steps"]
        load_checkpoint(out / "final")
        known[run, setup, resume] = load_file(out / "final" / "model.safetensors")
        return known[run, setup, resume]

    return train


@pytest.mark.slow
@pytest.mark.parametrize("setup", ["fsdp2", "deepspeed_zero2", "deepspeed_zero3"])
@pytest.mark.parametrize("run", RUNS)
def test_split_weights_learn_what_whole_ones_learn(start, trained, run, setup):
    if setup.startswith("deepspeed"):
        pytest.importorskip("deepspeed", reason="pip install deepspeed")
    if (run, setup) == ("grpo, adapter", "fsdp2"):
        pytest.skip("refused, see recipes/training/sharding.py")
    expected, found = trained(run, "ddp"), trained(run, setup)
    assert expected.keys() == found.keys()
    before = load_file(start / "converted" / "model.safetensors")
    assert any((expected[name] - before[name]).abs().max() > 1e-3 for name in before)
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("setup", ["fsdp2", "deepspeed_zero3"])
def test_runs_with_split_weights_resume(trained, setup):
    if setup.startswith("deepspeed"):
        pytest.importorskip("deepspeed", reason="pip install deepspeed")
    expected, found = trained("sft, adapter", setup), trained("sft, adapter", setup, resume=True)
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def test_models_are_built_whole_where_zero3_would_split_them(start):
    from transformers.integrations import deepspeed

    class ZeRO3:
        """What `accelerate` leaves behind of its settings."""

        def is_zero3(self):
            return True

    settings, config = ZeRO3(), load_checkpoint(start / "converted")[0].config
    deepspeed.set_hf_deepspeed_config(settings)
    try:
        shapes = expected_shapes(config)
        with built_whole():
            assert not deepspeed.is_deepspeed_zero3_enabled()
        assert deepspeed.is_deepspeed_zero3_enabled()
    finally:
        deepspeed.unset_hf_deepspeed_config()
    stored = load_file(start / "converted" / "model.safetensors")
    assert shapes == {name: tuple(weight.shape) for name, weight in stored.items()}


def test_layers_that_may_not_be_split_are_there(start):
    """FSDP2 looks for each of them, and gives up where it finds none."""
    model = load_checkpoint(start / "converted")[0]
    assert model._no_split_modules == {"Qwen2AudioEncoderLayer", "Qwen2DecoderLayer"}
    assert model._no_split_modules <= {type(module).__name__ for module in model.modules()}


def test_positions_of_a_tower_are_constants(start):
    model = TimeProAudioForCausalLM.from_pretrained(start / "converted")
    freeze_constants(model)
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen == ["model.audio_tower.embed_positions.weight"]
