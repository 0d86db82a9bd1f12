"""Read files of predictions, and prepare answers for scoring."""

from dataclasses import replace
from typing import NamedTuple

from processing.answer_text import TASKS, parse_events
from processing.events import Event, normalize_label
from processing.text_files import check_duration, read_json_lines
from recipes.data.questions import Question, QuestionPolicy, questions
from recipes.scoring import apply_aliases

QUESTION_KEYS = ("id", "task", "query")
NUM_SHOWN = 20


def parse_prediction(values) -> tuple[tuple, list[Event] | None]:
    """Return the key `(id, task, query)` and the events of one line of predictions, `None` if unparseable.

    Args:
        values: `id`, `task`, `query` (text for grounding, else null), `events` or `text`, and optionally `duration`.

    Raises:
        ValueError: an invalid value.
    """
    clip, task, query = (values.get(key) for key in QUESTION_KEYS)
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
        events = parse_events(values["text"], task, query or "", truncated=bool(values.get("truncated")))
    else:
        raise ValueError(f"the keys are {sorted(values)}; give events or text")
    # An answer truncated before its first event is neither a detection nor a rejection.
    return (str(clip), task, query), None if values.get("truncated") and not events else events


class Predictions(NamedTuple):
    """Answers by key `(id, task, query)`, durations by id, and the number of truncated answers."""

    answers: dict[tuple, list[Event] | None]
    durations: dict[str, float]
    num_truncated: int


def answerable_questions(path, clips, policy: QuestionPolicy, aliases=None) -> list[Question]:
    """Return the questions about clips that a file of predictions may answer.

    Of the questions for absent labels, often hundreds per clip, only those that the file names are included.

    Args:
        path, aliases: see [`read_predictions`], which validates the file.
    """
    lines = (values for _, values in read_json_lines(path) if isinstance(values, dict))
    queries = {_normal(query) for values in lines if isinstance(query := values.get("query"), str)}
    queries |= {(aliases or {}).get(query, query) for query in queries}
    policy = replace(policy, num_absent=None, labels=tuple(label for label in policy.labels if label in queries))
    own = {clip.id for clip in clips if clip.query is not None}
    asked = (question for clip in clips for question in questions(clip, policy))
    return [q for q in asked if q.reference or q.task != "grounding" or q.id in own or q.query in queries]


def read_predictions(path, clips, asked, aliases=None) -> Predictions:
    """Return the answers of a file, with unmodified times.

    If a task is answered for one clip, it must be answered for all: detection and captioning once, grounding for every
    label of the clip (or for the clip's own query). Answers for absent labels are optional.

    Args:
        path: JSON Lines of `{"id", "task", "query", "events", "text", "duration", "truncated"}`: `task` is `detection`,
            `grounding` or `captioning`, `query` only for grounding, `events` a list of `{"onset", "offset",
            "event_label"}` in seconds, optionally with `score`, or `null` for an answer that could not be parsed.
            Without the key `events`, [`~processing.answer_text.parse_events`] parses `text`.
        clips: [`~recipes.data.clip.AnnotatedClip`]s.
        asked: possible questions, see [`answerable_questions`].
        aliases: other names for labels in queries about detection clips.

    Raises:
        ValueError: malformed or repeated answers, or missing or superfluous ones; all are listed.
        OSError: the file cannot be read.
    """
    has_own_query = {clip.id for clip in clips if clip.query is not None}
    known = {(question.id, question.task, _normal(question.query)): question.key for question in asked}
    answers, durations, wrong, num_truncated = {}, {}, [], 0
    for where, values in read_json_lines(path):
        try:
            if not isinstance(values, dict):
                raise ValueError(f"it is {str(values)[:60]}; give a JSON object")
            (clip, task, query), events = parse_prediction(values)
            name = _normal(query)
            if clip not in has_own_query:
                name = (aliases or {}).get(name, name)
            key = known.get((clip, task, name), (clip, task, name))
            if key in answers:
                raise ValueError(f"answers {_say(key)} a second time")
            answers[key] = events
            num_truncated += bool(values.get("truncated"))
            if values.get("duration") is not None:
                durations.setdefault(clip, float(values["duration"]))
        except ValueError as error:
            wrong.append(f"{where.removeprefix(f'{path}, ')}: {error}")
    if wrong:
        raise ValueError(f"predictions is {str(path)!r} with {_list(wrong, 'wrong line')}.")
    if not answers:
        raise ValueError(f"{path} has no rows; give JSON Lines, one object a line.")
    _check_complete(path, clips, asked, answers)
    return Predictions(answers, durations, num_truncated)


def prepare_answers(clips, answers, aliases=None) -> tuple[dict, dict]:
    """Prepare answers for scoring: resolve aliases, and cut events at the ends of clips.

    A clip ends at its `duration`, or at its last reference event if that is later: rounded annotations may slightly
    exceed the duration, and equal answers are correct. Events that start at or after the end are dropped.

    Args:
        aliases: from [`~recipes.scoring.read_label_aliases`]; only for detection.

    Returns:
        The answers, and counts: `num_cut_events` (shortened), `num_dropped_events`, `num_clips_of_unknown_duration`
        (where nothing is cut) and `num_clips_with_later_references`.
    """
    last = {clip.id: max((event.offset for event in clip.events), default=0.0) for clip in clips}
    ends = {clip.id: clip.duration and max(clip.duration, last[clip.id]) for clip in clips}
    counts = {
        "num_cut_events": 0,
        "num_dropped_events": 0,
        "num_clips_of_unknown_duration": sum(end is None for end in ends.values()),
        "num_clips_with_later_references": sum(c.duration is not None and last[c.id] > c.duration for c in clips),
    }
    prepared = {}
    for key, events in answers.items():
        events, end = apply_aliases(events, (aliases or {}) if key[1] == "detection" else {}), ends[key[0]]
        if events and end is not None:
            late = [event for event in events if event.offset > end]
            num_dropped = sum(event.onset >= end for event in late)
            counts["num_dropped_events"] += num_dropped
            counts["num_cut_events"] += len(late) - num_dropped
            # Not `clip_events`, which drops an event without length at the very end.
            events = [
                replace(event, offset=min(event.offset, end))
                for event in events
                if event.offset <= end or event.onset < end
            ]
        prepared[key] = events
    return prepared, counts


def apply_min_score(answers, min_score) -> dict:
    """Return the answers without detected events whose score is below `min_score`; `None` keeps all."""
    if min_score is None:
        return answers
    return {
        key: [event for event in events if event.score is None or event.score >= min_score]
        if events and key[1] == "detection"
        else events
        for key, events in answers.items()
    }


def _normal(query):
    return query if query is None else normalize_label(query)


def _check_complete(path, clips, asked, answers):
    """Raise an error that lists missing and superfluous answers."""
    tasks = {task for _, task, _ in answers}
    by_id = {clip.id: clip for clip in clips}
    possible = {question.key for question in asked}
    # All but queries for absent labels of detection clips.
    required = [
        question.key
        for question in asked
        if question.task in tasks and (question.reference or question.task == by_id[question.id].task)
    ]
    answered = {clip for clip, _, _ in answers}
    missing = [key for key in required if key not in answers]
    surplus = [key for key in answers if key not in possible]
    # A clip without any answer is listed once, not with each of its questions.
    problems = [
        _list(_ids(missing, without=answered), "id without an answer", "ids without an answer"),
        _list(_ids(surplus, without=by_id), "id that is not in the data", "ids that are not in the data"),
        _list([_say(key) for key in missing if key[0] in answered], "missing answer"),
        _list([_say(key) for key in surplus if key[0] in by_id], "answer to a question not in the data",
              "answers to questions not in the data"),
    ]  # fmt: skip
    if any(problems):
        raise ValueError(
            f"predictions is {str(path)!r}, which does not fit the data: {'; '.join(filter(None, problems))}. Give "
            "each clip one row for detection, or one for each of its labels for grounding, or both; a clip with a "
            "query of its own one for that; and one with captions one for captioning."
        )


def _ids(keys, without) -> list[str]:
    return [repr(clip) for clip in dict.fromkeys(clip for clip, _, _ in keys) if clip not in without]


def _say(key) -> str:
    clip, task, query = key
    return f"{clip!r} ({task}{f' of {query!r}' if query else ''})"


def _list(items, singular, plural=None) -> str:
    """Return the number of items and the first of them as text, empty without items."""
    if not items:
        return ""
    name = singular if len(items) == 1 else plural or f"{singular}s"
    rest = f", and {len(items) - NUM_SHOWN} more" if len(items) > NUM_SHOWN else ""
    return f"{len(items)} {name}: {', '.join(items[:NUM_SHOWN])}{rest}"
