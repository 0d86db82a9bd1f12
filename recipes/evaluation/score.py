"""Score a checkpoint, or predictions in a file, on annotated clips, and write a report with intervals.

    timepro score soundscapes/test_unseen.jsonl --out runs/test_unseen --model recipes/checkpoints/timepro-small
    timepro score soundscapes/test_unseen.jsonl --out runs/theirs.json --predictions theirs.jsonl

`recipes/data/questions.py` defines which questions are asked about a clip. Answers of a checkpoint are appended to
`predictions.jsonl`, so that an interrupted run resumes.
"""

import json
import logging
from dataclasses import replace
from pathlib import Path

from processing.answer_text import TASKS, parse_events
from processing.events import Event, clip_events
from recipes.conversion.checkpoint_folder import load_pipeline, weight_states
from recipes.data.formats import guess_format
from recipes.data.loading import load_clips, measure_durations
from recipes.data.questions import SCORING, QuestionPolicy, labels_of, questions
from recipes.evaluation.predictions import (
    QUESTION_KEYS,
    answerable_questions,
    parse_prediction,
    prepare_answers,
    read_predictions,
)
from recipes.evaluation.report import compare_answers, report_paths, write_report
from recipes.evaluation.resume import keep_rows
from recipes.evaluation.runner import Request, run
from recipes.scoring import read_label_aliases

logger = logging.getLogger(__name__)


def score_checkpoint(
    model, data, out, policy: QuestionPolicy = SCORING, batch_size=8, overwrite=False, constrained=True,
    min_score=None, data_format=None, audio_dir=None, durations=None, label_aliases=None, limit=None, against=None,
    against_min_score=None, channel=None, strict=False, decode=None,
) -> dict:  # fmt: skip
    """Answer every question about the recordings of `data` and return the report.

    Writes `predictions.jsonl` (`id, task, query, text, events, duration`; events as answered, not yet cut at the end of
    the recording), `settings.json`, `report.json`, `report.md` and `worst_clips.png` to `out`. An interrupted run, even
    if killed, loses at most the current batch, and the next run resumes. A recording that is missing, unreadable or too
    short is listed in the report's `failures` without affecting the others; the next run retries it.

    Args:
        model: checkpoint folder or Hub id.
        data, data_format, audio_dir, durations, label_aliases: see [`~recipes.data.loading.load_clips`]. Unknown
            durations are taken from the recordings when they are answered.
        out: folder to write, or path of the report if it ends in `.json`, see [`report_paths`].
        policy: which questions to ask; its `labels` are replaced by those of the data.
        batch_size: questions per batch.
        overwrite: start again even if `out` holds answers of another checkpoint or data set.
        constrained: constrain answers to the grammar, as the pipeline does by default.
        min_score: detected events with a lower score are kept in `predictions.jsonl` but count only for PSDS; by
            default the checkpoint's.
        limit: only the first clips.
        against, against_min_score: see [`score_predictions`].
        channel, strict: how recordings are read, see [`~processing.audio_io.load_audio`].
        decode: how a checkpoint with a frame grounder answers, `text`, `frames`, `both` or `either`; by default its
            own setting.

    Raises:
        ValueError: unreadable clips, or answers in `out` from other settings.
        OSError: `data` or the checkpoint is missing.
    """
    clips, policy, aliases, about = _load(data, data_format, audio_dir, durations, label_aliases, limit, policy, True)
    asked = [question for clip in clips for question in questions(clip, policy)]
    paths = report_paths(out)
    settings = {"model": str(model), "weights": weight_states(model), "data": str(Path(data).resolve())}
    settings |= {} if audio_dir is None else {"audio_dir": str(Path(audio_dir).resolve())}
    settings["constrained"] = constrained
    heard = {"channel": channel, "strict": strict, "decode": decode}
    heard = {name: value for name, value in heard.items() if value not in (None, False)}
    settings |= heard
    # PSDS uses events of every score.
    options = {"batch_size": batch_size, "constrained": constrained, "min_score": 0.0, **heard}
    with keep_rows(paths["predictions"], settings, QUESTION_KEYS, paths["settings"], overwrite) as (rows, keep):
        failures = _answer(model, clips, asked, rows, keep, options)
    wanted, answers, seconds = {question.key for question in asked}, {}, {}
    for row in rows:
        key, events = parse_prediction(row)
        seconds[key[0]] = row.get("duration")
        # There may be answers to other questions: about clips after the limit, or other absent labels.
        if key in wanted:
            answers[key] = events
    if min_score is None:
        config = Path(model) / "processor_config.json"
        min_score = json.loads(config.read_text(encoding="utf-8")).get("min_score") if config.is_file() else None
    num_truncated = sum(bool(row.get("truncated")) for row in rows)
    head = {"model": str(model), **about, "min_score": min_score, "num_truncated_answers": num_truncated}
    clips = _with_durations(clips, seconds)
    return _report(paths, head, clips, policy, asked, answers, aliases, failures, against, against_min_score)


def score_predictions(
    predictions, data, out, min_score=None, data_format=None, audio_dir=None, durations=None, label_aliases=None,
    limit=None, against=None, against_min_score=None,
) -> dict:  # fmt: skip
    """Score a file of predictions, without a model, and return the report.

    Args:
        predictions: see [`read_predictions`].
        data, data_format, durations, label_aliases: see [`~recipes.data.loading.load_clips`].
        out: folder, or path that ends in `.json`, see [`report_paths`].
        min_score: detected events with a lower score count only for PSDS.
        audio_dir: folder of the recordings, to measure missing durations.
        limit: only the first clips.
        against: predictions of another system, for a paired comparison on the same clips.
        against_min_score: `min_score` for these; by default the same.

    Raises:
        ValueError: unreadable clips or predictions, or answers that do not fit the clips.
        OSError: a file is missing.
    """
    clips, policy, aliases, about = _load(data, data_format, audio_dir, durations, label_aliases, limit, SCORING, False)
    asked = answerable_questions(predictions, clips, policy, aliases)
    answers, seconds, num_truncated = read_predictions(predictions, clips, asked, aliases)
    head = {"model": None, "predictions": str(predictions), **about, "min_score": min_score}
    head["num_truncated_answers"] = num_truncated
    clips = _with_durations(clips, seconds)
    return _report(report_paths(out), head, clips, policy, asked, answers, aliases, (), against, against_min_score)


def compare_predictions(predictions, others, data, policy=SCORING, min_score=None, limit=None) -> dict:
    """Return paired differences between two systems with several runs each, for example several seeds.

    Args:
        predictions, others: one file per run, see [`read_predictions`].
        data, limit: see [`score_predictions`].
        policy: which questions are compared.
        min_score: detected events with a lower score count only for PSDS.

    Returns:
        What [`~recipes.evaluation.report.compare_answers`] returns.
    """
    clips, policy, _, _ = _load(data, None, None, None, None, limit, policy, False)
    sides, common = [], None
    for files in (predictions, others):
        sides.append([])
        for file in files:
            asked = answerable_questions(file, clips, policy)
            read = read_predictions(file, clips, asked)
            clips = _with_durations(clips, read.durations)
            sides[-1].append((prepare_answers(clips, read.answers)[0], min_score))
            answered = {question.key: question for question in asked if question.key in read.answers}
            common = answered if common is None else {key: q for key, q in common.items() if key in answered}
    return compare_answers(clips, list(common.values()), *sides)


def _load(data, data_format, audio_dir, durations, label_aliases, limit, policy, needs_audio):
    """Return clips, the policy with their labels, aliases, and the report's entries about the data."""
    aliases = {} if label_aliases is None else read_label_aliases(label_aliases)
    clips = load_clips(data, data_format, audio_dir, durations, aliases, needs_audio=needs_audio)
    # Absent labels that clips do not list are drawn from the labels of all clips, so a limit does not change questions.
    policy = replace(policy, labels=labels_of(clips))
    is_listed = {clip.absent is not None for clip in clips if clip.task == "detection"}
    sources = [name for name, listed in (("data", True), ("drawn", False)) if listed in is_listed]
    absent = {"source": " and ".join(sources) if policy.labels or True in is_listed else None}
    about = {
        "data": str(data),
        "data_format": data_format or guess_format(Path(data)),
        "label_aliases": None if label_aliases is None else str(label_aliases),
        "absent_queries": absent | ({"num_labels": len(policy.labels)} if "drawn" in (absent["source"] or "") else {}),
    }
    clips = clips[:limit]
    if audio_dir is not None and not needs_audio:
        clips = measure_durations(clips)
    return clips, policy, aliases, about


def _with_durations(clips, seconds):
    return [clip if clip.duration else replace(clip, duration=seconds.get(clip.id)) for clip in clips]


def _answer(model, clips, asked, rows, keep, options) -> list[dict]:
    """Answer the questions missing from `rows`, append the answers, and return the clips that failed."""
    audio = {clip.id: clip.audio for clip in clips}
    done = {tuple(row[key] for key in QUESTION_KEYS) for row in rows}
    jobs: dict[tuple, list] = {}
    for question in sorted(asked, key=lambda question: TASKS.index(question.task)):
        jobs.setdefault((question.task, audio[question.id]), []).append(question)
    todo = {job: left for job, every in jobs.items() if (left := [q for q in every if q.key not in done])}
    logger.info("%d questions about %d clips, %d of them answered before", len(asked), len(clips), len(done))
    failures: dict[str, str] = {}
    if todo:
        from processing.frame_decoding import frame_options  # imports torch, which scoring predictions does without

        pipe = load_pipeline(model)
        frame_options(pipe.model.config, "detection", options.get("decode"))  # fails here, not for each recording
        # Clips may share recordings and questions.
        some = [Request(path, task, tuple(dict.fromkeys(q.query for q in left))) for (task, path), left in todo.items()]
        for job, results in run(pipe, some, len(jobs) - len(todo), show_progress=True, **options):
            left = todo[job.task, job.audio]
            if isinstance(results, Exception):
                failures |= {question.id: str(results) for question in left}
                continue
            by_query = dict(zip(job.queries, results, strict=True))
            new = [_row(question, by_query[question.query]) for question in left]
            keep(*new)
            rows += new
    return [{"id": clip.id, "audio": clip.audio, "error": failures[clip.id]} for clip in clips if clip.id in failures]


def _row(question, result) -> dict:
    row = dict(zip(QUESTION_KEYS, question.key, strict=True), text=result["text"])
    row |= {"events": _uncut_events(question, result), "duration": result["duration"]}
    return row | ({"truncated": True} if result.get("truncated") else {})


def _uncut_events(question, result) -> list[dict] | None:
    """Return the events of an answer with its original times: the pipeline cuts them at the end of the recording."""
    events = result["events"]
    said = parse_events(result["text"], question.task, question.query or "", truncated=result["truncated"])
    if events is None or said is None:
        return events
    # If the answer is not just its text, the pipeline's events count.
    found = [Event.from_dict(event) for event in events]
    if clip_events(said, result["duration"]) != found:  # events compare by times and label
        return events
    # Cut events are in the same order; those that start past the end were dropped, so their scores are unknown.
    scores = iter([event.score for event in found])
    return [event.as_dict() | {"score": next(scores) if event.onset < result["duration"] else None} for event in said]


def _report(paths, head, clips, policy, asked, answers, aliases, failures, against, against_min_score) -> dict:
    other = None
    if against is not None:
        every = answerable_questions(against, clips, policy, aliases)
        other, _ = prepare_answers(clips, read_predictions(against, clips, every, aliases).answers, aliases)
        min_score = head["min_score"] if against_min_score is None else against_min_score
        other = {"predictions": str(against), "min_score": min_score, "answers": other}
    answers, clipping = prepare_answers(clips, answers, aliases)
    return write_report(paths, head | {"clipping": clipping}, clips, asked, answers, failures, other)
