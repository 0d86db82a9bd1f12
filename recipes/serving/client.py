"""`ServedPipeline`: the pipeline, with a server in place of the model: `timepro detect FILE --backend URL`.

Recordings are read, cut into windows and their events merged and scored here, as in the pipeline; the server, vLLM with
its OpenAI interface, answers each question about a window.
"""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import torch
from transformers import GenerationConfig

from modeling_timepro import TimeProAudioConfig
from processing.answer_text import parse_events, prompt_text
from processing.constrained_decoding import MAX_NEW_TOKENS
from processing.event_scores import score_events
from processing.events import clip_events
from processing.pipeline_timepro import TemporalAudioGroundingPipeline
from recipes.conversion.checkpoint import load_processor
from recipes.evaluation.runner import Unavailable
from recipes.serving.asking import ask, open_http, sound_block

# vLLM takes requests of so many log-probabilities unless it was started with `--max-logprobs`.
TOP_LOGPROBS = 20


class ServedPipeline(TemporalAudioGroundingPipeline):
    """Ask a server about recordings; calls and results are those of the pipeline.

    Questions of a batch are sent at the same time. What passes (no connection, a time-out, status 429 or 5xx) is tried
    again, with growing pauses. `TIMEPRO_API_KEY`, if it is set, goes along as the key.

    Args:
        url: of the OpenAI interface, such as `http://127.0.0.1:8000/v1`.
        model: the checkpoint that is served, for its processor: a folder, whose weights are not read, or a Hub id.
        timeout: seconds that an answer may take.
        num_tries: of each question.
        top_logprobs: log-probabilities that are asked for at each token. Scores count the likeliest times of so many;
            with as many as the checkpoint has ticks, and a few, they equal the pipeline's.

    Raises:
        ValueError: `url` is none.
        Unavailable: the server cannot be reached, or is none of these.
    """

    def __init__(self, url, model, timeout=300.0, num_tries=5, top_logprobs=TOP_LOGPROBS):
        if not str(url).startswith(("http://", "https://")):
            raise ValueError(f"--backend is {url!r}; give the URL of a server, such as http://127.0.0.1:8000/v1.")
        self.processor = load_processor(model)
        config, settings = TimeProAudioConfig.from_pretrained(model), GenerationConfig.from_pretrained(model)
        config.frame_grounder = None  # a server writes answers only
        self.model = SimpleNamespace(config=config, device=torch.device("cpu"), generation_config=settings)
        self._batch_size, self._preprocess_params, self._forward_params = None, {}, {}
        self.url, self.num_tries, self.top_logprobs = str(url).rstrip("/"), num_tries, top_logprobs
        self._http = open_http(timeout)
        models = ask(self._http, "GET", f"{self.url}/models", num_tries=num_tries)
        try:
            self.served = models["data"][0]["id"]
        except (KeyError, IndexError, TypeError):
            raise Unavailable(f"{self.url}/models answered {str(models)[:100]!r}, which lists no model.") from None

    def run_single(self, inputs, preprocess_params, forward_params, postprocess_params):
        """Return for each question about windows the text of its answer, its events, and whether it ran out of room."""
        known = {"return_scores", "limits", "frames", "max_new_tokens"}
        if unknown := sorted(forward_params.keys() - known):
            raise ValueError(f"{', '.join(unknown)} cannot be sent to a server; leave it out.")
        task, wording = preprocess_params["task"], preprocess_params["wording"]
        questions = [(samples, query) for recording, _, _, samples in inputs for query in recording.queries]
        with ThreadPoolExecutor(len(questions)) as pool:
            return list(pool.map(lambda pair: self._answer(*pair, task, wording, forward_params), questions))

    def _answer(self, samples, query, task, wording, settings):
        rate = self.processor.sampling_rate
        limits = dict(settings.get("limits") or {"constrained": True})
        is_constrained = limits.pop("constrained")
        seconds = len(samples) / rate
        content = [sound_block(samples, rate), {"type": "text", "text": prompt_text(task, query, wording)}]
        stored = self.model.generation_config
        request = {
            "model": self.served,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": settings.get("max_new_tokens") or stored.max_new_tokens or MAX_NEW_TOKENS,
            # vLLM does not go by a checkpoint's `suppress_tokens`.
            "logit_bias": {str(token): -100 for token in stored.suppress_tokens or ()},
            "logprobs": True,
            "top_logprobs": self.top_logprobs,
            "return_tokens_as_token_ids": True,
        }
        if is_constrained:
            request["vllm_xargs"] = {"task": task, "duration": seconds, **limits}
        reply = ask(self._http, "POST", f"{self.url}/chat/completions", request, self.num_tries)
        try:
            choice = reply["choices"][0]
            steps = choice["logprobs"]["content"]
            ids = [_id_of(step) for step in steps]
            own = [float(step["logprob"]) for step in steps]
            truncated = choice["finish_reason"] == "length"
        except (KeyError, IndexError, TypeError, ValueError):
            raise Unavailable(
                f"{self.url} answered {str(reply)[:200]!r}, which is no chat completion of vLLM with log-probabilities."
            ) from None
        text = self.processor.tokenizer.decode(ids, skip_special_tokens=True)
        events = parse_events(text, task, query or "", tolerant=not is_constrained, truncated=truncated)
        if settings.get("return_scores", True):
            soft = {"time_log_probs": self._times(steps), "grid": self.processor.grid} if self._has_ticks else {}
            scored = score_events(self.processor.tokenizer, ids, own, task, query or "", **soft, truncated=truncated)
            events = scored if scored == events else events
        return text, None if events is None else clip_events(events, seconds), truncated

    @property
    def _has_ticks(self):
        return self.processor.answer_format == "ticks"

    def _times(self, steps):
        """Return the log-probabilities of all ticks at each token; those that were not sent are minus infinity."""
        ticks = self.model.config.time_token_ids
        rows = []
        for step in steps:
            row = [-float("inf")] * len(ticks)
            for entry in (*step["top_logprobs"], step):
                if (token := _id_of(entry)) in ticks:
                    row[token - ticks.start] = float(entry["logprob"])
            rows.append(row)
        return rows


def _id_of(entry) -> int:
    return int(entry["token"].removeprefix("token_id:"))
