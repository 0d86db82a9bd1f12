"""Measure how good the best of several sampled answers is: the headroom for reinforcement learning.

    python -m recipes.evaluation.best_of_k --data validation.jsonl --out runs/best_of_k --num-samples 16

Every question is answered greedily and by `--num-samples` samples, constrained and without events below the
checkpoint's `min_score`, as in the pipeline. If the best of a few samples is no better than the greedy answer, rewards
have nothing to select. Answers are appended to `samples.jsonl`, so that an interrupted run resumes.
"""

import json
import logging
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from processing.audio_io import load_audio
from processing.events import Event
from recipes.arguments import add_model, positive_int, probability, script_parser
from recipes.conversion.checkpoint_folder import load_pipeline, weight_states
from recipes.data.loading import load_clips
from recipes.data.questions import SCORING, Question, key_name, labels_of, questions
from recipes.evaluation.predictions import QUESTION_KEYS, apply_min_score
from recipes.evaluation.report_tables import markdown_table
from recipes.evaluation.resume import keep_rows
from recipes.scoring import ClipSums, event_f1, label_iou, sum_intervals, union_iou

logger = logging.getLogger(__name__)

METRICS = {"eb_f1": "Eb-F1", "iou": "IoU"}
# Below this range of values a group of answers counts as tied.
TIED_RANGE = 1e-6


def best_of(values, size: int) -> np.ndarray:
    """Return the expected maximum of `size` of the values, drawn without replacement.

    With values 0 and 1 this is the unbiased pass@k (Chen et al. 2021, arXiv 2107.03374, equation 1).

    Args:
        values: `(..., num_samples)`.

    Raises:
        ValueError: `size` is below 1 or above the number of samples.
    """
    ordered = np.sort(values, axis=-1)
    count = ordered.shape[-1]
    if not 1 <= size <= count:
        raise ValueError(f"size is {size} for {count} samples; give a number from 1 to {count}.")
    return ordered @ np.array([math.comb(rank, size - 1) / math.comb(count, size) for rank in range(count)])


def sample_answers(pipe, waveform, asked, num_samples, temperature, seed) -> list[dict]:
    """Return the greedy answer and `num_samples` samples for each question, constrained, with event scores.

    Args:
        waveform: `(num_samples,)` at the processor's rate, no longer than one window.
        asked: [`~recipes.data.questions.Question`]s of one task.
        seed: integers; samples depend only on these and the question.

    Returns:
        `{"greedy", "samples"}`, where an answer is a list of events as dictionaries, `None` if it cannot be parsed.
    """
    duration = len(waveform) / pipe.processor.sampling_rate

    def answer(some, **settings):
        rows = [{"task": q.task, "query": q.query, "duration": duration} for q in some]
        inputs = {"waveforms": [waveform], "questions": [[q.text for q in some]], "rows": rows}
        found = pipe.postprocess(pipe.forward(inputs, limits={"constrained": True}, **settings))
        return [None if events is None or (cut and not events) else [event.as_dict() for event in events]
                for _, events, cut in found]  # fmt: skip

    made = []
    for question, greedy in zip(asked, answer(asked), strict=True):
        state = np.random.SeedSequence([*seed, *json.dumps(question.key).encode()]).generate_state(1)
        torch.manual_seed(int(state[0]))
        drawn = answer([question] * num_samples, do_sample=True, temperature=temperature, top_k=0)
        made.append({"greedy": greedy, "samples": drawn})
    return made


def question_values(question, row, min_score) -> dict[str, np.ndarray]:
    """Return the values of the answers to a question by metric, `(1 + num_samples,)`, the greedy one first."""
    answers = [row["greedy"], *row["samples"]]
    keys = [(place, question.task) for place in range(len(answers))]
    events = {key: found and [Event.from_dict(e) for e in found] for key, found in zip(keys, answers, strict=True)}
    kept, iou = apply_min_score(events, min_score), label_iou if question.task == "detection" else union_iou
    measures = {"eb_f1": event_f1, "iou": iou}
    wanted = list(question.reference)
    return {name: np.array([measure(wanted, kept[key]) for key in keys]) for name, measure in measures.items()}


def read_difficulties(folder, prompts, min_score=None) -> dict[str, float]:
    """Return the difficulty of GRPO's prompts by id, 1 minus the mean IoU of their samples, unless the samples tie.

    Args:
        folder: written by this command.
        prompts: rows `{"id", "task", "query", "events"}`; prompts without samples are skipped.

    Raises:
        ValueError: the folder holds no samples of this command.
    """
    path = Path(folder) / "samples.jsonl"
    if not path.is_file():
        raise ValueError(f"curriculum is {str(folder)!r}, which holds no samples.jsonl; give --out of best_of_k.")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    done, difficulties = {key_name(row[key] for key in QUESTION_KEYS): row for row in rows}, {}
    for prompt in (prompt for prompt in prompts if prompt["id"] in done):
        reference = tuple(Event.from_dict(event) for event in prompt["events"])
        question = Question(prompt["id"], prompt["task"], prompt["query"], reference)
        values = question_values(question, done[prompt["id"]], min_score)
        if any(np.ptp(value[1:]) >= TIED_RANGE for value in values.values()):
            difficulties[prompt["id"]] = 1 - float(values["iou"][1:].mean())
    return difficulties


def best_of_k_report(values, clips, sizes) -> dict:
    """Return figures with 95 % bootstrap intervals over clips, for one task and threshold.

    Args:
        values: [`question_values`] of each question.
        clips: clip of each question.
        sizes: values of N in the figures.

    Returns:
        By metric `{name: {"value", "interval"}}`: `greedy`; `mean` of the samples; `best_of_N`; `gain_of_N`, the best
        of N minus the greedy answer; `pass_N`, whether one of N is entirely correct; `tied_N`, the fraction of groups
        of N whose answers all have the same value.
    """
    report = {}
    for metric in METRICS:
        table = np.stack([value[metric] for value in values])
        greedy, samples = table[:, 0], table[:, 1:]
        columns = {"greedy": greedy, "mean": samples.mean(1)}
        for size in sizes:
            best = best_of(samples, size)
            groups = samples[:, : samples.shape[1] // size * size].reshape(len(samples), -1, size)
            tied = (np.ptp(groups, axis=-1) < TIED_RANGE).mean(1)
            passed = best_of(samples >= 1 - TIED_RANGE, size)
            columns |= {f"best_of_{size}": best, f"gain_of_{size}": best - greedy}
            columns |= {f"pass_{size}": passed, f"tied_{size}": tied}
        names, owners = list(columns), {clip: row for row, clip in enumerate(dict.fromkeys(clips))}
        sums = np.zeros((len(owners), len(names) + 1))
        np.add.at(sums, [owners[clip] for clip in clips], np.column_stack([*columns.values(), np.ones(len(table))]))
        intervals = sum_intervals(
            ClipSums(sums, lambda s: {name: s[:, place] / s[:, -1] for place, name in enumerate(names)})  # noqa: B023
        )
        report[metric] = {
            name: {"value": float(column.mean()), "interval": intervals[name]} for name, column in columns.items()
        }
    return report


def format_best_of_k(report) -> str:
    """Return the report in Markdown: a table per task, with a row per metric and threshold."""
    texts = []
    for task, by_threshold in report["tasks"].items():
        rows = []
        for threshold, figures in by_threshold.items():
            for metric, name in METRICS.items():
                found = figures[metric]
                shown = [n for n in found if not n.startswith(("gain", "pass"))]
                cells = []
                for figure in shown:
                    low, high = found[figure]["interval"]
                    cells.append(f"{found[figure]['value']:.3f} [{low:.3f}, {high:.3f}]")
                rows.append([f"{name}, {threshold}", *cells])
        header = ["", *(name.replace("_", " ") for name in shown)]
        texts.append(f"{task}, {report['num_questions'][task]} questions\n\n{markdown_table(header, rows)}")
    return "\n".join(texts)


def main(argv: list[str] | None = None):
    """Run the command line."""
    parser = script_parser(__doc__)
    add_model(parser)
    parser.add_argument("--data", required=True, help="annotated clips, of any format of docs/data-formats.md")
    parser.add_argument("--out", required=True, help="folder of samples.jsonl, best_of_k.json and best_of_k.md")
    parser.add_argument("--tasks", nargs="+", default=["detection"], choices=("detection", "grounding", "captioning"))
    parser.add_argument("--num-samples", type=positive_int, default=16, metavar="K", help="draws for each question")
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--min-score", type=probability, help="default: that of the checkpoint, in detection alone")
    parser.add_argument("--limit", type=positive_int, metavar="N", help="use only the first N clips")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overwrite", action="store_true", help="answer again, whatever --out holds")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO)
    clips = load_clips(args.data, needs_audio=True)
    policy = replace(SCORING, tasks=tuple(args.tasks), labels=labels_of(clips))
    clips = clips[: args.limit]
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    settings = {"model": args.model, "weights": weight_states(args.model), "data": str(Path(args.data).resolve())}
    settings |= {name: getattr(args, name) for name in ("num_samples", "temperature", "seed")}
    pipe, done, failures = load_pipeline(args.model), {}, []
    min_score = pipe.processor.min_score if args.min_score is None else args.min_score
    files = out / "samples.jsonl", settings, (*QUESTION_KEYS, "greedy", "samples")
    with keep_rows(*files, out / "settings.json", args.overwrite) as (rows, keep):
        done |= {tuple(row[key] for key in QUESTION_KEYS): row for row in rows}
        for clip in tqdm(clips, desc="recordings", unit="file"):
            asked = [question for question in questions(clip, policy) if question.key not in done]
            try:
                waveform = load_audio(clip.audio, pipe.processor.sampling_rate) if asked else None
                pipe.processor.check_audio([] if waveform is None else [waveform])
            except (ImportError, OSError, ValueError) as error:
                logger.warning("%s is left out: %s", clip.audio, error)
                failures.append({"id": clip.id, "error": str(error)})
                continue
            for task in dict.fromkeys(question.task for question in asked):
                some = [question for question in asked if question.task == task]
                answers = sample_answers(pipe, waveform, some, args.num_samples, args.temperature, [args.seed])
                for question, found in zip(some, answers, strict=True):
                    done[question.key] = dict(zip(QUESTION_KEYS, question.key, strict=True)) | found
                    keep(done[question.key])
    answered = [(q, clip.audio) for clip in clips for q in questions(clip, policy) if q.key in done]
    sizes = [size for size in (2**power for power in range(1, 11)) if size <= args.num_samples]
    report = {**settings, "min_score": min_score, "num_clips": len(clips), "failures": failures}
    report |= {"num_questions": {}, "tasks": {}}
    for task in dict.fromkeys(question.task for question, _ in answered):
        mine = [(question, audio) for question, audio in answered if question.task == task]
        report["num_questions"][task] = len(mine)
        thresholds = {"all events": None}
        if task == "detection" and min_score:
            thresholds[f"scores from {min_score:g} on"] = min_score
        report["tasks"][task] = {
            name: best_of_k_report(
                [question_values(q, done[q.key], score) for q, _ in mine], [audio for _, audio in mine], sizes
            )
            for name, score in thresholds.items()
        }
    (out / "best_of_k.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    text = format_best_of_k(report)
    (out / "best_of_k.md").write_text(text, encoding="utf-8")
    print(text)
    return report


if __name__ == "__main__":
    main()
