"""`/detect`, `/ground`, `/caption` and `/model`: the page for programs, with JSON out; tools of the MCP server, too."""

import logging

import gradio as gr

from space_app.answers import default_threshold, split_queries
from space_app.jobs import Stopped
from space_app.uploads import uploads_only

logger = logging.getLogger(__name__)


def as_json(answers, threshold: float) -> dict:
    """Return answers as the endpoints give them."""
    heard = answers.results[0]["duration"] if answers.results else 0.0
    return {
        "events": answers.events(threshold),
        "duration": answers.duration,
        "heard": heard,
        "num_windows": answers.num_windows,
        "num_windows_done": answers.num_done,
        "num_windows_unread": len(answers.unread),
        "num_windows_truncated": answers.num_truncated,
        "truncated": answers.num_truncated > 0,
        "is_whole": answers.is_whole,
        "threshold": threshold,
    }


def _described(what: str, threshold: str, label: str, *more: str) -> str:
    """Return the docstring of an endpoint: Gradio and MCP take a description of an argument from one line alone."""
    lines = [
        "audio: recording (wav, flac, ogg, mp3 and others), over MCP as a data: URL (data:audio/wav;base64,...); web "
        "addresses are refused, whatever the format of this argument says. It is deleted once it was answered.",
        *more,
        f"threshold: score from 0 to 1 that events need; {threshold}.",
        "window: seconds of the windows that long recordings are split into; by default the model's.",
        "overlap: seconds that windows overlap on either side; by default a sixth.",
    ]
    returns = f"events (onset and offset in seconds, {label}, score), duration in seconds, and how much was processed."
    return "\n".join([what, "", "Args:", *(f"    {line}" for line in lines), "", "Returns:", f"    {returns}"])


def add_endpoints(service):
    """Add the endpoints to the page that is being built."""
    pipe, limits = service.pipe, service.limits

    async def ask(audio, task, queries, threshold, window, overlap):
        try:
            if threshold is None:
                threshold = default_threshold(pipe, task)
            if not 0 <= threshold <= 1:
                raise ValueError(f"threshold is {threshold:g}; give a score from 0 to 1.")
            queries = split_queries(queries) if task == "grounding" else None
            steps = service.answer(service.new_job(), audio, task, queries, window, overlap)
            async for answers in steps:
                if answers.results:
                    yield as_json(answers, threshold)
        except Stopped:
            return
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from None
        except Exception:
            logger.exception("a request failed")
            raise gr.Error("The server failed at this request; it was logged there.", print_exception=False) from None
        finally:
            service.uploads.release(audio)

    async def detect(audio, threshold=None, window=None, overlap=None):
        async for result in ask(audio, "detection", None, threshold, window, overlap):
            yield result

    async def ground(audio, queries, threshold=None, window=None, overlap=None):
        async for result in ask(audio, "grounding", queries, threshold, window, overlap):
            yield result

    async def caption(audio, threshold=None, window=None, overlap=None):
        async for result in ask(audio, "captioning", None, threshold, window, overlap):
            yield result

    detect.__doc__ = _described(
        "Find every sound event in a recording. Long recordings are answered window by window: results so far come "
        "first, the last one is whole.", "by default what the model card recommends", "event_label",
    )  # fmt: skip
    ground.__doc__ = _described(
        'Find the sound events that match descriptions, such as "dog bark", or that there are none.', "by default 0",
        "the query as event_label", "queries: what to listen for, one description a line.",
    )  # fmt: skip
    caption.__doc__ = _described(
        "Describe what happens in a recording, with times. Models that were not trained to caption name labels.",
        "by default 0", "the caption as event_label",
    )  # fmt: skip

    def model():
        """Tell which model listens here, the labels that it knows, its measured figures, and the limits on recordings.

        Returns:
            name, num_parameters, labels (none: any words), figures from its card, max_megabytes and max_seconds.
        """
        facts = {name: service.facts[name] for name in ("name", "num_parameters", "labels", "figures")}
        return facts | {"max_megabytes": limits.max_megabytes, "max_seconds": limits.max_seconds}

    with gr.Group(visible=False):
        audio = uploads_only(gr.Audio(type="filepath", label="Recording"))
        queries = gr.Textbox(label="Queries, one a line", lines=3)
        threshold = gr.Number(None, label="Threshold of scores, 0 to 1")
        window, overlap = gr.Number(None, label="Window in seconds"), gr.Number(None, label="Overlap in seconds")
        result, facts = gr.JSON(label="Events and duration"), gr.JSON(label="The model and the limits")
        button = gr.Button()
    shared = {"outputs": result, "concurrency_id": "model", "concurrency_limit": limits.num_parallel}
    numbers = [threshold, window, overlap]
    button.click(detect, [audio, *numbers], api_name="detect", **shared)
    button.click(ground, [audio, queries, *numbers], api_name="ground", **shared)
    button.click(caption, [audio, *numbers], api_name="caption", **shared)
    button.click(model, None, facts, api_name="model")
