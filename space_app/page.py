"""`build_page`: the page, what is on it and where; what happens is in `page_events.py` and `endpoints.py`."""

from pathlib import Path

import gradio as gr

from space_app.answers import MAX_QUERIES, default_threshold
from space_app.downloads import export_choices, remove_export
from space_app.endpoints import add_endpoints
from space_app.interactive_plot import PLAY_SPAN_JS
from space_app.live_tab import add_live_tab
from space_app.model_facts import facts_html
from space_app.page_events import PageEvents
from space_app.uploads import uploads_only

PAGE_FOLDER = Path(__file__).resolve().parent
EXAMPLES = PAGE_FOLDER / "examples"
PAGE_FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]
TITLE = "When does it sound?"
# Labels are read from more files than are written; names, for the dialog.
LABEL_FILES = [".tsv", ".csv", ".json", ".jsonl", ".txt", ".rttm", ".vtt", ".srt", ".TextGrid", ".eaf",
               ".jams"]  # fmt: skip


def page_style() -> dict:
    """Return theme, styles and scripts for `launch`; fonts are the visitor's own, so that nothing is fetched."""
    theme = gr.themes.Base(primary_hue="blue", neutral_hue="slate", font=PAGE_FONT, font_mono=MONO, radius_size="sm")
    theme = theme.set(block_border_width="1px", block_shadow="none", block_label_background_fill="transparent")
    files = ("page.js", "live.js", "page.css")
    script, live, style = ((PAGE_FOLDER / name).read_text(encoding="utf-8") for name in files)
    # As `css` Gradio would rewrite the rules for phones until they match nothing.
    return {"theme": theme, "head": f"<style>{style}</style><script>{script}\n{live}\n{PLAY_SPAN_JS}</script>"}


def build_page(service) -> gr.Blocks:
    """Return the page, with its interface for programs.

    Args:
        service: what the page asks, see `service.py`.
    """
    limits, pipe = service.limits, service.pipe
    with gr.Blocks(title=TITLE, delete_cache=(60, limits.keep_seconds), analytics_enabled=False) as page:
        gr.HTML(
            f"<h1>{TITLE}</h1><p>Drop a recording, and see when its sounds start and end.</p>",
            elem_id="headline",
            padding=False,
        )
        gr.HTML(facts_html(service.facts), elem_id="facts", padding=False)
        parts = {
            "answers": gr.State(time_to_live=1800),
            "reference": gr.State(),
            "export": gr.State(delete_callback=remove_export),
        }
        parts["dark"] = gr.Checkbox(visible=False)
        with gr.Tabs():
            with gr.Tab("Recording"), gr.Row(equal_height=False):
                with gr.Column(scale=4, min_width=300):
                    _questions(parts, limits, pipe)
                with gr.Column(scale=7, min_width=320):
                    _answers(parts, pipe)
            with gr.Tab("Live"):
                add_live_tab(limits)
        with gr.Accordion("Model card", open=False, elem_id="model-card"):
            gr.Markdown(service.facts["card"] or "This checkpoint has no card.", sanitize_html=True)
        PageEvents(service, parts).connect(page)
        add_endpoints(service)
    return page


def _questions(parts, limits, pipe):
    parts["audio"] = gr.Audio(
        label=f"Recording, up to {limits.max_seconds / 60:g} minutes", sources=["upload", "microphone"],
        type="filepath", elem_id="recording", elem_classes="plays-spans", buttons=[],
    )  # fmt: skip
    uploads_only(parts["audio"])
    parts["task"] = gr.Radio(
        [("All sounds", "detection"), ("Queries", "grounding"), ("Captions", "captioning")], value="detection",
        label="Find", elem_id="task",
    )  # fmt: skip
    parts["query"] = gr.Textbox(
        label=f"Queries, one a line, up to {MAX_QUERIES}", lines=2, max_lines=6, visible=False, elem_id="query",
        placeholder="dog bark\na person speaks",
    )  # fmt: skip
    with gr.Row():
        parts["ask"] = gr.Button("Listen", variant="primary", elem_id="ask", min_width=120)
        parts["stop"] = gr.Button("Stop", elem_id="stop", min_width=80, visible=False)
    with gr.Accordion("Windows", open=False):
        gr.HTML(
            "<p class='hint'>Long recordings are processed in overlapping windows. Empty fields leave their lengths "
            "to the model.</p>", padding=False,
        )  # fmt: skip
        with gr.Row():
            longest = pipe.processor.max_time
            parts["chunk"] = gr.Number(
                None, label="Window (s)", minimum=0.5, maximum=longest, min_width=110, elem_id="chunk",
                placeholder=f"{pipe.processor.chunk_length_s or 10:g}",
            )  # fmt: skip
            parts["stride"] = gr.Number(
                None, label="Overlap (s)", minimum=0, min_width=110, elem_id="stride", placeholder="a sixth"
            )
    with gr.Accordion("Compare with true labels", open=False):
        parts["labels"] = gr.File(
            label="Labels: TSV, CSV, JSON, Audacity, RTTM, WebVTT, SRT, TextGrid, ELAN, JAMS", type="filepath",
            file_types=LABEL_FILES, height=110, elem_id="labels",
        )  # fmt: skip
        uploads_only(parts["labels"])
    files = sorted(EXAMPLES.glob("*.flac"))
    if files:
        rows = [
            [str(file), str(file.with_suffix(".tsv")) if file.with_suffix(".tsv").exists() else None] for file in files
        ]
        gr.Examples(
            rows, inputs=[parts["audio"], parts["labels"]], label="Examples, with true labels",
            example_labels=[file.stem.replace("_", " ").capitalize() for file in files], cache_examples=False,
            api_visibility="private", elem_id="examples",
        )  # fmt: skip


def _answers(parts, pipe):
    parts["status"] = gr.HTML(
        "<p class='empty'>The answer will appear here: waveform, spectrogram, and a lane for every kind of sound.</p>",
        elem_id="status", padding=False,
    )  # fmt: skip
    with gr.Column(visible=False) as parts["results"]:
        parts["plot"] = gr.Plot(show_label=False, container=False, elem_id="picture")
        parts["threshold"] = gr.Slider(
            0, 1, value=default_threshold(pipe, "detection"), step=0.01, label="Threshold", elem_id="threshold",
            info="Events of a lower score are hidden; the model is not asked again.",
        )  # fmt: skip
        parts["scores"] = gr.HTML(visible=False, elem_id="scores", padding=False)
        parts["table"] = gr.HTML(elem_id="table", padding=False)
        with gr.Row(equal_height=True):
            parts["format"] = gr.Dropdown(
                export_choices(pipe),
                value="tsv",
                label="Format",
                show_label=False,
                container=False,
                min_width=150,
                elem_id="format",
            )
            parts["download"] = gr.DownloadButton("Download", min_width=120, size="md", elem_id="download")
        with gr.Accordion("Raw answer and prompt", open=False, elem_id="raw"):
            parts["raw"] = gr.HTML(padding=False)
        with gr.Accordion("Where the answer looks", open=False, elem_id="attention"):
            gr.HTML(
                "<p class='hint'>The attention that each time of the answer pays to the ticks of the prompt, and to "
                "the audio frames behind them; mean over layers and heads. The mark is the time that is said.</p>",
                padding=False,
            )  # fmt: skip
            with gr.Row(equal_height=True):
                parts["window"] = gr.Dropdown(
                    [], label="Answer", show_label=False, container=False, min_width=180, elem_id="window"
                )
                parts["look"] = gr.Button("Show attention", elem_id="look", size="md", min_width=140)
            parts["looks"] = gr.Plot(show_label=False, container=False, visible=False, elem_id="looks")
            parts["look_status"] = gr.HTML(padding=False)
