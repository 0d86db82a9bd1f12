"""The GRPO recipe: what it logs and writes, where it starts from, and that it can be killed."""

import contextlib
import io
import json
import os
import random
import re
import runpy
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from conftest import PATIENCE, ROOT, launch, make_tiny_checkpoint, write_clips, write_tiny_qwen2_audio
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch.nn import functional as F
from trl import GRPOConfig, ModelConfig, TrlParser

from processing.answer_text import format_events
from recipes.conversion.checkpoint import load_checkpoint, save_checkpoint
from recipes.data.clip import read_json_clips
from recipes.data.questions import SCORING, questions
from recipes.evaluation import best_of_k
from recipes.small.link_code import code_sources
from recipes.training.collator import TimeProCollator
from recipes.training.grpo import GRPOArguments, main
from recipes.training.grpo_resume import EpochSampler

CONFIGS = ROOT / "recipes" / "configs" / "grpo"
TARGETS = r"model\.language_model\..*\.(q_proj|v_proj)"
LORA = {"use_peft": True, "lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "lora_target_modules": [TARGETS]}


def teach(model, processor, folder, num_steps=40):
    """Teach a model the form of answers, so that some of what it samples is rewarded."""
    samples = []
    for clip in read_json_clips(folder / "train.jsonl"):
        turns = [
            {"question": q.text, "answer": format_events(q.reference, q.task, processor.grid, processor.answer_format)}
            for q in questions(clip, SCORING)
        ]
        piece = {"audio": str(folder / clip.audio), "start": 0.0, "duration": None}
        samples.append({"pieces": [piece], "duration": clip.duration, "turns": turns})
    batch = TimeProCollator(processor)(samples)
    labels = F.pad(batch.pop("labels")[:, 1:], (0, 1), value=-100)
    features = {name: batch.pop(name) for name in ("input_features", "input_features_mask")}
    with torch.no_grad():
        frames = model.eval().get_audio_features(**features).pooler_output
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(num_steps):
        logits = model(**batch, audio_embeds=frames).logits
        optimizer.zero_grad()
        F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100).backward()
        optimizer.step()


def write_config(folder, output, **settings):
    values = {
        "model_name_or_path": str(folder / "checkpoint"), "data": str(folder / "data" / "train.jsonl"),
        "output_dir": str(output), "learning_rate": 2e-3, "lr_scheduler_type": "constant", "num_prompts": 1,
        "per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 10, "tie_break": "sum",
        "num_train_epochs": 2, "logging_steps": 1, "save_strategy": "steps", "save_steps": 3, "use_cpu": True,
        "bf16": False, "gradient_checkpointing": False, "seed": 0, "report_to": "none", "weight_decay": 0.1,
    } | settings  # fmt: skip
    path = output.with_suffix(".yaml")
    # JSON is YAML.
    path.write_text(json.dumps(values))
    return path


def run(folder, output, *overrides, **settings):
    """Run the recipe in this process; return the history of its log."""
    main(["--config", str(write_config(folder, output, **settings)), *overrides])
    return history(output)


def history(output):
    entries = json.loads((output / "final" / "trainer_state.json").read_text())["log_history"]
    return [entry for entry in entries if "grad_norm" in entry]


def weights(output):
    return load_file(output / "final" / "model.safetensors")


def differing(first, second):
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The order of sums, and so their last bit, depends on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def workplace(tokenizer_folder, tmp_path_factory):
    """Return a folder with four clips, and a checkpoint that answers in form."""
    folder = tmp_path_factory.mktemp("grpo")
    write_clips(folder / "data", num_clips=4)
    model, processor = make_tiny_checkpoint(tokenizer_folder)
    teach(model, processor, folder / "data")
    save_checkpoint(model, processor, folder / "checkpoint")
    return folder


@pytest.fixture(scope="module")
def whole(workplace):
    """Return the folder of a run: 12 prompts, two a step, two epochs of six steps."""
    before = {folder: sorted(os.listdir(folder)) for folder in (ROOT, workplace, workplace / "data")}
    output = workplace / "whole"
    config = write_config(
        workplace,
        output,
        tie_break="product",
        report_to="tensorboard",
        log_completions=True,
        num_completions_to_print=1,
    )
    text = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        # As `python recipes/grpo.py` does it, which changes both.
        patch.setattr(sys, "argv", ["recipes/grpo.py", "--config", str(config), "--tie_break", "sum"])
        patch.setattr(sys, "path", [*sys.path])
        runpy.run_path(str(ROOT / "recipes" / "grpo.py"), run_name="__main__")
    assert "auxiliary" in text.getvalue() and "ASSISTANT" in text.getvalue()
    for folder, names in before.items():
        # pytest and Python keep their caches there too.
        new = {name for name in set(os.listdir(folder)) - set(names) if "cache" not in name}
        assert new <= {"whole", "whole.yaml"}, f"{folder} has {new}"
    return output


def test_a_run_learns_and_logs(workplace, whole):
    log = history(whole)
    assert len(log) == 12
    for name in ("adaptive_temporal", "event_f1", "auxiliary"):
        assert all(0 <= entry[f"rewards/{name}_reward/mean"] <= 2 for entry in log)
    assert all(entry["tied_groups"] in (0.0, 0.5, 1.0) for entry in log)
    assert sum(entry["reward"] for entry in log) > 0, "nothing was rewarded, so that this test shows little"
    assert sum(entry["grad_norm"] > 0 for entry in log) > 3
    assert list(whole.rglob("*tfevents*"))
    assert {path.name for path in (whole / "final").glob("*.py")} == set(code_sources())
    before, after = load_file(workplace / "checkpoint" / "model.safetensors"), weights(whole)
    changed = set(differing(before, after))
    assert "lm_head.weight" in changed
    assert not [name for name in changed if "audio_tower" in name or "projector" in name]
    config = json.loads((workplace / "checkpoint" / "config.json").read_text())
    ticks = slice(config["time_token_start_id"], config["time_token_start_id"] + config["num_time_tokens"])
    name = "model.language_model.embed_tokens.weight"
    assert name in changed and torch.equal(before[name][ticks], after[name][ticks])


def test_completions_are_kept_with_their_rewards(whole):
    tables = sorted((whole / "completions").glob("*.parquet"))
    assert len(tables) == 12
    table = pd.concat([pd.read_parquet(path) for path in tables])
    assert len(table) == 12 * 8
    blocks = [block for message in table["prompt"].iloc[0] for block in message["content"]]
    assert any(str(block.get("audio")).endswith(".wav") for block in blocks)
    # --tie_break sum, given beside a file that says product: main, and the auxiliary reward where a group is tied.
    groups = table.reset_index(drop=True).groupby(np.arange(len(table)) // 4)
    for _, group in groups:
        is_tied = group["event_f1_reward"].var(ddof=0) < 1e-6
        expected = group["event_f1_reward"] + is_tied * group["auxiliary_reward"]
        np.testing.assert_allclose(group["adaptive_temporal_reward"], expected, atol=1e-6)
    assert (table["adaptive_temporal_reward"] > table["event_f1_reward"]).any()


@pytest.mark.slow
def test_the_result_loads_in_a_fresh_process(whole, workplace, tmp_path):
    code = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoProcessor
folder, clip = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
chat = [{"role": "user", "content": [{"type": "audio", "audio": clip}, {"type": "text", "text": "When?"}]}]
inputs = processor.apply_chat_template(
    [chat], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
print("answer", model.generate(**inputs, max_new_tokens=4).shape[0], "recipes" in sys.modules)
"""
    command = [sys.executable, "-c", code, str(whole / "final"), str(workplace / "data" / "train" / "0.wav")]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert "answer 1 False" in result.stdout, result.stderr[-2000:]


def test_the_order_of_prompts_depends_on_seed_and_epoch_alone():
    def order(seed, epoch):
        return list(EpochSampler(range(7), mini_repeat_count=2, batch_size=3, seed=seed, epoch=lambda: epoch))

    assert order(0, 1) == order(0, 1) != order(0, 0)
    # With the sum of seed and epoch these two would be one.
    assert order(0, 1) != order(1, 0)
    for epoch in range(3):
        seen = order(0, epoch)
        # Six of seven prompts in two batches, each twice in a row.
        assert seen[::2] == seen[1::2] and len(set(seen)) == 6


@pytest.mark.parametrize("step", [9, *(pytest.param(step, marks=pytest.mark.slow) for step in (3, 6))])
def test_a_run_resumes_bit_for_bit_in_every_epoch(workplace, whole, tmp_path, step):
    settings = {"resume_from_checkpoint": str(whole / f"checkpoint-{step}"), "save_strategy": "no"}
    log = run(workplace, tmp_path / "resumed", **settings)
    assert len(log) == 12
    assert differing(weights(whole), weights(tmp_path / "resumed")) == []


def test_a_run_with_reused_answers_resumes_bit_for_bit(workplace, tmp_path):
    # 12 prompts are three batches of four; each serves two passes, twice: four passes, so two steps, six an epoch.
    settings = {"gradient_accumulation_steps": 2, "num_iterations": 2, "beta": 0.1, "save_steps": 8}
    log = run(workplace, tmp_path / "whole", **settings)
    assert len(log) == 12 and log[0]["kl"] == pytest.approx(0, abs=1e-6) and log[-1]["kl"] > 1e-6
    checkpoint = str(tmp_path / "whole" / "checkpoint-8")
    run(workplace, tmp_path / "resumed", **settings, resume_from_checkpoint=checkpoint)
    assert differing(weights(tmp_path / "whole"), weights(tmp_path / "resumed")) == []


def test_checkpoints_between_generations_are_refused(workplace, whole, tmp_path):
    settings = {"steps_per_generation": 2, "max_steps": 6}
    with pytest.raises(ValueError, match="save_steps is 3 but answers are generated for 2 steps .* a multiple of 2"):
        run(workplace, tmp_path / "run", **settings)
    settings |= {"resume_from_checkpoint": str(whole / "checkpoint-3"), "save_strategy": "no"}
    with pytest.raises(ValueError, match="resume_from_checkpoint is one of step 3 but"):
        run(workplace, tmp_path / "run", **settings)


def test_lora_trains_the_targets_alone(workplace, tmp_path):
    log = run(workplace, tmp_path / "run", **LORA, max_steps=4, learning_rate=1e-2, gradient_checkpointing=True)
    assert sum(entry["grad_norm"] > 0 for entry in log)
    adapter = tmp_path / "run" / "adapter"
    assert json.loads((adapter / "adapter_config.json").read_text())["target_modules"] == TARGETS
    before, after = load_file(workplace / "checkpoint" / "model.safetensors"), weights(tmp_path / "run")
    assert set(differing(before, after)) == {name for name in before if re.fullmatch(TARGETS + r"\.weight", name)}
    update = load_file(adapter / "adapter_model.safetensors")
    name = "model.language_model.layers.1.self_attn.v_proj"
    down, up = (update[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
    # alpha 8 over rank 4.
    torch.testing.assert_close(after[f"{name}.weight"], before[f"{name}.weight"] + 2 * up @ down, rtol=0, atol=1e-6)


def test_the_papers_settings_train_a_qwen2_audio(tmp_path):
    write_tiny_qwen2_audio(tmp_path)
    write_clips(tmp_path / "data", num_clips=4)
    values = {
        "model_name_or_path": str(tmp_path / "checkpoint"), "data": str(tmp_path / "data" / "train.jsonl"),
        "output_dir": str(tmp_path / "run"), "use_cpu": "true", "bf16": "false", "dtype": "float32", "max_steps": 2,
        "max_completion_length": 8, "gradient_accumulation_steps": 1, "report_to": "none", "logging_steps": 1,
        "learning_rate": 1e-2,
        # What a random model says is worth nothing.
        "entropy_coef": 0.1,
    }  # fmt: skip
    overrides = [text for name, value in values.items() for text in (f"--{name}", str(value))]
    main(["--config", str(CONFIGS / "qwen2_audio_7b.yaml"), *overrides])
    assert len(history(tmp_path / "run")) == 2
    settings = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"]) == (8, 32)
    before = load_file(tmp_path / "checkpoint" / "model.safetensors")
    changed = differing(before, weights(tmp_path / "run"))
    # Seven projections in each of two layers.
    assert len(changed) == 14 and all(".language_model.layers." in name for name in changed)


def test_what_is_shipped_is_rewarded_with_a_reward_of_ones_own_on_a_curriculum(workplace, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = "def brief_reward(completions, task, **kwargs):\n    return [float(t == 'grounding') for t in task]\n"
    (tmp_path / "my_brief_rewards.py").write_text(source)
    data, model = str(workplace / "data" / "train.jsonl"), str(workplace / "checkpoint")
    best_of_k.main(["--model", model, "--data", data, "--out", "best", "--tasks", "detection", "grounding",
                    "--num-samples", "6", "--temperature", "1.5", "--limit", "2"])  # fmt: skip
    settings = {"constrained": True, "answer_min_score": 0.05, "drop_tied_groups": True, "max_steps": 3,
                "curriculum": "best", "per_device_train_batch_size": 4, "max_completion_length": 24}  # fmt: skip
    log = run(workplace, tmp_path / "run", "--reward", "my_brief_rewards:brief_reward:0.5", **settings)
    assert len(log) == 3
    for entry in log:
        assert entry["sampling/sampling_logp_difference/max"] < 1e-4
        (task,) = {name.split("/")[1] for name in entry if re.match(r"rewards/(detection|grounding)/", name)}
        assert entry[f"rewards/{task}/brief_reward"] == (task == "grounding")
        assert entry["dropped_groups"] == entry["frac_reward_zero_std"]
        assert 0 <= entry["completions/clipped_ratio"] <= 1
        assert entry["entropy"] > 0 or entry["dropped_groups"] == 1
    # The easiest of the questions come first.
    rows = [json.loads(line) for line in (tmp_path / "best" / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == 6 and sum(any(row["samples"]) for row in rows) > 0


def test_the_small_settings_can_be_read():
    parser = TrlParser((GRPOArguments, GRPOConfig, ModelConfig))
    arguments, training, model = parser.parse_args_and_config(["--config", str(CONFIGS / "small.yaml")])
    assert (ROOT / model.model_name_or_path / "model.safetensors").is_file()
    assert training.per_device_train_batch_size % training.num_generations == 0
    assert arguments.tie_break == "product" and training.log_completions and training.report_to == ["tensorboard"]


@pytest.fixture(scope="module")
def adapter(workplace):
    """Return the folder of an adapter as fine-tuning leaves it, which changes what the model says."""
    model, _ = load_checkpoint(workplace / "checkpoint")
    config = LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS, task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    model.save_pretrained(workplace / "adapter")
    return workplace / "adapter"


def test_an_adapter_is_trained_on_and_its_copy_is_the_reference(workplace, adapter, tmp_path):
    settings = {"model_name_or_path": str(adapter), "beta": 0.1, "learning_rate": 1e-2, "num_train_epochs": 1}
    log = run(workplace, tmp_path / "run", **settings)
    # Against the model below the adapter the divergence would not begin at 0.
    assert log[0]["kl"] == pytest.approx(0, abs=1e-6) and log[-1]["kl"] > 1e-5
    before = load_file(adapter / "adapter_model.safetensors")
    after = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert len(differing(before, after)) == len(before)
    assert sorted(os.listdir(tmp_path / "run" / "adapter")) == sorted(os.listdir(adapter))
    reference = load_file(tmp_path / "run" / "checkpoint-3" / "ref" / "adapter_model.safetensors")
    assert differing(before, reference) == []
    run(workplace, tmp_path / "again", **settings, resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert differing(weights(tmp_path / "run"), weights(tmp_path / "again")) == []


def test_recordings_that_cannot_be_trained_on_are_all_listed_before_training(workplace, tmp_path):
    write_clips(tmp_path / "data", num_clips=5)
    (tmp_path / "data" / "train" / "0.wav").unlink()
    (tmp_path / "data" / "train" / "1.wav").write_bytes(b"RIFF")
    soundfile.write(tmp_path / "data" / "train" / "2.wav", np.zeros(5 * 16000), 16000)
    soundfile.write(tmp_path / "data" / "train" / "3.wav", np.full(16000, np.nan), 16000, subtype="FLOAT")
    with pytest.raises(ValueError, match="4 recordings cannot be trained on") as caught:
        run(workplace, tmp_path / "run", data=str(tmp_path / "data" / "train.jsonl"))
    text = str(caught.value)
    for name, reason in ("0", "does not exist"), ("1", "not audio"), ("2", "max_time is 4 s"), ("3", "NaN"):
        assert re.search(rf"{name}\.wav: .*{reason}", text)
    assert "4.wav" not in text
    assert not (tmp_path / "run").exists()


def test_bad_settings_fail_before_training(workplace, tmp_path):
    with pytest.raises(ValueError, match="there are 12 prompts but answers are generated for 16 at a time"):
        run(workplace, tmp_path / "run", per_device_train_batch_size=64)
    with pytest.raises(
        ValueError, match="per_device_train_batch_size is 6 but num_generations is 4; make it a multiple"
    ):
        run(workplace, tmp_path / "run", per_device_train_batch_size=6, gradient_accumulation_steps=2)
    with pytest.raises(ValueError, match="tie_break is 'mean'; choose one of product, sum, none"):
        run(workplace, tmp_path / "run", tie_break="mean")


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", [3, 9])
def test_a_killed_launch_resumes_bit_for_bit(workplace, tmp_path, checkpoint):
    # Four epochs of six steps; killed in the first, and in the second or later.
    settings = {"num_train_epochs": 4}
    run(workplace, tmp_path / "whole", **settings, save_strategy="no")
    output = tmp_path / "killed"
    config = write_config(workplace, output, **settings)
    process = launch("grpo", config, wait=False)
    deadline = time.monotonic() + PATIENCE
    # The state file is written last, so a checkpoint is whole once it is there.
    while not (output / f"checkpoint-{checkpoint}" / "trainer_state.json").is_file():
        assert process.poll() is None, process.stdout.read()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(random.uniform(0, 0.4))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (output / "final").exists()
    steps = [int(path.parent.name[11:]) for path in output.glob("checkpoint-*/trainer_state.json")]
    launch("grpo", config, "--resume_from_checkpoint", str(output / f"checkpoint-{max(steps)}"))
    assert differing(weights(tmp_path / "whole"), weights(output)) == []


@pytest.mark.slow
def test_launches_with_adapters(workplace, tmp_path):
    launch("grpo", write_config(workplace, tmp_path / "first", **LORA, max_steps=2))
    start = {"model_name_or_path": str(tmp_path / "first" / "adapter"), "beta": 0.1, "max_steps": 2}
    launch("grpo", write_config(workplace, tmp_path / "second", **start))
    assert history(tmp_path / "second")[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert weights(tmp_path / "second").keys() == weights(tmp_path / "first").keys()
