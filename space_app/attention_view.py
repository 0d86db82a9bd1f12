"""Where an answer looks: the attention that the times it says pay to the ticks of the prompt (arXiv 2604.13715)."""

import numpy as np
import torch

from space_app.checkpoint_code import carried
from space_app.palette import DARK, FAINT, INK, LIGHT


def window_choices(answers) -> list[tuple[str, tuple[int, int]]]:
    """Return `(text, (query, window))` of all windows whose answer says a time."""
    choices = []
    for index, (query, result) in enumerate(zip(answers.queries, answers.results, strict=True)):
        for place, window in enumerate(result["windows"]):
            if window["events"]:
                about = f"{query}, " if query and len(answers.queries) > 1 else ""
                choices.append((f"{about}{window['start']:.2f}\u2013{window['end']:.2f} s", (index, place)))
    return choices


@torch.no_grad()
def answer_attention(pipe, answers, query: int, window: int, job) -> dict:
    """Read an answer once more and return where the positions that say times look.

    Args:
        answers: whole [`Answers`].
        query, window: which of them, by index.

    Returns:
        `text`, the answer; `start` of the window in seconds; `said`, the times in the answer, and `ticks`, those of the
        prompt, in seconds of the recording; `to_ticks`, `to_frames` `(len(said), len(ticks))`: the mean over layers and
        heads of the attention paid to each tick, and to the frames from it to the next.

    Raises:
        ValueError: the checkpoint has no ticks in its prompt, or in its answers.
    """
    model, processor = pipe.model, pipe.processor
    config = model.config
    if not config.time_prompt or processor.answer_format != "ticks":
        raise ValueError("This checkpoint has no ticks in its prompts and answers, so there is nothing to look at.")
    asked = answers.results[query]["windows"][window]
    start, rate = asked["start"], answers.sampling_rate
    samples = answers.waveform[round(start * rate) : round(asked["end"] * rate)]
    question = carried(pipe, "event_text").prompt_text(answers.task, answers.queries[query])
    content = [{"type": "audio"}, {"type": "text", "text": question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=text, audio=[samples], return_tensors="pt").to(model.device)
    width = inputs["input_ids"].shape[1]
    said_ids = processor.tokenizer(asked["text"], add_special_tokens=False, return_tensors="pt")["input_ids"]
    ids = torch.cat([inputs["input_ids"], said_ids.to(model.device)], dim=1)
    whole = dict(inputs) | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with job.model():
        language = model.model.language_model
        usual = language.config._attn_implementation
        # Others do not tell their weights.
        language.set_attn_implementation("eager")
        try:
            attentions = model(**whole, output_attentions=True).attentions
        finally:
            language.set_attn_implementation(usual)
    weights = torch.stack([layer[0].float().mean(0) for layer in attentions]).mean(0).cpu()
    ids, ticks = ids[0].cpu(), config.time_token_ids
    places = torch.arange(len(ids))
    is_tick = (ids >= ticks.start) & (ids < ticks.stop)
    said, asked_ticks = places[is_tick & (places >= width)], places[is_tick & (places < width)]
    frames = places[ids == config.audio_token_id]
    # A frame belongs to the tick before it.
    owners = (torch.searchsorted(asked_ticks, frames, right=True) - 1).clamp(min=0)
    # A token is said by the position before it.
    looks = weights[said - 1]
    to_frames = torch.zeros(len(said), len(asked_ticks)).index_add_(1, owners, looks[:, frames])

    def seconds(positions):
        return [round(start + processor.grid.tick_seconds(int(ids[place]) - ticks.start), 6) for place in positions]

    return {
        "text": asked["text"],
        "start": start,
        "said": seconds(said),
        "ticks": seconds(asked_ticks),
        "to_ticks": looks[:, asked_ticks].numpy(),
        "to_frames": to_frames.numpy(),
    }


def attention_figure(looks: dict, time_step: float, dark: bool = False):
    """Return a Plotly figure: a row for each time said, a column for each tick; ticks above, frames below."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    ink, colours = ("#E6E6E6", DARK) if dark else (INK, LIGHT)
    red, green, blue = (int(colours[0][place : place + 2], 16) for place in (1, 3, 5))
    # Steeper where there is little, so that it is seen beside the few that have much.
    scale = [[0, f"rgba({red},{green},{blue},0)"], [0.1, f"rgba({red},{green},{blue},0.4)"], [1, colours[0]]]
    num_said = len(looks["said"])
    figure = make_subplots(
        rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.16 if num_said < 5 else 0.09,
        subplot_titles=("Attention to ticks", "Attention to audio frames"),
    )  # fmt: skip
    names = [f"{index + 1}: {seconds:.2f} s" for index, seconds in enumerate(looks["said"])]
    highest = float(max(looks["to_ticks"].max(), looks["to_frames"].max()))
    middles = np.array(looks["ticks"]) + time_step / 2
    for row, key in enumerate(("to_ticks", "to_frames"), 1):
        figure.add_trace(
            go.Heatmap(
                x=middles, y=names, z=looks[key].round(5), colorscale=scale, zmin=0, zmax=highest, showscale=row == 1,
                colorbar={"thickness": 10, "outlinewidth": 0, "tickfont": {"color": ink, "size": 11}, "len": 1.0},
                hovertemplate="says %{y}<br>looks at %{x:.2f} s<br>attention %{z:.3f}<extra></extra>",
            ), row=row, col=1,
        )  # fmt: skip
        for index, seconds in enumerate(looks["said"]):
            figure.add_shape(
                type="line", x0=seconds, x1=seconds, y0=index - 0.5, y1=index + 0.5, row=row, col=1,
                line={"color": colours[1], "width": 2},
            )  # fmt: skip
    axis = {
        "gridcolor": "rgba(128,128,128,0.2)",
        "linecolor": FAINT,
        "zeroline": False,
        "color": ink,
        "ticks": "outside",
    }
    figure.update_xaxes(**axis, showgrid=False)
    figure.update_yaxes(**axis | {"ticks": ""}, showgrid=False, autorange="reversed", automargin=True)
    figure.update_xaxes(title={"text": "Time (s)", "standoff": 6}, row=2, col=1)
    figure.update_annotations(font={"size": 12, "color": ink}, x=0, xanchor="left")
    figure.update_layout(
        height=150 + 44 * max(num_said, 2), margin={"l": 10, "r": 10, "t": 30, "b": 40}, paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)", font={"color": ink, "size": 12, "family": "system-ui, sans-serif"},
    )  # fmt: skip
    return figure
