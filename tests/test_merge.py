"""Adapters are added to the files of their checkpoint as PEFT adds them in memory; others are refused."""

import shutil

import pytest
import torch
from conftest import make_tiny_checkpoint
from huggingface_hub import ModelCard
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from recipes.cli.main import main
from recipes.conversion.checkpoint import load_checkpoint, save_checkpoint
from recipes.conversion.merge import merge

TARGETS = r"model\.language_model\..*\.(q_proj|v_proj|down_proj)"
CARD = "---\nbase_model: lab/listener\nlicense: mit\n---\n# Converted\n\n**Not trained yet.**\n"


@pytest.fixture(scope="module")
def base(tokenizer_folder, tmp_path_factory):
    """Return the folder of a checkpoint in bfloat16 with a card."""
    folder = tmp_path_factory.mktemp("base")
    model, processor = make_tiny_checkpoint(tokenizer_folder)
    save_checkpoint(model.to(torch.bfloat16), processor, folder)
    (folder / "README.md").write_text(CARD)
    return folder


@pytest.fixture(scope="module")
def make_adapter(base, tmp_path_factory):
    """Return a function that writes an adapter with the given settings and returns its folder."""

    def make(**settings):
        model = load_checkpoint(base)[0]
        model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS, **settings))
        torch.manual_seed(0)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_()
        folder = tmp_path_factory.mktemp("adapter")
        model.save_pretrained(folder)
        return folder

    return make


@pytest.mark.parametrize("use_rslora", [False, True])
def test_files_are_merged_as_peft_merges(base, make_adapter, tmp_path, use_rslora):
    adapter = make_adapter(use_rslora=use_rslora)
    assert main(["merge", str(adapter), str(tmp_path / "out"), "--max-shard-size", "50KB"]) == 0
    merged, processor = load_checkpoint(tmp_path / "out")
    expected = PeftModel.from_pretrained(load_checkpoint(base)[0], adapter).merge_and_unload().state_dict()
    before = load_file(base / "model.safetensors")
    changed = 0
    for name, weight in merged.state_dict().items():
        assert weight.dtype == torch.bfloat16
        # bfloat16 has 8 bits: sums in another order may round otherwise.
        torch.testing.assert_close(weight.float(), expected[name].float(), rtol=2**-7, atol=1e-3)
        changed += not torch.equal(weight, before[name])
    # Three projections in each of two layers.
    assert changed == 6
    names = {path.name for path in base.iterdir() if path.suffix != ".safetensors"}
    assert {path.name for path in (tmp_path / "out").iterdir() if ".safetensors" not in path.name} == names
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 2
    assert processor.grid.num_ticks == 50


def test_the_card_keeps_the_origin_and_says_what_was_merged(base, make_adapter, tmp_path):
    adapter = make_adapter()
    merge(adapter, tmp_path / "out")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert (card.data.base_model, card.data.license) == ("lab/listener", "mit")
    assert "Not trained" not in card.text and f"adapter `{adapter.name}` (LoRA, rank 4)" in card.text


def test_other_adapters_are_refused(make_adapter, tmp_path):
    with pytest.raises(ValueError, match="a LORA with use_dora; only plain LoRA can be merged here"):
        merge(make_adapter(use_dora=True), tmp_path / "out")
    with pytest.raises(ValueError, match="with modules_to_save; only plain LoRA"):
        merge(make_adapter(modules_to_save=["linear"]), tmp_path / "out")
    with pytest.raises(ValueError, match="holds no adapter_config.json; give the folder of an adapter"):
        merge(tmp_path, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_of_another_base_is_refused(base, make_adapter, tmp_path):
    adapter, other = make_adapter(), tmp_path / "other"
    shutil.copytree(base, other)
    weights = load_file(other / "model.safetensors")
    name = "model.language_model.layers.1.mlp.down_proj.weight"
    save_file(weights | {name: weights[name][:, :32].contiguous()}, other / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"changes .*down_proj.weight by \(32, 64\), .* it is \(32, 32\); give the base"
    ):
        merge(adapter, tmp_path / "out", base=other)
    with pytest.raises(FileExistsError, match="overwrite replaces checkpoints only"):
        merge(adapter, tmp_path, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
