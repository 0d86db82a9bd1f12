"""What each part of the method is worth: train and score the small model with and without it.

    python -m recipes.ablation --out runs/ablation

Every arm starts from the same backbone, tower and projector, sees the same clips in the same order and is scored on the
same clips. What is done is kept: a run that was stopped goes on where it was. The report is written after every arm;
`--report-only` writes it from what is there.
"""

import argparse
import json
import logging
import subprocess
import sys
from pathlib import Path

from transformers.trainer_utils import get_last_checkpoint

from processing.events import Event
from recipes.data.tasks import caption_of

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "recipes" / "configs"
# Settings of the conversion, by arm of supervised fine-tuning.
SFT_ARMS = {
    "no prompt": {"time_prompt": False, "time_init": "random"},
    "random": {"time_init": "random"},
    "mean": {"time_init": "mean"},
    "place": {"time_init": "place"},
    **{f"stride {n}": {"time_init": "random", "time_stride": n} for n in (2, 5, 10, 25)},
}
# Tie-breaks, by arm of reinforcement learning after supervised fine-tuning.
GRPO_ARMS = {"GRPO, Eb-F1": "none", "GRPO, product": "product", "GRPO, sum": "sum"}
SPLITS = ("test_unseen", "test_seen")


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/ablation", help="folder of all that is made")
    parser.add_argument("--backbone", default="runs/small/backbone", help="what every arm is converted from")
    parser.add_argument("--stems", default="runs/small/stems", help="training clips of supervised fine-tuning")
    parser.add_argument("--data", default="runs/small/data", help="train, test_seen and test_unseen")
    parser.add_argument("--arms", nargs="+", default=[*SFT_ARMS, *GRPO_ARMS], metavar="ARM", help="default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--sft-steps", type=int, default=500)
    parser.add_argument("--grpo-steps", type=int, default=100)
    parser.add_argument("--grpo-from", default="random", metavar="ARM", help="where reinforcement learning starts")
    parser.add_argument("--num-clips", type=int, default=200, help="clips of each test to score")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--report", default=str(ROOT / "docs"), help="folder of ablation.md, .json and pictures")
    parser.add_argument("--report-only", action="store_true")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO)
    unknown = [arm for arm in args.arms if arm not in SFT_ARMS and arm not in GRPO_ARMS]
    if unknown:
        parser.error(f"--arms has {unknown}; choose from {', '.join([*SFT_ARMS, *GRPO_ARMS])}.")
    if args.grpo_from not in SFT_ARMS:
        parser.error(f"--grpo-from is {args.grpo_from!r}; choose from {', '.join(SFT_ARMS)}.")
    if not args.report_only:
        for seed in args.seeds:
            for arm in args.arms:
                run_arm(arm, seed, args)
                report(args)
    report(args)


def report(args):
    """Write the report of all arms that have been scored."""
    from recipes.ablation_report import write_ablation

    write_ablation(Path(args.out), Path(args.report), SFT_ARMS, GRPO_ARMS, args.grpo_from)


def run_arm(arm, seed, args) -> dict:
    """Train and score one arm, as far as that is not done yet, and return its result.

    The result is `{"arm", "seed", "settings", "seconds", "scores": {split: report}}`, also in `result.json`.
    """
    folder = arm_folder(args.out, arm, seed)
    result = folder / "result.json"
    if result.is_file():
        return json.loads(result.read_text(encoding="utf-8"))
    logger.info("arm %r, seed %d", arm, seed)
    folder.mkdir(parents=True, exist_ok=True)
    train = _train_grpo if arm in GRPO_ARMS else _train_sft
    if not (folder / "final" / "trainer_state.json").is_file():
        train(arm, seed, folder, args)
    state = json.loads((folder / "final" / "trainer_state.json").read_text(encoding="utf-8"))
    seconds = next((log["train_runtime"] for log in reversed(state["log_history"]) if "train_runtime" in log), None)
    scores = {split: score_arm(folder / "final", args.data, split, args.num_clips, args.threads) for split in SPLITS}
    values = {
        "arm": arm,
        "seed": seed,
        "settings": {"tie_break": GRPO_ARMS[arm], "from": args.grpo_from} if arm in GRPO_ARMS else SFT_ARMS[arm],
        "steps": state["global_step"],
        "train_seconds": seconds,
        "num_clips": args.num_clips,
        "scores": scores,
    }
    result.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    return values


def arm_folder(out, arm, seed) -> Path:
    """Return where an arm lies."""
    return Path(out).resolve() / f"{arm.replace(', ', '_').replace(' ', '_').lower()}_{seed}"


def _train_sft(arm, seed, folder, args):
    from recipes.convert import convert

    start = folder / "start"
    if not (start / "config.json").is_file():
        settings = {"time_step": 0.08, "answer_format": "ticks", "seed": seed, "overwrite": True, **SFT_ARMS[arm]}
        convert(Path(args.backbone).resolve(), start, **settings)
    overrides = {
        "model_name_or_path": start, "data": Path(args.stems).resolve(), "max_steps": args.sft_steps, "num_variants": 1,
        "captions": True, "seed": seed,
    }  # fmt: skip
    _launch("sft", CONFIGS / "sft" / "small.yaml", folder, overrides, args.threads)


def _train_grpo(arm, seed, folder, args):
    start = arm_folder(args.out, args.grpo_from, seed) / "final"
    if not (start / "trainer_state.json").is_file():
        raise FileNotFoundError(f"{arm!r} starts from {args.grpo_from!r}, which is not trained; add it to --arms.")
    rows = [json.loads(line) for line in (Path(args.data) / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    audio = Path(args.data).resolve()
    data = folder / "train.jsonl"
    lines = [row | {"audio": str(audio / row["audio"])} for row in rows]
    lines = [made for row in lines for made in (row, captioned(row))]
    data.write_text("".join(json.dumps(row) + "\n" for row in lines), encoding="utf-8")
    overrides = {
        "model_name_or_path": start, "data": data, "max_steps": args.grpo_steps, "tie_break": GRPO_ARMS[arm],
        "tasks": "detection,grounding,captioning", "seed": seed, "report_to": "none", "log_completions": False,
    }  # fmt: skip
    _launch("grpo", CONFIGS / "grpo" / "small.yaml", folder, overrides, args.threads)


def _launch(recipe, config, folder, overrides, threads):
    """Run a recipe as its users do, from its last checkpoint if it has one."""
    options = [item for name, value in overrides.items() for item in (f"--{name}", str(value))]
    last = get_last_checkpoint(folder)
    options += ["--resume_from_checkpoint", last] if last else []
    launch = ["-m", "accelerate.commands.launch", "--num_processes", "1", "--num_cpu_threads_per_process", str(threads)]
    command = [sys.executable, *launch, f"recipes/{recipe}.py", "--config", str(config), "--output_dir", str(folder)]
    subprocess.run([*command, *options], check=True, cwd=ROOT)


def captioned(row) -> dict:
    """Return a detection row as one of captions, each made from a label."""
    events = [event | {"event_label": caption_of(event["event_label"])} for event in row["events"]]
    return row | {"id": f"{row['id']}/captions", "task": "captioning", "events": events, "absent": None}


def score_arm(checkpoint, data, split, num_clips, threads) -> dict:
    """Return the report of a checkpoint on detection, grounding and captions of one split."""
    import torch

    from recipes.answer_clips import answer_clips
    from recipes.checkpoint import load_checkpoint
    from recipes.score_answers import prepare_answers
    from recipes.score_data import read_clips
    from recipes.score_report import make_report

    torch.set_num_threads(threads)
    rows, _ = read_clips(Path(data) / f"{split}.jsonl", num_absent=2, limit=num_clips, needs_audio=True)
    for row in list(rows):
        events = [Event(event.onset, event.offset, caption_of(event.event_label)) for event in row["events"]]
        rows.append(row | {"id": f"{row['id']}/captions", "task": "captioning", "events": events, "absent": None})
    model, processor = load_checkpoint(checkpoint)
    answers, _ = prepare_answers(rows, answer_clips(model.eval(), processor, rows), {})
    return make_report(rows, answers)


if __name__ == "__main__":
    main()
