"""Clips of different lengths, answered together, have the events that they have one by one."""

import copy

import numpy as np

from processing import AnswerConstraint, parse_events
from processing.answer_text import prompt_text

NUM_CLIPS = 32
LABELS = ("dog", "cat", "gong", "siren")


def make_clips():
    """Return noise of 0.2 to 4 s, all of different lengths, that swells at another place in each."""
    rng = np.random.default_rng(0)
    clips = []
    for seconds in rng.permutation(np.linspace(0.2, 4.0, NUM_CLIPS)):
        samples = rng.normal(size=round(seconds * 16000)) * np.linspace(
            rng.uniform(), rng.uniform(), round(seconds * 16000)
        )
        clips.append((0.2 * samples).astype(np.float32))
    assert len({len(clip) for clip in clips}) == NUM_CLIPS
    return clips


def answer(model, processor, clips):
    """Return the events of each clip, asked as the README says, held to what can be read."""
    message = {"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": prompt_text("detection")}]}
    text = processor.apply_chat_template([[message]] * len(clips), add_generation_prompt=True)
    inputs = processor(text=text, audio=clips, padding=True, padding_side="left", return_tensors="pt")
    width, durations = inputs["input_ids"].shape[1], [len(clip) / 16000 for clip in clips]
    constraint = AnswerConstraint(
        processor.tokenizer, processor.grid, processor.answer_format, "detection", durations, width,
        model.generation_config.eos_token_id, event_labels=LABELS,
    )  # fmt: skip
    ids = model.generate(**inputs, logits_processor=[constraint], max_new_tokens=24, do_sample=False)[:, width:]
    return [parse_events(said, "detection") for said in processor.tokenizer.batch_decode(ids, skip_special_tokens=True)]


def test_32_clips_of_different_lengths_have_the_same_events_together_and_one_by_one(lively_checkpoint):
    # In double precision, where no rounding decides between two tokens.
    model, processor, clips = copy.deepcopy(lively_checkpoint[0]).double(), lively_checkpoint[1], make_clips()
    together = answer(model, processor, clips)
    assert together == [answer(model, processor, [clip])[0] for clip in clips]
    # They hang on the clips: few are equal.
    assert None not in together and sum(map(bool, together)) > 24 and len(set(map(str, together))) > 16
