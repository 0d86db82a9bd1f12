"""Where an answer looks: attention from the times in it to the ticks of the prompt (arXiv 2604.13715)."""

import torch

from space_app.checkpoint_code import carried


def window_choices(answers) -> list[tuple[str, tuple[int, int]]]:
    """Return `(text, (query, window))` of all windows whose answer names a time."""
    choices = []
    for index, (query, result) in enumerate(zip(answers.queries, answers.results, strict=True)):
        for place, window in enumerate(result["windows"]):
            if window["events"]:
                about = f"{query}, " if query and len(answers.queries) > 1 else ""
                choices.append((f"{about}{window['start']:.2f}\u2013{window['end']:.2f} s", (index, place)))
    return choices


def answer_attention(pipe, answers, query: int, window: int, job) -> dict:
    """Read an answer again and return where the positions that name times look, see [`attention_of`].

    Args:
        answers: complete [`Answers`].
        query, window: which of them, by index.

    Returns:
        As [`attention_of`], with times in seconds of the recording.

    Raises:
        ValueError: the checkpoint has no ticks in its prompt, or in its answers.
    """
    found = answers.results[query]["windows"][window]
    start, rate = found["start"], answers.sampling_rate
    samples = answers.waveform[round(start * rate) : round(found["end"] * rate)]
    question = carried(pipe, "answer_text").prompt_text(answers.task, answers.queries[query])
    with job.model():
        looks = attention_of(pipe.model, pipe.processor, samples, question, found["text"])
    return looks | {name: [round(start + seconds, 6) for seconds in looks[name]] for name in ("said", "ticks")}


@torch.no_grad()
def attention_of(model, processor, waveform, question: str, answer: str) -> dict:
    """Return where the positions that name times in an answer look.

    Args:
        waveform: `(num_samples,)` at `processor.sampling_rate`.
        question, answer: their texts, as the model was asked and as it answered.

    Returns:
        `text`, the answer; `said`, the times in the answer, and `ticks`, those of the prompt, seconds of the waveform;
        `to_ticks`, `to_frames` `(len(said), len(ticks))`: the mean over layers and heads of the attention to each tick,
        and to the frames from it to the next.

    Raises:
        ValueError: the model has no ticks in its prompt, or in its answers.
    """
    config, language = model.config, model.model.language_model
    if not config.time_prompt or config.answer_format != "ticks":
        raise ValueError("This checkpoint has no ticks in its prompts and answers, so there is nothing to look at.")
    content = [{"type": "audio"}, {"type": "text", "text": question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=text, audio=[waveform], return_tensors="pt").to(model.device)
    width = inputs["input_ids"].shape[1]
    said_ids = processor.tokenizer(answer, add_special_tokens=False, return_tensors="pt")["input_ids"]
    ids = torch.cat([inputs["input_ids"], said_ids.to(model.device)], dim=1)
    usual = language.config._attn_implementation
    # Other implementations do not return their weights.
    language.set_attn_implementation("eager")
    try:
        whole = dict(inputs) | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        attentions = model(**whole, output_attentions=True).attentions
    finally:
        language.set_attn_implementation(usual)
    weights = torch.stack([layer[0].float().mean(0) for layer in attentions]).mean(0).cpu()
    ids, ticks = ids[0].cpu(), config.time_token_ids
    positions = torch.arange(len(ids))
    is_tick = (ids >= ticks.start) & (ids < ticks.stop)
    said, in_prompt = positions[is_tick & (positions >= width)], positions[is_tick & (positions < width)]
    frames = positions[ids == config.audio_token_id]
    # A frame belongs to the tick before it.
    owners = (torch.searchsorted(in_prompt, frames, right=True) - 1).clamp(min=0)
    # A token is predicted at the position before it.
    looks = weights[said - 1]
    to_frames = torch.zeros(len(said), len(in_prompt)).index_add_(1, owners, looks[:, frames])
    return {
        "text": answer,
        "said": [processor.grid.tick_seconds(int(ids[position]) - ticks.start) for position in said],
        "ticks": [processor.grid.tick_seconds(int(ids[position]) - ticks.start) for position in in_prompt],
        "to_ticks": looks[:, in_prompt].numpy(),
        "to_frames": to_frames.numpy(),
    }
