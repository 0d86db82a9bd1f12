"""What users of transformers do with any model: batches, caches, assistants, embeddings, output flags, Auto classes."""

import copy
import json

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoProcessor,
    DynamicCache,
    GenerationConfig,
    StaticCache,
    Trainer,
    TrainingArguments,
    pipeline,
)

from modeling_timepro import TimeProAudioConfig, TimeProAudioForCausalLM
from processing import TemporalAudioGroundingPipeline
from recipes.conversion.checkpoint import save_checkpoint

TASK = "temporal-audio-grounding"
GREEDY = {"max_new_tokens": 12, "do_sample": False}


def noise(num_samples, seed=0):
    return 0.1 * np.random.default_rng(seed).normal(size=num_samples).astype(np.float32)


def question(text="What can you hear?"):
    return [{"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": text}]}]


@pytest.fixture(scope="module")
def clip(lively_checkpoint):
    """Return the model, the inputs of a clip of 2.5 s, and the greedy answer about it."""
    model, processor = lively_checkpoint
    text = processor.apply_chat_template(question(), add_generation_prompt=True)
    inputs = processor(text=text, audio=noise(40000), return_tensors="pt")
    return model, inputs, answer(model, inputs)


def answer(model, inputs, **options):
    output = model.generate(**inputs, **GREEDY | options)
    return output[0, inputs["input_ids"].shape[1] if "input_ids" in inputs else 0 :].tolist()


def test_answers_in_a_batch_are_those_of_separate_clips(lively_checkpoint):
    model, processor = lively_checkpoint
    clips = [noise(16000, 1), noise(40000, 2)]
    texts = processor.apply_chat_template([question("When is a dog barking?"), question()], add_generation_prompt=True)
    inputs = processor(text=texts, audio=clips, padding=True, return_tensors="pt")
    assert inputs["attention_mask"][0, 0] == 0, "padding is not on the left"
    together = model.generate(**inputs, **GREEDY)[:, inputs["input_ids"].shape[1] :].tolist()
    for row, text, sound in zip(together, texts, clips, strict=True):
        alone = answer(model, processor(text=text, audio=sound, return_tensors="pt"))
        assert row[: len(alone)] == alone


def test_every_saved_tokenizer_pads_on_the_left(lively_checkpoint, tmp_path):
    save_checkpoint(*lively_checkpoint, tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["padding_side"] == "left"


def test_tuples_begin_with_loss_and_logits(clip):
    model, inputs, _ = clip
    shape = (*inputs["input_ids"].shape, model.config.text_config.vocab_size)
    assert model(**inputs)[0].shape == shape
    loss, logits, *_ = model(**inputs, labels=inputs["input_ids"], return_dict=False)
    assert loss.shape == () and logits.shape == shape


def test_trainer_evaluates_logits(clip, tmp_path):
    model, inputs, _ = clip
    row = dict(inputs) | {"labels": inputs["input_ids"]}
    trainer = Trainer(
        model,
        TrainingArguments(output_dir=str(tmp_path), per_device_eval_batch_size=1, use_cpu=True, report_to="none"),
        eval_dataset=[row, row],
        data_collator=lambda rows: rows[0],
        compute_metrics=lambda prediction: {"size": prediction.predictions.shape[-1]},
    )
    assert trainer.evaluate()["eval_size"] == model.config.text_config.vocab_size


def test_embeddings_take_the_place_of_tokens(clip):
    model, inputs, expected = clip
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    audio = {name: inputs[name] for name in ("input_features", "input_features_mask")}
    rest = {"attention_mask": inputs["attention_mask"]}
    assert answer(model, rest | audio | {"inputs_embeds": embeds}) == expected
    assert answer(model, rest | audio | {"inputs_embeds": embeds}, num_beams=2) == answer(model, inputs, num_beams=2)
    is_frame = (inputs["input_ids"] == model.config.audio_token_id)[..., None]
    merged = embeds.masked_scatter(is_frame, model.get_audio_features(**audio).pooler_output)
    assert answer(model, rest | {"inputs_embeds": merged}) == expected
    with pytest.raises(ValueError, match="inputs_embeds has 0 audio placeholders"):
        model(inputs_embeds=merged, **audio)


@pytest.mark.parametrize("is_other", [False, True])
def test_an_assistant_changes_no_answer(clip, is_other):
    model, inputs, expected = clip
    assistant = copy.deepcopy(model)
    if is_other:
        torch.manual_seed(0)
        with torch.no_grad():
            assistant.lm_head.weight.add_(0.3 * torch.randn(assistant.lm_head.weight.shape))
    assert answer(model, inputs, assistant_model=assistant) == expected


@pytest.mark.parametrize(
    "options", [{"cache_implementation": "static"}, {"use_cache": False}, {"prompt_lookup_num_tokens": 3}], ids=str
)
def test_ways_to_decode_change_no_answer(clip, options):
    model, inputs, expected = clip
    assert answer(model, inputs, **options) == expected


def test_a_cache_that_is_given_changes_no_answer(clip):
    model, inputs, expected = clip
    text_config = model.config.get_text_config()
    length = inputs["input_ids"].shape[1] + GREEDY["max_new_tokens"]
    for cache in (DynamicCache(config=text_config), StaticCache(text_config, max_cache_len=length)):
        assert answer(model, inputs, past_key_values=cache) == expected
        assert int(cache.get_seq_length()) >= inputs["input_ids"].shape[1]


def test_embeddings_with_a_static_cache_change_no_answer(clip):
    model, inputs, expected = clip
    rest = {name: value for name, value in inputs.items() if name != "input_ids"}
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    assert answer(model, rest | {"inputs_embeds": embeds}, cache_implementation="static") == expected


def test_what_greedy_generation_returns_with_its_answer_belongs_to_it(clip):
    model, inputs, expected = clip
    flags = ("output_scores", "output_logits", "output_hidden_states", "return_dict_in_generate")
    outputs = model.generate(**inputs, **GREEDY, **dict.fromkeys(flags, True))
    width, config = inputs["input_ids"].shape[1], model.config.get_text_config()
    tokens = outputs.sequences[:, width:]
    assert tokens[0].tolist() == expected
    assert len(outputs.scores) == len(outputs.logits) == len(outputs.hidden_states) == len(expected)
    assert [int(scores.argmax(-1)) for scores in outputs.scores] == expected
    for place, states in enumerate(outputs.hidden_states):
        assert len(states) == config.num_hidden_layers + 1
        assert {state.shape for state in states} == {(1, width if place == 0 else 1, config.hidden_size)}
    # Of one pass over the whole answer.
    whole = model(**dict(inputs) | {
        "input_ids": outputs.sequences, "attention_mask": torch.ones_like(outputs.sequences),
    }).logits[:, width - 1 : -1]  # fmt: skip
    torch.testing.assert_close(torch.stack(outputs.logits, 1), whole, rtol=1e-4, atol=1e-4)
    own = model.compute_transition_scores(outputs.sequences, outputs.scores, normalize_logits=True)
    assert own.shape == tokens.shape and (own <= 0).all()


def test_beams_are_returned_best_first_with_the_scores_of_their_tokens(clip):
    model, inputs, _ = clip
    flags = dict.fromkeys(("output_scores", "return_dict_in_generate"), True)
    outputs = model.generate(**inputs, **GREEDY, num_beams=3, num_return_sequences=3, length_penalty=0.0, **flags)
    assert len(outputs.sequences) == 3 and outputs.sequences_scores.diff().le(0).all()
    own = model.compute_transition_scores(outputs.sequences, outputs.scores, outputs.beam_indices)
    torch.testing.assert_close(own.sum(1), outputs.sequences_scores, rtol=1e-4, atol=1e-4)


def test_samples_depend_on_the_seed_alone_and_the_likeliest_token_is_greedy(clip):
    model, inputs, expected = clip
    assert answer(model, inputs, do_sample=True, top_k=1) == expected

    def sampled(seed, **options):
        torch.manual_seed(seed)
        return model.generate(**inputs, **GREEDY | {"do_sample": True}, **options).tolist()

    for options in ({"num_return_sequences": 2, "temperature": 2.0}, {"num_beams": 2, "temperature": 2.0}):
        assert sampled(0, **options) == sampled(0, **options) != sampled(1, **options)


def test_padding_on_the_left_changes_no_logits(clip):
    model, inputs, _ = clip
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    padded = dict(inputs) | {
        "input_ids": torch.cat([ids.new_full((1, 7), 1), ids], 1),
        "attention_mask": torch.cat([mask.new_zeros(1, 7), mask], 1),
    }
    options = GREEDY | {"max_new_tokens": 1, "return_dict_in_generate": True, "output_logits": True}
    found, expected = (model.generate(**one, **options).logits[0] for one in (padded, inputs))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("audio", ["none", "first", "second", "both"])
def test_a_conversation_goes_on_from_its_cache(lively_checkpoint, clip, audio):
    model, inputs, _ = clip
    _, processor = lively_checkpoint
    outputs = model.generate(**inputs, **GREEDY, return_dict_in_generate=True)
    names = ("input_features", "input_features_mask")
    first = {name: inputs[name] for name in names}
    given = {"none": {}, "first": first}
    if audio in given:
        rest = processor.tokenizer("And now?", add_special_tokens=False, return_tensors="pt")["input_ids"]
        whole = first
    else:
        text = processor.apply_chat_template(question(), add_generation_prompt=True)
        more = processor(text=text, audio=noise(40000, 3), return_tensors="pt")
        rest, given["second"] = more["input_ids"], {name: more[name] for name in names}
        whole = given["both"] = {name: torch.cat([inputs[name], more[name]]) for name in names}
    tokens = torch.cat([outputs.sequences, rest], dim=1)
    turn = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    cache = outputs.get("cache", outputs.get("past_key_values"))
    assert answer(model, turn | given[audio], past_key_values=cache) == answer(model, turn | whole)


@pytest.mark.slow
def test_texts_are_answered_by_continuous_batching(lively_checkpoint):
    model, processor = copy.deepcopy(lively_checkpoint[0]), lively_checkpoint[1]
    prompts = processor.tokenizer(["Hello", "When is it?"])["input_ids"]
    settings = copy.deepcopy(model.generation_config)
    settings.update(max_new_tokens=8, do_sample=False)
    results = model.generate_batch(prompts, generation_config=settings, progress_bar=False)
    for prompt, result in zip(prompts, results.values(), strict=True):
        ids = torch.tensor([prompt])
        assert result.generated_tokens == answer(lively_checkpoint[0], {"input_ids": ids}, max_new_tokens=8)


def test_keywords_named_cache_reach_the_language_model(clip):
    model, inputs, _ = clip
    assert torch.equal(model(**inputs, cache=None).logits, model(**inputs).logits)


def test_audio_features_have_the_usual_flags(clip):
    model, inputs, _ = clip
    audio = {name: inputs[name] for name in ("input_features", "input_features_mask")}
    model = copy.deepcopy(model)
    model.set_attn_implementation("eager")
    num_layers = model.config.audio_config.num_hidden_layers
    outputs = model.get_audio_features(**audio, output_hidden_states=True, output_attentions=True)
    assert len(outputs.hidden_states) == num_layers + 1 and len(outputs.attentions) == num_layers
    assert torch.allclose(outputs.attentions[0].sum(-1), torch.ones(()))
    assert isinstance(model.get_audio_features(**audio, return_dict=False), tuple)


def test_the_attention_implementation_reaches_every_part(clip):
    model = copy.deepcopy(clip[0])
    model.set_attn_implementation("eager")
    parts = (model, model.model, model.model.audio_tower, model.model.language_model)
    assert {part.config._attn_implementation for part in parts} == {"eager"}
    assert model.model.audio_tower.layers[0].attention.config._attn_implementation == "eager"
    expected, actual = clip[0](**clip[1]).logits, model(**clip[1]).logits
    assert not torch.equal(actual, expected) and torch.allclose(actual, expected, atol=1e-4)


def test_the_longest_clip_limits_no_generation(clip):
    model, _, _ = clip
    assert model.config.max_time == model.config.max_audio_time == 4.0
    assert GenerationConfig.from_model_config(model.config).max_time is None
    assert model.generation_config.max_time is None
    # As older checkpoints name it.
    assert TimeProAudioConfig(max_time=12.0).max_audio_time == 12.0
    assert TimeProAudioConfig.from_dict({"max_time": 12.0}).to_dict()["max_audio_time"] == 12.0


def test_servers_find_what_they_ask_for(clip):
    model, inputs, _ = clip
    config = model.config
    assert config.audio_config.max_source_positions >= config.max_time * config.frame_rate
    tied = TimeProAudioConfig(text_config={"model_type": "qwen2", "tie_word_embeddings": True})
    assert tied.tie_word_embeddings == tied.text_config.tie_word_embeddings == False  # noqa: E712
    tied.tie_word_embeddings = True
    assert tied.to_dict()["text_config"]["tie_word_embeddings"]
    positions, deltas = model.model.get_rope_index(inputs["input_ids"])
    assert positions.tolist() == [list(range(inputs["input_ids"].shape[1]))] and deltas.tolist() == [[0]]
    features, mask = inputs["input_features"], inputs["input_features_mask"]
    whole = model.get_audio_features(features, mask).pooler_output
    short = model.get_audio_features(features[..., :100], mask[..., :100]).pooler_output
    listed = model.get_audio_features([features[0], features[0, :, :100]], [mask[0], mask[0, :100]]).pooler_output
    assert torch.allclose(listed, torch.cat([whole, short]), atol=1e-5)


def test_the_installed_package_asks_for_no_trust(lively_checkpoint, tmp_path):
    save_checkpoint(*lively_checkpoint, tmp_path)
    loaders = (AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMultimodalLM, AutoProcessor)
    for loader in (*loaders, AutoFeatureExtractor):
        module = type(loader.from_pretrained(tmp_path)).__module__
        assert module.startswith(("modeling_timepro.", "processing.")), module
    assert type(pipeline(TASK, model=str(tmp_path))) is TemporalAudioGroundingPipeline
    # What it saves loads without the package too.
    AutoConfig.from_pretrained(tmp_path).save_pretrained(tmp_path / "again")
    saved = json.loads((tmp_path / "again" / "config.json").read_text())
    assert TASK in saved["custom_pipelines"] and saved["auto_map"]["AutoModel"]


def test_the_pipeline_takes_a_static_cache_and_generate_kwargs(lively_checkpoint, tmp_path):
    save_checkpoint(*lively_checkpoint, tmp_path)
    pipe = pipeline(TASK, model=str(tmp_path), max_new_tokens=24, chunk_length_s=1.5)

    def texts(task="detection", query=None, **options):
        results = pipe(noise(40000), task=task, query=query, **options)
        return [result["text"] for result in (results if isinstance(results, list) else [results])]

    static = {"cache_implementation": "static"}
    assert texts(**static) == texts(generate_kwargs=static) == texts()
    asked = {"task": "grounding", "query": ["dog", "a very long question about a siren"]}
    assert texts(**static, **asked) == texts(**asked)
    assert texts(num_beams=2, **static) == texts(generate_kwargs={"num_beams": 2}) == texts(num_beams=2)
    # An assistant encodes the audio for itself.
    assert texts(generate_kwargs={"assistant_model": copy.deepcopy(lively_checkpoint[0])}) == texts()


def test_buffers_of_the_frozen_trunk_can_be_made_on_no_device():
    text = {
        "model_type": "qwen2",
        "vocab_size": 32,
        "hidden_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    config = TimeProAudioConfig(audio_config={"model_type": "timepro_yamnet"}, text_config=text, audio_token_id=1)
    with torch.device("meta"):
        model = TimeProAudioForCausalLM(config)
    model.to_empty(device="cpu").init_weights()
    expected = TimeProAudioForCausalLM(config).model.audio_tower.trunk.state_dict()
    for name, value in model.model.audio_tower.trunk.state_dict().items():
        assert torch.equal(value, expected[name]), name
