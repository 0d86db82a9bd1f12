"""`pipeline("temporal-audio-grounding")`: recordings of any length and questions in, events with times out."""

import itertools
import logging
import os
from collections.abc import Iterator

import torch
from tqdm import tqdm
from transformers import Pipeline

from .annotations import format_annotations, read_annotations
from .answer_text import TASKS, parse_events, prompt_text
from .audio_io import is_one_recording, name_of, pair_with_queries, stream_audio, stream_windows
from .constrained_decoding import (
    PIPELINE_SETTINGS,
    AnswerConstraint,
    generate_answers,
    generation_settings,
    greedy_settings,
    log_probs_of,
)
from .event_scores import score_events
from .events import clip_events
from .frame_decoding import format_frame_scores, frame_answers, frame_options, score_rows
from .live_stream import LiveStream, open_live
from .prefix_cache import accelerator, hear, prefill_questions
from .windowing import RecordingAnswers, batch_windows, plan_windows

logger = logging.getLogger(__name__)

# Recordings of more windows than this have a progress bar.
FEW_WINDOWS = 4
# What a call is told beside its generation settings, and `pipeline(...)` for all calls.
CALL_SETTINGS = (
    "chunk_length_s", "stride_length_s", "return_scores", "min_score", "constrained", "event_labels", "max_events",
    "disable_tqdm", "decode", "return_frame_scores", "channel", "strict", "on_error",
)  # fmt: skip


class TemporalAudioGroundingPipeline(Pipeline):
    """Answer when events happen in recordings.

    Recordings of up to the checkpoint's `max_time` are processed whole. Longer ones are read from disk piece by piece,
    in overlapping windows whose events are merged by the rule of `windowing.py`; nothing is truncated.

    Example:
        `pipe("street.wav", task="grounding", query="dog barking")` returns
        `{"events": [{"onset": 1.2, "offset": 3.4, "event_label": "dog barking", "score": 0.81}], "duration": 10.0,
        "text": "1.20-3.40", "windows": [{"start": 0.0, "end": 10.0, "text": "1.20-3.40", "events": [...]}]}`.
    """

    _load_processor = True
    _load_tokenizer = False
    _load_feature_extractor = False
    _load_image_processor = False
    _pipeline_calls_generate = True

    # So that a checkpoint alone can write its answers, and read annotations.
    format_annotations = staticmethod(format_annotations)
    read_annotations = staticmethod(read_annotations)
    format_frame_scores = staticmethod(format_frame_scores)

    def __init__(self, model, *args, cpu_dtype=None, **kwargs):
        """Take a model and its processor; `cpu_dtype` is that of `TimeProYamnetEncoder.set_cpu_dtype`.

        By default it is the environment variable `TIMEPRO_CPU_DTYPE`, or else `auto`.
        """
        super().__init__(model, *args, **kwargs)
        if hasattr(model.model.audio_tower, "set_cpu_dtype"):
            model.model.audio_tower.set_cpu_dtype(cpu_dtype or os.environ.get("TIMEPRO_CPU_DTYPE", "auto"))
        elif cpu_dtype is not None:
            kind = model.config.audio_config.model_type
            raise ValueError(
                f"cpu_dtype is {cpu_dtype!r} for a {kind} encoder; only timepro_yamnet has it. Leave it out."
            )
        model.generation_config, left_out = greedy_settings(model.generation_config, PIPELINE_SETTINGS)
        if left_out:
            logger.info("Answers are greedy: the checkpoint's %s count only if given here.", left_out)

    def _sanitize_parameters(self, query=None, wording=None, generate_kwargs=None, **options):
        """Sort what `pipeline(...)` was given; `__call__` takes its arguments itself."""
        if query is not None or wording is not None:
            raise ValueError(
                f"query is {query!r} and wording {wording!r} for the pipeline; give them with each recording instead, "
                "pipe(recording, task=..., query=..., wording=...)."
            )
        settings = {name: options.pop(name, None) for name in CALL_SETTINGS}
        if twice := sorted(options.keys() & (generate_kwargs or {}).keys()):
            raise ValueError(f"generate_kwargs holds {', '.join(twice)}, given as an argument too; give each once.")
        return {k: v for k, v in settings.items() if v is not None}, {**options, **(generate_kwargs or {})}, {}

    def __call__(self, inputs, task="detection", query=None, batch_size=None, wording=0, num_workers=None, **options):
        """Find events in recordings.

        Args:
            inputs: a recording or several. One is a path, bytes, a binary file object, an array `(num_samples,)` or
                `(num_samples, num_channels)` or a tensor `(num_channels, num_samples)` at 16 kHz, `{"array",
                "sampling_rate"}`, or `{"bytes", "path"}` as a column of `datasets` holds them (`Audio(decode=False)`),
                or the `AudioDecoder` that it makes of them where torchcodec is installed. Several are a list, or
                any iterable, such as a generator, a column or a `KeyDataset`.
            task: `detection` (all events), `grounding` (those that match a query) or `captioning`.
            query: what to look for; only for grounding. A string, or for several recordings a list with one entry for
                each. Instead of a string it may be a list of strings; the result is then a list with one entry per
                query. The audio is encoded once for all of them.
            batch_size: how many questions (one for each window and query) are answered together; by default 1, or what
                `pipeline(...)` was given. All queries of one window go together, even if they are more.
            wording: which built-in prompt template to use, from 0.
            num_workers: accepted as by other pipelines; recordings are read by this process.
            chunk_length_s, stride_length_s: seconds of windows, and of their overlaps on either side, see
                [`plan_windows`]. By default windows are as long as the checkpoint's `chunk_length_s`; if it has none,
                recordings longer than `max_time` are split into windows of 10 s. Strides are a sixth by default.
            return_scores: whether events have scores, from 0 to 1, see [`score_events`]; by default they do.
            min_score: leave out events of the recording with a lower score; `windows` keep all of theirs. Detection
                uses the checkpoint's `min_score` by default; 0 keeps every event.
            constrained: constrain answers to the grammar, see [`AnswerConstraint`]: times in order and within the
                window, no event twice. On by default; without it you get the model's raw answers, parsed.
            event_labels: the only labels that detection may use; an error for other tasks. Given to `pipeline(...)` it
                applies to detection alone. Needs `constrained`.
            max_events: maximum number of events per window. Needs `constrained`.
            disable_tqdm: hide the progress bar of long recordings, or show it (`False`); by default it is shown where
                stderr is a terminal.
            decode: how a checkpoint with a frame grounder answers: `text` generates the answer; `frames` scores every
                audio frame for all queries or labels in one pass, without generation; `both` generates, and takes
                times, scores and missed events from the frames; `either` takes the labels that the text was taught
                from the text, others from the frames. The checkpoint sets the default.
            return_frame_scores: add `frame_scores` to results: `labels` (or the query), `scores (num_labels,
                num_frames)` and `onsets (num_frames,)` in seconds, see also `format_frame_scores`.
            channel, strict: which channel to use instead of the mean of all, and whether damaged files are errors, see
                [`load_audio`].
            on_error: `raise`, or `skip` to go on with the next recording: the result of one that cannot be read has
                `events` and `duration` that are `None`, and `error`; a warning repeats the error.
            generate_kwargs: a dict of settings for `model.generate`, which may also be given as arguments. Answers are
                greedy unless these say otherwise; of the checkpoint's `generation_config` only the names in
                `PIPELINE_SETTINGS` are used. Everything from `chunk_length_s` on can also be given to
                `pipeline(...)`; what is given here takes precedence.

        Returns:
            One dict, or a list of them for a list, or for anything else to iterate a generator, which reads ahead no
            further than a batch: `events`, list of `{"onset", "offset", "event_label", "score"}` in seconds of the
            recording; `duration` in seconds; `text`, the raw answers, a line for each window, whose times are those of
            the window; `truncated`, whether an answer ran out of room (`max_new_tokens`); `windows`, for each `start`
            and `end` in seconds, `text`, `truncated`, and `events` in seconds of the recording, before they were
            merged. Of a truncated answer there are the events that it says whole, and a warning. Where an answer cannot
            be parsed, `events` of the window are `None` and a warning names its times. `events` of the recording are
            those of the other windows; if there are none, as in recordings of one window, `None`.

        Raises:
            ValueError: unknown task, a missing or superfluous query, impossible windows, or audio that `load_audio` or
                the processor refuses.
            OSError: a file that cannot be opened.
        """
        given, generate, _ = self._sanitize_parameters(**options)
        options = self._options(task, query, batch_size, wording, given, generate)
        if is_one_recording(inputs):
            (result,) = self._results([(inputs, query, name_of(inputs))], *options)
            return result
        results = self._results(pair_with_queries(inputs, query), *options)
        return list(results) if isinstance(inputs, (list, tuple)) else results

    def results_so_far(
        self, recording, task="detection", query=None, batch_size=None, wording=0, **options
    ) -> Iterator[dict | list[dict]]:
        """Process one recording, and yield the result so far after every batch of windows.

        Arguments, errors and results are those of a call; `duration` is how much was processed. The next window may
        still change events that reach into it. The last result is that of a call.
        """
        given, generate, _ = self._sanitize_parameters(**options)
        options = self._options(task, query, batch_size, wording, given, generate)
        return self._results([(recording, query, name_of(recording))], *options, is_partial=True)

    def live(self, sampling_rate, hop_s=0.5, queries=None, exact=False, look_every_s=10.0, **options) -> LiveStream:
        """Return a [`LiveStream`], which processes sound while it comes in: `push(chunk)`, `finish()`, `save(path)`.

        `sampling_rate` is that of the chunks, `hop_s` seconds between decisions whether the sound is worth a look; in
        `look_every_s` there is one on average: more often is sooner, and costs more. `queries` is what to look for, a
        string or several; by default all events are detected. With `exact`, events are given when no later window can
        change them, and are those of a call. `options` are as in a call.
        """
        given, generate, _ = self._sanitize_parameters(**options)
        queries = [queries] if isinstance(queries, str) else queries
        task = "detection" if queries is None else "grounding"
        _, settings, generate_kwargs = self._options(task, queries, None, 0, given, generate)
        return open_live(self, sampling_rate, hop_s, queries, exact, look_every_s, settings, generate_kwargs)

    def stream(self, chunks, sampling_rate, hop_s=0.5, queries=None, exact=False, **options) -> Iterator[dict]:
        """Yield events of sound that is still coming in, each soon after its end; arguments are those of `live`.

        `chunks` are as [`LiveStream.push`] takes them, and events the dicts of [`LiveReport`].
        """
        return self.live(sampling_rate, hop_s, queries, exact, **options).events_of(chunks)

    def _options(self, task, query, batch_size, wording, given, generate):
        """Check what a call was given; return the size of batches and the settings of windows and of generation."""
        if task not in TASKS:
            raise ValueError(f"task is {task!r}; choose one of {TASKS}.")
        if (task == "grounding") != (query is not None):
            raise ValueError(
                f"query is {query!r} for task {task!r}; grounding needs a query and no other task takes one."
            )
        batch_size = self._batch_size or 1 if batch_size is None else batch_size
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; give 1 or more.")
        settings = {**self._preprocess_params, **given, "task": task, "wording": wording}
        if task != "detection":
            if "event_labels" in given:
                raise ValueError(
                    f"event_labels is {given['event_labels']!r} for task {task!r}; only detection names labels of a "
                    "set; leave it out."
                )
            settings.pop("event_labels", None)
        # transformers keeps the generation settings of `pipeline(...)` in the second, others in the first.
        generate_kwargs = {**self._forward_params, **getattr(self, "_generate_kwargs", {}), **generate}
        generate_kwargs["return_scores"] = settings.pop("return_scores", True)
        names = ("constrained", "event_labels", "max_events")
        generate_kwargs["limits"] = limits = {name: settings.pop(name) for name in names if name in settings}
        if not limits.setdefault("constrained", True) and len(limits) > 1:
            raise ValueError(f"{' and '.join(list(limits)[1:])} given with constrained=False; leave one of them out.")
        frames = frame_options(
            self.model.config, task, settings.pop("decode", None), settings.pop("return_frame_scores", False),
            limits.get("event_labels"), limits.get("max_events"), generate_kwargs["return_scores"],
        )  # fmt: skip
        generate_kwargs["frames"] = frames
        is_written = frames is None or frames["decode"] in ("text", "either")
        if task == "detection" and generate_kwargs["return_scores"] and is_written:
            settings.setdefault("min_score", self.processor.min_score)
        if settings.get("min_score") is not None and not generate_kwargs["return_scores"]:
            raise ValueError(f"min_score is {settings['min_score']!r} with return_scores=False; leave one of them out.")
        if settings.setdefault("on_error", "raise") not in ("raise", "skip"):
            raise ValueError(f"on_error is {settings['on_error']!r}; choose 'raise' or 'skip'.")
        settings["plan"] = self.plan_windows(
            settings.pop("chunk_length_s", None), settings.pop("stride_length_s", None)
        )
        return batch_size, settings, generate_kwargs

    def plan_windows(self, chunk_length_s=None, stride_length_s=None):
        """Return where the windows of recordings lie, see [`plan_windows`]; by default as long as the checkpoint says.

        Raises:
            ValueError: windows that cannot be.
        """
        processor = self.processor
        length = processor.chunk_length_s if chunk_length_s is None else chunk_length_s
        return plan_windows(length, stride_length_s, processor.max_time, processor.time_step)

    def _results(self, pairs, batch_size, settings, generate_kwargs, is_partial=False) -> Iterator[dict | list[dict]]:
        """Yield the result of each recording, what is asked about it, and what to call it, in order.

        With `is_partial`, the results so far after every batch, too.
        """
        pieces = (piece for source, asked, name in pairs for piece in self._pieces(source, asked, name, **settings))
        asked, failed = {name: settings[name] for name in ("task", "wording")}, None
        for batch in batch_windows(pieces, batch_size):
            heard = [piece for piece in batch if not isinstance(piece[3], Exception)]
            answers = iter(self._answers(heard, asked, generate_kwargs, settings["on_error"]))
            for place, (recording, is_many, window, samples) in enumerate(batch, 1):
                found = samples if isinstance(samples, Exception) else next(answers)
                if recording is failed:
                    continue
                if isinstance(found, Exception):
                    failed = recording
                    logger.warning("%s is skipped: %s", recording.name, found)
                    nothing = {"events": None, "duration": None, "text": "", "truncated": False, "windows": []}
                    nothing["error"] = str(found)
                    yield [dict(nothing) for _ in recording.queries] if is_many else nothing
                    continue
                recording.add(window, found)
                if window.is_last or (is_partial and place == len(batch)):
                    results = recording.results(window.is_last)
                    yield results if is_many else results[0]

    def _answers(self, pieces, asked, generate_kwargs, on_error) -> list:
        """Return for each window its answers, one for each query; or the error that it alone ends in."""
        try:
            answers = iter(self.run_single(pieces, asked, generate_kwargs, {}) if pieces else ())
            return [list(itertools.islice(answers, len(piece[0].queries))) for piece in pieces]
        except ValueError as error:
            if on_error == "raise":
                raise
            if len(pieces) == 1:
                return [error]
            return [found for piece in pieces for found in self._answers([piece], asked, generate_kwargs, on_error)]

    def _pieces(
        self, source, asked, name, task, wording, plan, min_score=None, disable_tqdm=None, channel=None, strict=False,
        on_error="raise",
    ):  # fmt: skip
        """Yield the windows of a recording: what gathers its answers, whether these are many, window, samples.

        A recording that is skipped ends with an exception in place of samples.
        """
        is_many = isinstance(asked, (list, tuple))
        if is_many and not asked:
            raise ValueError("query is an empty list; give one text or more for each recording.")
        queries = list(asked) if is_many else [asked]
        recording = RecordingAnswers(name, task, queries, self.processor.time_step, min_score)
        rate = self.processor.sampling_rate
        try:
            seconds, blocks = stream_audio(
                source, rate, device=accelerator(self.model.device), channel=channel, strict=strict
            )
            is_short = seconds <= max(plan.whole_length_s, FEW_WINDOWS * plan.chunk_length_s)
            bar_format = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}]"
            is_hidden = True if is_short else disable_tqdm
            with tqdm(total=seconds, desc=os.path.basename(name), bar_format=bar_format, disable=is_hidden) as bar:
                for window, samples in stream_windows(blocks, plan, rate):
                    yield recording, is_many, window, samples
                    bar.update(window.core_end - window.core_start)
        except (ImportError, OSError, ValueError) as error:
            if on_error == "raise":
                is_named = name in (name_of(source), "recording")
                raise error if is_named else type(error)(f"{name}: {error}") from error
            yield recording, is_many, None, error

    def preprocess(self, batch, task="detection", wording=0, **prepared):
        # In the order of the rows that the model answers: all queries of a window, then those of the next.
        rows = [
            {"task": task, "query": query, "duration": len(samples) / self.processor.sampling_rate}
            for recording, _, _, samples in batch
            for query in recording.queries
        ]
        questions = [[prompt_text(task, query, wording) for query in recording.queries] for recording, *_ in batch]
        return {"waveforms": [samples for *_, samples in batch], "questions": questions, "rows": rows, **prepared}

    def _forward(self, model_inputs, return_scores=True, limits=None, frames=None, **generate_kwargs):
        rows, scored, asked = model_inputs["rows"], {}, model_inputs["questions"]
        clips = self.model, self.processor, model_inputs["waveforms"]
        heard = hear(*clips, model_inputs.get("stem_features"))
        if frames is not None:
            scored = {"frames": score_rows(*clips[:2], heard, asked, rows, frames["labels"]), "frame_options": frames}
            if frames["decode"] == "frames":
                return {"rows": rows, **scored}
        config, generate_kwargs = generation_settings(self.model, generate_kwargs)
        is_shared = config.use_cache is not False and config.cache_implementation is None
        has_assistant = generate_kwargs.get("assistant_model") is not None
        inputs = prefill_questions(*clips, asked, config.num_beams or 1, is_shared, heard, has_assistant)
        # Row i of the inputs and of the answers belongs to rows[i].
        width, processor = inputs["input_ids"].shape[1], self.processor
        if config.max_new_tokens is None:
            config.max_new_tokens = config.max_length - width
            if config.max_new_tokens < 1:
                raise ValueError(f"max_length is {config.max_length}, but the prompt is {width}; use max_new_tokens.")
        config.max_length = None
        eos = config.eos_token_id
        eos = processor.tokenizer.eos_token_id if eos is None else eos
        eos = [eos] if isinstance(eos, int) else list(eos)
        limits = {"constrained": True} if limits is None else dict(limits)
        is_constrained = limits.pop("constrained")
        if is_constrained:
            constraint = AnswerConstraint(
                processor.tokenizer, processor.grid, processor.answer_format, rows[0]["task"],
                [row["duration"] for row in rows], width, eos, **limits,
            )  # fmt: skip
            generate_kwargs["logits_processor"] = [*(generate_kwargs.get("logits_processor") or ()), constraint]
        config.return_dict_in_generate, config.output_logits = True, return_scores
        outputs = generate_answers(self.model, inputs, config, model_inputs.get("draft"), eos, **generate_kwargs)
        answers = outputs.sequences[:, width:]
        is_whole = torch.isin(answers, torch.tensor(eos, device=answers.device)).any(1).tolist()
        scored |= {"answers": answers, "rows": rows, "is_whole": is_whole, "is_constrained": is_constrained}
        if return_scores:
            # In digits a time is several tokens, and has no distribution of its own.
            ticks = self.model.config.time_token_ids if processor.answer_format == "ticks" else None
            own, times = log_probs_of(answers, outputs.logits, outputs.get("beam_indices"), ticks)
            scored |= {"own": own, "times": times}
        return scored

    def postprocess(self, outputs):
        """Return for each row the text of its answer, the events that it names, and whether it was truncated.

        Events are in seconds of the window; `None` if the text cannot be parsed. Frame scores may follow.
        """
        rows, answers = outputs["rows"], []
        if "answers" in outputs:
            texts = self.processor.tokenizer.batch_decode(outputs["answers"], skip_special_tokens=True)
            answers = [(text, self._events(outputs, index, text), not is_whole)
                       for index, (text, is_whole) in enumerate(zip(texts, outputs["is_whole"]))]  # fmt: skip
        if "frames" in outputs:
            return frame_answers(self.processor, rows, outputs["frames"], outputs["frame_options"], answers)
        return answers

    def _events(self, outputs, index, text):
        """Return the events of one answer, with their scores where these are known."""
        row, truncated = outputs["rows"][index], not outputs["is_whole"][index]
        question = row["task"], row["query"] or ""
        events = parse_events(text, *question, tolerant=not outputs["is_constrained"], truncated=truncated)
        if "own" in outputs:
            token_ids, own, times = (part if part is None else part[index] for part in (
                outputs["answers"], outputs["own"], outputs["times"]))  # fmt: skip
            soft = {} if times is None else {"time_log_probs": times, "grid": self.processor.grid}
            scored = score_events(self.processor.tokenizer, token_ids, own, *question, **soft, truncated=truncated)
            # They compare by times and label. What is read tolerantly has no scores.
            events = scored if scored == events else events
        # Frames are rounded up to the grid, so a time may pass the end by less than one step.
        return None if events is None else clip_events(events, row["duration"])

    def save_pretrained(self, save_directory, **kwargs):
        """Save a checkpoint directory that loads again; transformers would leave the processor and this code out."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)
