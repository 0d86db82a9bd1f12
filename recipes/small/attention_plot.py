"""Plot the attention of an answer's times to the time prompt, under the spectrogram.

    python -m recipes.small.attention_plot space_app/examples/farmyard.flac --query rooster \\
        --reference space_app/examples/farmyard.tsv --out docs/images/attention.png

As in arXiv 2604.13715: attention of the tokens of times to ticks, averaged over layers and heads, next to that to
frames, which directly follow their ticks in this layout.
"""

from pathlib import Path

import numpy as np

from processing.answer_text import parse_events, prompt_text
from processing.audio_io import load_audio
from recipes.arguments import add_model, script_parser
from recipes.conversion.checkpoint import load_checkpoint
from recipes.data.loading import load_clips
from space_app.attention_view import attention_of
from space_app.palette import FAINT, INK, LIGHT
from space_app.spectrogram import log_mel


def answer_to(model, processor, waveform, question) -> str:
    """Return the greedy answer to a question about a waveform `(num_samples,)` at `processor.sampling_rate`."""
    blocks = [{"type": "audio"}, {"type": "text", "text": question}]
    text = processor.apply_chat_template([{"role": "user", "content": blocks}], add_generation_prompt=True)
    inputs = processor(text=text, audio=[waveform], return_tensors="pt")
    answer = model.generate(**inputs, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    return processor.tokenizer.decode(answer, skip_special_tokens=True)


def plot_attention(waveform, sampling_rate, looks, time_step, events, reference, path=None, title=None):
    """Plot the spectrogram with reference and predicted events, and below it a row of attention per predicted time.

    Args:
        waveform: `(num_samples,)`.
        looks: from [`attention_of`], with at least one time.
        time_step: seconds between ticks.
        events, reference: predicted and reference events.
        path: file to save; `None` saves nothing.
    """
    from matplotlib.figure import Figure

    duration, num_said = len(waveform) / sampling_rate, len(looks["said"])
    heights = (1.7, 0.5, 0.34 * num_said, 0.34 * num_said)
    figure = Figure(figsize=(9.0, sum(heights) + 1.5), dpi=160, layout="constrained")
    mel, lane, ticks, frames = figure.subplots(4, 1, sharex=True, height_ratios=heights)
    levels, edges = log_mel(waveform, sampling_rate)
    columns, rows = np.linspace(0, duration, levels.shape[1] + 1), np.arange(len(levels) + 1)
    mel.pcolormesh(columns, rows, levels, cmap="Greys", vmin=-70, vmax=0)
    places = [int(np.argmin(np.abs(edges[1:-1] - hertz))) for hertz in (250, 1000, 4000)]
    mel.set_yticks(places, ["250 Hz", "1 kHz", "4 kHz"])
    for row, (found, colour) in enumerate(((reference, LIGHT[4]), (events, LIGHT[0]))):
        for event in found:
            lane.barh(row, event.duration, left=event.onset, height=0.7, color=colour)
    lane.set(yticks=(0, 1), yticklabels=("true", "answer"), ylim=(1.5, -0.5))
    extent = np.arange(looks["to_ticks"].shape[1] + 1) * time_step
    highest = max(looks["to_ticks"].max(), looks["to_frames"].max())
    for axes, key, name in ((ticks, "to_ticks", "ticks"), (frames, "to_frames", "frames")):
        image = axes.pcolormesh(extent, np.arange(num_said + 1), looks[key], cmap="Blues", vmin=0, vmax=highest)
        axes.set_yticks(np.arange(num_said) + 0.5, [f"{seconds:.2f} s" for seconds in looks["said"]])
        axes.set_ylim(num_said, 0)
        axes.set_ylabel(f"to {name}", color=INK)
    for axes in (mel, ticks, frames):
        for event in reference:
            for seconds in (event.onset, event.offset):
                axes.axvline(seconds, color=LIGHT[4], lw=0.8, ls=(0, (3, 2)))
    for axes in (mel, lane, ticks, frames):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8.5, color=FAINT)
    frames.set(xlim=(0, duration), xlabel="time (s)")
    figure.colorbar(image, ax=(ticks, frames), label="attention", fraction=0.03, pad=0.01)
    figure.suptitle(title, fontsize=11, color=INK, x=0.02, ha="left")
    if path is not None:
        figure.savefig(path)
    return figure


def main(argv: list[str] | None = None):
    parser = script_parser(__doc__)
    parser.add_argument("file", help="recording")
    parser.add_argument("--query", required=True, help="label to ask for")
    parser.add_argument("--reference", required=True, help="annotations of the recording")
    add_model(parser)
    parser.add_argument("--out", required=True, metavar="PNG")
    args = parser.parse_args(argv)
    model, processor = load_checkpoint(args.model)
    waveform = load_audio(args.file, processor.sampling_rate)
    question = prompt_text("grounding", args.query)
    looks = attention_of(model.eval(), processor, waveform, question, answer_to(model, processor, waveform, question))
    events = parse_events(looks["text"], "grounding", args.query)
    if not events:
        parser.error(f"--query is {args.query!r}, to which the answer is {looks['text']!r}: no times to draw.")
    name = Path(args.file).name
    clips = [clip for clip in load_clips(args.reference) if Path(clip.audio or "").name == name]
    reference = [event for clip in clips for event in clip.events if event.event_label == args.query]
    title = f"Where “{looks['text']}” looks: {name}, “{args.query}”"
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    plot_attention(waveform, processor.sampling_rate, looks, processor.time_step, events, reference, args.out, title)


if __name__ == "__main__":
    main()
