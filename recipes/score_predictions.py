"""Score predictions that lie in a file, whoever made them; no model is loaded, and no torch.

timepro score soundscapes/test_unseen.jsonl --predictions theirs.jsonl --out runs/theirs.json
"""

from processing.event_text import parse_events
from processing.events import Event, clip_events
from recipes.report_files import report_paths, write_report
from recipes.score_questions import questions_of, read_json_lines, read_rows

TASKS = ("detection", "grounding")
NUM_SHOWN = 20


def score_predictions(predictions, data, out, limit=None) -> dict:
    """Score a file of predictions and return the report.

    Args:
        predictions: see [`read_predictions`].
        data: JSON Lines as for `recipes/score_checkpoint.py`; no audio is read.
        out: folder, or path that ends in `.json`, see [`report_paths`].
        limit: only the first clips.

    Raises:
        ValueError: rows of `data` or `predictions` that cannot be read, or answers that do not fit the clips.
        OSError: a file is missing.
    """
    rows = read_rows(data, limit, keys=("id", "events"))
    answers = read_predictions(predictions, rows)
    head = {"model": None, "predictions": str(predictions), "data": str(data)}
    return write_report(report_paths(out), head, rows, answers, num_absent=None)


def read_predictions(path, rows) -> dict[tuple, list[Event] | None]:
    """Return the answers of a file by question `(id, task, query)`.

    Of a task that is answered at all, every clip must be answered: detection once, grounding for every label of the
    clip (or for the clip's own query). Labels that the data lists as absent may be asked for as well. As in the
    pipeline, events are cut at the clip's `duration`, if it has one, and those that start there or later are dropped.

    Args:
        path: JSON Lines of `{"id", "task", "query", "events", "text"}`: `task` is `detection` or `grounding`, `query`
            only for grounding, `events` a list of `{"onset", "offset", "event_label"}` in seconds or `null` for an
            answer that could not be parsed. Without the key `events`, they are read from `text` by [`parse_events`].
        rows: annotated clips, see [`read_rows`].

    Raises:
        ValueError: lines that hold no answer, or a second one; or answers that are missing or too many. All of them
            are named at once.
        OSError: the file cannot be read.
    """
    durations = {row["id"]: row.get("duration") for row in rows}
    answers, wrong = {}, []
    for number, values in read_json_lines(path, "predictions"):
        try:
            question, events = _read_answer(values, durations)
            if question in answers:
                raise ValueError(f"answers {_say(question)} a second time")
            answers[question] = events
        except ValueError as error:
            wrong.append(f"line {number}: {error}")
    if wrong:
        raise ValueError(f"predictions is {str(path)!r} with {_list(wrong, 'wrong line')}.")
    _check_complete(path, rows, answers)
    return answers


def _read_answer(values, durations) -> tuple[tuple, list[Event] | None]:
    clip, task, query = (values.get(key) for key in ("id", "task", "query"))
    if not isinstance(clip, (str, int)):
        raise ValueError(f"id is {clip!r}; give the id of a clip")
    if task not in TASKS:
        raise ValueError(f"task is {task!r}; choose one of {', '.join(TASKS)}")
    if (task == "grounding") != (isinstance(query, str) and bool(query)):
        raise ValueError(f"query is {query!r} for {task}; grounding needs a text and detection has none (null)")
    if "events" in values:
        events = values["events"]
        if not (events is None or isinstance(events, list) and all(isinstance(event, dict) for event in events)):
            raise ValueError(f"events is {str(events)[:60]}; give a list of objects with onset and offset, or null")
        events = None if events is None else [Event.from_dict(event) for event in events]
    elif "text" in values:
        events = parse_events(values["text"], task=task, event_label=query or "")
    else:
        raise ValueError(f"the keys are {sorted(values)}; give events or text")
    duration = durations.get(clip)
    if events and duration is not None:
        events = clip_events(events, duration)
    return (clip, task, query), events


def _check_complete(path, rows, answers):
    """Raise an error that names whatever is missing and whatever nobody asked for."""
    tasks = {task for _, task, _ in answers}
    ids = {row["id"] for row in rows}
    required = [question for row in rows for question in questions_of(row, num_absent=0) if question[1] in tasks]
    allowed = {question for row in rows for question in questions_of(row, num_absent=None)}
    answered = {clip for clip, _, _ in answers}
    missing = [question for question in required if question not in answers]
    surplus = [question for question in answers if question not in allowed]
    # A clip without any answer is named once, not by each of its questions.
    problems = [
        _list(_ids(missing, without=answered), "id without an answer", "ids without an answer"),
        _list(_ids(surplus, without=ids), "id that is not in the data", "ids that are not in the data"),
        _list([_say(q) for q in missing if q[0] in answered], "missing answer"),
        _list([_say(q) for q in surplus if q[0] in ids], "answer to a question not in the data",
              "answers to questions not in the data"),
    ]  # fmt: skip
    if any(problems):
        raise ValueError(
            f"predictions is {str(path)!r}, which does not fit the data: {'; '.join(filter(None, problems))}. Give "
            "each clip one row for detection, or one for each of its labels for grounding, or both."
        )


def _ids(questions, without) -> list[str]:
    return [repr(clip) for clip in dict.fromkeys(clip for clip, _, _ in questions) if clip not in without]


def _say(question) -> str:
    clip, task, query = question
    return f"{clip!r} ({task}{f' of {query!r}' if query else ''})"


def _list(items, singular, plural=None) -> str:
    """Return how many items there are, and the items; nothing for none."""
    if not items:
        return ""
    name = singular if len(items) == 1 else plural or f"{singular}s"
    rest = f", and {len(items) - NUM_SHOWN} more" if len(items) > NUM_SHOWN else ""
    return f"{len(items)} {name}: {', '.join(items[:NUM_SHOWN])}{rest}"
