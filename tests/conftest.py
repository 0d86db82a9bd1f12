"""Settings of the test suite, made before anything else is imported: offline, and nothing written outside tmp."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
# Remote code of checkpoints is copied to the cache before it is imported.
_CACHE = tempfile.mkdtemp(prefix="timepro-tests-")
os.environ["HF_HOME"] = _CACHE
os.environ["HF_MODULES_CACHE"] = os.path.join(_CACHE, "modules")
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# The models of the tests are tiny: more threads make them slower, and the processes of the suite share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Sums of OpenBLAS hang on the number of its threads, of which launched processes have one; these must give equal ones.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Answers of models with random weights are compared, which every rounding changes; tests of bfloat16 ask for it.
os.environ.setdefault("TIMEPRO_CPU_DTYPE", "float32")

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

# A few examples for every day, always the same; `pytest --hypothesis-profile thorough` tries many others.
settings.register_profile("timepro", database=None, deadline=None, max_examples=25, derandomize=True)
settings.register_profile("thorough", database=None, deadline=None, max_examples=400)
settings.load_profile("timepro")


ROOT = Path(__file__).resolve().parent.parent
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
BROWSER_FLAGS = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --autoplay-policy=no-user-gesture-required""".split()


# The longest files start first, so that no process is left alone with one of them at the end.
LONGEST = ("documents", "space_api", "space_safety", "publish", "grpo", "hub_native", "whole_life", "score_checkpoint")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.stem.removeprefix("test_") not in LONGEST)


def pytest_unconfigure(config):
    shutil.rmtree(_CACHE, ignore_errors=True)


@pytest.fixture(scope="session")
def chromium():
    """Return a headless browser, driven by Playwright."""
    playwright = pytest.importorskip("playwright.sync_api")
    if BROWSER is None:
        pytest.skip("no Chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, headless=True, args=BROWSER_FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory):
    from recipes.small.language_model import train_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(vocab_size=400, num_documents=300).save_pretrained(folder)
    return folder


def make_tiny_checkpoint(tokenizer_folder, answer_format="ticks"):
    """Return a model of random weights, whose ticks go to 4 s, and its processor."""
    import torch
    from memory_conversion import add_time_tokens
    from transformers import AutoTokenizer

    from modeling_timepro import TimeProAudioConfig, TimeProAudioForCausalLM
    from processing import TimeGrid, TimeProAudioProcessor, TimeProYamnetFeatureExtractor

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    config = TimeProAudioConfig(
        audio_config={"model_type": "timepro_yamnet", "num_hidden_layers": 1, "hidden_size": 32, "dropout": 0.0},
        text_config={
            "model_type": "qwen2", "vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 64, "tie_word_embeddings": False,
        },
        audio_token_id=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
        time_prompt=False,
        frame_rate=12.5,
    )  # fmt: skip
    model = TimeProAudioForCausalLM(config)
    processor = TimeProAudioProcessor(TimeProYamnetFeatureExtractor(), tokenizer, time_prompt=False, frame_rate=12.5)
    grid = TimeGrid(frame_rate=12.5, time_step=0.08, max_time=4.0)
    return model, add_time_tokens(model, processor, grid, "place", answer_format)


@pytest.fixture(scope="session")
def lively_folder(tokenizer_folder, tmp_path_factory):
    """Return the folder of a tiny checkpoint whose answers vary and depend on the sound."""
    import torch

    from recipes.conversion.checkpoint import save_checkpoint

    model, processor = make_tiny_checkpoint(tokenizer_folder)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.25 * torch.randn(parameter.shape, generator=generator))
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    folder = tmp_path_factory.mktemp("lively")
    save_checkpoint(model, processor, folder)
    return folder


@pytest.fixture(scope="module")
def lively_checkpoint(lively_folder):
    """Return the model and processor of `lively_folder`: each module's own, for trainers change a model in place."""
    from recipes.conversion.checkpoint import load_checkpoint

    model, processor = load_checkpoint(lively_folder)
    model.model.audio_tower.requires_grad_(False)
    model.model.multi_modal_projector.requires_grad_(False)
    return model.eval(), processor


def write_tiny_qwen2_audio(folder):
    """Write a tiny stock Qwen2-Audio and, converted, `checkpoint`."""
    import torch
    from transformers import (
        Qwen2AudioConfig,
        Qwen2AudioForConditionalGeneration,
        Qwen2AudioProcessor,
        WhisperFeatureExtractor,
    )

    from recipes.conversion.convert import convert
    from recipes.small.language_model import train_tokenizer

    tokenizer = train_tokenizer(vocab_size=400, num_documents=300)
    torch.manual_seed(0)
    config = Qwen2AudioConfig(
        audio_config={
            "model_type": "qwen2_audio_encoder", "num_mel_bins": 16, "encoder_layers": 2,
            "encoder_attention_heads": 2, "encoder_ffn_dim": 48, "d_model": 32,
        },
        text_config={
            "model_type": "qwen2", "vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 48,
        },
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )  # fmt: skip
    stock = Qwen2AudioForConditionalGeneration(config)
    with torch.no_grad():
        # The sound must weigh something in the little that three steps learn.
        stock.model.multi_modal_projector.linear.weight.mul_(30)
    stock.save_pretrained(folder / "stock")
    Qwen2AudioProcessor(WhisperFeatureExtractor(feature_size=16), tokenizer).save_pretrained(folder / "stock")
    convert(folder / "stock", folder / "checkpoint", time_init="place")


def make_grpo_trainer(checkpoint, dataset, folder, cls=None, rewards=None, **settings):
    """Return a trainer for groups of four answers, two a step, on a copy of the model."""
    import copy

    from trl import GRPOConfig

    from recipes.training.grpo_trainer import TimeProGRPOTrainer, adaptive_temporal_reward
    from recipes.training.rewards import auxiliary_reward, event_f1_reward

    model, processor = copy.deepcopy(checkpoint[0]), checkpoint[1]
    names = ("shared_prefix", "tie_break", "constrained", "logprobs_mode", "answer_min_score", "drop_tied_groups")
    options = {name: settings.pop(name) for name in names if name in settings}
    config = GRPOConfig(
        output_dir=str(folder / "out"),
        **{
            "per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 12,
            "use_cpu": True, "bf16": False, "report_to": "none", "remove_unused_columns": False, "max_steps": 2,
            "logging_steps": 1, "save_strategy": "no", "trust_remote_code": True,
            "generation_kwargs": {"suppress_tokens": model.generation_config.suppress_tokens},
        } | settings,
    )  # fmt: skip
    rewards = rewards or [adaptive_temporal_reward, event_f1_reward, auxiliary_reward]
    config.reward_weights = [1.0] + [0.0] * (len(rewards) - 1)
    trainer = (cls or TimeProGRPOTrainer)(
        model=model, reward_funcs=rewards, args=config, train_dataset=dataset, processing_class=processor, **options
    )
    trainer.model.train()
    # Set by `train()`, which not all tests call.
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def write_clips(folder, num_clips=12, seconds=2.0):
    """Write clips in which a tone starts and ends at known times, and their rows."""
    import numpy as np
    import soundfile

    rng = np.random.default_rng(0)
    (folder / "train").mkdir(parents=True)
    rows = []
    for index in range(num_clips):
        waveform = 0.01 * rng.normal(size=int(seconds * 16000))
        onset, offset = sorted(rng.uniform(0.1, seconds - 0.1, 2).round(2))
        label, pitch = (("dog bark", 400), ("siren", 1600))[index % 2]
        time_axis = np.arange(len(waveform)) / 16000
        waveform += 0.5 * np.sin(2 * np.pi * pitch * time_axis) * ((time_axis >= onset) & (time_axis < offset))
        name = f"train/{index}.wav"
        soundfile.write(folder / name, waveform, 16000)
        events = [{"onset": float(onset), "offset": float(offset), "event_label": label}]
        rows.append({"id": str(index), "audio": name, "duration": seconds, "events": events, "absent": ["drum"]})
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


# Seconds to wait for a process of a recipe, which needs 20 on an idle machine, and may get a tenth of a busy one.
PATIENCE = 900


def launch(recipe, config, *overrides, wait=True):
    """Start a recipe as its users do; return its output, or with `wait=False` the process."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    settings = ROOT / "recipes" / "configs" / "accelerate" / "cpu.yaml"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(settings)]
    process = subprocess.Popen(
        [*command, f"recipes/{recipe}.py", "--config", str(config), *overrides], cwd=ROOT, env=environment,
        start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    if not wait:
        return process
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output[-3000:]
    return output


@pytest.fixture(scope="session")
def scripted_checkpoint(tmp_path_factory):
    """Return a function that writes a tiny, complete checkpoint whose every answer is a given text, and its folder.

    Its layers add nothing, so the last token alone decides the next one. The tokens of the text must differ.
    """
    import torch
    from memory_conversion import add_time_tokens

    from modeling_timepro import TimeProAudioConfig, TimeProAudioForCausalLM
    from processing import TimeGrid, TimeProAudioProcessor, TimeProYamnetFeatureExtractor
    from recipes.conversion.checkpoint import save_checkpoint
    from recipes.small.language_model import language_config, train_tokenizer

    folders = {}

    def write(answer):
        if answer in folders:
            return folders[answer]
        tokenizer = train_tokenizer(num_documents=500)
        text_config = language_config(len(tokenizer), tokenizer)
        text_config.hidden_size, text_config.intermediate_size, text_config.num_hidden_layers = 32, 32, 1
        text_config.num_attention_heads, text_config.num_key_value_heads = 2, 1
        text_config.layer_types = ["full_attention"]
        config = TimeProAudioConfig(
            audio_config={"model_type": "timepro_yamnet", "hidden_size": 16, "num_hidden_layers": 1,
                          "num_attention_heads": 2, "intermediate_size": 16},
            text_config=text_config,
            audio_token_id=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
            frame_rate=12.5,
            time_prompt=False,
        )  # fmt: skip
        torch.manual_seed(0)
        model = TimeProAudioForCausalLM(config).eval()
        extractor = TimeProYamnetFeatureExtractor()
        processor = TimeProAudioProcessor(extractor, tokenizer, time_prompt=False, frame_rate=12.5)
        grid = TimeGrid(frame_rate=12.5, time_step=0.08, max_time=30.0)
        processor = add_time_tokens(model, processor, grid, answer_format="ticks")
        prompt = processor.apply_chat_template([{"role": "user", "content": "?"}], add_generation_prompt=True)
        script = [processor.tokenizer(prompt)["input_ids"][-1]]
        script += [*processor.tokenizer(answer)["input_ids"], processor.tokenizer.eos_token_id]
        assert len(set(script)) == len(script) <= 32, "every token of the answer must occur once"
        with torch.no_grad():
            for layer in model.model.language_model.layers:
                layer.self_attn.o_proj.weight.zero_()
                layer.mlp.down_proj.weight.zero_()
            embeddings, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
            embeddings.zero_()
            head.zero_()
            for place, (token, following) in enumerate(zip(script, script[1:], strict=False)):
                embeddings[token, place] = 1.0
                head[following, place] = 1.0
        folders[answer] = tmp_path_factory.mktemp("checkpoint")
        save_checkpoint(model, processor, folders[answer])
        return folders[answer]

    return write


@pytest.fixture(scope="session")
def space_page(tmp_path_factory):
    """Return the page of the demonstration in a process of its own, with the embedded checkpoint and low limits."""
    pytest.importorskip("gradio")
    from space_process import Page

    page = Page(tmp_path_factory.mktemp("space"), max_megabytes=3, max_seconds=90)
    try:
        yield page.wait()
    finally:
        page.stop()
    assert not page.uploads(), "uploads outlive the page"
