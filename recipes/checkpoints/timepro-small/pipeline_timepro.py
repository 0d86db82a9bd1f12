"""`pipeline("temporal-audio-grounding")`: recordings and questions in, events with times out."""

from transformers import Pipeline
from transformers.utils import logging

from .audio_io import load_audio
from .event_text import TASKS, parse_events, prompt_text
from .events import clip_events

logger = logging.get_logger(__name__)


class TemporalAudioGroundingPipeline(Pipeline):
    """Answer when events happen in recordings of up to the checkpoint's `max_time` seconds.

    Example:
        `pipe("street.wav", task="grounding", query="dog barking")` returns
        `{"events": [{"onset": 1.2, "offset": 3.4, "event_label": "dog barking", "score": None}], "duration": 10.0,
        "text": "1.20-3.40"}`. `events` is `None` where the model's answer could not be parsed.
    """

    _load_processor = True
    _load_tokenizer = False
    _load_feature_extractor = False
    _load_image_processor = False
    _pipeline_calls_generate = True

    def _sanitize_parameters(self, query=None, wording=None, **generate_kwargs):
        """Sort what `pipeline(...)` was given; `__call__` takes its arguments itself."""
        if query is not None or wording is not None:
            raise ValueError(
                f"query is {query!r} and wording {wording!r} for the pipeline; give them with each recording instead, "
                "pipe(recording, task=..., query=..., wording=...)."
            )
        return {}, generate_kwargs, {}

    def __call__(self, inputs, task="detection", query=None, batch_size=None, wording=0, **generate_kwargs):
        """Ask one question of every recording.

        Args:
            inputs: a path, bytes, a 16 kHz mono array, `{"array", "sampling_rate"}`, or a list of them.
            task: `detection` (all events), `grounding` (one query) or `captioning`.
            query: what to look for; a string, or a list with one query for each recording. Only for grounding.
            batch_size: recordings generated together; 1, or what `pipeline(...)` was given.
            wording: which of the built-in prompt wordings asks.
            generate_kwargs: passed to `model.generate`; they replace those that `pipeline(...)` was given.

        Returns:
            One dict (or a list of them for a list): `events`, list of `{"onset", "offset", "event_label", "score"}` in
            seconds, or `None` where the answer is unparseable; `duration` in seconds; `text`, the raw answer.

        Raises:
            ValueError: unknown task, a missing or superfluous query, or audio that `load_audio` or the processor
                refuse.
        """
        single = not isinstance(inputs, (list, tuple))
        inputs = [inputs] if single else list(inputs)
        if task not in TASKS:
            raise ValueError(f"task is {task!r}; choose one of {TASKS}.")
        if (task == "grounding") != (query is not None):
            raise ValueError(
                f"query is {query!r} for task {task!r}; grounding needs a query and no other task takes one."
            )
        queries = list(query) if isinstance(query, (list, tuple)) else [query] * len(inputs)
        if len(queries) != len(inputs):
            raise ValueError(f"query has {len(queries)} entries for {len(inputs)} recordings; give one for each.")
        batch_size = self._batch_size or 1 if batch_size is None else batch_size
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; give 1 or more.")
        # transformers keeps the generation settings of `pipeline(...)` in the second, others in the first.
        generate_kwargs = {**self._forward_params, **getattr(self, "_generate_kwargs", {}), **generate_kwargs}
        results = []
        for start in range(0, len(inputs), batch_size):
            chunk = list(zip(inputs[start : start + batch_size], queries[start : start + batch_size]))
            results += self.run_single(chunk, {"task": task, "wording": wording}, generate_kwargs, {})
        return results[0] if single else results

    def preprocess(self, chunk, task="detection", wording=0):
        rate = self.processor.sampling_rate
        waveforms = [load_audio(source, sampling_rate=rate) for source, _ in chunk]
        questions = [prompt_text(task, query, wording) for _, query in chunk]
        conversations = [
            [{"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": question}]}]
            for question in questions
        ]
        text = self.processor.apply_chat_template(conversations, add_generation_prompt=True)
        inputs = self.processor(
            text=text, audio=waveforms, return_tensors="pt", padding=True, text_kwargs={"padding_side": "left"}
        )
        durations = [len(waveform) / rate for waveform in waveforms]
        return {"inputs": dict(inputs), "durations": durations, "task": task, "queries": [query for _, query in chunk]}

    def _forward(self, model_inputs, **generate_kwargs):
        inputs = model_inputs.pop("inputs")
        sequences = self.model.generate(**inputs, **generate_kwargs)
        return {"answers": sequences[:, inputs["input_ids"].shape[1] :], **model_inputs}

    def postprocess(self, outputs):
        texts = self.processor.tokenizer.batch_decode(outputs["answers"], skip_special_tokens=True)
        results = []
        for text, duration, query in zip(texts, outputs["durations"], outputs["queries"]):
            events = parse_events(text, task=outputs["task"], event_label=query or "")
            if events is None:
                logger.warning("The answer %r cannot be parsed; its events are None.", text)
            else:
                # Frames are rounded up to the grid, so a time may pass the end by less than one step.
                events = [event.as_dict() for event in clip_events(events, duration)]
            results.append({"events": events, "duration": duration, "text": text})
        return results

    def save_pretrained(self, save_directory, **kwargs):
        """Save a checkpoint directory that loads again; transformers would leave the processor and this code out."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)


__all__ = ["TemporalAudioGroundingPipeline"]
