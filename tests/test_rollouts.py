"""Answers of GRPO sampled by a server: from the weights of now, hearing the sound, and with the same effect."""

import base64
import io
import threading

import loopback_vllm
import numpy as np
import pytest
import soundfile
import torch
from conftest import make_grpo_trainer
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import GenerationConfig
from vllm_server import command_of_the_page, serve

from processing.answer_text import prompt_text
from processing.constrained_decoding import AnswerConstraint, log_probs_of
from recipes import DEFAULT_CHECKPOINT
from recipes.conversion.checkpoint import load_checkpoint
from recipes.evaluation.runner import Unavailable
from recipes.training.freezing import freeze_audio


class Engine:
    """Answer as vLLM does, greedily, by a checkpoint that it is told to read."""

    def __init__(self, logprobs_mode="processed_logprobs"):
        self.mode, self.posts, self.model, self.lock = logprobs_mode, [], None, threading.Lock()

    def __call__(self, path, body):
        with self.lock:
            if body is None and path.startswith("/server_info"):
                return {"vllm_config": {"model_config": {"logprobs_mode": self.mode}}}
            if path == "/v1/models":
                return {"data": [{"id": "policy"}]}
            self.posts.append(path)
            if path == "/collective_rpc":
                assert body["method"] == "reload_weights"
                self.model, self.processor = load_checkpoint(body["kwargs"]["weights_path"])
                self.posts.clear()
            return self.complete(body) if path == "/v1/chat/completions" else (200, "")

    def complete(self, body):
        assert self.posts[:3] == ["/reset_prefix_cache", "/reset_mm_cache", "/reset_encoder_cache"]
        assert body["temperature"] == 0 and list(body["logit_bias"]) == list(map(str, self.suppressed))
        inputs = self.processor.apply_chat_template(
            [body["messages"]], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        width, eos = inputs["input_ids"].shape[1], self.processor.tokenizer.eos_token_id
        settings = GenerationConfig(
            max_new_tokens=body["max_tokens"], eos_token_id=eos, pad_token_id=self.processor.tokenizer.pad_token_id,
            suppress_tokens=self.suppressed, return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
        constraint, asked = [], body.get("vllm_xargs")
        if asked:
            processor = self.processor
            grammar = processor.tokenizer, processor.grid, processor.answer_format
            constraint = [AnswerConstraint(*grammar, asked["task"], [asked["duration"]], width, eos)]
        outputs = self.model.generate(**inputs, generation_config=settings, logits_processor=constraint)
        answer = outputs.sequences[:, width:]
        own, _ = log_probs_of(answer, outputs.scores, None, None)
        steps = [{"logprob": value} for value in own[0].tolist()]
        choice = {"token_ids": answer[0].tolist(), "logprobs": {"content": steps}}
        return {"prompt_token_ids": inputs["input_ids"][0].tolist(), "choices": [choice] * body["n"]}

    @property
    def suppressed(self):
        return self.model.generation_config.suppress_tokens


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder, rows = tmp_path_factory.mktemp("clips"), []
    for index, (task, query) in enumerate((("detection", None), ("grounding", "siren"))):
        path = folder / f"{index}.wav"
        soundfile.write(path, 0.1 * np.random.default_rng(index).normal(size=16000 * (index + 1)), 16000)
        blocks = [{"type": "audio", "audio": str(path)}, {"type": "text", "text": prompt_text(task, query)}]
        events = [{"onset": 0.2, "offset": 0.8, "event_label": "siren"}]
        row = {"id": str(index), "prompt": [{"role": "user", "content": blocks}], "task": task, "query": query}
        rows.append(row | {"events": events, "duration": index + 1.0})
    return Dataset.from_list(rows)


@pytest.fixture
def make_trainer(lively_folder, dataset, tmp_path):
    def brief_reward(completion_ids, **kwargs):
        return [float(len(ids) + index % 3) for index, ids in enumerate(completion_ids)]

    def make(name, folder=lively_folder, is_greedy=True, lora=False, **settings):
        checkpoint = load_checkpoint(folder)
        freeze_audio(checkpoint[0])
        torch.manual_seed(0)
        if lora:
            checkpoint = with_adapter(checkpoint[0]), checkpoint[1]
        trainer = make_grpo_trainer(
            checkpoint, dataset, tmp_path / name, rewards=[brief_reward], disable_dropout=True, beta=0.0,
            max_completion_length=24, learning_rate=1e-3, **settings,
        )  # fmt: skip
        trainer.generation_config.do_sample = not is_greedy
        return trainer

    return make


def with_adapter(model):
    """Return a model with an adapter that changes what it says from the start."""
    targets = r"model\.language_model\..*\.(q_proj|v_proj)"
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    return model


@pytest.fixture
def server(request, lively_folder, tmp_path):
    """Return a checkpoint and the address of a server: one that answers as vLLM, or vLLM as docs/grpo.md starts it."""
    if request.param == "loopback":
        with loopback_vllm.serve(Engine()) as url:
            yield lively_folder, url
        return
    pytest.importorskip("vllm")
    # The tiny one has heads of 16, for which vLLM has no attention on a CPU.
    arguments = command_of_the_page("grpo.md#Answers sampled by a server").replace(
        "CHECKPOINT", str(DEFAULT_CHECKPOINT)
    )
    options = "--dtype float32 --max-model-len 2048"
    with serve(f"{arguments} {options}", tmp_path / "log", VLLM_SERVER_DEV_MODE="1") as url:
        yield DEFAULT_CHECKPOINT, url


def served_by(url):
    return {"use_vllm": True, "vllm_mode": "server", "vllm_server_base_url": url}


def logged(trainer):
    """Return of each step what hangs on answers and weights."""
    # Adam takes full steps where gradients are mere rounding, so that weights cannot be compared.
    names = ("loss", "grad_norm", "reward", "completions/mean_length", "sampling/sampling_logp_difference/max")
    return [[entry[name] for name in names] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("server", ["loopback", pytest.param("vllm", marks=pytest.mark.slow)], indirect=True)
def test_a_greedy_run_is_the_same_with_answers_of_a_server(make_trainer, server, lora):
    folder, url = server
    for constrained in (True, False):
        settings = {"constrained": constrained, "vllm_importance_sampling_correction": False, "lora": lora}
        own, served = (make_trainer(name, folder, **settings, **given)
                       for name, given in (("own", {}), ("served", served_by(url))))  # fmt: skip
        own.train()
        served.train()
        # The second step differs if the server has old weights, or has kept what it computed by them; the first already
        # if it has those below an adapter.
        assert len(logged(own)) == 2
        assert logged(served) == [pytest.approx(row, rel=1e-2, abs=1e-4) for row in logged(own)]


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("server", ["vllm"], indirect=True)
def test_sampled_answers_have_the_trainers_probabilities_and_a_run_resumes(make_trainer, server, lora):
    folder, url = server
    settings = {"constrained": True, "temperature": 0.7, "save_strategy": "steps", "save_steps": 1, "lora": lora}
    settings |= served_by(url)
    whole, rest = (make_trainer(name, folder, is_greedy=False, **settings) for name in ("whole", "rest"))
    whole.train()
    assert len(logged(whole)) == 2 and all(row[-1] < 1e-4 for row in logged(whole))
    rest.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-1")
    assert logged(rest)[-1] == pytest.approx(logged(whole)[-1], rel=1e-2, abs=1e-4)


def test_recordings_are_sent_as_they_are_heard(make_trainer, dataset):
    sent = []

    def answer(path, body):
        if path == "/v1/chat/completions":
            sent.append(body["messages"][0]["content"][0]["input_audio"])
        return Engine.__call__(engine, path, body)

    engine = Engine()
    with loopback_vllm.serve(answer) as url:
        trainer = make_trainer("served", **served_by(url))
        trainer._generate_and_score_completions([row for row in dataset for _ in range(4)])
    heard = {len(samples): samples for samples, _ in map(decoded, sent)}
    for row in dataset:
        samples, _ = soundfile.read(row["prompt"][0]["content"][0]["audio"], dtype="float32")
        assert np.array_equal(heard[len(samples)], samples)


def decoded(sound):
    return soundfile.read(io.BytesIO(base64.b64decode(sound["data"])), dtype="float32")


def test_another_prompt_than_the_trainers_is_an_error(make_trainer, dataset):
    engine = Engine()

    def answer(path, body):
        reply = engine(path, body)
        return reply | {"prompt_token_ids": [1, 2]} if path == "/v1/chat/completions" else reply

    with loopback_vllm.serve(answer) as url:
        trainer = make_trainer("served", **served_by(url))
        with pytest.raises(ValueError, match="makes another prompt of a chat than the trainer's processor"):
            trainer._generate_and_score_completions([row for row in dataset for _ in range(4)])


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"vllm_mode": "colocate"}, ValueError, "vllm_mode is 'colocate'; start a server"),
        ({"answer_min_score": 0.2}, ValueError, "answer_min_score is 0.2 with use_vllm"),
        ({"mode": "raw_logprobs"}, ValueError, "start it with --logprobs-mode processed_logprobs"),
        ({"mode": None}, Unavailable, "does not answer as vLLM's server does"),
    ],
)
def test_what_a_server_cannot_do_is_said_before_training(make_trainer, settings, error, message):
    settings = {"vllm_mode": "server", "use_vllm": True} | settings
    engine = Engine(settings.pop("mode", "processed_logprobs"))
    reply = engine if engine.mode else lambda path, body: {"data": []}
    with loopback_vllm.serve(reply) as url, pytest.raises(error, match=message):
        make_trainer("served", vllm_server_base_url=url, **settings)
