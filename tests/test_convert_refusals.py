"""Broken and partial backbones are refused by conversion, before anything is written."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from stock_backbones import write_qwen2_audio
from transformers import AutoTokenizer

from recipes.conversion.convert import convert

INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def sharded(tokenizer_folder, tmp_path_factory):
    """Return the folder of a stock Qwen2-Audio in several files."""
    folder = tmp_path_factory.mktemp("sharded")
    write_qwen2_audio(folder, AutoTokenizer.from_pretrained(tokenizer_folder), max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 3
    return folder


def edit(path, **changes):
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | changes))


def shard_of(folder, ending):
    """Return name and file of the tensor whose name ends so."""
    names = json.loads((folder / INDEX).read_text())["weight_map"]
    return next((name, folder / file) for name, file in names.items() if name.endswith(ending))


def rewrite(folder, ending, change):
    """Rewrite the file of a tensor with what `change` returns for its tensors, name by name."""
    _, path = shard_of(folder, ending)
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def lose_file(folder):
    shard_of(folder, "layers.1.mlp.down_proj.weight")[1].unlink()


def cut_file(folder):
    path = shard_of(folder, "layers.1.mlp.down_proj.weight")[1]
    path.write_bytes(path.read_bytes()[:-1000])


def leave_pointer(folder):
    path = shard_of(folder, "layers.1.mlp.down_proj.weight")[1]
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def lose_tensor_in_file(folder):
    rewrite(folder, "layers.1.mlp.down_proj.weight", lambda weights: dict(list(weights.items())[1:]))


def lose_tensor(folder):
    names = json.loads((folder / INDEX).read_text())["weight_map"]
    edit(folder / INDEX, weight_map={name: file for name, file in names.items() if "layers.1.mlp.down" not in name})


def add_tensor(folder):
    name, path = shard_of(folder, "layers.1.mlp.down_proj.weight")
    other = name.replace("layers.1", "layers.2")
    rewrite(folder, "layers.1.mlp.down_proj.weight", lambda weights: weights | {other: torch.zeros(2, 2)})
    names = json.loads((folder / INDEX).read_text())["weight_map"]
    edit(folder / INDEX, weight_map=names | {other: path.name})


def add_stranger(folder):
    names = json.loads((folder / INDEX).read_text())["weight_map"]
    edit(folder / INDEX, weight_map=names | {"vision_tower.weight": next(iter(names.values()))})


def change_shape(folder):
    config = json.loads((folder / "config.json").read_text())
    edit(folder / "config.json", text_config=config["text_config"] | {"intermediate_size": 64})


def quantise(folder):
    rewrite(folder, "layers.1.mlp.down_proj.weight", lambda weights: {k: v.to(torch.int8) for k, v in weights.items()})


def pickle_weights(folder):
    for path in [*folder.glob("*.safetensors"), folder / INDEX]:
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80")


def leave_index_out(folder):
    (folder / INDEX).unlink()


def climb(folder):
    names = json.loads((folder / INDEX).read_text())["weight_map"]
    edit(folder / INDEX, weight_map={name: f"../{file}" for name, file in names.items()})


def lose_tokenizer(folder):
    (folder / "tokenizer.json").unlink()


def lose_extractor(folder):
    (folder / "processor_config.json").unlink()


def lose_config(folder):
    (folder / "config.json").unlink()


def break_config(folder):
    (folder / "config.json").write_text('{"model_type": "qwen2_audio"')


def change_placeholder(folder):
    edit(folder / "config.json", audio_token_index=7)


def lengthen_tokenizer(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"[{index}]" for index in range(9)])
    tokenizer.save_pretrained(folder)


BROKEN = {
    lose_file: "lacks 1 of . files of weights: model-0000",
    cut_file: "is truncated, or is not a safetensors file .*; fetch it again",
    leave_pointer: "is truncated, or is not a safetensors file .*; fetch it again",
    lose_tensor_in_file: "lacks 1 tensors that its index lists",
    lose_tensor: r"lacks 1 of \d+ weights: model.language_model.layers.1.mlp.down_proj.weight",
    add_tensor: "holds 1 weights unknown to its config.json: .*layers.2.mlp.down_proj.weight",
    add_stranger: "key is 'vision_tower.weight', which no qwen2_audio checkpoint has",
    change_shape: r"has 6 weights of other shapes than its config.json: .*\[48, 32\], not \[64, 32\]",
    quantise: "as I8; give weights that are not quantised",
    pickle_weights: "pytorch_model.bin: pickles run code when they are read",
    leave_index_out: "fetch the index too",
    climb: "is not an index of safetensors files",
    lose_tokenizer: "lacks a tokenizer",
    lose_extractor: "lacks a feature extractor",
    lose_config: "holds no config.json",
    break_config: "config.json cannot be read",
    change_placeholder: "audio_token_id is 7, not a placeholder in the tokenizer|has no chat template with",
    lengthen_tokenizer: "the tokenizer has ids up to 408 but the embedding 400 rows",
}


@pytest.mark.parametrize("damage", BROKEN, ids=lambda damage: damage.__name__)
def test_a_broken_backbone_is_refused_before_anything_is_written(sharded, tmp_path, damage):
    shutil.copytree(sharded, tmp_path / "source")
    damage(tmp_path / "source")
    with pytest.raises(ValueError, match=BROKEN[damage]):
        convert(tmp_path / "source", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("name", ["nowhere/at/all", "./missing", "lab/nothing"])
def test_a_backbone_that_is_nowhere(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=f"backbone is '{name}'"):
        convert(name, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
