"""The small backbone: a trained language model and YAMNet's trunk put together, and ears taught in its words."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from modeling_timepro.yamnet_encoder import TimeProYamnetEncoder
from modeling_timepro.yamnet_encoder_config import TimeProYamnetConfig
from recipes.conversion.checkpoint import load_checkpoint
from recipes.small import language_model as small_language
from recipes.small.backbone import join_backbone, main
from recipes.small.compare_encoders import main as compare_towers

LABELS = ["dog bark", "siren"]


@pytest.fixture(scope="module")
def language_folder(tmp_path_factory):
    """A language model of a hundredth of the size, trained for two steps."""
    folder = tmp_path_factory.mktemp("language")
    full_config = small_language.language_config

    def tiny_config(vocab_size, tokenizer=None):
        config = full_config(vocab_size, tokenizer)
        config.hidden_size, config.intermediate_size, config.num_hidden_layers = 32, 48, 1
        config.num_attention_heads, config.num_key_value_heads, config.layer_types = 2, 1, ["full_attention"]
        return config

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_language, "language_config", tiny_config)
        small_language.train(folder, 2, batch_size=2, sequence_length=64, vocab_size=400, num_documents=200, bf16=False)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """YAMNet's weights file with random values; it holds the classifier too."""
    torch.manual_seed(1)
    trunk = TimeProYamnetEncoder(TimeProYamnetConfig(num_hidden_layers=0)).trunk
    state = {f"trunk.{name}": tensor.contiguous() for name, tensor in trunk.state_dict().items()}
    path = tmp_path_factory.mktemp("yamnet") / "yamnet.safetensors"
    save_file({**state, "head.weight": torch.randn(521, 1024)}, path)
    return path


@pytest.fixture(scope="module")
def stems(tmp_path_factory):
    """Stored stem features and rows, as `stem_cache` writes them, of clips of 2 s."""
    folder, rng = tmp_path_factory.mktemp("stems"), np.random.default_rng(0)
    for split, num_clips in (("train", 6), ("validation", 3)):
        np.save(folder / f"{split}_stem.npy", rng.normal(size=(num_clips, 25, 2304)).astype(np.float16))
        with open(folder / f"{split}.jsonl", "w") as file:
            for index in range(num_clips):
                event = {"onset": 0.4, "offset": 1.2, "event_label": LABELS[index % 2]}
                row = {"duration": 2.0, "events": [event], "absent": [LABELS[1 - index % 2]], "stem_index": index}
                file.write(json.dumps(row) + "\n")
    return folder


def assert_language_is_copied(model, language_folder):
    language = AutoModelForCausalLM.from_pretrained(language_folder)
    copied = model.model.language_model.state_dict()
    expected = language.model.state_dict()
    assert sorted(copied) == sorted(expected) and all(copied[name].equal(expected[name]) for name in expected)
    assert model.lm_head.weight.equal(language.lm_head.weight)


def assert_trunk_is_loaded(model, weights):
    state, trunk = load_file(weights), model.model.audio_tower.trunk.state_dict()
    assert trunk and all(tensor.equal(state[f"trunk.{name}"]) for name, tensor in trunk.items())


def test_both_parts_are_joined_as_they_are(language_folder, weights):
    model, processor = join_backbone(language_folder, weights)
    assert_language_is_copied(model, language_folder)
    assert_trunk_is_loaded(model, weights)
    tokenizer = AutoTokenizer.from_pretrained(language_folder)
    assert model.config.audio_token_id == tokenizer.convert_tokens_to_ids("<|AUDIO|>")
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id
    assert model.config.frame_rate == processor.frame_rate == 12.5
    assert not model.config.time_prompt and not processor.time_prompt and model.config.event_labels is None


def test_the_joined_model_reads_text_like_its_language_model_and_hears(language_folder, weights):
    model, processor = join_backbone(language_folder, weights)
    language = AutoModelForCausalLM.from_pretrained(language_folder)
    ids = processor.tokenizer("a dog barks at 1.2", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = language.eval()(input_ids=ids).logits
        assert torch.allclose(model.eval()(input_ids=ids).logits, expected, atol=1e-5)
    waveforms = 0.1 * np.random.default_rng(0).normal(size=(2, 16000)).astype(np.float32)
    chat = [{"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "When?"}]}]
    prompt = processor.apply_chat_template(chat, add_generation_prompt=True)
    batches = [processor(text=prompt, audio=waveform, return_tensors="pt") for waveform in waveforms]
    with torch.no_grad():
        one, other = (model(**batch).logits for batch in batches)
    assert one.isfinite().all() and not torch.allclose(one, other)


def run(language_folder, weights, stems, out, *options):
    arguments = ["--language-model", str(language_folder), "--weights", str(weights), "--stems", str(stems)]
    main([*arguments, "--out", str(out), *options])
    return load_checkpoint(out)


def test_a_run_writes_a_checkpoint_that_knows_its_labels(language_folder, weights, stems, tmp_path):
    model, processor = run(language_folder, weights, stems, tmp_path / "a", "--num-steps", "3", "--seed", "4")
    assert model.config.event_labels == LABELS
    assert_language_is_copied(model, language_folder)
    assert_trunk_is_loaded(model, weights)
    assert processor.tokenizer("a dog barks") == AutoTokenizer.from_pretrained(language_folder)("a dog barks")
    # Tower and projector have moved from where the seed put them, and arrive at the same place again.
    untrained, _ = run(language_folder, weights, stems, tmp_path / "b", "--num-steps", "0", "--seed", "4")
    assert untrained.config.event_labels is None
    again, _ = run(language_folder, weights, stems, tmp_path / "c", "--num-steps", "3", "--seed", "4")
    for name in ("model.audio_tower.layers.0.attention.qkv.weight", "model.multi_modal_projector.linear.weight"):
        trained, repeated, before = (m.state_dict()[name] for m in (model, again, untrained))
        assert trained.isfinite().all() and trained.equal(repeated) and not trained.equal(before)


def test_towers_are_compared_on_both_tests(language_folder, weights, stems, tmp_path):
    rng = np.random.default_rng(1)
    for split, num_clips in (("train", 6), ("test_seen", 3), ("test_unseen", 3)):
        rows = [json.loads(line) for line in (stems / "train.jsonl").read_text().splitlines()][:num_clips]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        np.save(tmp_path / f"{split}_stem.npy", rng.normal(size=(num_clips, 25, 2304)).astype(np.float16))
        np.save(tmp_path / f"{split}_mel.npy", rng.normal(size=(num_clips, 200, 128)).astype(np.float16))
    arguments = ["--language-model", str(language_folder), "--weights", str(weights), "--features", str(tmp_path)]
    compare_towers([*arguments, "--out", str(tmp_path / "towers.json"), "--num-steps", "2"])
    report = json.loads((tmp_path / "towers.json").read_text())
    for tower in ("yamnet", "qwen2_audio"):
        assert report[tower]["trained_parameters"] > 1_000_000
        assert all(0 <= report[tower][split]["frame_f1"] <= 1 for split in ("test_seen", "test_unseen"))
