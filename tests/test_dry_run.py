"""Dry runs: parameters by part, tokens per sample, least memory; settings of the recipes and of accelerate."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from conftest import make_tiny_checkpoint, write_clips
from trl import GRPOConfig, ModelConfig, SFTConfig, TrlParser, get_peft_config

from recipes.conversion.checkpoint import save_checkpoint
from recipes.training import grpo, sft
from recipes.training.collator import TimeProCollator
from recipes.training.dry_run import load_outline, outline_model

ROOT = Path(__file__).resolve().parent.parent
CONFIGS, OUTLINES = ROOT / "recipes" / "configs", ROOT / "docs" / "dry_run"
MODELS = ("qwen2_audio_7b", "qwen2_5_omni_3b", "qwen2_5_omni_7b")
SETUPS = ("cpu", "ddp", "fsdp2", "deepspeed_zero2", "deepspeed_zero3")
GIB = 2**30


def arguments(kind, model, **overrides):
    data = OUTLINES if kind == "sft" else OUTLINES / "train.jsonl"
    values = {"model_name_or_path": OUTLINES / model, "data": data} | overrides
    settings = [text for name, value in values.items() for text in (f"--{name}", str(value))]
    return ["--config", str(CONFIGS / kind / f"{model}.yaml"), "--dry-run", *settings]


def accelerate_config(name):
    return CONFIGS / "accelerate" / f"{name}.yaml"


def test_a_dry_run_of_fine_tuning_counts_qwen2_audio(capsys):
    report = sft.main(arguments("sft", "qwen2_audio_7b"))
    text = capsys.readouterr().out
    # Embedding and head have 750 rows of 4,096 for the ticks. LoRA of rank 8 in 32 layers: inputs and outputs of four
    # projections of 4,096 and of three between 4,096 and 11,008, times 8.
    ticks, lora = 2 * 750 * 4096, 32 * 8 * (4 * 8192 + 3 * (4096 + 11008))
    # 32 layers: four square projections, three to or from 11,008, biases of q, k and v, two norms; a norm; and the
    # words' rows of embedding and head.
    language = 32 * (4 * 4096**2 + 3 * 4096 * 11008 + 3 * 4096 + 2 * 4096) + 4096 + 2 * 156032 * 4096
    # 32 layers of the tower: four projections (that of the keys has no bias), two to and from 5,120, two norms; two
    # convolutions over three frames; positions; a norm.
    layer = 4 * 1280**2 + 3 * 1280 + 2 * 1280 * 5120 + 5120 + 1280 + 4 * 1280
    tower = 32 * layer + (128 + 1280) * 1280 * 3 + 2 * 1280 + 1500 * 1280 + 2 * 1280
    assert report["parameters"] == {
        "audio encoder": (tower, 0),
        "projector": (1280 * 4096 + 4096, 0),
        "language model": (language, 0),
        "ticks": (ticks, 0),
        "LoRA": (lora, lora),
        "all": (tower + 1281 * 4096 + language + ticks + lora, lora),
    }
    assert f"{lora:,}" in text and "4 samples at a time, 16 per step" in text
    # A clip of 30 s has 750 frames and as many ticks.
    assert report["audio_tokens"] == 1500 and max(report["tokens"]) < report["longest"] < 2000
    # 16 bits for what is loaded, 32 for the adapter, its gradients, and AdamW's two moments.
    weights = 2 * (report["parameters"]["all"][0] - lora) + 4 * lora
    assert report["memory"] == {"weights": weights, "gradients": 4 * lora, "optimizer": 8 * lora}
    assert f"weights {weights / GIB:.2f} GB, gradients" in text


def test_a_dry_run_of_reinforcement_counts_answers_as_long_as_they_may_be():
    report = grpo.main(arguments("grpo", "qwen2_5_omni_3b"))
    longer = grpo.main(arguments("grpo", "qwen2_5_omni_3b", max_completion_length=356))
    assert [b - a for a, b in zip(report["tokens"], longer["tokens"], strict=True)] == [100] * len(report["tokens"])
    assert report["parameters"]["LoRA"] == longer["parameters"]["LoRA"] and report["audio_tokens"] == 1500


def test_all_weights_may_be_trained(capsys):
    report = sft.main(arguments("sft", "qwen2_5_omni_3b", use_peft="false", dtype="float32", audio_learning_rate=0))
    parameters, memory = report["parameters"], report["memory"]
    assert parameters["audio encoder"][1] == parameters.get("projector", (0, 0))[1] == 0 and "LoRA" not in parameters
    assert parameters["language model"][1] == parameters["language model"][0]
    # The input rows of the ticks are frozen, those of the head are not.
    assert parameters["ticks"] == (2 * 750 * 2048, 750 * 2048)
    trained = sum(parameters[part][0] for part in ("language model", "ticks"))
    assert memory == {"weights": 4 * parameters["all"][0], "gradients": 4 * trained, "optimizer": 8 * trained}


def test_tokens_are_those_of_training(tokenizer_folder, tmp_path):
    model, processor = make_tiny_checkpoint(tokenizer_folder)
    save_checkpoint(model, processor, tmp_path / "checkpoint")
    for path in (tmp_path / "checkpoint").glob("*.safetensors"):
        path.unlink()
    write_clips(tmp_path / "data", num_clips=3)
    values = ["--model_name_or_path", str(tmp_path / "checkpoint"), "--output_dir", str(tmp_path / "run")]
    report = sft.main([*values, "--data", str(tmp_path / "data"), "--bf16", "false", "--dry_run"])
    assert not (tmp_path / "run").exists()
    parser = TrlParser((sft.SFTArguments,))
    (settings,) = parser.parse_args_and_config(["--data", str(tmp_path / "data")])
    samples = sft.load_samples(settings, processor.grid, processor.answer_format, 8, 42)
    lengths = [TimeProCollator(processor)([sample])["input_ids"].shape[1] for sample in samples]
    assert sorted(report["tokens"]) == sorted(lengths)
    # 4 s at 12.5 frames a second, and as many ticks.
    assert report["audio_tokens"] == 100
    with pytest.raises(FileNotFoundError, match="nowhere does not exist; give an annotation file"):
        sft.main([*values, "--data", str(tmp_path / "nowhere"), "--bf16", "false", "--dry_run"])


def test_a_folder_without_a_configuration_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no config.json; give a checkpoint's folder"):
        load_outline(tmp_path)


@pytest.mark.parametrize("model", MODELS)
def test_the_papers_settings(model):
    overrides = ["--use_cpu", "true"]
    parser = TrlParser((sft.SFTArguments, SFTConfig, ModelConfig))
    path = CONFIGS / "sft" / f"{model}.yaml"
    data, training, adapter = parser.parse_args_and_config(["--config", str(path), *overrides])
    # arXiv 2604.13715: LoRA of rank 8, alpha 32; 1e-5 for three epochs, then 1e-6 for one in groups of four.
    assert (training.learning_rate, training.num_train_epochs) == (1e-5, 3)
    assert (adapter.use_peft, adapter.lora_r, adapter.lora_alpha) == (True, 8, 32)
    assert data.audio_learning_rate is None and model in adapter.model_name_or_path
    parser = TrlParser((grpo.GRPOArguments, GRPOConfig, ModelConfig))
    path = CONFIGS / "grpo" / f"{model}.yaml"
    data, training, other = parser.parse_args_and_config(["--config", str(path), *overrides])
    assert (training.learning_rate, training.num_train_epochs, training.num_generations) == (1e-6, 1, 4)
    assert data.tie_break == "product" and training.per_device_train_batch_size % 4 == 0
    assert other.lora_target_modules == adapter.lora_target_modules and (other.lora_r, other.lora_alpha) == (8, 32)
    config, _ = load_outline(OUTLINES / model)
    lora = outline_model(config, torch.bfloat16, get_peft_config(other))
    adapted = {name.partition(".lora_")[0] for name, _ in lora.named_parameters() if "lora_" in name}
    # Seven projections in each layer of the language model.
    assert len(adapted) == 7 * config.text_config.num_hidden_layers
    assert all(".model.language_model.layers." in name for name in adapted)


@pytest.mark.parametrize("name", SETUPS)
def test_accelerate_reads_its_settings(name):
    path = str(accelerate_config(name))
    config = load_config_from_file(path)
    expected = {"cpu": "NO", "ddp": "MULTI_GPU", "fsdp2": "FSDP"}.get(name, "DEEPSPEED")
    assert config.distributed_type.value == expected and config.use_cpu == (name == "cpu")
    parsed = launch_command_parser().parse_args(["--config_file", path, "recipes/sft.py"])
    args, _, _ = _validate_launch_command(parsed)
    assert args.num_processes == (1 if name == "cpu" else 8)
    if name == "fsdp2":
        # accelerate finds the layers to split by what the model names.
        assert (args.use_fsdp, args.fsdp_version, args.fsdp_auto_wrap_policy) == (True, 2, "TRANSFORMER_BASED_WRAP")
    if name.startswith("deepspeed"):
        assert (args.use_deepspeed, args.zero_stage) == (True, int(name[-1]))


@pytest.mark.slow
def test_a_launch_on_the_cpu_dry_runs():
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(accelerate_config("cpu"))]
    result = subprocess.run(
        [*command, "recipes/sft.py", *arguments("sft", "qwen2_5_omni_3b")], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    assert "4 samples at a time, 16 per step" in result.stdout
    assert re.search(r"tokens per sample \(first 4\): median \d+, max \d+", result.stdout)
