"""Answer all questions about annotated clips with a loaded model: each clip is encoded and prefilled once.

`timepro score` asks a checkpoint as users do, through its pipeline, and keeps every answer; this is its quick brother
for scripts that score many models.
"""

import torch
from tqdm import tqdm

from processing.answer_text import parse_events, prompt_text
from processing.audio_io import load_audio
from processing.prefix_cache import prefill_questions
from recipes.evaluation.score_questions import questions_of


@torch.no_grad()
def answer_clips(model, processor, rows, num_absent=2, batch_size=8, progress=True) -> dict:
    """Return events, or `None` for an unparseable answer, by question `(id, task, query)`. Answers are greedy.

    Args:
        model, processor: a loaded checkpoint.
        rows: annotated clips, see [`~recipes.evaluation.score_data.read_clips`]; none longer than `processor.max_time`.
        num_absent: absent labels to ask for in each clip, at most.
        batch_size: clips answered together, each with all its questions.
        progress: whether to show a bar.
    """
    clips = {}
    for row in rows:
        clips.setdefault(row["audio"], []).extend(questions_of(row, num_absent))
    clips, answers = list(clips.items()), {}
    with tqdm(total=len(clips), desc="clips", disable=not progress) as bar:
        for start in range(0, len(clips), batch_size):
            paths, questions = zip(*clips[start : start + batch_size], strict=True)
            texts = [[prompt_text(task, query) for _, task, query in asked] for asked in questions]
            waveforms = [load_audio(path, processor.sampling_rate) for path in paths]
            inputs = prefill_questions(model, processor, waveforms, texts)
            sequences = model.generate(**inputs, do_sample=False)[:, inputs["input_ids"].shape[1] :]
            said = processor.tokenizer.batch_decode(sequences, skip_special_tokens=True)
            for question, text in zip((question for asked in questions for question in asked), said, strict=True):
                answers[question] = parse_events(text, question[1], question[2] or "")
            bar.update(len(paths))
    return answers


__all__ = ["answer_clips"]
