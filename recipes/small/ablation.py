"""Ablation: train and score the small model with and without each part of the method.

    python -m recipes.small.ablation --out runs/ablation

All arms of supervised fine-tuning start from the same backbone, encoder and projector, see the same clips in the same
order and are scored on the same clips; likewise those of reinforcement learning, which start from a checkpoint. An
interrupted run resumes. The tables of docs/ablation.md are written after every arm; `--report-only` only writes the
tables.
"""

import json
import logging
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from transformers.trainer_utils import get_last_checkpoint

from recipes import DEFAULT_CHECKPOINT
from recipes.arguments import script_parser
from recipes.conversion.checkpoint import load_checkpoint
from recipes.small.ablation_report import paired_figures, write_ablation

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "recipes" / "configs"
# Conversion settings by arm of supervised fine-tuning.
PROMPT_ARMS = {
    "no prompt": {"time_prompt": False, "time_init": "random"},
    "random": {"time_init": "random"},
    "mean": {"time_init": "mean"},
    "place": {"time_init": "place"},
    "centred mean": {"time_init": "centred_mean"},
    "centred place": {"time_init": "centred_place"},
}
STRIDES = {"1": "random", **{str(n): f"stride {n}" for n in (2, 5, 10, 25)}, "none": "no prompt"}
SFT_ARMS = PROMPT_ARMS | {
    f"stride {n}": {"time_init": "random", "time_stride": int(n)} for n in STRIDES if n not in ("1", "none")
}
# Options of the recipe by arm of reinforcement learning; the first is the starting point.
START = "before"
GRPO_ARMS = {
    START: {},
    "GRPO, Eb-F1": {"tie_break": "none"},
    "GRPO, product": {"tie_break": "product"},
    "GRPO, sum": {"tie_break": "sum"},
    "GRPO, shipped": {
        "tie_break": "sum", "constrained": True, "answer_min_score": 0.25, "drop_tied_groups": True,
    },
}  # fmt: skip
TEST_SPLITS = ("test_unseen", "test_seen")


def main(argv: list[str] | None = None):
    parser = script_parser(__doc__)
    parser.add_argument("--out", default="runs/ablation", help="folder for everything that is written")
    parser.add_argument("--backbone", default="runs/small/backbone", help="backbone that every arm is converted from")
    parser.add_argument("--stems", default="runs/small/stems", help="stored stem features of the training clips")
    parser.add_argument("--data", default="runs/small/data", help="train, test_seen and test_unseen")
    parser.add_argument("--arms", nargs="+", default=[*SFT_ARMS, *GRPO_ARMS], metavar="ARM", help="default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--sft-steps", type=int, default=400)
    parser.add_argument("--grpo-steps", type=int, default=100)
    parser.add_argument("--grpo-from", default=str(DEFAULT_CHECKPOINT), metavar="DIR", help="default: the embedded one")
    parser.add_argument("--num-clips", type=int, default=200, help="clips of each test to score")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--report", default=str(ROOT / "docs"), help="folder of ablation.md, .json and pictures")
    parser.add_argument("--report-only", action="store_true")
    args = parser.parse_args(argv)
    unknown = [arm for arm in args.arms if arm not in SFT_ARMS and arm not in GRPO_ARMS]
    if unknown:
        parser.error(f"--arms has {unknown}; choose from {', '.join([*SFT_ARMS, *GRPO_ARMS])}.")
    if not args.report_only:
        for seed in args.seeds:
            for arm in args.arms:
                run_arm(arm, seed, args)
                compare_seeds(args)
                write_ablation(args.out, Path(args.report), PROMPT_ARMS, GRPO_ARMS, STRIDES)
        measure_prompts(args)
    write_ablation(args.out, Path(args.report), PROMPT_ARMS, GRPO_ARMS, STRIDES)


def run_arm(arm, seed, args) -> dict:
    """Train and score one arm, unless that is already done, and return its result.

    The result is `{"arm", "seed", "settings", "steps", "num_clips", "scores": {split: report}}`, also in `result.json`.
    """
    folder = arm_folder(args.out, arm, seed)
    result = folder / "result.json"
    if result.is_file():
        return json.loads(result.read_text(encoding="utf-8"))
    logger.info("arm %r, seed %d", arm, seed)
    folder.mkdir(parents=True, exist_ok=True)
    train = _train_grpo if arm in GRPO_ARMS else _train_sft
    checkpoint, steps = Path(args.grpo_from) if arm == START else folder / "final", 0
    if arm != START:
        if not (checkpoint / "trainer_state.json").is_file():
            train(arm, seed, folder, args)
        steps = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["global_step"]
    values = {
        "arm": arm,
        "seed": seed,
        "settings": GRPO_ARMS[arm] if arm in GRPO_ARMS else SFT_ARMS[arm],
        "steps": steps,
        "num_clips": args.num_clips,
        "scores": {split: score_arm(checkpoint, split, arm, seed, args) for split in TEST_SPLITS},
    }
    result.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    return values


def arm_folder(out, arm, seed) -> Path:
    """Return the folder of an arm."""
    return Path(out).resolve() / f"{arm.replace(', ', '_').replace(' ', '_').lower()}_{seed}"


def compare_seeds(args):
    """Write `paired.json`: paired differences of each arm to the first arm of its kind, by arm and split.

    All seeds are used for which both arms have answers, if there are at least two. Reports of single seeds have their
    own comparison.
    """
    from recipes.data.questions import SCORING
    from recipes.evaluation.score import compare_predictions

    path, compared = Path(args.out) / "paired.json", {}
    for arms in (SFT_ARMS, GRPO_ARMS):
        first, *others = arms
        for arm, split in ((arm, split) for arm in others for split in TEST_SPLITS):
            pairs = {}
            for result in Path(args.out).resolve().glob(f"{arm_folder(args.out, arm, 0).name[:-2]}_*/result.json"):
                seed = json.loads(result.read_text(encoding="utf-8"))["seed"]
                files = [arm_folder(args.out, name, seed) / f"{split}_predictions.jsonl" for name in (arm, first)]
                if all(file.is_file() for file in files):
                    pairs[seed] = files
            if len(pairs) < 2:
                continue
            mine, theirs = zip(*(pairs[seed] for seed in sorted(pairs)), strict=True)
            data, policy = Path(args.data) / f"{split}.jsonl", replace(SCORING, has_captions=arms is SFT_ARMS)
            found = compare_predictions(mine, theirs, data, policy, 0.0, args.num_clips)
            compared.setdefault(arm, {})[split] = {"num_seeds": len(pairs), **paired_figures(found)}
    path.write_text(json.dumps(compared, indent=1) + "\n", encoding="utf-8")


def _train_sft(arm, seed, folder, args):
    from recipes.conversion.convert import convert

    start = folder / "start"
    if not (start / "config.json").is_file():
        settings = {"time_step": 0.08, "answer_format": "ticks", "seed": seed, "overwrite": True, **SFT_ARMS[arm]}
        convert(Path(args.backbone).resolve(), start, **settings)
    overrides = {
        "model_name_or_path": start, "data": Path(args.stems).resolve(), "max_steps": args.sft_steps, "num_variants": 1,
        "captions": True, "seed": seed, "split": "train", "num_absent": 2, "blank_fraction": 0.0,
    }  # fmt: skip
    _launch("sft", CONFIGS / "sft" / "small.yaml", folder, overrides, args.threads)


def _train_grpo(arm, seed, folder, args):
    overrides = {
        "model_name_or_path": Path(args.grpo_from).resolve(), "data": Path(args.data).resolve() / "train.jsonl",
        "max_steps": args.grpo_steps, "seed": seed, "report_to": "none", "log_completions": False, **GRPO_ARMS[arm],
    }  # fmt: skip
    _launch("grpo", CONFIGS / "grpo" / "small.yaml", folder, overrides, args.threads)


def _launch(recipe, config, folder, overrides, threads):
    """Launch a recipe, from its last checkpoint if there is one."""
    options = [item for name, value in overrides.items() for item in (f"--{name}", str(value))]
    last = get_last_checkpoint(folder)
    options += ["--resume_from_checkpoint", last] if last else []
    launch = ["-m", "accelerate.commands.launch", "--num_processes", "1", "--num_cpu_threads_per_process", str(threads)]
    command = [sys.executable, *launch, f"recipes/{recipe}.py", "--config", str(config), "--output_dir", str(folder)]
    subprocess.run([*command, *options], check=True, cwd=ROOT)


def score_arm(checkpoint, split, arm, seed, args) -> dict:
    """Return the report of a checkpoint on detection, grounding and (after SFT) captions of one split.

    Answers are not constrained, and events of every score count, so that arms differ only by what they have learned.
    Report and answers are kept in the arm's folder. The report includes a paired comparison with the first arm of its
    kind with the same seed, if that has answers.
    """
    import torch

    from recipes.data.questions import SCORING
    from recipes.evaluation.score import score_checkpoint

    torch.set_num_threads(args.threads)
    first = next(iter(SFT_ARMS if arm in SFT_ARMS else GRPO_ARMS))
    other = arm_folder(args.out, first, seed) / f"{split}_predictions.jsonl"
    return score_checkpoint(
        checkpoint, Path(args.data) / f"{split}.jsonl", arm_folder(args.out, arm, seed) / f"{split}.json",
        policy=replace(SCORING, has_captions=arm in SFT_ARMS), constrained=False, min_score=0.0, limit=args.num_clips,
        against=other if arm != first and other.is_file() else None,
    )  # fmt: skip


def measure_prompts(args, num_times=7):
    """Write `prompt_costs.json`: number of prompt tokens and CPU seconds to prefill them, by arm of the stride sweep.

    The arms are measured in turn `num_times`, so that disturbances affect all of them, and the medians kept. Nothing is
    measured until all arms are trained.
    """
    import torch

    from processing.answer_text import prompt_text
    from processing.prefix_cache import prefill_questions

    torch.set_num_threads(1)
    folders = {arm: arm_folder(args.out, arm, args.seeds[0]) / "final" for arm in STRIDES.values()}
    missing = [arm for arm, folder in folders.items() if not folder.is_dir()]
    if missing:
        logger.info("the prompt's costs are not measured: %s of seed %d are not there", missing, args.seeds[0])
        return
    loaded = {arm: load_checkpoint(folder) for arm, folder in folders.items()}
    seconds, costs = {}, {arm: {} for arm in loaded}
    for _ in range(num_times):
        for arm, (model, processor) in loaded.items():
            for length in (10, 30):
                silence = np.zeros(length * processor.sampling_rate, dtype=np.float32)
                inputs = prefill_questions(model, processor, [silence], [[prompt_text("detection")]])
                ids = inputs["input_ids"]
                num_frames = int((ids == processor.audio_token_id).sum())
                frames = torch.zeros((num_frames, model.config.text_config.hidden_size))
                with torch.no_grad():
                    start = time.process_time()
                    model(input_ids=ids, audio_embeds=frames, use_cache=True, logits_to_keep=1)
                    seconds.setdefault((arm, length), []).append(time.process_time() - start)
                costs[arm][f"tokens_{length}s"] = ids.shape[1]
    for (arm, length), values in seconds.items():
        costs[arm][f"prefill_seconds_{length}s"] = statistics.median(values)
    (Path(args.out) / "prompt_costs.json").write_text(json.dumps(costs, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
