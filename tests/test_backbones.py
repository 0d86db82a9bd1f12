"""Backbones as files: names of tensors old and new, the whole of Qwen2.5-Omni, and ways of loading a checkpoint."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import infer_auto_device_map
from memory_conversion import load_backbone
from safetensors.torch import load_file
from tiny_backbones import MAKERS, OMNI_TEMPLATE, make_stock, save_stock
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    Qwen2_5OmniConfig,
    Qwen2_5OmniForConditionalGeneration,
    Qwen2Config,
)

from modeling_timepro import TimeProAudioConfig, TimeProAudioForCausalLM
from recipes import DEFAULT_CHECKPOINT
from recipes.conversion.backbones import BACKBONES, backbone_config, backbone_key, backbone_processor
from recipes.conversion.chat_template import mark_answers
from recipes.conversion.checkpoint import load_checkpoint, save_checkpoint

KINDS = sorted(MAKERS)


@pytest.fixture(scope="module")
def stocks(tokenizer_folder, tmp_path_factory):
    """Return a dict of stock model, its folder and its processor, wide enough for 4 bits."""
    found = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind)
        model, processor = make_stock(kind, tokenizer_folder, "wide")
        save_stock(model, processor, folder)
        found[kind] = model, folder, processor
    return found


@pytest.fixture(scope="module")
def checkpoints(stocks, tmp_path_factory):
    """Return a dict of our model, its folder and its inputs of one clip."""
    found = {}
    for kind, (_, folder, _) in stocks.items():
        model, processor = load_backbone(folder)
        out = tmp_path_factory.mktemp(f"ours_{kind}")
        save_checkpoint(model, processor, out)
        audio = (0.1 * np.random.default_rng(0).normal(size=32000)).astype(np.float32)
        found[kind] = model, out, processor(text=f"{processor.audio_token} When?", audio=audio, return_tensors="pt")
    return found


def ours_of(kind, keys):
    return {backbone_key(kind, key) for key in keys} - {None}


@pytest.mark.parametrize("kind", KINDS)
def test_names_of_tensors_are_read_in_both_spellings(stocks, kind):
    stock, folder, _ = stocks[kind]
    saved = set(load_file(folder / "model.safetensors"))
    present = set(stock.state_dict())
    assert saved != present, "transformers no longer writes the older names"
    model = TimeProAudioForCausalLM(backbone_config(AutoConfig.from_pretrained(folder)))
    assert ours_of(kind, saved) == ours_of(kind, present) == set(model.state_dict())
    others = {"talker.model.norm.weight", "token2wav.code2wav_bigvgan_model.conv_pre.bias", "thinker.visual.a.b"}
    if kind == "qwen2_5_omni_thinker":
        assert ours_of("qwen2_5_omni", {f"thinker.{key}" for key in saved | present} | others) == set(
            model.state_dict()
        )
    else:
        with pytest.raises(ValueError, match=f"key is 'thinker.visual.a.b', which no {kind} checkpoint has"):
            ours_of(kind, ["thinker.visual.a.b"])


@pytest.mark.parametrize("model_type", BACKBONES)
def test_unknown_names_of_tensors_are_refused(model_type):
    for key in ("transformer.wte.weight", "vision_tower.patch.weight", "model.other.weight", "lm_head"):
        with pytest.raises(ValueError, match=f"key is '{key}', which no {model_type} checkpoint has"):
            backbone_key(model_type, key)


@pytest.mark.parametrize("prefix", ["language_model.model.", "language_model.model.model.", "model.language_model."])
def test_names_of_every_version_of_transformers_mean_the_same_tensor(prefix):
    # 5.20 saves the second.
    key = backbone_key("audioflamingo3", f"{prefix}layers.0.self_attn.q_proj.weight")
    assert key == "model.language_model.layers.0.self_attn.q_proj.weight"


def test_unknown_backbones_are_refused():
    with pytest.raises(ValueError, match="model_type 'qwen2'; supported are audioflamingo3, qwen2_5_omni, "):
        backbone_config(Qwen2Config())
    with pytest.raises(ValueError, match="model_type 'whisper'; supported are"):
        backbone_key("whisper", "lm_head.weight")


def test_the_whole_of_omni_becomes_its_thinker(stocks, tmp_path):
    thinker, folder, processor = stocks["qwen2_5_omni_thinker"]
    config = Qwen2_5OmniConfig(thinker_config=thinker.config.to_dict(), enable_audio_output=False)
    whole = Qwen2_5OmniForConditionalGeneration(config)
    whole.thinker.load_state_dict(thinker.state_dict())
    whole.save_pretrained(tmp_path)
    save = {"feature_extractor": processor.feature_extractor, "tokenizer": processor.tokenizer}
    for part in save.values():
        part.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(OMNI_TEMPLATE)
    assert AutoConfig.from_pretrained(tmp_path).model_type == "qwen2_5_omni"
    ours, other = load_backbone(tmp_path)[0], load_backbone(folder)[0]
    assert ours.config.to_dict() == other.config.to_dict()
    assert all(torch.equal(ours.state_dict()[name], weight) for name, weight in other.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_the_processor_has_the_backbones_own_tokens(stocks, kind):
    _, folder, stock = stocks[kind]
    config = backbone_config(AutoConfig.from_pretrained(folder))
    assert (config.time_prompt, config.num_time_tokens, config.frame_rate) == (False, 0, 25.0)
    ours = backbone_processor(folder, config)
    flamingo = kind == "audioflamingo3"
    assert (ours.audio_token, ours.audio_token_id) == (stock.audio_token, config.audio_token_id)
    assert (ours.audio_bos_token, ours.audio_eos_token) == ("<|audio_bos|>", "<|audio_eos|>")
    assert ours.audio_token == ("<sound>" if flamingo else "<|AUDIO|>")
    assert ours.feature_extractor.to_dict() == stock.feature_extractor.to_dict()
    assert ours.tokenizer.get_vocab() == stock.tokenizer.get_vocab()
    config.audio_token_id = 9999
    with pytest.raises(ValueError, match="audio_token_id is 9999 but the tokenizer has 40"):
        backbone_processor(folder, config)


def test_a_placeholder_that_no_template_shows_is_refused(stocks, tmp_path):
    stock, _, processor = stocks["audioflamingo3"]
    processor = copy.deepcopy(processor)
    processor.chat_template = processor.tokenizer.chat_template = None
    save_stock(stock, processor, tmp_path)
    with pytest.raises(ValueError, match="no chat template with <sound>; add its chat_template.jinja"):
        load_backbone(tmp_path)


def test_templates_that_cannot_be_marked_are_refused():
    marked = "{% for m in messages %}{% generation %}{{ m['content'] }}{% endgeneration %}{% endfor %}"
    assert mark_answers(marked) == marked
    assert mark_answers(mark_answers(OMNI_TEMPLATE)) == mark_answers(OMNI_TEMPLATE)
    with pytest.raises(ValueError, match="no turns of the form"):
        mark_answers("{% for m in messages %}[INST] {{ m['content'] }} [/INST]{% endfor %}")
    # Answers end otherwise here.
    with pytest.raises(ValueError, match="without changing what it renders"):
        mark_answers("{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>{% endfor %}")


def test_sizes_that_do_not_meet_are_refused():
    audio = {"model_type": "qwen2_5_omni_audio_encoder", "encoder_layers": 1, "output_dim": 48}
    text = {"model_type": "qwen2_5_omni_text", "hidden_size": 32}
    with pytest.raises(ValueError, match="frames have 48 values and the language model's 32; make them equal"):
        TimeProAudioConfig(audio_config=audio, text_config=text, projector="none")
    with pytest.raises(ValueError, match="projector is 'conv'; choose one of"):
        TimeProAudioConfig(projector="conv")
    with pytest.raises(ValueError, match="audio_config has model_type 'whisper'; supported are"):
        TimeProAudioForCausalLM(TimeProAudioConfig(audio_config={"model_type": "whisper"}))


@pytest.mark.parametrize("kind", KINDS)
def test_clips_of_any_length_may_stand_in_one_batch(checkpoints, kind):
    model = checkpoints[kind][0]
    # Three mel frames are two positions, one frame: ((3 - 1) // 2 + 1) // 2; of fewer there is none.
    lengths = torch.tensor([3, 700, 1, 650, 2, 50])
    mask = (torch.arange(702) < lengths[:, None]).long()
    features = torch.randn(6, 128, 702, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = model.get_audio_features(features, mask).pooler_output.split([1, 175, 0, 162, 0, 12])
        for index in (0, 1, 3, 5):
            expected = model.get_audio_features(features[[index]], mask[[index]]).pooler_output
            torch.testing.assert_close(found[index], expected, rtol=0, atol=1e-5)


@torch.no_grad()
def logits_of(model, inputs):
    return model.eval()(**inputs).logits.float()


def load(folder, **options):
    return TimeProAudioForCausalLM.from_pretrained(folder, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_kept_and_loaded(checkpoints, tmp_path, kind):
    model, folder, inputs = checkpoints[kind]
    half = load(folder, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    # Angles of positions and of rotations stay single.
    assert {buffer.dtype for name, buffer in half.named_buffers() if "inv_freq" in name} == {torch.float32}
    expected = logits_of(model, inputs)
    assert 0 < (logits_of(half, inputs) - expected).abs().mean() < 0.05 * expected.std()
    half.save_pretrained(tmp_path, save_original_format=False)
    assert load(tmp_path, dtype="auto").dtype == torch.bfloat16


def place(tower, language):
    return {"model.audio_tower": tower, "model.multi_modal_projector": tower, "model.language_model": language,
            "lm_head": "cpu"}  # fmt: skip


@pytest.mark.parametrize("device_map", ["auto", place("cpu", "disk"), place("disk", "cpu")], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_parts_may_stand_anywhere(checkpoints, tmp_path, kind, device_map):
    model, folder, inputs = checkpoints[kind]
    placed = load(folder, device_map=device_map, offload_folder=tmp_path)
    assert torch.equal(logits_of(placed, inputs), logits_of(model, inputs))


@pytest.mark.parametrize("kind", KINDS)
def test_no_layer_is_split_between_devices(checkpoints, kind):
    model = checkpoints[kind][0]
    sizes = [sum(p.nbytes for p in layer.parameters()) for layer in model.model.audio_tower.layers]
    for budget in range(sizes[0] // 2, 12 * sizes[0], sizes[0] // 2):
        places = infer_auto_device_map(
            model, {"cpu": budget, "disk": 10**9}, no_split_module_classes=list(model._no_split_modules)
        )
        for name in places:
            head, _, tail = name.rpartition("layers.")
            assert not head or tail.isdigit(), f"{name} is split"


@pytest.mark.parametrize("kind", KINDS)
def test_four_bits_are_those_of_the_library(checkpoints, kind):
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="pip install -e '.[quantize]'")
    model, folder, inputs = checkpoints[kind]
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    quantized = load(folder, quantization_config=settings)
    linear = {name for name, module in quantized.named_modules() if isinstance(module, bitsandbytes.nn.Linear4bit)}
    assert all(part in {name.split(".")[1] for name in linear} for part in ("audio_tower", "language_model"))
    assert "lm_head" not in linear
    # The same numbers in a plain model give the same logits: nothing else is lost in loading.
    plain = copy.deepcopy(model)
    for name in linear:
        weight = quantized.get_submodule(name).weight
        values = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
        plain.get_submodule(name).weight.data = values.float()
    expected = logits_of(plain, inputs)
    lost = (expected - logits_of(model, inputs)).abs().mean()
    # On CPU the library multiplies in bfloat16.
    assert (logits_of(quantized, inputs) - expected).abs().mean() < 0.2 * lost


@pytest.mark.parametrize("bits", [4, 8])
def test_the_embedded_checkpoint_answers_in_few_bits_nearly_as_it_does_in_single_precision(bits):
    pytest.importorskip("bitsandbytes", reason="pip install -e '.[quantize]'")
    model, processor = load_checkpoint(DEFAULT_CHECKPOINT)
    audio = (0.1 * np.random.default_rng(0).normal(size=32000)).astype(np.float32)
    inputs = processor(text=f"{processor.audio_token} When?", audio=audio, return_tensors="pt")
    settings = BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8, bnb_4bit_quant_type="nf4")
    quantized = load(DEFAULT_CHECKPOINT, quantization_config=settings)
    assert quantized.get_memory_footprint() < 0.6 * model.get_memory_footprint()
    expected, found = logits_of(model, inputs), logits_of(quantized, inputs)
    assert (found - expected).norm() / expected.norm() < {4: 0.2, 8: 0.05}[bits]


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints_of_every_backbone_load_by_the_auto_class(checkpoints, kind):
    model, folder, inputs = checkpoints[kind]
    again = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(logits_of(again, inputs), logits_of(model, inputs))
    _, processor = load_checkpoint(folder)
    assert processor.audio_token_id == model.config.audio_token_id
    assert AutoTokenizer.from_pretrained(folder).chat_template == processor.chat_template


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["qwen2_audio", "qwen2_5_omni_thinker"])
def test_processes_that_share_a_tower_may_hear_other_clips(checkpoints, tmp_path, kind):
    worker = Path(__file__).with_name("sharded_tower_worker.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(worker)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(checkpoints[kind][1]), str(tmp_path)], env=environment, check=True, timeout=240)
    assert all(float((tmp_path / rank).read_text()) < 1e-4 for rank in ("0", "1"))
