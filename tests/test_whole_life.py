"""The whole life of a checkpoint: converted, fine-tuned, reinforced, merged, saved, and loaded by a stranger."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import stock_backbones
import torch
from conftest import write_clips
from peft import PeftModel
from safetensors.torch import load_file
from tiny_backbones import make_stock, save_stock
from transformers import AutoTokenizer

from recipes.conversion.checkpoint import load_checkpoint
from recipes.conversion.convert import convert
from recipes.conversion.merge import merge
from recipes.training import grpo, sft

TARGETS = r"model\.language_model\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
BACKBONES = [
    "qwen2_audio",
    pytest.param("qwen2_5_omni", marks=pytest.mark.slow),
    pytest.param("audioflamingo3", marks=pytest.mark.slow),
]
COMMON = {
    "use_peft": "true", "lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "lora_target_modules": TARGETS,
    "learning_rate": 1e-2, "lr_scheduler_type": "constant", "use_cpu": "true", "bf16": "false", "report_to": "none",
    "save_strategy": "no", "logging_steps": 1, "seed": 0, "num_prompts": 1, "num_absent": 0,
}  # fmt: skip
SFT = {"per_device_train_batch_size": 2, "max_steps": 3, "gradient_checkpointing": "true"}
# What a random model says is worth nothing, so entropy has to move it.
GRPO = {"per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 8, "max_steps": 2,
        "entropy_coef": 0.1, "tasks": "detection"}  # fmt: skip

STRANGER = """
import sys
import numpy as np, torch
from transformers import (AutoModel, AutoModelForCausalLM, AutoModelForMultimodalLM, AutoProcessor, pipeline)

folder, wav, out = sys.argv[1:]
assert not any(name.split(".")[0] in ("recipes", "processing", "modeling_timepro") for name in sys.modules)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
blocks = [{"type": "audio", "path": wav}, {"type": "text", "text": "What can you hear?"}]
inputs = processor.apply_chat_template([{"role": "user", "content": blocks}], add_generation_prompt=True,
                                       tokenize=True, return_dict=True, return_tensors="pt")

def listen(loader, **options):
    model = loader.from_pretrained(folder, trust_remote_code=True, **options).eval()
    with torch.no_grad():
        return model, model(**inputs)

model, heard = listen(AutoModelForCausalLM)
assert torch.equal(listen(AutoModelForMultimodalLM)[1].logits, heard.logits)
assert torch.equal(model.lm_head(listen(AutoModel)[1].last_hidden_state), heard.logits)
half, blurred = listen(AutoModelForCausalLM, device_map="cpu", dtype=torch.bfloat16)
assert half.dtype == torch.bfloat16 and blurred.logits.dtype == torch.bfloat16
pipe = pipeline("temporal-audio-grounding", model=folder, trust_remote_code=True)
assert pipe(wav, max_new_tokens=4)["duration"] == 2.0
np.savez(out, logits=heard.logits.numpy(), blurred=blurred.logits.float().numpy())
assert not any(name.split(".")[0] in ("recipes", "processing", "modeling_timepro") for name in sys.modules)
"""


def arguments(**values):
    return [text for name, value in values.items() for text in (f"--{name}", str(value))]


@pytest.fixture(scope="module", params=BACKBONES)
def life(request, tokenizer_folder, tmp_path_factory):
    """Return the folder of a checkpoint's whole life."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "audioflamingo3":
        save_stock(*make_stock(request.param, tokenizer_folder), folder / "stock")
    else:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
        getattr(stock_backbones, f"write_{request.param}")(folder / "stock", tokenizer)
    convert(folder / "stock", folder / "converted", time_init="place", max_shard_size="100KB")
    write_clips(folder / "data", num_clips=4)
    sft.main(
        arguments(
            model_name_or_path=folder / "converted", data=folder / "data", output_dir=folder / "sft", **COMMON, **SFT
        )
    )
    data = folder / "data" / "train.jsonl"
    grpo.main(
        arguments(model_name_or_path=folder / "sft" / "final", data=data, output_dir=folder / "grpo", **COMMON, **GRPO)
    )
    merge(folder / "grpo" / "adapter", folder / "merged", max_shard_size="100KB")
    return folder


def logits_of(model, processor, wav):
    blocks = [{"type": "audio", "path": str(wav)}, {"type": "text", "text": "What can you hear?"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": blocks}], add_generation_prompt=True, tokenize=True, return_dict=True,
        return_tensors="pt",
    )  # fmt: skip
    with torch.no_grad():
        return model.eval()(**inputs).logits


@pytest.fixture(scope="module")
def logits(life):
    """Return the logits of every stage."""
    wav = life / "data" / "train" / "0.wav"
    stages = {"converted": "converted", "sft": "sft/final", "grpo": "grpo/final", "merged": "merged"}
    return {name: logits_of(*load_checkpoint(life / path), wav) for name, path in stages.items()}


def test_every_stage_learns(life, logits):
    for before, after in (("converted", "sft"), ("sft", "grpo")):
        assert (logits[before] - logits[after]).abs().max() > 1e-3, (before, after)
    history = json.loads((life / "sft" / "final" / "trainer_state.json").read_text())["log_history"]
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert losses[-1] < losses[0]


def test_merging_files_gives_what_the_trainer_merged(life, logits):
    torch.testing.assert_close(logits["merged"], logits["grpo"], rtol=0, atol=1e-5)
    weights = {}
    for path in (life / "merged").glob("*.safetensors"):
        weights |= load_file(path)
    expected = load_file(life / "grpo" / "final" / "model.safetensors")
    assert weights.keys() == expected.keys() and len(list((life / "merged").glob("*.safetensors"))) > 3
    for name, weight in expected.items():
        torch.testing.assert_close(weights[name], weight, rtol=0, atol=1e-6)


@pytest.mark.parametrize("base, stage", [("converted", "sft"), ("sft/final", "grpo")])
def test_an_adapter_loads_on_what_it_was_trained_on(life, logits, base, stage):
    model, processor = load_checkpoint(life / base)
    model = PeftModel.from_pretrained(model, life / stage / "adapter")
    found = logits_of(model, processor, life / "data" / "train" / "0.wav")
    torch.testing.assert_close(found, logits[stage], rtol=0, atol=1e-5)


def test_nothing_but_the_language_model_has_changed(life):
    before = {}
    for path in (life / "converted").glob("*.safetensors"):
        before |= load_file(path)
    after = load_file(life / "grpo" / "final" / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if re.fullmatch(TARGETS + r"\.weight", name)}


@pytest.mark.slow
def test_a_stranger_gets_the_same_logits(life, logits, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "cache"), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    wav, out = life / "data" / "train" / "0.wav", tmp_path / "logits.npz"
    result = subprocess.run(
        [sys.executable, "-c", STRANGER, life / "merged", wav, out], cwd=tmp_path, capture_output=True, text=True,
        env=environment | {"OMP_NUM_THREADS": "1"}, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    with np.load(out, allow_pickle=False) as found:
        torch.testing.assert_close(torch.from_numpy(found["logits"]), logits["merged"], rtol=0, atol=1e-5)
        assert np.abs(found["blurred"] - found["logits"]).max() < 0.1 * np.abs(found["logits"]).max()
