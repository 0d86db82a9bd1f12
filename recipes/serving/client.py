"""`ServedPipeline`: the pipeline, with a server in place of the model: `timepro detect FILE --backend URL`.

Recordings are read, cut into windows and their events merged and scored here, as in the pipeline; the server, vLLM with
its OpenAI interface, answers each question about a window.
"""

import base64
import io
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import httpx
import soundfile
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

# vLLM takes requests of so many log-probabilities unless it was started with `--max-logprobs`.
TOP_LOGPROBS = 20
# Seconds until the next try, doubled each time, and at most.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
# Times out, cannot be reached, or has too much to do: worth another try.
PASSING = (408, 409, 425, 429, 500, 502, 503, 504)


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
        key = os.environ.get("TIMEPRO_API_KEY")
        self._http = httpx.Client(
            timeout=httpx.Timeout(timeout, connect=10), headers={"Authorization": f"Bearer {key}"} if key else {}
        )
        models = self._ask("GET", "models")
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
        content = [{"type": "input_audio", "input_audio": {"data": _encode(samples, rate), "format": "wav"}},
                   {"type": "text", "text": prompt_text(task, query, wording)}]  # fmt: skip
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
        reply = self._ask("POST", "chat/completions", request)
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

    def _ask(self, method, path, body=None):
        """Return what the server answers to a request, as JSON.

        Raises:
            ValueError: it refuses the request.
            Unavailable: it cannot be reached, or answers nothing that can be read, as often as it is tried.
        """
        problem = ""
        for number in range(1, self.num_tries + 1):
            pause = min(FIRST_PAUSE * 2 ** (number - 1), LONGEST_PAUSE) * random.uniform(0.75, 1.25)
            try:
                reply = self._http.request(method, f"{self.url}/{path}", json=body)
                if reply.status_code not in PASSING:
                    break
                problem = f"status {reply.status_code}: {reply.text[:200]}"
                pause = max(pause, min(_seconds(reply.headers.get("retry-after")), LONGEST_PAUSE))
            except httpx.TimeoutException:
                problem = f"no answer in {self._http.timeout.read:g} s"
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
            if number < self.num_tries:
                time.sleep(pause)
        else:
            raise Unavailable(f"{self.url} does not answer, tried {self.num_tries} times: {problem}")
        if reply.status_code in (401, 403, 404):
            raise Unavailable(
                f"{self.url}/{path} answered status {reply.status_code}: {reply.text[:200]}; check the URL, which ends "
                "in /v1, and TIMEPRO_API_KEY."
            )
        if reply.status_code >= 400:
            raise ValueError(f"the server refused the question, status {reply.status_code}: {reply.text[:300]}")
        try:
            return reply.json()
        except ValueError:
            raise Unavailable(
                f"{self.url}/{path} answered {reply.text[:100]!r}, which is no JSON; is it a server of vLLM?"
            ) from None


def _encode(samples, rate) -> str:
    buffer = io.BytesIO()
    # Floats, so that the server hears exactly what the pipeline would.
    soundfile.write(buffer, samples, rate, format="WAV", subtype="FLOAT")
    return base64.b64encode(buffer.getvalue()).decode()


def _id_of(entry) -> int:
    return int(entry["token"].removeprefix("token_id:"))


def _seconds(text) -> float:
    try:
        return max(0.0, float(text))
    except (TypeError, ValueError):
        return 0.0
