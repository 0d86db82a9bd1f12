"""Where an answer looks: the attention that the times it says pay to the ticks of the prompt (arXiv 2604.13715)."""

import torch

from space_app.checkpoint_code import carried


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
    question = carried(pipe, "answer_text").prompt_text(answers.task, answers.queries[query])
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
