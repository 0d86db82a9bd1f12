"""Checkpoints of every encoder served by vLLM: prompts, greedy answers and probabilities are those of `generate`.

Run by run_vllm.sh, in an environment that has vLLM.
"""

from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
import torch
from vllm_server import serve

pytest.importorskip("vllm")
from tiny_backbones import MAKERS, make_stock, save_stock

from recipes import DEFAULT_CHECKPOINT
from recipes.conversion.checkpoint import load_checkpoint, save_checkpoint
from recipes.conversion.convert import convert
from recipes.serving.asking import sound_block

pytestmark = pytest.mark.slow
# Seconds of the clips of each chat.
CHATS = ((2.0,), (0.3,), (7.01,), (1.5, 4.0), (), (3.0,), (2.9,), (0.55, 0.5))
NUM_TOKENS = 24


@pytest.fixture(scope="module", params=["timepro_yamnet", *sorted(MAKERS)])
def kind(request):
    return request.param


@pytest.fixture(scope="module", params=[True, False], ids=["with ticks", "without ticks"])
def folder(request, kind, tokenizer_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp(kind)
    if kind == "timepro_yamnet":
        model, processor = load_checkpoint(DEFAULT_CHECKPOINT)
    else:
        save_stock(*make_stock(kind, tokenizer_folder), folder / "stock")
        convert(folder / "stock", folder / "converted", time_init="place")
        model, processor = load_checkpoint(folder / "converted")
    model.config.time_prompt = processor.time_prompt = request.param
    save_checkpoint(model, processor, folder / "served")
    return folder / "served"


def chat_of(seconds, processor):
    """Return a chat with so many noises in it, each in a block as servers take it."""
    rate = processor.sampling_rate
    noises = [
        0.1 * np.random.default_rng(index).standard_normal(round(length * rate)) for index, length in enumerate(seconds)
    ]
    blocks = [sound_block(noise.astype(np.float32), rate) for noise in noises]
    question = f"From when to when can {' or '.join(['a siren'] * (1 + len(seconds)))} be heard?"
    return [{"role": "user", "content": [*blocks, {"type": "text", "text": question}]}]


def test_prompts_answers_and_probabilities_are_those_of_generate(folder, tmp_path):
    model, processor = load_checkpoint(folder)
    chats = [chat_of(seconds, processor) for seconds in CHATS]

    def asked(chat):
        body = {"model": str(folder), "messages": chat, "temperature": 0, "max_tokens": NUM_TOKENS, "logprobs": True}
        body |= {"return_token_ids": True, "ignore_eos": True}
        reply = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=600)
        assert reply.status_code == 200, reply.text
        return reply.json()

    options = "--model-impl transformers --trust-remote-code --dtype float32"
    arguments = f"vllm.entrypoints.openai.api_server --model {folder} {options}"
    # All at the same time, so that clips of other lengths share batches.
    with serve(arguments, tmp_path / "log") as url, ThreadPoolExecutor(len(chats)) as pool:
        replies = list(pool.map(asked, chats))
    for seconds, chat, reply in zip(CHATS, chats, replies, strict=True):
        inputs = processor.apply_chat_template(
            [chat], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        (choice,), ids = reply["choices"], inputs["input_ids"][0].tolist()
        assert reply["prompt_token_ids"] == ids, seconds
        outputs = model.generate(
            **inputs, max_new_tokens=NUM_TOKENS, min_new_tokens=NUM_TOKENS, do_sample=False, suppress_tokens=None,
            eos_token_id=None, output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        answer = outputs.sequences[0, len(ids) :]
        assert choice["token_ids"] == answer.tolist(), seconds
        own = torch.stack([step[0].log_softmax(-1)[token] for step, token in zip(outputs.logits, answer, strict=True)])
        assert [step["logprob"] for step in choice["logprobs"]["content"]] == pytest.approx(own.tolist(), abs=1e-4)
