"""Score predictions that lie in a file, whoever made them; no model is loaded, and no torch.

timepro score soundscapes/test_unseen.jsonl --predictions theirs.jsonl --out runs/theirs.json
"""

from processing.events import Event
from recipes.evaluation.answers import read_answer
from recipes.evaluation.report_files import report_paths, write_report
from recipes.evaluation.score_data import read_clips
from recipes.evaluation.score_questions import questions_of, read_objects
from recipes.scoring import read_label_aliases

NUM_SHOWN = 20


def score_predictions(
    predictions, data, out, limit=None, data_format=None, audio_dir=None, durations=None, label_aliases=None,
    min_score=None,
) -> dict:  # fmt: skip
    """Score a file of predictions and return the report.

    Args:
        predictions: see [`read_predictions`].
        data, data_format, durations, label_aliases: see [`~recipes.evaluation.score_data.read_clips`].
        out: folder, or path that ends in `.json`, see [`report_paths`].
        limit: only the first clips.
        min_score: detected events with a lower score count for PSDS alone.
        audio_dir: folder of the recordings, if their durations are to be read from them; nothing else is.

    Raises:
        ValueError: rows of `data` or `predictions` that cannot be read, or answers that do not fit the clips.
        OSError: a file is missing.
    """
    rows, about = read_clips(data, data_format, audio_dir, durations, label_aliases, limit)
    aliases = {} if label_aliases is None else read_label_aliases(label_aliases)
    answers = read_predictions(predictions, rows, aliases)
    head = {"model": None, "predictions": str(predictions), "data": str(data), **about, "min_score": min_score}
    return write_report(report_paths(out), head, rows, answers, None, aliases=aliases, min_score=min_score)


def read_predictions(path, rows, aliases=None) -> dict[tuple, list[Event] | None]:
    """Return the answers of a file by question `(id, task, query)`, their times and labels as they stand there.

    Of a task that is answered at all, every clip must be answered: detection and captioning once, grounding for every
    label of the clip (or for the clip's own query). Labels that are absent may be asked for as well. A clip whose
    `duration` is unknown gets that of its answers, if they have one.

    Args:
        path: JSON Lines of `{"id", "task", "query", "events", "text", "duration"}`: `task` is `detection`, `grounding`
            or `captioning`, `query` only for grounding, `events` a list of `{"onset", "offset", "event_label"}` in
            seconds, perhaps with a `score`, or `null` for an answer that could not be parsed. Without the key `events`,
            they are read from `text` by [`~processing.answer_text.parse_events`].
        rows: annotated clips, see [`~recipes.evaluation.score_data.read_clips`].
        aliases: other names for labels that queries may use.

    Raises:
        ValueError: lines that hold no answer, or a second one; or answers that are missing or too many. All of them
            are named at once.
        OSError: the file cannot be read.
    """
    by_id = {row["id"]: row for row in rows}
    # Ids that are numbers in one file are often strings in the other.
    by_text = {str(clip): clip for clip in by_id}
    answers, wrong = {}, []
    for where, values in read_objects(path):
        try:
            (clip, task, query), events = read_answer(values)
            clip = clip if clip in by_id else by_text.get(str(clip), clip)
            row = by_id.get(clip, {})
            if not row.get("query"):
                query = (aliases or {}).get(query, query)
            question = (clip, task, query)
            if question in answers:
                raise ValueError(f"answers {_say(question)} a second time")
            answers[question] = events
            if row and row.get("duration") is None:
                row["duration"] = values.get("duration")
        except ValueError as error:
            wrong.append(f"{where.removeprefix(f'{path}, ')}: {error}")
    if wrong:
        raise ValueError(f"predictions is {str(path)!r} with {_list(wrong, 'wrong line')}.")
    _check_complete(path, by_id, answers)
    return answers


def _check_complete(path, by_id, answers):
    """Raise an error that names whatever is missing and whatever nobody asked for."""
    tasks = {task for _, task, _ in answers}
    required = [q for row in by_id.values() for q in questions_of(row, num_absent=0) if q[1] in tasks]
    answered = {clip for clip, _, _ in answers}
    missing = [question for question in required if question not in answers]
    required = set(required)
    surplus = [q for q in answers if q not in required and not _asks_for_absent(q, by_id.get(q[0]))]
    # A clip without any answer is named once, not by each of its questions.
    problems = [
        _list(_ids(missing, without=answered), "id without an answer", "ids without an answer"),
        _list(_ids(surplus, without=by_id), "id that is not in the data", "ids that are not in the data"),
        _list([_say(q) for q in missing if q[0] in answered], "missing answer"),
        _list([_say(q) for q in surplus if q[0] in by_id], "answer to a question not in the data",
              "answers to questions not in the data"),
    ]  # fmt: skip
    if any(problems):
        raise ValueError(
            f"predictions is {str(path)!r}, which does not fit the data: {'; '.join(filter(None, problems))}. Give "
            "each clip one row for detection, or one for each of its labels for grounding, or both; a clip with a "
            "query of its own one for that; and one with captions one for captioning."
        )


def _asks_for_absent(question, row) -> bool:
    is_of_labels = row is not None and row.get("task", "detection") == "detection" and not row.get("query")
    return is_of_labels and question[1] == "grounding" and question[2] in (row.get("absent") or ())


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
