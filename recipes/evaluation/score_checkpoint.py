"""Score a checkpoint on annotated recordings: ask it through its pipeline, keep the answers, report with intervals.

    timepro score soundscapes/test_unseen.jsonl --out runs/test_unseen --model recipes/checkpoints/timepro-small

Each clip is asked for all its events (detection), for each of its labels (grounding), and for a few labels that it does
not hold (rejection); a clip with a query of its own for that alone, one with captions for captions alone. Answers go to
`predictions.jsonl` as they come, so an interrupted run continues where it stopped.
"""

import functools
import json
import logging
from pathlib import Path

from tqdm import tqdm

from processing.answer_text import parse_events
from processing.events import Event, clip_events
from recipes.conversion.checkpoint_folder import load_pipeline, weight_states
from recipes.evaluation.answers import read_answer
from recipes.evaluation.report_files import report_paths, write_report
from recipes.evaluation.score_data import read_clips
from recipes.evaluation.score_questions import questions_of, read_objects
from recipes.scoring import read_label_aliases

logger = logging.getLogger(__name__)


def score(
    model,
    data,
    out,
    batch_size=8,
    num_absent=2,
    limit=None,
    overwrite=False,
    data_format=None,
    audio_dir=None,
    durations=None,
    label_aliases=None,
    constrained=True,
    min_score=None,
) -> dict:
    """Answer every question about the recordings of `data` and return the report.

    Writes `predictions.jsonl` (`id, task, query, text, events, duration`; events as they were answered, not yet cut at
    the end of the recording), `settings.json`, `report.json`, `report.md` and `worst_clips.png` to `out`. A run that
    was stopped at any moment, even killed, loses the batch it was at and no more; the next run goes on from there. A
    recording that cannot be asked about, missing or unreadable or too short, is listed in the report's `failures` and
    costs no other recording its answer; the next run tries it again.

    Args:
        model: checkpoint folder or Hub id.
        data, data_format, audio_dir, durations, label_aliases: see [`~recipes.evaluation.score_data.read_clips`]. A
            duration that is unknown is taken from the recording when it is asked about.
        out: folder to write, or path of the report if it ends in `.json`, see [`report_paths`].
        batch_size: questions answered together.
        num_absent: absent labels to ask for in each clip, at most.
        limit: only the first clips.
        overwrite: answer anew, although `out` holds answers of another checkpoint or data set.
        constrained: hold answers to what can be read, as the pipeline does by default.
        min_score: detected events with a lower score are kept in `predictions.jsonl` but count for PSDS alone; by
            default that of the checkpoint.

    Raises:
        ValueError: rows without events' times, ids that repeat, or answers in `out` that belong to other settings.
        OSError: `data` or the checkpoint is missing.
    """
    rows, about = read_clips(
        data, data_format, audio_dir, durations, label_aliases, limit, num_absent, needs_audio=True
    )
    aliases = {} if label_aliases is None else read_label_aliases(label_aliases)
    questions = [question for row in rows for question in questions_of(row, num_absent)]
    paths = report_paths(out)
    by_id = {row["id"]: row for row in rows}
    answers = _resume(paths, _settings(model, data, audio_dir) | {"constrained": constrained}, overwrite, by_id)
    todo = [question for question in questions if question not in answers]
    logger.info("%d questions about %d clips, %d of them answered before", len(questions), len(rows), len(answers))
    failures = {}
    if todo:
        with (
            paths["predictions"].open("a", encoding="utf-8") as file,
            tqdm(total=len(questions), initial=len(questions) - len(todo), desc="questions") as progress,
        ):
            # All events are kept: PSDS looks at every threshold.
            pipe = functools.partial(load_pipeline(model), constrained=constrained, min_score=0.0)
            _ask(pipe, todo, by_id, batch_size, answers, failures, file, progress)
    listed = [{"id": clip, "audio": by_id[clip]["audio"], "error": error} for clip, error in failures.items()]
    # Answers may be there that nobody asked for now: about clips after the limit, or of a task that rows had before.
    asked = set(questions)
    answers = {question: events for question, events in answers.items() if question in asked}
    min_score = _min_score(model) if min_score is None else min_score
    head = {"model": str(model), "data": str(data), **about, "min_score": min_score}
    return write_report(paths, head, rows, answers, num_absent, listed, aliases, min_score)


def _min_score(model) -> float | None:
    path = Path(model) / "processor_config.json"
    return json.loads(path.read_text(encoding="utf-8")).get("min_score") if path.is_file() else None


def _ask(pipe, questions, by_id, batch_size, answers, failures, file, progress):
    """Answer questions in batches of one task, and append each batch to the file at once."""
    for task in ("detection", "grounding", "captioning"):
        mine = [question for question in questions if question[1] == task]
        for start in range(0, len(mine), batch_size):
            batch = mine[start : start + batch_size]
            for question, result in _ask_batch(pipe, batch, by_id, failures):
                row = dict(zip(("id", "task", "query"), question, strict=True), text=result["text"])
                row |= {"events": _uncut_events(question, result), "duration": result["duration"]}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                _keep(row, by_id, answers)
            file.flush()
            progress.update(len(batch))


def _ask_batch(pipe, batch, by_id, failures) -> list[tuple]:
    """Return `(question, result)` of the questions that could be answered, and note why clips failed."""
    batch = [question for question in batch if question[0] not in failures]
    if not batch:
        return []
    task = batch[0][1]
    # All queries about a clip in a row, so that it is encoded once for them.
    asked = {}
    for clip, _, query in batch:
        asked.setdefault(clip, []).append(query)
    paths, queries = [by_id[clip]["audio"] for clip in asked], list(asked.values())
    try:
        if task == "grounding":
            found = pipe(paths, task=task, query=queries, batch_size=len(batch))
            results = [result for results in found for result in results]
        else:
            results = pipe(paths, task=task, batch_size=len(batch))
        batch = [(clip, task, query) for clip, queries in asked.items() for query in queries]
        return list(zip(batch, results, strict=True))
    except (OSError, ValueError) as error:
        if len(batch) == 1:
            failures[batch[0][0]] = str(error)
            return []
    # The error does not tell whose it is, and the others shall keep their answers.
    return [pair for question in batch for pair in _ask_batch(pipe, [question], by_id, failures)]


def _uncut_events(question, result) -> list[dict] | None:
    """Return the events of an answer with the times that it says: the pipeline has cut them at the recording's end."""
    events = result["events"]
    said = parse_events(result["text"], question[1], question[2] or "")
    if events is None or said is None:
        return events
    # Where the text is not all there is to an answer, the pipeline's word counts.
    found = [Event.from_dict(event) for event in events]
    if clip_events(said, result["duration"]) != found:  # events compare by times and label
        return events
    # Cut events stand in the same order; those that start past the end were dropped, and have no score to keep.
    scores = iter([event.score for event in found])
    return [event.as_dict() | {"score": next(scores) if event.onset < result["duration"] else None} for event in said]


def _keep(row, by_id, answers):
    """Add an answer, and the duration of its recording if the data did not say."""
    question, events = read_answer(row)
    answers[question] = events
    clip = by_id.get(question[0])
    if clip is not None and clip.get("duration") is None:
        clip["duration"] = row.get("duration")


def _resume(paths, settings, overwrite, by_id) -> dict:
    """Return the answers that are there, and forget a last line that was not written to its end."""
    path = paths["predictions"]
    if path.exists() and not overwrite:
        known = paths["settings"]
        before = json.loads(known.read_text(encoding="utf-8")) if known.exists() else None
        if before != settings:
            raise ValueError(
                f"out is {str(path.parent)!r}, with answers made with {before}, not {settings}; choose another folder "
                "or pass --overwrite."
            )
        # Cut in place: whoever is killed here still has all whole lines.
        with path.open("rb+") as file:
            length = file.read().rfind(b"\n") + 1
            file.truncate(length)
        answers = {}
        for _, row in read_objects(path) if length else ():
            _keep(row, by_id, answers)
        return answers
    # In this order, so that answers never lie beside settings that are not theirs.
    path.unlink(missing_ok=True)
    paths["settings"].write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return {}


def _settings(model, data, audio_dir) -> dict:
    settings = {"model": str(model), "weights": weight_states(model), "data": str(Path(data).resolve())}
    return settings if audio_dir is None else {**settings, "audio_dir": str(Path(audio_dir).resolve())}
