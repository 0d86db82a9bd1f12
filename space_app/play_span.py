"""`PLAY_SPAN_JS`: what makes the bars of [`~space_app.interactive_plot.interactive_figure`] play in a Gradio page.

    page.launch(head=f"<script>{PLAY_SPAN_JS}</script>")

The recording must be in a player of the page (`gr.Audio`, `<audio>`); where there are several, give the one that bars
play `elem_classes="plays-spans"`.
"""

from pathlib import Path

PLAY_SPAN_JS = (Path(__file__).parent / "play_span.js").read_text(encoding="utf-8")
