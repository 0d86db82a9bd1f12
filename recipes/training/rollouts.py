"""Answers sampled by a server of vLLM in place of the trainer: it hears the same clips, by the newest weights.

TRL's own client of vLLM sends images, but no audio, and passes weights from GPU to GPU. Here the audio goes along with
the chat, and weights through a folder that both can read. See docs/grpo.md.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from processing.audio_io import load_audio
from processing.processing_timepro import AUDIO_TYPES, block_sound
from recipes.evaluation.runner import Unavailable
from recipes.serving.asking import ask, open_http, sound_block
from recipes.training.adapter import write_policy
from recipes.training.answer_sampling import TaskConstraints

# What a server keeps of the weights before: keys and values of prompts, and encoded audio.
CACHES = ("reset_prefix_cache", "reset_mm_cache", "reset_encoder_cache")
MOST_REQUESTS = 64


class RolloutServer:
    """Have a server sample answers, by the settings of TRL's `GRPOConfig` for its `vllm_mode` `server`.

    Args:
        settings: `vllm_server_base_url`, or `vllm_server_host` and `vllm_server_port`, say where it is;
            an answer may take `vllm_server_timeout` seconds.
        processor: a [`TimeProAudioProcessor`].
        min_score: the trainer's `answer_min_score`.

    Raises:
        ValueError: settings that this does not do, or a server that was started otherwise.
        Unavailable: it cannot be reached.
    """

    def __init__(self, settings, processor, min_score=None):
        if settings.vllm_mode != "server":
            raise ValueError(
                f"vllm_mode is {settings.vllm_mode!r}; start a server, see docs/grpo.md, and choose 'server': an "
                "engine in the trainer's own process changes the classes that are trained."
            )
        if min_score is not None:
            raise ValueError(
                f"answer_min_score is {min_score} with use_vllm, whose answers have no scores; leave one of them out."
            )
        url = settings.vllm_server_base_url or f"http://{settings.vllm_server_host}:{settings.vllm_server_port}"
        self.url, self.processor, self.step = url.rstrip("/").removesuffix("/v1"), processor, None
        self.folder = Path(settings.output_dir).absolute() / "rollout_weights"
        self._http = open_http(settings.vllm_server_timeout)
        try:
            self.model = self._ask("GET", "v1/models")["data"][0]["id"]
            mode = self._ask("GET", "server_info?config_format=json")["vllm_config"]["model_config"]["logprobs_mode"]
        except (KeyError, IndexError, TypeError):
            raise Unavailable(f"{self.url} does not answer as vLLM's server does.") from None
        if mode != "processed_logprobs":
            raise ValueError(
                f"the server at {self.url} returns {mode}, not the probabilities that answers are sampled from; start "
                "it with --logprobs-mode processed_logprobs."
            )

    def follow(self, trainer):
        """Have the server answer by the trainer's weights of now, adapters merged; nothing if it does already."""
        if self.step == trainer.state.global_step:
            return
        policy = write_policy(trainer, self.processor, self.folder)
        if trainer.accelerator.is_main_process:
            self._ask("POST", "collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(policy)}})
            for cache in CACHES:
                self._ask("POST", cache)
        trainer.accelerator.wait_for_everyone()
        self.step = trainer.state.global_step

    def sample(self, rows, prompts, num_answers, settings, constrained):
        """Return ids of answers, `num_answers` to each row in turn, and the log-probabilities of their tokens.

        Args:
            rows: with `prompt`, and where answers are `constrained`, `task` and `duration` in seconds.
            prompts: the ids that the processor makes of each.
            settings: the `GenerationConfig` to sample by.
        """
        # Of the generator that checkpoints keep: a run that was resumed samples the same answers.
        seeds = torch.randint(2**31, (len(rows),)).tolist()
        with ThreadPoolExecutor(MOST_REQUESTS) as pool:
            replies = list(
                pool.map(lambda *asked: self._sample(*asked, num_answers, settings, constrained), rows, seeds)
            )
        answers, log_probs = [], []
        for ids, reply in zip(prompts, replies, strict=True):
            if reply["prompt_token_ids"] != ids:
                raise ValueError(
                    f"the server at {self.url} makes another prompt of a chat than the trainer's processor; start it "
                    "with the checkpoint that is trained."
                )
            # Greedy answers are all the same.
            for choice in reply["choices"] * (num_answers // len(reply["choices"])):
                answers.append(choice["token_ids"])
                log_probs.append([step["logprob"] for step in choice["logprobs"]["content"]])
        return answers, log_probs

    def _sample(self, row, seed, num_answers, settings, constrained):
        request = {
            "model": self.model,
            "messages": [_with_sound(message, self.processor.sampling_rate) for message in row["prompt"]],
            # vLLM refuses several greedy ones.
            "n": num_answers if settings.do_sample else 1,
            "seed": seed,
            "max_tokens": settings.max_new_tokens,
            "temperature": settings.temperature if settings.do_sample else 0,
            "top_p": 1.0 if settings.top_p is None else settings.top_p,
            "top_k": settings.top_k or 0,
            "min_p": settings.min_p or 0.0,
            "repetition_penalty": settings.repetition_penalty or 1.0,
            "logit_bias": {str(token): -100 for token in settings.suppress_tokens or ()},
            "logprobs": True,
            "return_token_ids": True,
        }
        if constrained:
            request["vllm_xargs"] = {"task": row["task"], "duration": row["duration"]}
        return self._ask("POST", "v1/chat/completions", request)

    def _ask(self, method, path, body=None):
        return ask(self._http, method, f"{self.url}/{path}", body)


def _with_sound(message, rate):
    """Return a message of a chat with its recordings in it."""
    blocks = message["content"]
    if not isinstance(blocks, str):
        blocks = [{name: value for name, value in block.items() if value is not None} for block in blocks]
        blocks = [
            sound_block(load_audio(block_sound(block), rate), rate) if block["type"] in AUDIO_TYPES else block
            for block in blocks
        ]
    return {"role": message["role"], "content": blocks}


def banned_tokens(answers, rows, processor, eos_token_ids, vocab_size):
    """Return for each answer masks `(num_masks, vocab_size)` of what the constraint bans, and which each token had."""
    tasks, durations = ([row[name] for row in rows] for name in ("task", "duration"))
    constraint = TaskConstraints(processor, tasks, durations, 0, eos_token_ids)
    longest = max(map(len, answers))
    ids = torch.tensor([[*answer, *[processor.tokenizer.pad_token_id] * (longest - len(answer))] for answer in answers])
    for place in range(longest):
        constraint(ids[:, :place], torch.zeros(len(ids), vocab_size))
    masks, steps = constraint.banned_tokens()
    return [(masks, row[: len(answer)]) for row, answer in zip(steps, answers, strict=True)]
