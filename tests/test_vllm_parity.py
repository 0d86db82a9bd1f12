"""Checkpoints of every encoder served by vLLM: prompts, greedy answers and probabilities are those of `generate`.

Run by run_vllm.sh, in an environment that has vLLM.
"""

import gc

import numpy as np
import pytest

pytest.importorskip("vllm")
from tiny_backbones import MAKERS, make_stock, save_stock
from vllm import LLM, SamplingParams

from recipes import DEFAULT_CHECKPOINT
from recipes.conversion.checkpoint import load_checkpoint, save_checkpoint
from recipes.conversion.convert import convert
from recipes.serving.asking import sound_block

pytestmark = pytest.mark.slow
KINDS = [(kind, ticks) for kind in ("timepro_yamnet", *sorted(MAKERS)) for ticks in (True, False)]
# Seconds of the clips of each chat.
CHATS = ((2.0,), (0.3,), (7.01,), (1.5, 4.0), (), (3.0,), (2.9,), (0.55, 0.5))
NUM_TOKENS = 24


def chat_of(seconds, processor):
    """Return a chat with so many noises in it, each in a block as servers take it."""
    rate, blocks = processor.sampling_rate, []
    for index, length in enumerate(seconds):
        noise = 0.1 * np.random.default_rng(index).standard_normal(round(length * rate))
        blocks.append(sound_block(noise.astype(np.float32), rate))
    question = f"From when to when can {' or '.join(['a siren'] * (1 + len(seconds)))} be heard?"
    return [{"role": "user", "content": [*blocks, {"type": "text", "text": question}]}]


def answers_of(model, processor, chats):
    """Return for each chat its ids, those of its greedy answer, and their log-probabilities, by `generate`."""
    answers = []
    for chat in chats:
        inputs = processor.apply_chat_template(
            [chat], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        outputs = model.generate(
            **inputs, max_new_tokens=NUM_TOKENS, do_sample=False, suppress_tokens=None, eos_token_id=None,
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        width = inputs["input_ids"].shape[1]
        answer = outputs.sequences[0, width:]
        own = [step[0].log_softmax(-1)[token].item() for step, token in zip(outputs.logits, answer, strict=True)]
        answers.append((inputs["input_ids"][0].tolist(), answer.tolist(), own))
    return answers


@pytest.fixture(scope="module")
def checkpoints(tokenizer_folder, tmp_path_factory):
    """Return folders, chats and answers; all before the first engine, which changes classes of transformers."""
    found = {}
    for kind, ticks in KINDS:
        folder = tmp_path_factory.mktemp(kind)
        if kind == "timepro_yamnet":
            model, processor = load_checkpoint(DEFAULT_CHECKPOINT)
        else:
            # On CPUs vLLM has no attention for heads of 16.
            save_stock(*make_stock(kind, tokenizer_folder, "wide"), folder / "stock")
            convert(folder / "stock", folder / "converted", time_init="place")
            model, processor = load_checkpoint(folder / "converted")
        model.config.time_prompt = processor.time_prompt = ticks
        save_checkpoint(model, processor, folder / "served")
        chats = [chat_of(seconds, processor) for seconds in CHATS]
        found[kind, ticks] = folder / "served", chats, answers_of(model.eval(), processor, chats)
    return found


@pytest.mark.parametrize(("kind", "ticks"), KINDS)
def test_prompts_answers_and_probabilities_are_those_of_generate(checkpoints, kind, ticks, monkeypatch):
    # The engines run in this process, one after the other.
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    folder, chats, expected = checkpoints[kind, ticks]
    engine = LLM(
        str(folder), model_impl="transformers", trust_remote_code=True, dtype="float32", enforce_eager=True,
        distributed_executor_backend="uni", max_num_seqs=8, max_model_len=2048,
    )  # fmt: skip
    try:
        settings = SamplingParams(temperature=0, max_tokens=NUM_TOKENS, logprobs=0, ignore_eos=True)
        # All in one batch, so that clips of other lengths meet in the encoder.
        outputs = engine.chat(chats, settings, use_tqdm=False)
    finally:
        del engine
        gc.collect()
    # What is heard shows in the probabilities, though models of random weights may say the same.
    assert len({own[0] for _, _, own in expected}) == len(CHATS)
    for seconds, output, (ids, answer, own) in zip(CHATS, outputs, expected, strict=True):
        assert output.prompt_token_ids == ids, seconds
        (found,) = output.outputs
        assert list(found.token_ids) == answer, seconds
        values = [step[token].logprob for step, token in zip(found.logprobs, found.token_ids, strict=True)]
        assert values == pytest.approx(own, abs=1e-4), seconds
