"""Questions that share the audio part of their prompts: the answers of separate prompts, the audio computed once."""

import copy

import numpy as np
import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.cache_utils import DynamicLayer

from processing.answer_text import prompt_text
from processing.constrained_decoding import generate_rows, generation_settings
from processing.prefix_cache import CACHE_NAME, RoomyLayer, prefill_questions
from recipes import DEFAULT_CHECKPOINT
from recipes.conversion.checkpoint import load_checkpoint

ASKED = [
    [prompt_text("detection"), prompt_text("grounding", "dog bark", 1), prompt_text("grounding", "a <0.08> siren", 3)],
    [prompt_text("detection", wording=2)],
    [prompt_text("grounding", "drum"), prompt_text("captioning")],
]


@pytest.fixture(scope="module")
def clips():
    rng = np.random.default_rng(3)
    return [(0.1 * rng.normal(size=size)).astype(np.float32) for size in (16000, 40000, 8000)]


def alone(checkpoint, waveform, question, **kwargs):
    """Return the answer's token ids of a prompt of its own."""
    model, processor = checkpoint
    blocks = [{"type": "audio"}, {"type": "text", "text": question}]
    text = processor.apply_chat_template([{"role": "user", "content": blocks}], add_generation_prompt=True)
    inputs = processor(text=text, audio=[waveform], return_tensors="pt")
    torch.manual_seed(5)
    return model.generate(**inputs, max_new_tokens=8, **kwargs)[:, inputs["input_ids"].shape[1] :]


def together(checkpoint, waveforms, questions, num_copies=1, **kwargs):
    inputs = prefill_questions(*checkpoint, waveforms, questions, num_copies)
    width = inputs["input_ids"].shape[1]
    torch.manual_seed(5)
    return checkpoint[0].generate(**inputs, max_new_tokens=8, **kwargs)[:, width:]


def test_answers_are_those_of_separate_prompts(lively_checkpoint, clips):
    answers = together(lively_checkpoint, clips, ASKED, do_sample=False)
    expected = [
        alone(lively_checkpoint, clip, text, do_sample=False)[0] for clip, texts in zip(clips, ASKED) for text in texts
    ]
    assert len(answers) == len(expected) == 6
    pad_id = lively_checkpoint[1].tokenizer.pad_token_id
    for answer, own in zip(answers, expected):
        length = len(own)
        assert answer[:length].tolist() == own.tolist()
        assert (answer[length:] == pad_id).all()
    # Else the equality would say nothing.
    assert len({tuple(answer.tolist()) for answer in answers}) > 2


def test_first_logits_are_those_of_separate_prompts(lively_checkpoint, clips):
    def first_logits(inputs):
        options = {"max_new_tokens": 1, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
        return lively_checkpoint[0].generate(**inputs, **options).logits[0]

    shared = first_logits(prefill_questions(*lively_checkpoint, clips, ASKED))
    single = [
        first_logits(prefill_questions(*lively_checkpoint, [clip], [[text]]))[0]
        for clip, texts in zip(clips, ASKED)
        for text in texts
    ]
    torch.testing.assert_close(shared, torch.stack(single), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"do_sample": True, "num_return_sequences": 3, "top_k": 5}])
def test_beams_and_several_answers_hear_their_own_clip(lively_checkpoint, clips, options):
    answers = together(lively_checkpoint, clips[:1], ASKED[:1], num_copies=3, **options)
    assert len(answers) == 3 * options.get("num_return_sequences", 1)
    if "num_beams" in options:
        for answer, text in zip(answers, ASKED[0]):
            own = alone(lively_checkpoint, clips[0], text, do_sample=False, **options)[0]
            assert answer[: len(own)].tolist() == own.tolist()


class NumberedRows(LogitsProcessor):
    """Raise the logit of a token that depends on the row and the place, so that every row gets an answer of its own."""

    def __call__(self, input_ids, scores):
        rows = torch.arange(len(scores))
        return scores.index_put(
            (rows, 5 + (7 * rows + 3 * input_ids.shape[1]) % 31), torch.tensor(2.0), accumulate=True
        )


def test_rows_that_have_ended_are_left_out_and_the_others_go_on_as_before(lively_checkpoint, clips):
    model = copy.deepcopy(lively_checkpoint[0])
    config, _ = generation_settings(model, {"max_new_tokens": 12})
    config.return_dict_in_generate, config.output_logits, config.pad_token_id = True, True, 1
    processors = LogitsProcessorList([NumberedRows()])

    def inputs():
        return prefill_questions(model, lively_checkpoint[1], clips, ASKED)

    width = inputs()["input_ids"].shape[1]
    config.eos_token_id = [len(lively_checkpoint[1].tokenizer) - 1]
    free = model.generate(**inputs(), generation_config=config, logits_processor=processors).sequences[:, width:]
    # Two rows end early, at different places; others where they happen to say the same.
    eos = config.eos_token_id = [int(free[0, 2]), int(free[3, 5])]
    expected = model.generate(**inputs(), generation_config=config, logits_processor=processors)
    sizes = []
    model.register_forward_pre_hook(lambda _, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True)
    found = generate_rows(model, inputs(), config, processors, eos)
    assert found.sequences.tolist() == expected.sequences.tolist()
    lengths = [next((place + 1 for place, token in enumerate(row) if token in eos), 12)
               for row in expected.sequences[:, width:].tolist()]  # fmt: skip
    assert lengths[0] <= 3 and len({*lengths}) > 2
    for place, (ours, theirs) in enumerate(zip(found.logits, expected.logits, strict=True)):
        going_on = [row for row, length in enumerate(lengths) if length > place]
        assert sizes[place] == len(going_on)
        torch.testing.assert_close(ours[going_on], theirs[going_on], rtol=1e-4, atol=1e-4)


def test_a_cache_with_room_holds_what_one_without_would():
    rng = torch.Generator().manual_seed(0)
    ours, theirs = RoomyLayer(), DynamicLayer()
    for step, columns in enumerate([5, 1, 70, 1, 1, 1]):
        keys, values = torch.randn(2, 4 if step < 4 else 2, 3, columns, 8, generator=rng)
        for mine, other in zip(ours.update(keys, values), theirs.update(keys, values), strict=True):
            assert mine.equal(other)
        room = ours.room[0].data_ptr()
        for layer in (ours, theirs):
            if step == 1:
                layer.crop(-2)
            if step == 3:
                layer.batch_select_indices(torch.tensor([2, 0]))
    # What fits is written where it belongs, and nothing is copied.
    assert ours.room[0].data_ptr() == room and ours.get_seq_length() == 77
    ours.reset()
    assert ours.get_seq_length() == 0 and ours.update(keys, values)[0].equal(keys)


def test_a_prefix_in_bfloat16_is_near_one_in_float32_and_its_cache_is_float32(clips):
    model, processor = load_checkpoint(DEFAULT_CHECKPOINT)
    tower = model.eval().model.audio_tower
    exact = prefill_questions(model, processor, clips, ASKED)[CACHE_NAME]
    tower.set_cpu_dtype("bfloat16")
    near = prefill_questions(model, processor, clips, ASKED)[CACHE_NAME]
    for one, other in zip(near.layers, exact.layers, strict=True):
        assert one.keys.dtype == one.values.dtype == torch.float32
        assert 0 < (one.values - other.values).norm() / other.values.norm() < 0.05
    tower.set_cpu_dtype("float32")
    again = prefill_questions(model, processor, clips, ASKED)[CACHE_NAME]
    assert again.layers[-1].values.equal(exact.layers[-1].values)


def test_each_clip_is_encoded_and_prefilled_once(lively_checkpoint, clips):
    model, processor = copy.deepcopy(lively_checkpoint[0]), lively_checkpoint[1]
    encoded, lengths = [], []
    model.model.audio_tower.register_forward_hook(lambda module, args, output: encoded.append(1))
    model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(tuple(kwargs["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    inputs = prefill_questions(model, processor, clips, ASKED)
    assert len(encoded) == 1 and len(lengths) == 1 and lengths[0][0] == len(clips)
    model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert len(encoded) == 1
    # All that is left to `generate` is what follows the last frame.
    assert lengths[1][0] == 6 and lengths[1][1] == inputs["input_ids"].shape[1] - lengths[0][1]


def test_the_last_layer_computes_no_more_of_a_prefix_than_its_keys_and_values(lively_checkpoint, clips):
    layers = lively_checkpoint[0].model.language_model.layers
    calls = []
    hooks = [
        layer.mlp.register_forward_hook(lambda _, inputs, output, index=index: calls.append(index))
        for index, layer in enumerate(layers)
    ]
    inputs = prefill_questions(*lively_checkpoint, clips, ASKED)
    for hook in hooks:
        hook.remove()
    assert calls == list(range(len(layers) - 1))
    assert inputs[CACHE_NAME].get_seq_length(len(layers) - 1) == inputs[CACHE_NAME].get_seq_length(0) > 0


def test_a_question_before_the_audio_is_answered_too(lively_checkpoint, clips):
    model, processor = lively_checkpoint[0], copy.deepcopy(lively_checkpoint[1])
    processor.chat_template = (
        "{% for message in messages %}{{ message['content'][1]['text'] }}<|audio_bos|><|AUDIO|><|audio_eos|>"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    answers = together((model, processor), clips[:1], ASKED[:1], do_sample=False)
    for answer, text in zip(answers, ASKED[0]):
        own = alone((model, processor), clips[0], text, do_sample=False)[0]
        assert answer[: len(own)].tolist() == own.tolist()


def test_every_clip_needs_a_question(lively_checkpoint, clips):
    with pytest.raises(ValueError, match=r"questions has \[1, 0\] texts for 2 clips"):
        prefill_questions(*lively_checkpoint, clips[:2], [["When?"], []])
    with pytest.raises(ValueError, match=r"questions has \[1\] texts for 2 clips"):
        prefill_questions(*lively_checkpoint, clips[:2], [["When?"]])
