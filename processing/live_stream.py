"""`LiveStream`: chunks of sound in, events out as they end, by the windows of long recordings and what fills them.

The rule. A stream is heard in the windows in which a recording of that length is, each when its sound is complete.
Before, whenever sound has ceased, the window that is filling is heard as far as it goes (a look). What is known after
a look is what the merging rule of `windowing.py` makes of the complete windows and of the one that is filling, as if
the recording ended there. An event that ended some time before the look is then told for good; later windows may see
it otherwise, but what was told stays. With `exact` there are no looks: events are told once no later window can change
them, and are those of a recording.

What is computed. The frozen stem of a window goes on where the last look ended; its context layers and the language
model run on the window at every look. An answer starts from the draft that the look before has left.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from .answer_text import format_events
from .audio_io import stream_audio
from .audio_mixing import StreamResampler
from .events import Event, shift_events
from .live_state import LiveReport, LiveState
from .windowing import EventMerger, Window, WindowPlan, shift_to_recording
from .yamnet_features import TimeProYamnetFeatureExtractor

# Sound has ceased where the level of the bands that fell most, so many of 64, has fallen by so much (nepers, their
# mean), comparing so many mel columns of 10 ms before and after; it has begun where it has risen by as much.
NUM_BANDS, CHANGE, BEFORE, AFTER = 16, 1.1, 48, 32
# Looks are paid from a credit that grows with the sound, up to so many.
MOST_CREDIT = 4.0
# Tokens of the answer to a look at most: some six events. Of sound that breaks off, answers may find no end.
LOOK_TOKENS = 64
# Mel columns that go through the stem at once. Blocks of any length would each have oneDNN keep code of its own.
BLOCKS = 512, 128, 32, 16
# A window is not looked at before it has filled so far, in seconds.
SHORTEST_LOOK_S = 1.0


class LiveStream:
    """Hear a stream chunk by chunk. Made by `pipe.live(...)`.

    Args:
        settings: what a saved state must agree in, ready for JSON: `sampling_rate` of the chunks, `model_rate`,
            `hop_s`, `queries`, `exact`, `look_every_s` and what else changes answers.
        plan: where windows lie.
        answer: called with the samples of a window `(num_samples,)`, its stem features `(1, num_frames, size)` or
            `None`, the texts of the answers to be expected (none, or one for each query), and whether this is a look;
            returns for each query `(text, events in seconds of the window or None, whether it is truncated)`.
        stem: makes the [`StreamingStem`] of a window; `None` where the encoder has none, and hears windows whole.
        time_step: seconds, the tolerance of [`EventMerger`].
        min_score: events whose score is lower are not told.
        channel: which channel of chunks is heard, see [`load_audio`].
        draft_of: returns the text of an answer that names some events of a window.
    """

    def __init__(
        self,
        settings: dict,
        plan: WindowPlan,
        answer: Callable,
        stem: Callable | None,
        time_step: float,
        min_score: float | None,
        channel: int | str | None,
        draft_of: Callable,
    ):
        self.plan, self.answer, self.stem, self.draft_of = plan, answer, stem, draft_of
        self.time_step, self.min_score, self.channel = time_step, min_score, channel
        self.rate, self.mel = settings["model_rate"], TimeProYamnetFeatureExtractor()
        self.hop = round(settings["hop_s"] * self.rate)
        self.is_over, self.num_channels, self.num_looks = False, None, 0
        self.num_queries = len(settings["queries"] or [None])
        self._start(LiveState(settings, credit=1.0))

    def push(self, chunk: Any) -> list[dict]:
        """Take the next sound and return what is due, see [`LiveReport`].

        Args:
            chunk: of any length: an array `(num_samples,)` or `(num_samples, num_channels)`, a tensor
                `(num_channels, num_samples)`, floats from -1 to 1 or integers.

        Raises:
            ValueError: samples that [`load_audio`] refuses, or the stream is over.
        """
        if self.is_over:
            raise ValueError("the stream is over; open another one for more sound.")
        rate = self.state.settings["sampling_rate"]
        if math.prod(getattr(chunk, "shape", (1,))) == 0:
            return []
        if hasattr(chunk, "detach"):
            chunk = chunk.detach().cpu().numpy().T
        num_samples = len(chunk)
        # Fewer samples than channels look like an array that lies the other way, unless more has come before.
        if np.ndim(chunk) == 2 and num_samples < chunk.shape[1] == self.num_channels:
            chunk = np.tile(chunk, (self.num_channels, 1))
        # Of single chunks nobody wants to know that they are silent.
        _, blocks = stream_audio(chunk, rate, rate, channel=self.channel, report=lambda text: None)
        samples = np.concatenate(list(blocks))[:num_samples]
        self.num_channels = chunk.shape[1] if np.ndim(chunk) == 2 else 1
        return self._take(self.resampler.push(samples))

    def finish(self) -> list[dict]:
        """End the stream and return what is due: all that was open is closed."""
        if self.is_over:
            return []
        reports = self._take(self.resampler.push(np.zeros(0, dtype=np.float32), is_last=True))
        self.is_over = True
        state, duration = self.state, self.position / self.rate
        if not self.position:
            return reports
        window, finished = self.plan.last_window(state.index, duration), []
        samples = self._samples(round(window.start * self.rate), self.position)
        # As a recording ends: its last window is as long as the others, so it may start before the one that fills.
        if len(samples) >= self.mel.min_num_samples:
            for merger, (_, events, _) in zip(self.mergers, self.answer(samples, None, [], False)):
                finished += merger.add(window, None if events is None else shift_to_recording(events, window))
        finished += [event for merger in self.mergers for event in merger.finish()]
        reports += self._report(finished, duration, is_last=True)
        return reports

    def events_of(self, chunks: Iterable) -> Iterator[dict]:
        """Yield what is due after each of the last chunks there are, and at the end."""
        for chunk in chunks:
            yield from self.push(chunk)
        yield from self.finish()

    @property
    def position(self) -> int:
        """Return how much sound has come in, in samples at the model's rate."""
        return self.state.start + len(self.state.samples)

    @property
    def open_events(self) -> list[dict]:
        """Return the reports of events that go on."""
        return [dict(report) for report in self.report.reported if report["state"] == "open"]

    def state_dict(self) -> dict[str, Any]:
        """Return the state between two chunks, see [`LiveState`]."""
        return self._state().state_dict()

    def load_state_dict(self, state: dict[str, Any]):
        """Go on from a state of a stream that was opened alike.

        Raises:
            ValueError: another version, wrong names or values, or a stream that was opened otherwise.
        """
        state, own = LiveState.from_state_dict(state), self.state.settings
        if state.settings != own:
            names = sorted(name for name in {*own, *state.settings} if own.get(name) != state.settings.get(name))
            told = {name: state.settings.get(name) for name in names}
            raise ValueError(f"state is of a stream with other {', '.join(names)}: {told}; open this one alike.")
        self._start(state)

    def save(self, path):
        """Write the state to a safetensors file, see [`LiveState.save`]."""
        self._state().save(path)

    def load(self, path):
        """Go on from a file of [`LiveStream.save`]; errors are those of [`LiveStream.load_state_dict`]."""
        self.load_state_dict(LiveState.load(path).state_dict())

    def _start(self, state):
        self.state = state
        self.mergers = [EventMerger(self.time_step) for _ in range(self.num_queries)]
        for merger, saved in zip(self.mergers, state.mergers):
            merger.load_state_dict(saved)
        self.report = LiveReport(state.reported, state.num_reported)
        rates = state.settings["sampling_rate"], self.rate
        self.resampler = StreamResampler(*rates, state.raw.numpy(), state.raw_start, self.position)
        self.window_stem = None
        if state.stem:
            self.window_stem = self.stem()
            self.window_stem.load_state_dict(state.stem)

    def _state(self) -> LiveState:
        state = self.state
        state.mergers = [merger.state_dict() for merger in self.mergers]
        state.num_reported = self.report.num_reported
        state.stem = {} if self.window_stem is None else self.window_stem.state_dict()
        state.raw, state.raw_start = torch.from_numpy(self.resampler.tail), self.resampler.start
        return state

    def _take(self, samples) -> list[dict]:
        """Take samples at the model's rate, and stop at every hop and at every end of a window.

        Hops are counted from the start of the window: so what is computed has few lengths, and what torch and oneDNN
        keep for every length that they have met is bounded.
        """
        state, reports = self.state, []
        state.samples = torch.cat([state.samples, torch.from_numpy(samples)])
        while True:
            window = self.plan.window(state.index)
            start, end = round(window.start * self.rate), round(window.end * self.rate)
            mark = min(end, start + ((state.heard - start) // self.hop + 1) * self.hop)
            # A recording that ends with a window has no next one: whether this one does is not known yet.
            if mark > self.position or mark == end == self.position:
                return reports
            state.credit = min(
                MOST_CREDIT, state.credit + (mark - state.heard) / self.rate / state.settings["look_every_s"]
            )
            before, state.heard = state.heard, mark
            if mark == end:
                reports += self._complete()
            elif not state.settings["exact"] and self._is_worth_a_look(before):
                reports += self._look()

    def _is_worth_a_look(self, before) -> bool:
        """Tell whether sound has ceased since the hop before that had begun, and the credit allows a look.

        Where looks are to be as frequent as hops, which are whole steps, there is one at every hop.
        """
        state = self.state
        fallen, risen = self._changes(before)
        state.is_sounding |= risen
        start = round(self.plan.window(state.index).start * self.rate)
        if state.heard - start < SHORTEST_LOOK_S * self.rate:
            return False
        if state.settings["look_every_s"] < state.settings["hop_s"] + self.time_step:
            return True
        return state.credit >= 1 and (state.is_pending or (fallen and state.is_sounding))

    def _changes(self, before) -> tuple[bool, bool]:
        """Return whether the sound has fallen, and whether it has risen, since a position, `AFTER` columns ago."""
        num_new = (self.state.heard - before) // self.mel.hop_length
        length = (num_new + BEFORE + AFTER + 1) * self.mel.hop_length
        # The last column reaches past the sound.
        levels = self.mel.log_mel(self._samples(max(self.state.start, self.state.heard - length), self.state.heard))
        sums = np.pad(levels[:, :-1], ((0, 0), (1, 0))).cumsum(1, dtype=np.float64)
        if sums.shape[1] <= BEFORE + AFTER:
            return False, False
        change = (sums[:, BEFORE + AFTER :] - sums[:, BEFORE:-AFTER]) / AFTER
        change -= (sums[:, BEFORE:-AFTER] - sums[:, : -BEFORE - AFTER]) / BEFORE
        most = np.sort(change, 0)
        fallen, risen = -most[:NUM_BANDS].clip(None, 0), most[-NUM_BANDS:].clip(0)
        return bool((fallen.mean(0) >= CHANGE).any()), bool((risen.mean(0) >= CHANGE).any())

    def _look(self) -> list[dict]:
        """Hear the window that is filling, and report what has ended."""
        state = self.state
        full = self.plan.window(state.index)
        now = state.heard / self.rate
        window = Window(full.start, now, full.core_start, now, is_last=True)
        state.credit = max(0.0, state.credit - 1)
        self.num_looks += 1
        known = []
        for merger, events in zip(self.mergers, self._answers(window)):
            merger = copy.copy(merger)
            known += [*merger.add(window, events), *merger.finish()]
        reports = self._report(known, now)
        # It was sound that ceased: where the answer lets it go on, the next one may know better.
        state.is_sounding = any(event.offset > now - 2 * self.time_step for event in known)
        state.is_pending = state.is_sounding and not state.is_pending
        return reports

    def _complete(self) -> list[dict]:
        """Hear a window whose sound is complete, and turn to the next one."""
        state = self.state
        window, known = self.plan.window(state.index), []
        answers = self._answers(window)
        for merger, events in zip(self.mergers, answers):
            known += merger.add(window, events)
            if not state.settings["exact"]:
                known += copy.copy(merger).finish()
        reports = self._report(known, window.end)
        self.report.forget(window.start)
        state.index, state.is_pending, self.window_stem = state.index + 1, False, None
        following = self.plan.window(state.index).start
        later = [[event for event in events or () if event.onset >= following] for events in answers]
        state.texts = [self.draft_of(shift_events(events, -following)) for events in later]
        # The next window's sound, and that of the last window, which may start earlier.
        needed = max(0, min(round(following * self.rate), state.heard - round(self.plan.chunk_length_s * self.rate)))
        state.samples, state.start = state.samples[needed - state.start :].clone(), needed
        return reports

    def _answers(self, window) -> list[list[Event] | None]:
        """Return for each query the events of a window, in seconds of the stream."""
        state, stem_features = self.state, None
        samples = self._samples(round(window.start * self.rate), state.heard)
        if self.stem is not None:
            self.window_stem = self.window_stem or self.stem()
            columns = torch.from_numpy(self.mel.log_mel(samples))[None, :, self.window_stem.num_columns :]
            # The last column reaches past the last sample: it is not kept.
            for length in BLOCKS:
                while columns.shape[-1] > length:
                    self.window_stem.push(columns[..., :length])
                    columns = columns[..., length:]
            stem_features = self.window_stem.frames(columns)
        answers = self.answer(samples, stem_features, state.texts, window.is_last)
        state.texts = [text for text, _, _ in answers]
        return [None if events is None else shift_to_recording(events, window) for _, events, _ in answers]

    def _report(self, events, heard, is_last=False):
        if self.min_score is not None:
            events = [event for event in events if event.score is None or event.score >= self.min_score]
        if self.state.settings["exact"]:
            # No later answer names again what is finished.
            self.report.forget(math.inf)
            is_last = True
        return self.report.update(events, heard, is_last)

    def _samples(self, start, end) -> np.ndarray:
        return self.state.samples[start - self.state.start : end - self.state.start].numpy()


def open_live(pipe, sampling_rate, hop_s, queries, exact, look_every_s, settings, generate_kwargs) -> LiveStream:
    """Return the live stream of a pipeline; `settings` and `generate_kwargs` are what its calls make of options.

    Raises:
        ValueError: a sampling rate that is no whole number, a hop shorter than a step of the checkpoint's times, or no
            queries, or one twice.
    """
    if queries is not None and (not queries or len(set(queries)) < len(queries)):
        raise ValueError(f"queries is {queries!r}; give one text or more, each once, or None for all events.")
    processor, model, plan = pipe.processor, pipe.model, settings["plan"]
    if isinstance(sampling_rate, bool) or not isinstance(sampling_rate, int) or sampling_rate < 1:
        raise ValueError(f"sampling_rate is {sampling_rate!r}; give whole samples per second.")
    step = processor.time_step
    if isinstance(hop_s, bool) or not isinstance(hop_s, (int, float)) or not step <= hop_s <= plan.chunk_length_s:
        raise ValueError(f"hop_s is {hop_s!r}; give seconds, from {step:g} to {plan.chunk_length_s:g}.")
    if isinstance(look_every_s, bool) or not isinstance(look_every_s, (int, float)) or not look_every_s > 0:
        raise ValueError(f"look_every_s is {look_every_s!r}; give seconds, more than 0.")
    # A live stream has no end: it is heard as what is longer than one window.
    plan = replace(plan, whole_length_s=min(plan.whole_length_s, plan.chunk_length_s))
    asked = SimpleNamespace(queries=[None] if queries is None else list(queries))
    question = {name: settings[name] for name in ("task", "wording")}

    def answer(samples, stem_features, texts, is_look):
        draft = None
        if len(texts) == 1:
            draft = processor.tokenizer(texts[0], add_special_tokens=False)["input_ids"]
        options = {**question, "stem_features": stem_features, "draft": draft}
        limits = ({"max_new_tokens": LOOK_TOKENS} if is_look else {}) | generate_kwargs
        return [row[:3] for row in pipe.run_single([(asked, True, None, samples)], options, limits, {})]

    def draft_of(events):
        return format_events(events, question["task"], processor.grid, processor.answer_format)

    told = {
        "sampling_rate": sampling_rate, "model_rate": processor.sampling_rate, "exact": bool(exact), "queries": queries,
        "hop_s": round(math.floor(round(hop_s / step, 6)) * step, 9), "plan": asdict(plan),
        "min_score": settings.get("min_score"), "limits": generate_kwargs["limits"], "look_every_s": look_every_s,
    }  # fmt: skip
    stem = getattr(model.model.audio_tower, "streaming_stem", None)
    return LiveStream(told, plan, answer, stem, step, settings.get("min_score"), settings.get("channel"), draft_of)


__all__ = ["LiveStream", "open_live"]
