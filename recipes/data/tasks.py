"""Questions and answers about a clip, made from its events."""

import numpy as np

from processing.answer_text import PROMPTS, format_events, prompt_text
from processing.events import Event
from recipes.data.label_phrases import PHRASES


def query_spellings(label: str) -> tuple[str, ...]:
    """Return ways to ask for an event label; the label itself comes first."""
    if label not in PHRASES:
        return (label,)
    subject, verb, gerund = PHRASES[label]
    return (label, gerund, f"{subject} {verb}" if subject[:2] in ("a ", "an") else gerund)


def caption_of(label: str) -> str:
    """Return a sentence that describes an event of a label, such as `a dog barks`; the label where none is known."""
    if label not in PHRASES:
        return label
    subject, verb, _ = PHRASES[label]
    return f"{subject} {verb}"


def make_turns(
    row, rng: np.random.Generator, grid, answer_format="digits", num_absent=1, wordings=1, has_captions=False
):
    """Return the turns about one clip row: detection, every label heard, and some that are not.

    Of a row whose `task` is grounding or captioning, the one turn that it answers: its `query`, or the descriptions
    that its events bear as labels.

    A turn is `{"question", "answer", "event_label"}`; the label is the one that a grounding question means, whatever
    its words, and `None` in detection.

    Args:
        row: a data row with `events` and, for absent queries, `absent` labels. `question` holds words to ask in, if no
            built-in ones are to be drawn; in a detection row those of detection.
        grid: the checkpoint's [`TimeGrid`], on which answers write times.
        num_absent: how many absent labels are asked for; their answer is `none`.
        wordings: how many of the built-in prompt wordings are used.
        has_captions: add a turn that describes every event, see [`caption_of`].
    """
    events = [Event(e["onset"], e["offset"], e["event_label"]) for e in row["events"]]

    def wording(task):
        return int(rng.integers(min(wordings, len(PROMPTS[task]))))

    task, query = row.get("task") or "detection", row.get("query")
    if task == "grounding":
        events = [Event(e.onset, e.offset, query) for e in events]
    question = row.get("question") or prompt_text(task, query, wording(task))
    turns = [{"question": question, "answer": format_events(events, task, grid, answer_format), "event_label": query}]
    if task != "detection":
        return turns
    heard = sorted({event.event_label for event in events})
    absent = row.get("absent") or []
    missing = [absent[i] for i in rng.permutation(len(absent))[:num_absent]]
    for label in [heard[i] for i in rng.permutation(len(heard))] + missing:
        spellings = query_spellings(label)
        query = spellings[0] if rng.random() < 0.5 else spellings[int(rng.integers(len(spellings)))]
        # All events of one question carry the query's words; the answer names no label.
        found = [Event(e.onset, e.offset, query) for e in events if e.event_label == label]
        answer = format_events(found, "grounding", grid, answer_format)
        question = prompt_text("grounding", query, wording("grounding"))
        turns.append({"question": question, "answer": answer, "event_label": label})
    if has_captions:
        captions = [Event(e.onset, e.offset, caption_of(e.event_label)) for e in events]
        answer = format_events(captions, "captioning", grid, answer_format)
        question = prompt_text("captioning", None, wording("captioning"))
        turns.append({"question": question, "answer": answer, "event_label": None})
    return turns
