"""Constrained decoding in vLLM: a logits processor, which vLLM finds by itself where this package is installed.

A request asks for it by `vllm_xargs`: `{"task": "detection", "duration": 10.0}`, and perhaps `event_labels` and
`max_events`. Requests without a task, and other models, are left alone.
"""

import torch
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from processing.answer_text import TASKS
from processing.constrained_decoding import AnswerConstraint
from recipes.conversion.checkpoint import load_processor

LIMITS = ("event_labels", "max_events")


class TimeProConstraint(AdapterLogitsProcessor):
    """Hold the answers of requests to what [`AnswerConstraint`] allows."""

    def __init__(self, vllm_config, device, is_pin_memory):
        super().__init__(vllm_config, device, is_pin_memory)
        model = vllm_config.model_config
        self.processor = load_processor(model.model) if model.hf_config.model_type == "timepro_audio" else None

    @classmethod
    def validate_params(cls, sampling_params):
        """Refuse a request whose task or duration cannot be; the server answers it with status 400."""
        given = sampling_params.extra_args or {}
        if "task" not in given:
            return
        if given["task"] not in TASKS:
            raise ValueError(f"vllm_xargs: task is {given['task']!r}; choose one of {', '.join(TASKS)}.")
        duration = given.get("duration")
        if not isinstance(duration, int | float) or not 0 < duration < float("inf"):
            raise ValueError(f"vllm_xargs: duration is {duration!r}; give the seconds of the audio.")

    def is_argmax_invariant(self):
        """Return `False`: greedy answers change."""
        return False

    def new_req_logits_processor(self, params):
        """Return what a request's logits go through, `None` for nothing."""
        given = params.extra_args or {}
        if self.processor is None or "task" not in given:
            return None
        processor, limits = self.processor, {name: given[name] for name in LIMITS if name in given}
        constraint = AnswerConstraint(
            processor.tokenizer, processor.grid, processor.answer_format, given["task"], [float(given["duration"])], 0,
            processor.tokenizer.eos_token_id, **limits,
        )  # fmt: skip

        def constrain(output_ids, logits):
            return constraint(torch.tensor([output_ids], dtype=torch.long), logits[None])[0]

        return constrain
