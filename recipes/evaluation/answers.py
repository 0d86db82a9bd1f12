"""Answers about clips: how they stand in a file, and how they are made ready to be compared."""

from processing.answer_text import TASKS, parse_events
from processing.events import Event
from processing.text_files import check_duration
from recipes.scoring import apply_aliases


def read_answer(values) -> tuple[tuple, list[Event] | None]:
    """Return the question `(id, task, query)` and the events of one line of predictions, `None` if unparseable.

    Args:
        values: `id`, `task`, `query` (a text for grounding, else null), and `events` or `text`; perhaps `duration`.

    Raises:
        ValueError: a value that cannot be.
    """
    clip, task, query = (values.get(key) for key in ("id", "task", "query"))
    if isinstance(clip, bool) or not isinstance(clip, (str, int)):
        raise ValueError(f"id is {clip!r}; give the id of a clip")
    if task not in TASKS:
        raise ValueError(f"task is {task!r}; choose one of {', '.join(TASKS)}")
    if (task == "grounding") != (isinstance(query, str) and bool(query)):
        raise ValueError(f"query is {query!r} for {task}; grounding needs a text, no other task has one")
    if values.get("duration") is not None:
        check_duration(values["duration"], "this line")
    if "events" in values:
        events = values["events"]
        if not (events is None or isinstance(events, list) and all(isinstance(event, dict) for event in events)):
            raise ValueError(f"events is {str(events)[:60]}; give a list of objects with onset and offset, or null")
        events = None if events is None else [Event.from_dict(event) for event in events]
    elif "text" in values:
        events = parse_events(values["text"], task=task, event_label=query or "")
    else:
        raise ValueError(f"the keys are {sorted(values)}; give events or text")
    return (clip, task, query), events


def prepare_answers(rows, answers, aliases) -> tuple[dict, dict]:
    """Return answers whose detected labels are those that aliases stand for, cut at the ends of the clips.

    A clip ends at its `duration`, or at its last reference event if that is later: rounded annotations may pass the end
    a little, and an answer that equals them is right. Events that start there or later are dropped.

    Args:
        rows: annotated clips.
        answers: events, or `None`, by question `(id, task, query)`.
        aliases: of [`~recipes.scoring.read_label_aliases`].

    Returns:
        The answers, and counts over all of them: `num_cut_events` (made shorter), `num_dropped_events`,
        `num_clips_of_unknown_duration` (nothing is cut there) and `num_clips_with_later_references`.
    """
    ends = {}
    counts = dict.fromkeys(
        ("num_cut_events", "num_dropped_events", "num_clips_of_unknown_duration", "num_clips_with_later_references"), 0
    )
    for row in rows:
        duration, last = row.get("duration"), max((event.offset for event in row["events"]), default=0.0)
        ends[row["id"]] = None if duration is None else max(duration, last)
        counts["num_clips_of_unknown_duration"] += duration is None
        counts["num_clips_with_later_references"] += duration is not None and last > duration
    prepared = {}
    for question, events in answers.items():
        if question[1] == "detection":
            events = apply_aliases(events, aliases)
        end = ends[question[0]]
        if events and end is not None:
            late = [event for event in events if event.offset > end]
            num_dropped = sum(event.onset >= end for event in late)
            counts["num_dropped_events"] += num_dropped
            counts["num_cut_events"] += len(late) - num_dropped
            # Not `clip_events`, which drops an event without length at the very end.
            events = [
                event if event.offset <= end else Event(event.onset, end, event.event_label, event.score)
                for event in events
                if event.offset <= end or event.onset < end
            ]
        prepared[question] = events
    return prepared, counts


__all__ = ["prepare_answers", "read_answer"]
