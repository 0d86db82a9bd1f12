"""The model: sound reaches its logits, and no way of computing them changes the answer."""

import copy
import functools

import numpy as np
import pytest
import torch
from memory_conversion import add_time_tokens
from torch import nn
from torch.nn import functional as F
from transformers import WhisperFeatureExtractor
from transformers.utils import output_capturing

from modeling_timepro import TimeProAudioConfig, TimeProAudioForCausalLM
from processing import TimeGrid, TimeProAudioProcessor, TimeProYamnetFeatureExtractor
from recipes.conversion.checkpoint import load_checkpoint, save_checkpoint
from recipes.small.language_model import train_tokenizer

QWEN, YAMNET = "qwen2_audio_encoder", "timepro_yamnet"
GRIDS = {QWEN: TimeGrid(25.0, 0.04, 4.0), YAMNET: TimeGrid(12.5, 0.08, 4.0)}
TOWERS = {
    QWEN: {"num_mel_bins": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 48, "d_model": 32},
    YAMNET: {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "dropout": 0.0},
}
TEXT = {"model_type": "qwen2", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "intermediate_size": 48}  # fmt: skip
# Ids below are text; ticks follow the placeholder.
BOS, EOS, AUDIO, FIRST_TICK = 40, 41, 42, 43


def shake(model):
    """Draw weights large enough that answers vary and follow the sound, and biases and norms that are not 0 and 1."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.25 * torch.randn(parameter.shape, generator=generator))
        model.model.multi_modal_projector.linear.weight.mul_(4)
        model.lm_head.weight.mul_(2)
    return model.eval()


@functools.cache
def build(tower, ticks=True, vocab_size=None):
    """Return a model with random weights; it is shared, so tests that change it copy it first."""
    grid = GRIDS[tower]
    num_ticks = grid.num_ticks if ticks else 0
    config = TimeProAudioConfig(
        audio_config={"model_type": tower} | TOWERS[tower],
        text_config=TEXT | {"vocab_size": vocab_size or FIRST_TICK + num_ticks},
        audio_token_id=AUDIO,
        time_token_start_id=FIRST_TICK if ticks else None,
        num_time_tokens=num_ticks,
        **{name: getattr(grid, name) for name in ("time_step", "max_time", "frame_rate")},
    )
    torch.manual_seed(0)
    return shake(TimeProAudioForCausalLM(config))


@pytest.fixture(params=[QWEN, YAMNET])
def model(request):
    """Return a model of either tower with the time prompt on."""
    return build(request.param)


def noise(seconds, seed=0):
    return (0.1 * np.random.default_rng(seed).normal(size=round(seconds * 16000))).astype(np.float32)


def clip_ids(config, num_samples):
    half = (num_samples // 160 - 1) // 2 + 1
    num_frames = half // round(50 / config.frame_rate)
    grid = GRIDS[config.audio_config.model_type]
    order = grid.interleave(num_frames) if config.num_time_tokens else [-1] * num_frames
    return [BOS, *(AUDIO if item < 0 else FIRST_TICK + item for item in order), EOS]


def mel_features(config, clips):
    if config.audio_config.model_type == YAMNET:
        return dict(TimeProYamnetFeatureExtractor()(clips, sampling_rate=16000, return_tensors="pt"))
    options = {"padding": "max_length", "return_attention_mask": True, "return_tensors": "pt"}
    features = WhisperFeatureExtractor(feature_size=16)(clips, sampling_rate=16000, **options)
    return {"input_features": features["input_features"], "input_features_mask": features["attention_mask"]}


def batch_of(model, *samples, side="right"):
    """Return model inputs of samples, each a list of clips; text around them differs with the number of clips."""
    rows = []
    for clips in samples:
        text = np.random.default_rng(len(clips)).integers(0, BOS, 7 + 4 * len(clips)).tolist()
        rows.append(text[:4] + [token for clip in clips for token in clip_ids(model.config, len(clip))] + text[4:])
    pad = functools.partial(nn.utils.rnn.pad_sequence, batch_first=True, padding_side=side)
    batch = {
        "input_ids": pad([torch.tensor(row) for row in rows]),
        "attention_mask": pad([torch.ones(len(row), dtype=torch.long) for row in rows]),
    }
    clips = [clip for sample in samples for clip in sample]
    return batch | (mel_features(model.config, clips) if clips else {})


@torch.no_grad()
def logits_of(model, batch):
    return model(**batch).logits


def assert_close(actual, expected, tolerance=1e-5):
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


MIXED = [[noise(2.0)], [noise(0.1, 1), noise(1.0, 2)], [], [noise(0.5, 3), noise(0.3, 4)]]


def test_another_waveform_gives_other_logits(model):
    first, second = (batch_of(model, [noise(1.0), noise(1.0, seed)]) for seed in (1, 2))
    before, after = logits_of(model, first)[0], logits_of(model, second)[0]
    start = first["input_ids"][0].tolist().index(EOS)
    assert torch.equal(first["input_ids"], second["input_ids"])
    assert_close(before[:start], after[:start])
    assert (before[-1] - after[-1]).abs().max() > 1e-2
    swapped = logits_of(model, batch_of(model, [noise(1.0, 1), noise(1.0)]))[0]
    assert (before[-1] - swapped[-1]).abs().max() > 1e-2


def test_ticks_change_the_logits_of_the_same_sound(model):
    batch = batch_of(model, [noise(1.0)])
    ticks = batch["input_ids"] >= FIRST_TICK
    assert ticks.sum() == (batch["input_ids"] == AUDIO).sum() > 0
    later = batch | {"input_ids": batch["input_ids"] + ticks.long()}
    assert (logits_of(model, batch)[0, -1] - logits_of(model, later)[0, -1]).abs().max() > 1e-3


def assert_refused(model, batch, num_placeholders, num_frames):
    message = rf"has {num_placeholders} audio placeholders \(id {AUDIO}\) but the audio gives {num_frames} frames"
    for call in (model, model.model, functools.partial(model.generate, max_new_tokens=1)):
        with pytest.raises(ValueError, match=message):
            call(**batch)


def test_placeholders_and_frames_must_be_equally_many(model):
    batch = batch_of(model, [noise(1.0), noise(0.5, 1)])
    del batch["attention_mask"]
    row = batch["input_ids"][0].tolist()
    place, num_frames = row.index(AUDIO), row.count(AUDIO)
    assert_refused(model, {"input_ids": batch["input_ids"]}, num_frames, 0)
    changed = {0: [1 if token == AUDIO else token for token in row], num_frames - 1: row[:place] + row[place + 1 :],
               num_frames + 1: [*row, AUDIO]}  # fmt: skip
    for num_placeholders, tokens in changed.items():
        assert_refused(model, batch | {"input_ids": torch.tensor([tokens])}, num_placeholders, num_frames)


def test_inputs_that_contradict_are_refused(model):
    batch = batch_of(model, [noise(1.0)])
    embeds = model.get_input_embeddings()(batch["input_ids"]).detach()
    audio = {name: batch[name] for name in ("input_features", "input_features_mask")}
    for wrong in (batch | {"inputs_embeds": embeds}, audio, {}):
        with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
            model(**wrong)
    with pytest.raises(ValueError, match="inputs_embeds has 0 audio placeholders"):
        model(inputs_embeds=torch.zeros_like(embeds), **audio)
    with pytest.raises(ValueError, match="stem_features without input_features_mask"):
        model(input_ids=batch["input_ids"], stem_features=torch.zeros(1, 12, 8))
    if model.config.audio_config.model_type == QWEN:
        with pytest.raises(ValueError, match="only a timepro_yamnet encoder has a frozen stem"):
            model(**batch, stem_features=torch.zeros(1, 12, 8))
        with pytest.raises(ValueError, match="a clip of 3001 mel frames but the audio encoder takes at most 3000"):
            model.get_audio_features(torch.zeros(1, 16, 3001))


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_equals_its_samples(model, side):
    batch = batch_of(model, *MIXED, side=side)
    logits = logits_of(model, batch)
    for row, mask, sample in zip(logits, batch["attention_mask"].bool(), MIXED, strict=True):
        assert_close(row[mask], logits_of(model, batch_of(model, sample))[0], 5e-5)


def test_text_alone_goes_to_the_language_model(model):
    batch = batch_of(model, [], [])
    expected = model.lm_head(model.model.language_model(**batch).last_hidden_state)
    embeds = model.get_input_embeddings()(batch["input_ids"])
    assert torch.equal(logits_of(model, batch), expected)
    assert torch.equal(logits_of(model, {"inputs_embeds": embeds}), expected)


OPTIONS = {"max_new_tokens": 10, "do_sample": False, "pad_token_id": 0, "suppress_tokens": [AUDIO]}


def test_the_cache_changes_no_answer(model):
    batch = batch_of(model, *MIXED, side="left")
    cached = model.generate(**batch, **OPTIONS)
    assert len({tuple(answer[-10:].tolist()) for answer in cached}) == len(MIXED)
    assert torch.equal(cached, model.generate(**batch, **OPTIONS, use_cache=False))
    for row, sample in zip(cached, MIXED, strict=True):
        assert torch.equal(row[-10:], model.generate(**batch_of(model, sample), **OPTIONS)[0, -10:])


@torch.no_grad()
def encode_audio(model, batch):
    """Return the batch with its audio encoded already."""
    rest = {name: value for name, value in batch.items() if not name.startswith("input_features")}
    features = model.get_audio_features(batch["input_features"], batch["input_features_mask"])
    return rest | {"audio_embeds": features.pooler_output}


@pytest.mark.parametrize("use_cache", [True, False])
def test_audio_encoded_before_gives_the_same_logits_and_answer(model, use_cache):
    batch = batch_of(model, *MIXED, side="left")
    encoded = encode_audio(model, batch)
    assert encoded["audio_embeds"].shape == ((batch["input_ids"] == AUDIO).sum(), 32)
    assert torch.equal(logits_of(model, encoded), logits_of(model, batch))
    answer = model.generate(**encoded, **OPTIONS, use_cache=use_cache)
    assert torch.equal(answer, model.generate(**batch, **OPTIONS))


@pytest.mark.parametrize("use_cache", [True, False])
def test_stored_stems_give_the_same_logits_and_answer(use_cache):
    model = build(YAMNET)
    batch = batch_of(model, *MIXED, side="left")
    stems = model.model.audio_tower.stem(batch["input_features"], batch["input_features_mask"])
    stored = {name: value for name, value in batch.items() if name != "input_features"} | {"stem_features": stems}
    assert_close(logits_of(model, stored), logits_of(model, batch))
    answer = model.generate(**stored, **OPTIONS, use_cache=use_cache)
    assert torch.equal(answer, model.generate(**batch, **OPTIONS))


@pytest.mark.parametrize("encoded", [False, True])
@pytest.mark.parametrize("expansion", [{"num_return_sequences": 3, "do_sample": True}, {"num_beams": 3}])
def test_several_answers_per_sample_hear_that_sample(model, expansion, encoded):
    # Clips are no rows of the batch: repeated one by one, as rows are, some would reach another sample.
    batch = batch_of(model, *MIXED, side="left")
    output = model.generate(
        **encode_audio(model, batch) if encoded else batch,
        **OPTIONS | expansion | {"max_new_tokens": 2, "output_logits": True, "return_dict_in_generate": True},
    )
    expected = logits_of(model, batch)[:, -1].repeat_interleave(3, dim=0)
    assert_close(output.logits[0], expected, 5e-5)


def test_kept_logits_are_a_slice_of_all(model):
    batch = batch_of(model, *MIXED[1:3], side="left")
    full = logits_of(model, batch)
    index = torch.tensor([0, 5, full.shape[1] - 1])
    for kept, expected in ((0, full), (1, full[:, -1:]), (3, full[:, -3:]), (index, full[:, index])):
        assert_close(logits_of(model, batch | {"logits_to_keep": kept}), expected)


def learn(model, batch):
    model.train().zero_grad()
    unlearnt = (batch["input_ids"] >= BOS) | (batch["attention_mask"] == 0)
    labels = batch["input_ids"].masked_fill(unlearnt, -100)
    output = model(**batch, labels=labels, use_cache=False)
    expected = F.cross_entropy(output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    assert_close(output.loss, expected)
    output.loss.backward()
    return output.loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.skipif(not hasattr(output_capturing, "selected_hidden_states"), reason="this transformers records all")
@torch.no_grad()
def test_hidden_states_may_be_chosen_by_their_index(model):
    inputs = {"input_ids": torch.tensor([[5, 6, 7]])}
    every = model(**inputs, output_hidden_states=True).hidden_states
    some = model(**inputs, output_hidden_states=[1]).hidden_states
    assert [index for index, states in enumerate(some) if states is not None] == [1]
    assert some[1].equal(every[1])


def test_gradient_checkpointing_changes_nothing(model):
    batch = batch_of(model, *MIXED[:3])
    loss, gradients = learn(copy.deepcopy(model), batch)
    checkpointed = copy.deepcopy(model)
    checkpointed.gradient_checkpointing_enable()
    assert checkpointed.model.audio_tower.layers[0].gradient_checkpointing
    assert checkpointed.model.language_model.layers[0].gradient_checkpointing
    again, others = learn(checkpointed, batch)
    assert_close(again, loss)
    for name, gradient in gradients.items():
        assert gradient is not None and gradient.abs().max() > 0, name
        assert_close(others[name], gradient, 1e-5)


def test_eager_attention_equals_sdpa(model):
    batch = batch_of(model, *MIXED)
    eager = TimeProAudioForCausalLM._from_config(copy.deepcopy(model.config), attn_implementation="eager").eval()
    eager.load_state_dict(model.state_dict())
    for found, name in ((eager, "eager"), (model, "sdpa")):
        for part in (found.model.audio_tower, found.model.language_model):
            assert part.config._attn_implementation == name
    valid = batch["attention_mask"].bool()
    assert_close(logits_of(eager, batch)[valid], logits_of(model, batch)[valid], 5e-5)


@pytest.mark.parametrize("answer_format", ["digits", "ticks"])
def test_ticks_are_emitted_only_where_answers_are_ticks(answer_format, tmp_path):
    tokenizer = train_tokenizer(vocab_size=400, num_documents=300)
    model = copy.deepcopy(build(YAMNET, ticks=False, vocab_size=len(tokenizer)))
    model.config.audio_token_id = tokenizer.convert_tokens_to_ids("<|AUDIO|>")
    processor = TimeProAudioProcessor(TimeProYamnetFeatureExtractor(), tokenizer, time_prompt=False, frame_rate=12.5)
    processor = add_time_tokens(model, processor, GRIDS[YAMNET], "random", answer_format)
    audio, ticks = model.config.audio_token_id, list(model.config.time_token_ids)
    # Of so many rows in random directions, some win over any other token.
    model.lm_head.weight.data[[audio, *ticks]] *= 1000
    save_checkpoint(model, processor, tmp_path)
    model, processor = load_checkpoint(tmp_path)
    inputs = processor(text="<|audio_bos|><|AUDIO|><|audio_eos|>", audio=noise(1.0), return_tensors="pt")
    torch.manual_seed(0)
    for options in ({"do_sample": False}, {"do_sample": True, "top_k": 0, "temperature": 2.0}):
        answer = model.generate(**inputs, **options, max_new_tokens=30)[0, inputs["input_ids"].shape[1] :].tolist()
        assert audio not in answer
        assert set(answer) <= set(ticks) if answer_format == "ticks" else not set(answer) & set(ticks)


def test_trl_finds_what_it_needs(model):
    assert model.base_model_prefix == "model" and model.base_model is model.model
    assert type(model.lm_head) is nn.Linear and model.lm_head.bias is None
    assert model.get_output_embeddings() is model.lm_head
    assert model.config.image_token_id == model.config.audio_token_id == AUDIO
    batch = batch_of(model, *MIXED)
    states = model.model(**batch).last_hidden_state
    assert states.shape == (*batch["input_ids"].shape, 32)
    assert torch.equal(model.lm_head(states), logits_of(model, batch))
