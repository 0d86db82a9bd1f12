"""Dry runs: parameters by part, tokens per sample, memory per GPU; settings of the recipes and of accelerate."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from conftest import make_tiny_checkpoint, write_clips
from stock_backbones import write_qwen2_audio
from transformers import AutoTokenizer
from trl import GRPOConfig, ModelConfig, SFTConfig, TrlParser, get_peft_config

from recipes.conversion.checkpoint import save_checkpoint
from recipes.conversion.convert import convert
from recipes.training import grpo, sft
from recipes.training.collator import TimeProCollator
from recipes.training.dry_run import load_outline, outline_model
from recipes.training.memory_estimate import (
    Sizes,
    cache_bytes,
    layer_activations,
    parallel_setup,
    state_bytes,
    total_bytes,
)

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
        "audio tower": (tower, 0),
        "projector": (1280 * 4096 + 4096, 0),
        "language model": (language, 0),
        "ticks": (ticks, 0),
        "LoRA": (lora, lora),
        "all": (tower + 1281 * 4096 + language + ticks + lora, lora),
    }
    assert f"{lora:,}" in text and "memory per GPU, GiB: one process" in text
    # A clip of 30 s has 750 frames and as many ticks.
    assert report["longest"]["audio_tokens"] == 1500 and report["longest"]["tokens"] < 2000
    memory = report["memory"]
    assert memory["weights"] == 2 * (report["parameters"]["all"][0] - lora) + 4 * lora
    assert (memory["gradients"], memory["optimizer"]) == (4 * lora, 8 * lora)
    assert f"  weights{memory['weights'] / GIB:>15.2f}" in text
    assert memory["all"] == pytest.approx(1.1 * sum(memory[n] for n in list(memory)[:4]) + GIB)


def test_a_dry_run_of_reinforcement_spreads_omni(capsys):
    report = grpo.main(arguments("grpo", "qwen2_5_omni_3b", accelerate_config=accelerate_config("deepspeed_zero3")))
    assert "DeepSpeed ZeRO-3, 8 processes, 8 answers at a time, 256 a step" in capsys.readouterr().out
    # 8 answers at a time, 4 times before new ones: 32 caches of 36 layers with 2 heads of 128, in 2 bytes, for the
    # prompt and 256 tokens, one layer more while it grows; 8 prompts are computed at once before.
    prompt = report["longest"]["tokens"]
    cache = 32 * (prompt + 256) * 2 * 36 * 256 * 2 * 37 / 36
    prefill = 8 * prompt * 2 * (3 * 11008 + 4 * 2048)
    total = report["parameters"]["all"][0]
    # TRL gathers all weights for it.
    assert report["memory"]["generation"] == pytest.approx(cache + prefill + 2 * total)
    # Split over 8, and twice the largest part whole: embedding or head, with the ticks' rows.
    weights = 2 * total / 8 + 2 * 2 * (151936 + 750) * 2048
    assert report["memory"]["weights"] == pytest.approx(weights)


def test_all_weights_may_be_trained(capsys):
    report = sft.main(arguments("sft", "qwen2_5_omni_3b", use_peft="false", dtype="float32", audio_learning_rate=0))
    parameters, memory = report["parameters"], report["memory"]
    assert parameters["audio tower"][1] == parameters.get("projector", (0, 0))[1] == 0 and "LoRA" not in parameters
    assert parameters["language model"][1] == parameters["language model"][0]
    # The input rows of the ticks are frozen, those of the head are not.
    assert parameters["ticks"] == (2 * 750 * 2048, 750 * 2048)
    trained = sum(parameters[part][0] for part in ("language model", "ticks"))
    assert (memory["gradients"], memory["optimizer"]) == (4 * trained, 8 * trained)
    # The settings compute in bfloat16, which takes a copy.
    assert memory["weights"] == 6 * parameters["all"][0]


@pytest.mark.parametrize(
    "setup, weights, gradients, optimizer",
    [
        # 1,000 frozen and 80 trained weights in 2 bytes; AdamW keeps two more of each that is trained.
        ("cpu", 2160, 160, 320),
        # A second copy of the gradients in buckets.
        ("ddp", 2160, 320, 320),
        # Trained ones in float32: (2000 + 320) / 8, and twice the largest part of 100 weights; 320 / 8; 640 / 8.
        ("fsdp2", 290 + 400, 40, 80),
        # Gradients split, and a bucket of them whole; float32 weights and moments, 12 bytes, split.
        ("deepspeed_zero2", 2160, 20 + 160, 120),
        ("deepspeed_zero3", 270 + 400, 20 + 160, 120),
    ],
)
def test_what_each_process_holds(setup, weights, gradients, optimizer):
    parallel = parallel_setup(accelerate_config(setup))
    assert parallel.num_processes == (1 if setup == "cpu" else 8)
    found = state_bytes({"frozen": 1000, "trainable": 80, "largest": 100}, parallel, 2, 2, 2)
    assert found == {"weights": weights, "gradients": gradients, "optimizer": optimizer}


def test_float32_weights_that_compute_in_16_bits():
    counts = {"frozen": 1000, "trainable": 80, "largest": 100}
    # 1,080 weights in 4 bytes, and a copy in 2.
    assert state_bytes(counts, parallel_setup(accelerate_config("cpu")), 4, 4, 2)["weights"] == 4320 + 2160
    # Split over 8; what is gathered is in 16 bits.
    assert state_bytes(counts, parallel_setup(accelerate_config("fsdp2")), 4, 4, 2)["weights"] == 540 + 400
    # DeepSpeed has all in 16 bits, and what is trained in float32 with its moments.
    found = state_bytes(counts, parallel_setup(accelerate_config("deepspeed_zero2")), 4, 4, 2)
    assert found == {"weights": 2160, "gradients": 20 + 160, "optimizer": 120}


def test_activations_by_hand():
    sizes = Sizes(
        hidden=10, layers=3, intermediate=20, heads=2, key_values=5, vocabulary=100, audio_hidden=8, audio_layers=1,
        audio_intermediate=16, audio_positions=50.0, width=2, stream=4,
    )  # fmt: skip
    # Two tokens: 8 x 10 + 2 x 10 x 4 for the norms, 2 x (3 x 10 + 2 x 5 + 4 x 20) for the rest.
    assert layer_activations(sizes, rows=1, length=2) == 2 * (80 + 80 + 240)
    assert cache_bytes(sizes, rows=4, length=7) == 4 * 7 * 2 * 3 * 5 * 2
    parts = {"weights": 3.0 * GIB, "gradients": 0.0, "optimizer": 1.0 * GIB, "activations": 2.0 * GIB}
    # The larger of activations and generation counts; a tenth and one GiB are kept free.
    assert total_bytes(parts | {"generation": 6.0 * GIB})["all"] == pytest.approx(12 * GIB)
    assert total_bytes(parts)["all"] == pytest.approx(7.6 * GIB)


def test_an_adapter_cannot_generate_under_fsdp():
    with pytest.raises(ValueError, match="a model with an adapter cannot generate answers; choose .*ddp.yaml"):
        grpo.main(arguments("grpo", "qwen2_5_omni_3b", accelerate_config=accelerate_config("fsdp2")))


@pytest.mark.parametrize("change", [{"fsdp_version": 1}, {"fsdp_offload_params": True}])
def test_what_is_not_estimated_is_refused(tmp_path, change):
    import yaml

    settings = yaml.safe_load(accelerate_config("fsdp2").read_text())
    settings["fsdp_config"] |= change
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(ValueError, match="other.yaml', of distributed_type FSDP; memory is estimated for"):
        parallel_setup(tmp_path / "other.yaml")


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
    assert report["longest"]["audio_tokens"] == 100
    with pytest.raises(FileNotFoundError, match="run `timepro synthesize`"):
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
    assert "memory per GPU, GiB: one process, 1 process, 4 clips at a time, 16 a step" in result.stdout
    assert re.search(r"tokens per sample \(first 4\): median \d+, max \d+", result.stdout)


@pytest.fixture(scope="module")
def memory_folder(tokenizer_folder, tmp_path_factory):
    """Return a folder with a checkpoint of some million weights and a recording of 30 s."""
    folder = tmp_path_factory.mktemp("memory")
    text = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6, "num_attention_heads": 4,
            "num_key_value_heads": 4}  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    write_qwen2_audio(folder / "stock", tokenizer, 4000, text, lambda model: model)
    convert(folder / "stock", folder / "checkpoint")
    soundfile.write(folder / "noise.wav", 0.1 * np.random.default_rng(0).normal(size=480000), 16000)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("is_lora", ["yes", "no"])
@pytest.mark.parametrize("is_checkpointed", ["yes", "no"])
def test_the_estimate_is_near_what_a_step_takes(memory_folder, is_lora, is_checkpointed):
    command = [sys.executable, "tests/memory_worker.py", memory_folder / "checkpoint", memory_folder / "noise.wav"]
    # What is freed goes back to the system, or the next step would not show.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    result = subprocess.run(
        [*command, is_lora, is_checkpointed], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stderr[-2000:]
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["tokens"] > 3000
    # The factor that docs/scaling.md states.
    assert found["estimate"] / 1.5 < found["measured"] < 1.5 * found["estimate"]
