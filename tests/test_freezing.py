"""Full fine-tuning of weights that are whole, tied or split over processes: ticks stay as they are, answers come."""

import numpy as np
import pytest
import torch
import torch.distributed
from conftest import make_tiny_checkpoint
from torch.distributed.fsdp import fully_shard

from modeling_timepro import TimeProAudioForCausalLM
from recipes.training.freezing import freeze_time_embeddings
from recipes.training.sharding import gather_for


@pytest.fixture
def one_process(tmp_path):
    """Stand for a launch of one process."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.FileStore(str(tmp_path / "store"), 1), rank=0,
                                         world_size=1)  # fmt: skip
    yield
    torch.distributed.destroy_process_group()


def gradients(model):
    """Return the gradients of embedding and head after a pass over ticks and words."""
    ids = torch.arange(model.config.text_config.vocab_size)
    # The last one predicts nothing.
    ids = torch.cat([ids[ids != model.config.audio_token_id], ids[:1]])[None]
    model(input_ids=ids, labels=ids).loss.backward()
    weights = (model.get_input_embeddings().weight.grad, model.get_output_embeddings().weight.grad)
    return [weight.full_tensor() if hasattr(weight, "full_tensor") else weight for weight in weights]


@pytest.fixture(params=["tied", "untied"])
def model(request, tokenizer_folder):
    model, _ = make_tiny_checkpoint(tokenizer_folder)
    if request.param == "tied":
        config = model.config
        config.tie_word_embeddings = config.text_config.tie_word_embeddings = True
        model = TimeProAudioForCausalLM(config)
    return model


def split(model):
    """Split a model as accelerate does: layers by themselves, and the rest together."""
    mesh = torch.distributed.init_device_mesh("cpu", (1,))
    for module in list(model.modules()):
        if type(module).__name__ in model._no_split_modules:
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)


def test_words_have_gradients_and_ticks_have_none(model):
    expected = gradients(model)
    model.zero_grad()
    freeze_time_embeddings(model)
    found = gradients(model)
    ticks = list(model.config.time_token_ids)
    words = sorted(set(range(model.config.text_config.vocab_size)) - set(ticks))
    assert (expected[0][ticks].abs().amax(1) > 0).all()
    assert (found[0][ticks] == 0).all()
    torch.testing.assert_close(found[0][words], expected[0][words])
    if model.config.tie_word_embeddings:
        assert found[1] is found[0]
    else:
        # Answers may be written in ticks: their rows of the head are learnt.
        torch.testing.assert_close(found[1], expected[1])


def test_ticks_of_split_weights_are_frozen_too(one_process, tokenizer_folder):
    model, _ = make_tiny_checkpoint(tokenizer_folder)
    expected = gradients(model)
    model.zero_grad()
    freeze_time_embeddings(model)
    split(model)
    found = gradients(model)
    start, end = model.config.time_token_ids.start, model.config.time_token_ids.stop
    assert (found[0][start:end] == 0).all()
    torch.testing.assert_close(found[0][:start], expected[0][:start])
    torch.testing.assert_close(found[1], expected[1])


def test_a_split_model_hears_and_answers(one_process, tokenizer_folder):
    model, processor = make_tiny_checkpoint(tokenizer_folder)
    model.eval()
    waveform = (0.1 * np.random.default_rng(0).normal(size=16000)).astype(np.float32)
    turns = [{"role": "user", "content": [{"type": "audio", "audio": waveform}, {"type": "text", "text": "When?"}]}]
    inputs = processor.apply_chat_template(
        turns, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    audio = {name: inputs[name] for name in ("input_features", "input_features_mask")}

    def answer():
        with torch.no_grad():
            frames = model.get_audio_features(**audio).pooler_output
            rest = {name: value for name, value in inputs.items() if name not in audio}
            return frames, model.generate(**rest, audio_embeds=frames, max_new_tokens=5, do_sample=False)

    expected = answer()
    split(model)
    gather_for(model, "get_audio_features")
    for first, second in zip(answer(), expected, strict=True):
        torch.testing.assert_close(first, second)
