"""With the time prompt off, each backbone is its stock class; with it on, ticks are all that is added."""

import functools
import itertools

import numpy as np
import pytest
import torch
from memory_conversion import add_time_tokens, load_backbone
from tiny_backbones import MAKERS, make_stock, save_stock
from transformers import WhisperFeatureExtractor

from processing import TimeGrid
from recipes.conversion.backbones import backbone_key

KINDS = tuple(MAKERS)
MODELS = [(kind, *shape) for kind in KINDS for shape in (("small", False), ("small", True), ("wide", False))]
GRID = TimeGrid(25.0, 0.04, 30.0)


def noise(seconds, seed=0):
    return (0.1 * np.random.default_rng(seed).normal(size=round(seconds * 16000))).astype(np.float32)


# Seconds of the clips of each sample of a batch; 0.337 s and 1.025 s are no whole mel frames, 29.99 s no whole frames.
BATCHES = {
    "one clip": [[2.0]],
    "shortest": [[0.1]],
    "longest": [[30.0]],
    "three clips": [[0.337, 29.99, 1.025]],
    "no audio": [[], [], []],
    "mixed": [[3.0], [0.1, 1.025, 0.5], [], [10.0]],
}


# Padding shows only where samples are of other lengths.
CASES = [(batch, side) for batch, samples in BATCHES.items() for side in ("left", "right")[: len(samples)]]


@pytest.fixture(scope="module")
def pair(tokenizer_folder, tmp_path_factory):
    """Return a function that returns a stock model, its processor, and ours read from its folder."""

    @functools.cache
    def make(kind, size="small", tied=False):
        stock, stock_processor = make_stock(kind, tokenizer_folder, size, tied)
        folder = tmp_path_factory.mktemp(kind)
        save_stock(stock, stock_processor, folder)
        return stock, stock_processor, *load_backbone(folder)

    return make


def texts_and_clips(processor, batch):
    """Return one text per sample, other words in each, and all clips."""
    texts, clips = [], []
    for sample in BATCHES[batch]:
        audio = "".join(f"Audio {index}: {processor.audio_token}\n" for index in range(len(sample)))
        texts.append("What? " * (1 + len(texts)) + audio + "When does it sound?")
        for seconds in sample:
            clips.append(noise(seconds, len(clips)))
    return texts, clips


def our_inputs(processor, batch, side):
    texts, clips = texts_and_clips(processor, batch)
    return processor(text=texts, audio=clips or None, return_tensors="pt", padding=True, padding_side=side)


@functools.cache
def stock_features(num_mel_bins, window, batch):
    """Return what the extractor of all three stock processors makes of a batch: a whole window of each clip."""
    clips = [noise(seconds, index) for index, seconds in enumerate(itertools.chain(*BATCHES[batch]))]
    features = WhisperFeatureExtractor(feature_size=num_mel_bins)(
        clips, sampling_rate=16000, padding="max_length", max_length=window * 16000, return_attention_mask=True,
        return_tensors="pt",
    )  # fmt: skip
    assert features["input_features"].shape == (len(clips), num_mel_bins, 100 * window)
    return features["input_features"], features["attention_mask"]


def stock_inputs(kind, processor, batch, side):
    """Return what the stock model takes."""
    inputs = dict(our_inputs(processor, batch, side))
    if "input_features" in inputs:
        name = "input_features_mask" if kind == "audioflamingo3" else "feature_attention_mask"
        del inputs["input_features_mask"]
        # Qwen2.5-Omni's window is 300 s, most of which its encoder drops: 40 s do as well, and take less of the tests.
        window = 40 if kind == "qwen2_5_omni_thinker" else 30
        num_mel_bins = processor.feature_extractor.feature_size
        inputs["input_features"], inputs[name] = stock_features(num_mel_bins, window, batch)
    return inputs


@torch.no_grad()
def logits_of(model, inputs):
    return model(**inputs).logits[inputs["attention_mask"].bool()]


@pytest.mark.parametrize("batch, side", CASES)
@pytest.mark.parametrize("kind, size, tied", MODELS)
def test_logits_are_the_stock_ones(pair, kind, size, tied, batch, side):
    stock, _, ours, processor = pair(kind, size, tied)
    expected = logits_of(stock, stock_inputs(kind, processor, batch, side))
    assert expected.std() > 0.3
    torch.testing.assert_close(logits_of(ours, our_inputs(processor, batch, side)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_rounding_differs(pair, kind):
    stock, _, ours, processor = pair(kind, "wide")
    stock, ours = (type(model)(model.config).double().eval() for model in (stock, ours))
    for model, other in zip((stock, ours), pair(kind, "wide")[::2]):
        model.load_state_dict(other.state_dict())
    inputs = stock_inputs(kind, processor, "mixed", "left")
    expected = logits_of(stock, inputs | {"input_features": inputs["input_features"].double()})
    found = logits_of(ours, our_inputs(processor, "mixed", "left"))
    # Rotary angles are single in both; all else would show.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind, size, tied", MODELS)
def test_answers_are_the_stock_ones(pair, kind, size, tied):
    stock, _, ours, processor = pair(kind, size, tied)
    answers = set()
    options = {"max_new_tokens": 8, "do_sample": False}
    for batch in ("three clips", "no audio", "mixed"):
        expected = stock.generate(**stock_inputs(kind, processor, batch, "left"), **options)
        found = ours.generate(**our_inputs(processor, batch, "left"), **options)
        assert torch.equal(found, expected)
        answers |= {tuple(row[-8:].tolist()) for row in found}
    assert len(answers) > 3 and len(set(itertools.chain(*answers))) > 4, "such answers would prove little"


@pytest.mark.parametrize("kind", KINDS)
def test_tied_weights_are_tied_where_stock_ties_them(pair, kind):
    for tied in (False, True):
        stock, _, ours, _ = pair(kind, "small", tied)
        is_tied = stock.lm_head.weight is stock.get_input_embeddings().weight
        assert is_tied == (tied and kind == "qwen2_5_omni_thinker")
        assert (ours.lm_head.weight is ours.get_input_embeddings().weight) == is_tied


@pytest.mark.parametrize("kind", KINDS)
def test_features_and_tokens_are_those_of_the_stock_processor(pair, kind):
    _, stock_processor, _, processor = pair(kind)
    for batch in ("shortest", "three clips", "longest"):
        texts, clips = texts_and_clips(processor, batch)
        ours = our_inputs(processor, batch, "left")
        features, expansions = stock_processor._process_audio(
            clips, sampling_rate=16000, return_attention_mask=True, return_tensors="pt", padding="max_length"
        )
        mask = features.get("feature_attention_mask", features.get("input_features_mask"))
        mel = torch.as_tensor(features["input_features"])
        num_mel = ours["input_features"].shape[-1]
        assert num_mel <= mel.shape[-1] and not torch.as_tensor(mask)[:, num_mel:].any()
        torch.testing.assert_close(ours["input_features"], mel[..., :num_mel], rtol=0, atol=1e-6)
        assert torch.equal(ours["input_features_mask"], torch.as_tensor(mask)[:, :num_mel].long())
        text = "".join(texts)
        for expansion in expansions:
            text = text.replace(processor.audio_token, "\0" * (len(expansion) // len(processor.audio_token)), 1)
        expected = processor.tokenizer(text.replace("\0", processor.audio_token))["input_ids"]
        assert ours["input_ids"][ours["attention_mask"].bool()].tolist() == expected


@pytest.mark.parametrize("kind", ["qwen2_audio", "audioflamingo3"])
def test_a_call_of_the_stock_processor_gives_the_same_tokens(pair, kind):
    _, stock_processor, _, processor = pair(kind)
    for batch in ("one clip", "longest") + (("three clips",) if kind == "qwen2_audio" else ()):
        texts, clips = texts_and_clips(processor, batch)
        expected = stock_processor(text=texts, audio=clips, return_tensors="pt", padding=True)
        assert torch.equal(our_inputs(processor, batch, "left")["input_ids"], expected["input_ids"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_chat_template_is_kept_and_marks_answers(pair, kind):
    _, stock_processor, _, processor = pair(kind)
    question = {"role": "user", "content": [{"type": "audio", "audio": noise(0.5)}, {"type": "text", "text": "When?"}]}
    answer = {"role": "assistant", "content": "1.24-3.40"}
    turns = [question, answer, question, {"role": "assistant", "content": [{"type": "text", "text": "none"}]}]
    tokenizer = processor.tokenizer
    for count, prompt in itertools.product((1, 2, 3, 4), (False, True)):
        template = stock_processor.chat_template
        expected = tokenizer.apply_chat_template(
            turns[:count], chat_template=template, add_generation_prompt=prompt, tokenize=False
        )
        assert processor.apply_chat_template(turns[:count], add_generation_prompt=prompt) == expected
    inputs = processor.apply_chat_template(turns, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    marked = np.asarray(inputs["input_ids"]).ravel()[np.asarray(inputs["assistant_masks"]).ravel() == 1]
    assert tokenizer.decode(marked) == "1.24-3.40<|im_end|>none<|im_end|>"


@pytest.fixture(scope="module")
def prompted(pair, tmp_path_factory, tokenizer_folder):
    """Return a function that returns the stock model and ours with ticks."""

    @functools.cache
    def make(kind):
        stock, stock_processor = make_stock(kind, tokenizer_folder)
        folder = tmp_path_factory.mktemp(kind)
        save_stock(stock, stock_processor, folder)
        model, processor = load_backbone(folder)
        return stock, model, add_time_tokens(model, processor, GRID, "place")

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_ticks_alternate_with_frames_and_cover_the_clip(prompted, kind):
    _, model, processor = prompted(kind)
    ticks = model.config.time_token_ids
    # 0.1 s are 10 mel frames, 5 positions, 2 frames; 1.025 s are 103 (the last incomplete), 52 and 26; 30 s are 750.
    for seconds, num_frames in ((0.1, 2), (0.337, 8), (1.025, 26), (10.0, 250), (29.99, 750), (30.0, 750)):
        inputs = processor(text=f"{processor.audio_token}!", audio=noise(seconds), return_tensors="pt")
        ids = inputs["input_ids"][0].tolist()
        assert ids[1 : 2 * num_frames : 2] == [model.config.audio_token_id] * num_frames
        assert ids[0 : 2 * num_frames : 2] == list(ticks)[:num_frames]
        assert not set(ids[2 * num_frames :]) & {*ticks, model.config.audio_token_id}
        assert abs(num_frames * 0.04 - seconds) < 0.04, "frames end where the clip does"
        with torch.no_grad():
            assert model(**inputs).audio_hidden_states.shape[0] == num_frames


@pytest.mark.parametrize("kind", KINDS)
def test_without_its_ticks_the_prompt_is_the_stock_one(prompted, pair, kind):
    stock, model, processor = prompted(kind)
    plain = pair(kind)[-1]
    inputs, expected = (our_inputs(ours, "mixed", "left") for ours in (processor, plain))
    assert torch.equal(inputs["input_features"], expected["input_features"])
    ticks = set(model.config.time_token_ids)
    for row, mask, other, other_mask in zip(
        inputs["input_ids"], inputs["attention_mask"], expected["input_ids"], expected["attention_mask"]
    ):
        assert [token for token in row[mask.bool()].tolist() if token not in ticks] == other[other_mask.bool()].tolist()
    # Without its tick rows the model is the stock one, too.
    vocab_size = stock.config.get_text_config().vocab_size
    theirs = logits_of(stock, stock_inputs(kind, plain, "mixed", "left"))
    torch.testing.assert_close(logits_of(model, expected)[:, :vocab_size], theirs, rtol=0, atol=1e-5)
    weights = model.state_dict()
    for key, weight in stock.state_dict().items():
        name = backbone_key(kind, key)
        if name is not None:
            assert torch.equal(weights[name][: len(weight)] if weight.dim() else weights[name], weight), name
