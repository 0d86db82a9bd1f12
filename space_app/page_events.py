"""`PageEvents`: what happens on the page when a visitor asks, moves the threshold, compares or looks closer."""

import asyncio
import logging
import time

import gradio as gr

from space_app.answers import default_threshold, split_queries
from space_app.attention_view import answer_attention, window_choices
from space_app.checkpoint_code import carried
from space_app.downloads import remove_export, write_export
from space_app.interactive_attention import attention_figure
from space_app.interactive_plot import interactive_figure
from space_app.jobs import Stopped
from space_app.prompt_view import prompt_html
from space_app.reference_labels import read_reference, score_file
from space_app.results_view import error_html, progress_html, scores_html, summary_html, table_html

logger = logging.getLogger(__name__)
# Seconds between two pictures of a recording that is being heard.
PICTURE_EVERY = 1.5
FAILED = "The server failed at this request; it was logged there. The page goes on."
IS_DARK = "() => document.body.classList.contains('dark')"


class PageEvents:
    """Connect the parts of the page.

    Args:
        service: the `Service`.
        parts: components by name, see `page.py`.
    """

    def __init__(self, service, parts: dict):
        self.service, self.pipe, self.parts = service, service.pipe, parts
        # What each visitor has uploaded, by session and part; and, by session, the threshold and the reference labels
        # that came after a visitor has pressed Listen.
        self._held, self._newer = {}, {}

    def connect(self, page: gr.Blocks):
        """Add the events; none of them is part of the interface for programs."""
        parts, hidden = self.parts, {"api_visibility": "private", "show_progress": "hidden"}

        def pick(*names):
            return [parts[name] for name in names]

        view = ("plot", "table", "scores", "export", "download")
        shown = pick("answers", "reference", "threshold", "format", "export", "dark")
        page.load(None, None, parts["dark"], js=IS_DARK)
        page.unload(self.leave)
        asking = gr.on(
            [parts["ask"].click],
            self.ask,
            pick("audio", "task", "query", "chunk", "stride", *("reference", "threshold", "format", "export", "dark")),
            pick("answers", "status", "results", "stop", "raw", "window", "looks", "look_status", *view),
            concurrency_id="model",
            concurrency_limit=self.service.limits.num_parallel,
            **hidden | {"show_progress": "minimal", "show_progress_on": parts["status"]},
        )
        parts["stop"].click(self.stopped, None, pick("status", "stop"), cancels=[asking], **hidden)
        # The threshold of the other task holds at once: what is shown is always what the slider says.
        parts["task"].change(self.choose, parts["task"], pick("query", "threshold"), **hidden).then(
            self.filter, shown, pick("status", *view), **hidden
        )
        parts["audio"].change(self.hold_audio, parts["audio"], None, **hidden)
        parts["labels"].change(
            self.compare, pick("labels", "answers", "audio"), pick("reference", "status"), **hidden
        ).then(self.view, shown, pick(*view), **hidden)
        for trigger in (parts["threshold"].input, parts["format"].input):
            trigger(self.filter, shown, pick("status", *view), trigger_mode="always_last", **hidden)
        parts["look"].click(
            self.look, pick("answers", "window", "dark"), pick("looks", "look_status"), concurrency_id="model",
            **hidden | {"show_progress": "minimal", "show_progress_on": parts["look_status"]},
        )  # fmt: skip

    async def ask(
        self, audio, task, query, chunk, stride, reference, threshold, format, export, dark, request: gr.Request
    ):
        """Ask, and show the answer while it grows."""
        job, last, session = self.service.new_job(), 0.0, request.session_hash
        # Labels whose upload has ended while this waited are newer than those that came with the click.
        newer = self._newer.setdefault(session, {})
        newer.pop("threshold", None)
        keep = [gr.skip()] * 5
        running = [gr.update(visible=True), "", gr.update(choices=[], value=None), gr.update(visible=False), ""]
        stopped = [gr.update(visible=False), *[gr.skip()] * 4]
        try:
            queries = split_queries(query) if task == "grounding" else None
            answers = None
            async for answers in self.service.answer(job, audio, task, queries, chunk, stride):
                threshold, reference = newer.get("threshold", threshold), newer.get("reference", reference)
                show = gr.update(visible=bool(answers.results))
                parts = keep
                if answers.results and not answers.is_whole and time.monotonic() - last > PICTURE_EVERY:
                    parts = await _in_thread(self.view, answers, reference, threshold, format, export, dark)
                    export, last = parts[3], time.monotonic()
                yield (answers, progress_html(answers), show if answers.results else gr.skip(), *running, *parts)
                running[1:] = [gr.skip()] * 4
            threshold, reference = newer.get("threshold", threshold), newer.get("reference", reference)
            parts = await _in_thread(self.view, answers, reference, threshold, format, export, dark)
            status = summary_html(answers, threshold)
            raw = await _in_thread(prompt_html, self.pipe, answers)
            choices = [(text, f"{query},{window}") for text, (query, window) in window_choices(answers)]
            window = gr.update(choices=choices, value=choices[0][1] if choices else None)
            yield answers, status, gr.update(visible=True), stopped[0], raw, window, gr.skip(), gr.skip(), *parts
        except Stopped:
            return
        except ValueError as error:
            yield gr.skip(), error_html(str(error)), gr.skip(), *stopped, *keep
        except Exception:
            logger.exception("a request of the page failed")
            yield gr.skip(), error_html(FAILED), gr.skip(), *stopped, *keep

    def stopped(self):
        """Say that the visitor stopped it."""
        return '<div class="status" role="status">Stopped.</div>', gr.update(visible=False)

    def choose(self, task):
        """Show the field of queries where there are any, and the task's own threshold."""
        return gr.update(visible=task == "grounding"), default_threshold(self.pipe, task)

    def view(self, answers, reference, threshold, format, export, dark):
        """Return picture, table, scores, path of the download and its button, of events of at least a score."""
        if answers is None:
            return [gr.skip()] * 5
        events = answers.events(threshold)
        decimals = self.pipe.processor.grid.decimals
        if reference is not None and answers.task == "grounding":
            reference = [event for event in reference if event.event_label in answers.queries]
        figure = interactive_figure(answers.waveform, answers.sampling_rate, events, reference, dark, decimals)
        scores = None
        if reference is not None:
            scores = score_file(reference, self._as_events(events), time_only=answers.task == "captioning")
        remove_export(export)
        try:
            result = {"file": answers.name, "duration": answers.duration, "events": events}
            result |= {"truncated": True} if answers.num_truncated else {}
            export = write_export(self.pipe, self.service.downloads, result, format)
            button = gr.update(value=export, interactive=True, label="Download")
        except ValueError:
            export, button = None, gr.update(value=None, interactive=False, label="Nothing to download")
        scores = gr.update(value=scores_html(scores), visible=scores is not None)
        return figure, table_html(events, decimals), scores, export, button

    def filter(self, answers, reference, threshold, format, export, dark, request: gr.Request):
        """Return what the status says of events of at least a score, and what [`PageEvents.view`] returns."""
        self._newer.setdefault(request.session_hash, {})["threshold"] = threshold
        status = summary_html(answers, threshold) if answers and answers.is_whole else gr.skip()
        return status, *self.view(answers, reference, threshold, format, export, dark)

    def hold_audio(self, path, request: gr.Request):
        """Remember a visitor's recording, and let the one before go."""
        self._hold(request.session_hash, "audio", path)

    def compare(self, labels, answers, audio, request: gr.Request):
        """Read reference labels."""
        self._hold(request.session_hash, "labels", labels)
        reference, status, name = None, gr.skip(), audio or (answers.name if answers else "")
        try:
            if labels:
                reference = read_reference(self.pipe, self.service.uploads.checked(labels), name)
        except ValueError as error:
            status = error_html(str(error))
        self._newer.setdefault(request.session_hash, {})["reference"] = reference
        return reference, status

    def leave(self, request: gr.Request):
        """Let all go that a visitor has uploaded."""
        self._newer.pop(request.session_hash, None)
        for path in self._held.pop(request.session_hash, {}).values():
            self.service.uploads.release(path)

    def look(self, answers, window, dark):
        """Show the attention of one window's answer."""
        if answers is None or not window:
            return gr.update(visible=False), error_html("The answer has no time to look at.")
        try:
            query, place = map(int, window.split(","))
            looks = answer_attention(self.pipe, answers, query, place, self.service.new_job())
        except (ValueError, IndexError) as error:
            return gr.update(visible=False), error_html(str(error))
        panels = {"ticks": looks["to_ticks"], "audio frames": looks["to_frames"]}
        decimals = self.pipe.processor.grid.decimals
        figure = attention_figure(looks["ticks"], panels, dark=dark, said=looks["said"], decimals=decimals)
        return gr.update(value=figure, visible=True), ""

    def _as_events(self, events):
        return [carried(self.pipe, "events").Event.from_dict(event) for event in events]

    def _hold(self, session, part, path):
        held = self._held.setdefault(session, {})
        if held.get(part) != path:
            self.service.uploads.release(held.get(part))
            held[part] = path


async def _in_thread(function, *arguments):
    return await asyncio.to_thread(function, *arguments)
