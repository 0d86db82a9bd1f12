"""Conversion of files: outputs are whole, memory stays small, Hub ids work."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from loopback_hub import LoopbackHub, Repo
from safetensors.torch import load_file
from stock_backbones import OMNI_TEMPLATE, write_qwen2_5_omni, write_qwen2_audio
from transformers import AutoTokenizer

from modeling_timepro import TimeProAudioForCausalLM
from recipes.conversion.checkpoint import load_checkpoint
from recipes.conversion.convert import convert
from recipes.conversion.weight_files import read_header, shard_size

ROOT = Path(__file__).resolve().parent.parent
INDEX = "model.safetensors.index.json"
EMBEDDINGS = "model.language_model.embed_tokens.weight"


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder):
    return AutoTokenizer.from_pretrained(tokenizer_folder)


@pytest.fixture(scope="module")
def sharded(tokenizer, tmp_path_factory):
    """Return the folder of a stock Qwen2-Audio in several files."""
    folder = tmp_path_factory.mktemp("sharded")
    write_qwen2_audio(folder, tokenizer, max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 3
    return folder


@pytest.fixture(scope="module")
def omni(tokenizer, tmp_path_factory):
    """Return a whole stock Qwen2.5-Omni and its folder."""
    folder = tmp_path_factory.mktemp("omni")
    return write_qwen2_5_omni(folder, tokenizer, num_spare=399, max_shard_size="200KB"), folder


def test_shards_hold_what_one_file_does(sharded, tmp_path):
    convert(sharded, tmp_path / "one")
    convert(sharded, tmp_path / "many", max_shard_size="60KB")
    whole = load_file(tmp_path / "one" / "model.safetensors")
    assert not (tmp_path / "one" / INDEX).exists()
    index = json.loads((tmp_path / "many" / INDEX).read_text())
    assert index["weight_map"].keys() == whole.keys()
    assert index["metadata"] == {
        "total_size": sum(weight.nbytes for weight in whole.values()),
        "total_parameters": sum(weight.numel() for weight in whole.values()),
    }
    files = sorted(set(index["weight_map"].values()))
    assert files == sorted(path.name for path in (tmp_path / "many").glob("*.safetensors"))
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors" and len(files) > 5
    for file in files:
        weights = load_file(tmp_path / "many" / file)
        assert len(weights) == 1 or sum(weight.nbytes for weight in weights.values()) <= 60_000
        assert all(torch.equal(weight, whole[name]) for name, weight in weights.items())
    _, info = TimeProAudioForCausalLM.from_pretrained(tmp_path / "many", output_loading_info=True)
    assert not any(info.values())


@pytest.mark.parametrize("size, expected", [("5GB", 5 * 10**9), ("2KiB", 2048), ("700", 700), (12, 12)])
def test_sizes(size, expected):
    assert shard_size(size) == expected


@pytest.mark.parametrize("size", ["0", "many", "-1GB", "5 parsecs"])
def test_sizes_that_are_none(sharded, tmp_path, size):
    with pytest.raises(ValueError, match="max_shard_size is .*; give bytes or such as 500MB, 5GB or 2GiB"):
        convert(sharded, tmp_path / "out", max_shard_size=size)


def test_of_a_whole_omni_the_thinkers_ears_and_language_are_kept(omni, tmp_path):
    stock, folder = omni
    # What speaks and sees need not even be there.
    source = tmp_path / "source"
    shutil.copytree(folder, source)
    names = json.loads((source / INDEX).read_text())["weight_map"]
    heard = {file for name, file in names.items() if name.startswith("thinker.") and ".visual." not in name}
    unused = set(names.values()) - heard
    assert unused
    for file in unused:
        (source / file).unlink()
    convert(source, tmp_path / "out")
    weights = load_file(tmp_path / "out" / "model.safetensors")
    before = {name: weight for name, weight in stock.thinker.state_dict().items() if ".visual." not in f".{name}"}
    assert len(weights) == len(before)
    for part in ("audio_tower", "language_model"):
        assert sum(weight.sum() for name, weight in weights.items() if part in name).isfinite()
    # 400 tokens and 399 spare rows; 750 ticks take the rows from 400 on, and the matrix grows to 1,150.
    assert weights[EMBEDDINGS].shape == weights["lm_head.weight"].shape == (1150, 32)
    changed = []
    for name, weight in before.items():
        ours = name if name.startswith(("model.", "lm_head.")) else f"model.{name}"
        rows = 400 if weight.shape[0] == 799 else len(weight)
        if not torch.equal(weights[ours][:rows], weight[:rows]):
            changed.append(name)
    assert changed == []
    model, processor = load_checkpoint(tmp_path / "out")
    assert model.config.text_config.vocab_size == 1150 and not model.config.tie_word_embeddings
    assert processor.expand_audio(2) == "<0.00><|AUDIO|><0.04><|AUDIO|>"


def test_the_chat_template_is_kept_and_marks_answers(omni, tmp_path):
    convert(omni[1], tmp_path / "out")
    processor = load_checkpoint(tmp_path / "out")[1]
    turns = [
        {"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "When?"}]},
        {"role": "assistant", "content": "1.24-3.40"},
        {"role": "user", "content": "And?"},
    ]
    stock = AutoTokenizer.from_pretrained(omni[1])
    expected = stock.apply_chat_template(turns, chat_template=OMNI_TEMPLATE, tokenize=False)
    assert processor.apply_chat_template(turns) == expected
    # Numbered clips are the template's own: nothing else would ask for them.
    assert processor.apply_chat_template(turns, add_audio_id=True) != expected
    encoded = processor.tokenizer.apply_chat_template(
        turns, chat_template=processor.chat_template, return_assistant_tokens_mask=True, return_dict=True
    )
    answer = [token for token, on in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if on]
    assert processor.tokenizer.decode(answer) == "1.24-3.40<|im_end|>"


def test_answers_end_with_the_token_that_ends_a_turn(sharded, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(sharded, source)
    tokenizer = AutoTokenizer.from_pretrained(source)
    end, document = tokenizer.eos_token_id, tokenizer.pad_token_id
    assert tokenizer.convert_ids_to_tokens([end, document]) == ["<|im_end|>", "<|endoftext|>"]
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.save_pretrained(source)
    (source / "generation_config.json").write_text(json.dumps({"eos_token_id": document}))
    convert(source, tmp_path / "out")
    model, processor = load_checkpoint(tmp_path / "out")
    assert processor.tokenizer.eos_token == "<|im_end|>" and processor.tokenizer.pad_token == "<|endoftext|>"
    assert model.generation_config.eos_token_id == [end, document]


def test_tied_matrices_stay_one(tokenizer, tmp_path):
    # A checkpoint of ours whose language model ties them: one matrix on disk, one in the result.
    from conftest import make_tiny_checkpoint

    from modeling_timepro import TimeProAudioConfig
    from processing import TimeProAudioProcessor, TimeProYamnetFeatureExtractor
    from recipes.conversion.checkpoint import save_checkpoint

    config = make_tiny_checkpoint(tokenizer.name_or_path)[0].config.to_dict()
    config["text_config"] |= {"vocab_size": len(tokenizer), "tie_word_embeddings": True}
    for name in ("time_token_start_id", "num_time_tokens"):
        del config[name]
    model = TimeProAudioForCausalLM(TimeProAudioConfig(**config | {"tie_word_embeddings": True}))
    extractor = TimeProYamnetFeatureExtractor()
    processor = TimeProAudioProcessor(extractor, tokenizer, time_prompt=False, frame_rate=12.5)
    save_checkpoint(model, processor, tmp_path / "backbone")
    assert "lm_head.weight" not in read_header(tmp_path / "backbone" / "model.safetensors")
    convert(tmp_path / "backbone", tmp_path / "out", time_step=0.08, time_init="place")
    assert "lm_head.weight" not in read_header(tmp_path / "out" / "model.safetensors")
    after = load_checkpoint(tmp_path / "out")[0]
    assert after.get_output_embeddings().weight is after.get_input_embeddings().weight
    assert torch.equal(after.get_input_embeddings().weight[: len(tokenizer)], model.get_input_embeddings().weight)


def test_overwriting_replaces_a_checkpoint_whole_and_nothing_else(sharded, tmp_path):
    out = tmp_path / "out"
    convert(sharded, out, max_shard_size="60KB")
    (out / "training_log.jsonl").write_text("{}")
    convert(sharded, out, overwrite=True)
    assert [path.name for path in out.glob("*.safetensors*")] == ["model.safetensors"]
    assert not (out / "training_log.jsonl").exists()
    (out / "checkpoint-100").mkdir()
    with pytest.raises(FileExistsError, match="which holds checkpoint-100; overwrite replaces checkpoints only"):
        convert(sharded, out, overwrite=True)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    with pytest.raises(FileExistsError, match="no TimePro checkpoint; overwrite replaces checkpoints only"):
        convert(sharded, tmp_path / "home", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "out"]


def run_child(script, *arguments, **options):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | options.pop("env", {})
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], env=environment, capture_output=True, text=True,
        timeout=300, **options,
    )  # fmt: skip


def test_a_disk_that_fills_up_leaves_nothing_behind(sharded, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            convert(sharded, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


PEAK = """
import re, sys
from pathlib import Path
from recipes.conversion.convert import convert

def memory(name):
    return 1024 * int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

before = memory("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
convert(*sys.argv[1:3], time_init=sys.argv[3], max_shard_size="30MB")
print(memory("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("time_init", ["place", "random"])
def test_memory_stays_below_half_the_checkpoint_and_a_shard(tokenizer, tmp_path, time_init):
    text = {"hidden_size": 768, "num_hidden_layers": 8, "intermediate_size": 2048, "num_attention_heads": 8}
    write_qwen2_audio(tmp_path / "large", tokenizer, 9600, text, lambda model: model, max_shard_size="30MB")
    sizes = [path.stat().st_size for path in (tmp_path / "large").glob("*.safetensors")]
    # 8 layers of 5.7 million weights, and two matrices of 10,000 rows.
    assert sum(sizes) > 240e6 and max(sizes) < 35e6
    result = run_child(PEAK, tmp_path / "large", tmp_path / "out", time_init)
    assert result.returncode == 0, result.stderr[-2000:]
    assert int(result.stdout) < sum(sizes) / 2 + max(sizes)
    assert "shards: 100%" in result.stderr
    shutil.rmtree(tmp_path)


def test_the_card_names_its_backbone_and_says_that_it_is_not_trained(sharded, tmp_path):
    source = tmp_path / "models--lab--listener" / "snapshots" / "0"
    shutil.copytree(sharded, source)
    (source / "README.md").write_text("---\nlicense: other\nlicense_name: lab-1\nlanguage: en\n---\n# Listener\n")
    convert(source, tmp_path / "out", time_stride=10)
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.base_model == "lab/listener" and (card.data.license, card.data.license_name) == ("other", "lab-1")
    assert card.data.library_name == "transformers" and card.data.pipeline_tag == "audio-text-to-text"
    assert "**Not trained yet.**" in card.text
    assert "750 tick tokens, `<0.00>` to `<29.96>`, one every 0.04 s, every 10th before" in card.text
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert f"| parameters | {sum(weight.numel() for weight in weights.values()):,} |" in card.text


@pytest.mark.slow
def test_a_hub_id_fetches_what_is_needed(omni, tmp_path):
    command = "import sys; from recipes.cli.main import main; sys.exit(main(sys.argv[1:]))"
    with LoopbackHub() as hub:
        hub.repos["lab/omni"] = Repo()
        hub.repos["lab/omni"].add({file.name: (file.read_bytes(), False) for file in omni[1].iterdir()})
        arguments = ["convert", "--backbone", "lab/omni", "--out", tmp_path / "out", "--max-shard-size", "1GB"]
        result = run_child(command, *arguments, env=hub.environment() | {"HF_HOME": str(tmp_path / "cache")})
    assert result.returncode == 0, result.stderr[-2000:]
    fetched = [path.rpartition("/")[2] for method, path in hub.requests if method == "GET" and "/resolve/" in path]
    names = json.loads((omni[1] / INDEX).read_text())["weight_map"]
    heard = {file for name, file in names.items() if name.startswith("thinker.") and ".visual." not in name}
    assert {file for file in fetched if file.endswith(".safetensors")} == heard != set(names.values())
    assert ModelCard.load(tmp_path / "out" / "README.md").data.base_model == "lab/omni"
    assert load_checkpoint(tmp_path / "out")[0].config.num_time_tokens == 750
