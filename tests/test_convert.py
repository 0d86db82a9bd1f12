"""Conversion: a stock Qwen2-Audio folder becomes a checkpoint with ticks, and nothing else about it changes."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    Qwen2Config,
    Qwen2ForCausalLM,
    WhisperFeatureExtractor,
)

from modeling_timepro import TimeProAudioConfig, TimeProAudioForCausalLM
from processing import TimeProAudioProcessor, TimeProYamnetFeatureExtractor
from recipes.cli.main import main
from recipes.conversion.checkpoint import load_checkpoint, save_checkpoint
from recipes.conversion.convert import convert
from recipes.small.language_model import train_tokenizer

NUM_TOKENS, NUM_TICKS = 400, 750
SPELLINGS = [f"<{index // 25}.{4 * (index % 25):02d}>" for index in range(NUM_TICKS)]
EMBEDDINGS = ("model.language_model.embed_tokens.weight", "lm_head.weight")
TEXT = {"model_type": "qwen2", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "intermediate_size": 48}  # fmt: skip
AUDIO = {"model_type": "qwen2_audio_encoder", "num_mel_bins": 16, "encoder_layers": 2, "encoder_attention_heads": 2,
         "encoder_ffn_dim": 48, "d_model": 32}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(vocab_size=NUM_TOKENS, num_documents=300).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def make_stock(tokenizer_folder, tmp_path_factory):
    """Return a function that saves a tiny stock Qwen2-Audio as transformers does, and returns it and its folder."""

    def make(num_spare=0, dtype=torch.float32, **settings):
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
        torch.manual_seed(0)
        config = Qwen2AudioConfig(
            audio_config=AUDIO,
            text_config=TEXT | {"vocab_size": NUM_TOKENS + num_spare},
            audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
            **settings,
        )
        model = Qwen2AudioForConditionalGeneration(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape))
        model.generation_config = GenerationConfig(
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True, top_k=20
        )
        folder = tmp_path_factory.mktemp("stock")
        model.to(dtype).save_pretrained(folder)
        Qwen2AudioProcessor(WhisperFeatureExtractor(feature_size=16), tokenizer).save_pretrained(folder)
        return model, folder

    return make


@pytest.fixture(scope="module")
def stock(make_stock):
    return make_stock()


@pytest.fixture(scope="module")
def converted(stock, tmp_path_factory):
    """Return a function that converts the stock folder with the given settings, once, and returns the new folder."""
    folders = {}

    def run(**settings):
        key = tuple(settings.items())
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp("converted")
            convert(stock[1], folders[key], **settings)
        return folders[key]

    return run


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def read(folder, name):
    return json.loads((folder / name).read_text())


def test_ticks_have_consecutive_ids_and_exact_spellings(converted):
    tokenizer = AutoTokenizer.from_pretrained(converted())
    assert SPELLINGS[:2] == ["<0.00>", "<0.04>"] and SPELLINGS[31] == "<1.24>" and SPELLINGS[-1] == "<29.96>"
    assert len(tokenizer) == NUM_TOKENS + NUM_TICKS
    ids = list(range(NUM_TOKENS, NUM_TOKENS + NUM_TICKS))
    assert tokenizer.convert_tokens_to_ids(SPELLINGS) == ids
    text = "dog: " + " ".join(SPELLINGS) + "-" + "".join(SPELLINGS)
    tokens = tokenizer(text)["input_ids"]
    assert [token for token in tokens if token >= NUM_TOKENS] == ids * 2
    assert tokenizer.decode(tokens, skip_special_tokens=True) == text
    # Not on the grid, or not in angle brackets: no tick.
    assert max(tokenizer("1.24 <1.25> <30.00> <1.2> < 1.24>")["input_ids"]) < NUM_TOKENS


def test_settings_of_the_conversion_are_stored(converted, stock):
    config = load_checkpoint(converted())[0].config
    assert (config.time_token_start_id, config.num_time_tokens) == (NUM_TOKENS, NUM_TICKS)
    assert (config.time_step, config.max_time, config.frame_rate) == (0.04, 30.0, 25.0)
    assert (config.time_prompt, config.time_init, config.answer_format) == (True, "mean", "digits")
    assert config.audio_token_id == stock[0].config.audio_token_id
    assert config.text_config.vocab_size == NUM_TOKENS + NUM_TICKS
    folder = converted(time_step=0.1, max_time=12.0, time_init="place", answer_format="ticks")
    model, processor = load_checkpoint(folder)
    assert (model.config.num_time_tokens, model.config.time_step, model.config.max_time) == (120, 0.1, 12.0)
    assert (model.config.time_init, model.config.answer_format) == ("place", "ticks")
    assert (processor.time_step, processor.max_time, processor.frame_rate) == (0.1, 12.0, 25.0)
    assert (processor.time_prompt, processor.answer_format) == (True, "ticks")
    assert processor.tokenizer.convert_tokens_to_ids(["<0.00>", "<0.10>", "<11.90>"]) == [400, 401, 519]
    assert (model.config.time_stride, processor.time_stride) == (1, 1)


def test_ticks_may_stand_sparsely_in_the_prompt_or_in_answers_alone(converted):
    model, processor = load_checkpoint(converted(time_stride=10))
    assert (model.config.time_stride, processor.time_stride) == (10, 10)
    assert processor.expand_audio(11) == "<0.00>" + "<|AUDIO|>" * 10 + "<0.40>" + "<|AUDIO|>"
    model, processor = load_checkpoint(converted(time_prompt=False, answer_format="ticks"))
    assert (model.config.time_prompt, processor.time_prompt, processor.answer_format) == (False, False, "ticks")
    assert model.config.num_time_tokens == NUM_TICKS and processor.expand_audio(3) == "<|AUDIO|>" * 3
    assert not set(model.config.time_token_ids) & set(model.generation_config.suppress_tokens)


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_first_values_are_those_worked_out_by_hand(converted, stock, name):
    before = stock[0].state_dict()[name].double()
    digits = AutoTokenizer.from_pretrained(stock[1])
    one, point, two, four, nine = (before[digits.convert_tokens_to_ids(token)] for token in "1.249")
    mean, place = (weights_of(converted(time_init=init))[name].double() for init in ("mean", "place"))
    expected = {
        ("mean", 31): (one + point + two + four) / 4,
        ("mean", 531): (two + one + point + two + four) / 5,
        # Each place weighs two thirds of the one before it; the weights sum to one.
        ("place", 31): (27 * one + 18 * point + 12 * two + 8 * four) / 65,
        ("place", 531): (81 * two + 54 * one + 36 * point + 24 * two + 16 * four) / 211,
        ("place", 299): (81 * one + 54 * one + 36 * point + 24 * nine + 16 * before[digits.convert_tokens_to_ids("6")])
        / 211,
    }
    assert (SPELLINGS[31], SPELLINGS[531], SPELLINGS[299]) == ("<1.24>", "<21.24>", "<11.96>")
    for (init, tick), row in expected.items():
        found = {"mean": mean, "place": place}[init][NUM_TOKENS + tick]
        torch.testing.assert_close(found, row, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_random_values_are_seeded_noise_of_the_spread_of_the_vocabulary(converted, stock, name):
    before = stock[0].state_dict()[name]
    noise = torch.randn((NUM_TICKS, 32), generator=torch.Generator().manual_seed(3))
    expected = before.mean(0) + noise * before.std(0)
    first, other = (weights_of(converted(time_init="random", seed=seed))[name][NUM_TOKENS:] for seed in (3, 4))
    torch.testing.assert_close(first, expected, rtol=0, atol=1e-6)
    assert not torch.isclose(first, other).any(1).all()
    torch.testing.assert_close(other.std(0), before.std(0), rtol=0.15, atol=0)


def test_a_mean_forgets_the_order_of_digits_and_place_does_not(converted):
    name = EMBEDDINGS[0]
    mean, place = (weights_of(converted(time_init=init))[name][NUM_TOKENS:].double() for init in ("mean", "place"))
    torch.testing.assert_close(mean[SPELLINGS.index("<1.24>")], mean[SPELLINGS.index("<4.12>")])
    same_digits = [tuple(sorted(Counter(spelling).items())) for spelling in SPELLINGS]
    assert len(set(same_digits)) == 386
    numbers = torch.tensor([sorted(set(same_digits)).index(digits) for digits in same_digits])
    assert torch.equal(torch.cdist(mean, mean) < 1e-5, numbers[:, None] == numbers[None, :])
    distance = torch.cdist(place, place) + torch.eye(NUM_TICKS) * 1e9
    assert distance.min() > 1e-2


@pytest.mark.parametrize("base", ["mean", "place"])
def test_centred_ticks_lose_what_they_share_and_keep_direction_scale_and_order_of_time(converted, stock, base):
    name = EMBEDDINGS[0]
    plain, centred = (
        weights_of(converted(time_init=init))[name][NUM_TOKENS:].double() for init in (base, f"centred_{base}")
    )
    torch.testing.assert_close(centred.mean(0), torch.zeros(32, dtype=torch.float64), rtol=0, atol=1e-6)
    # One factor for all ticks, so that they lie to each other as before.
    factor = centred.norm() / (plain - plain.mean(0)).norm()
    torch.testing.assert_close(centred, factor * (plain - plain.mean(0)), rtol=0, atol=1e-6)
    spread = stock[0].state_dict()[name].double().std(0).norm()
    torch.testing.assert_close(centred.square().sum(1).mean().sqrt(), spread, rtol=1e-5, atol=0)

    def cosines(rows):
        rows = torch.nn.functional.normalize(rows, dim=1)
        return [torch.diagonal(rows @ rows.T, lag).mean().item() for lag in (1, 25, 125)]

    (near, later, far), (near_before, _, far_before) = cosines(centred), cosines(plain)
    assert near < near_before - 0.03 and far < far_before - 0.1
    if base == "place":
        # Next to each other, 1 s and 5 s apart. A mean forgets the order of digits, so it has none to keep.
        assert near > later + 0.3 and later > far + 0.1


@pytest.mark.parametrize("num_spare, vocab_size", [(0, 1150), (100, 1150), (750, 1150), (900, 1300)])
def test_spare_rows_are_used_before_the_vocabulary_grows(make_stock, tmp_path, num_spare, vocab_size):
    stock, folder = make_stock(num_spare)
    convert(folder, tmp_path / "out")
    before, after = stock.state_dict(), weights_of(tmp_path / "out")
    config = read(tmp_path / "out", "config.json")
    assert config["text_config"]["vocab_size"] == vocab_size and config["time_token_start_id"] == NUM_TOKENS
    end = NUM_TOKENS + NUM_TICKS
    for name in EMBEDDINGS:
        assert after[name].shape == (vocab_size, 32)
        assert torch.equal(after[name][:NUM_TOKENS], before[name][:NUM_TOKENS])
        assert torch.equal(after[name][end:], before[name][end:])
        # Spare rows say nothing about the spread of the vocabulary, nor do they become ticks.
        digits = AutoTokenizer.from_pretrained(folder)
        row = before[name][digits.convert_tokens_to_ids(list("0.00"))].mean(0)
        torch.testing.assert_close(after[name][NUM_TOKENS], row)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_other_weights_are_the_stock_ones(make_stock, tmp_path, dtype):
    stock, folder = make_stock(dtype=dtype)
    assert "language_model.lm_head.weight" in weights_of(folder), "transformers no longer saves the older names"
    convert(folder, tmp_path / "out")
    before, after = stock.state_dict(), weights_of(tmp_path / "out")
    assert after.keys() == before.keys()
    assert all(weight.dtype == dtype for weight in after.values())
    assert [name for name in before if not torch.equal(before[name], after[name][: len(before[name])])] == []
    assert {name for name in before if before[name].shape != after[name].shape} == set(EMBEDDINGS)


@pytest.mark.parametrize("answer_format", ["digits", "ticks"])
def test_generation_is_kept_from_emitting_placeholders_and_ticks(converted, stock, answer_format):
    settings = read(converted(answer_format=answer_format), "generation_config.json")
    ticks = list(range(NUM_TOKENS, NUM_TOKENS + NUM_TICKS)) if answer_format == "digits" else []
    assert settings["suppress_tokens"] == [stock[0].config.audio_token_id, *ticks]
    assert settings["max_new_tokens"] == 256
    kept = stock[0].generation_config
    assert [settings[name] for name in ("eos_token_id", "pad_token_id")] == [kept.eos_token_id, kept.pad_token_id]
    ours = {"suppress_tokens", "max_new_tokens", "transformers_version"}
    assert settings.keys() <= ours | {"eos_token_id", "pad_token_id"}


def test_how_a_backbone_samples_is_left_out_and_said(make_stock, tmp_path, caplog):
    stock, folder = make_stock()
    ends = {"eos_token_id": stock.generation_config.eos_token_id, "pad_token_id": stock.generation_config.pad_token_id}
    sampling = {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.5, "repetition_penalty": 1.1,
                "no_repeat_ngram_size": 3, "num_beams": 4, "min_new_tokens": 9}  # fmt: skip
    (folder / "generation_config.json").write_text(json.dumps(ends | sampling))
    with caplog.at_level("WARNING"):
        convert(folder, tmp_path / "out")
    (said,) = [record.getMessage() for record in caplog.records if "generation_config.json" in record.getMessage()]
    assert all(f"{name}={value!r}" in said for name, value in sampling.items()) and "token_id" not in said
    assert not sampling.keys() & read(tmp_path / "out", "generation_config.json").keys()
    # A backbone that samples nothing has nothing to be said about.
    (folder / "generation_config.json").write_text(json.dumps(ends | {"use_cache": True, "do_sample": False}))
    caplog.clear()
    convert(folder, tmp_path / "again")
    assert "generation_config.json" not in caplog.text


def test_a_converted_checkpoint_loads_without_missing_or_unexpected_keys(converted):
    _, info = TimeProAudioForCausalLM.from_pretrained(converted(), output_loading_info=True)
    assert {kind for kind, found in info.items() if found} == set()


CLIP = "Audio 1: <|audio_bos|><|AUDIO|><|audio_eos|>\nAudio 2: <|audio_bos|><|AUDIO|><|audio_eos|>\nwhat?"


def noise(seconds, seed=0):
    return (0.1 * np.random.default_rng(seed).normal(size=round(seconds * 16000))).astype(np.float32)


def logits_of(model, processor, audio):
    inputs = processor(text=[CLIP], audio=audio, sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        return model.eval()(**inputs).logits


def assert_stock_logits(folder, stock, stock_folder):
    model, processor = load_checkpoint(folder)
    processor.time_prompt = False
    # Not whole mel frames, the first of which would make an audio frame more.
    audio = [noise(1.025), noise(0.337, 1)]
    expected = logits_of(stock, Qwen2AudioProcessor.from_pretrained(stock_folder), audio)
    assert expected.std() > 0.3
    logits = logits_of(model, processor, audio)
    torch.testing.assert_close(logits[..., :NUM_TOKENS], expected, rtol=0, atol=1e-5)
    processor.time_prompt = True
    prompted = logits_of(model, processor, audio)
    assert prompted.shape[1] == logits.shape[1] + 26 + 8
    assert (prompted[0, -1] - logits[0, -1]).abs().max() > 1e-3


def test_with_the_prompt_off_the_logits_are_the_stock_ones(converted, stock):
    assert_stock_logits(converted(), *stock)


def test_a_stock_model_that_claims_tied_embeddings_keeps_its_own_two(make_stock, tmp_path):
    # The stock class ties nothing whatever its configuration says; a tied copy would lose one of the matrices.
    stock, folder = make_stock(tie_word_embeddings=True)
    assert stock.lm_head.weight is not stock.get_input_embeddings().weight
    convert(folder, tmp_path / "out")
    assert_stock_logits(tmp_path / "out", stock, folder)


def test_the_chat_template_renders_as_the_stock_one(converted, stock):
    conversation = [
        {"role": "user", "content": [{"type": "audio", "audio": "a.wav"}, {"type": "text", "text": "When?"}]},
        {"role": "assistant", "content": "1.24-3.40"},
        {"role": "user", "content": [{"type": "audio", "audio": "b.wav"}, {"type": "text", "text": "And here?"}]},
    ]
    ours, theirs = load_checkpoint(converted())[1], Qwen2AudioProcessor.from_pretrained(stock[1])
    for turns in (conversation, conversation[:1], [{"role": "system", "content": "Listen."}, *conversation]):
        text = ours.apply_chat_template(turns, add_generation_prompt=True)
        assert text == theirs.apply_chat_template(turns, add_generation_prompt=True)


def test_a_checkpoint_with_ticks_is_not_converted_again(converted, tmp_path):
    with pytest.raises(ValueError, match="model has 750 ticks already; convert the backbone it came from"):
        convert(converted(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_are_not_overwritten_unless_asked_for(stock, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    convert(stock[1], out, max_time=3.0)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(FileExistsError, match="has files already; choose another or pass --overwrite"):
        convert(stock[1], out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    convert(stock[1], out, overwrite=True)
    assert load_checkpoint(out)[0].config.num_time_tokens == NUM_TICKS


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"time_step": 0.02}, "time_step is 0.02 s, shorter than one frame of 0.04 s"),
        ({"time_step": -1}, "time_step is -1; give a finite number greater than 0"),
        ({"max_time": 60.0}, "max_time is 60 s but the audio encoder takes 30 s"),
        ({"time_init": "zeros"}, "'zeros'; choose one of"),
        ({"answer_format": "words"}, "'words'; choose one of"),
    ],
)
def test_settings_that_cannot_work_are_refused(stock, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        convert(stock[1], tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_other_backbones_are_refused(tmp_path):
    Qwen2ForCausalLM(Qwen2Config(**TEXT, vocab_size=50)).save_pretrained(tmp_path / "text")
    with pytest.raises(ValueError, match="model_type 'qwen2'; supported are .*qwen2_audio"):
        convert(tmp_path / "text", tmp_path / "out")


def test_a_tokenizer_that_knows_ticks_is_refused(make_stock, tmp_path):
    _, folder = make_stock(1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<1.24>"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ValueError, match="the tokenizer knows some ticks already"):
        convert(folder, tmp_path / "out")


def test_a_backbone_of_ours_is_converted_at_its_own_frame_rate(tokenizer_folder, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    config = TimeProAudioConfig(
        audio_config={"model_type": "timepro_yamnet", "num_hidden_layers": 1, "hidden_size": 32},
        text_config=TEXT | {"vocab_size": NUM_TOKENS},
        audio_token_id=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
        time_prompt=False,
        frame_rate=12.5,
    )
    processor = TimeProAudioProcessor(TimeProYamnetFeatureExtractor(), tokenizer, time_prompt=False, frame_rate=12.5)
    save_checkpoint(TimeProAudioForCausalLM(config), processor, tmp_path / "backbone")
    with pytest.raises(ValueError, match="time_step is 0.04 s, shorter than one frame of 0.08 s"):
        convert(tmp_path / "backbone", tmp_path / "out")
    arguments = ["--backbone", str(tmp_path / "backbone"), "--out", str(tmp_path / "out"), "--time-step", "0.08"]
    main(["convert", *arguments, "--max-time", "60", "--time-init", "place", "--answer-format", "ticks"])
    model, processor = load_checkpoint(tmp_path / "out")
    assert (model.config.num_time_tokens, model.config.frame_rate) == (750, 12.5)
    assert (model.config.time_init, model.config.answer_format) == ("place", "ticks")
    assert processor.grid.tick_tokens()[-1] == "<59.92>" and processor.frame_rate == 12.5
