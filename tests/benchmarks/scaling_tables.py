"""Write the tables of docs/scaling.md: dry runs of the three large backbones, spread in several ways.

    python tests/benchmarks/scaling_tables.py > runs/scaling.md

No weights and no GPU are needed; it takes some minutes.
"""

import contextlib
import io
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from recipes.training import grpo, sft  # noqa: E402
from recipes.training.memory_estimate import GIB  # noqa: E402

CONFIGS, OUTLINES = ROOT / "recipes" / "configs", ROOT / "docs" / "dry_run"
MODELS = {
    "qwen2_audio_7b": "Qwen2-Audio-7B",
    "qwen2_5_omni_7b": "Qwen2.5-Omni-7B",
    "qwen2_5_omni_3b": "Qwen2.5-Omni-3B",
}
RECIPES = {"sft": (sft.main, OUTLINES), "grpo": (grpo.main, OUTLINES / "train.jsonl")}
SETUPS = ("ddp", "fsdp2", "deepspeed_zero2", "deepspeed_zero3")
FULL = ("--use_peft", "false", "--dtype", "float32")


def report(kind, model, setup="cpu", *overrides):
    """Return the report of one dry run; `setup` is a name in `recipes/configs/accelerate/`, or a path."""
    main, data = RECIPES[kind]
    path = setup if Path(setup).is_file() else CONFIGS / "accelerate" / f"{setup}.yaml"
    with contextlib.redirect_stdout(io.StringIO()):
        return main(
            ["--config", str(CONFIGS / kind / f"{model}.yaml"), "--dry_run", "--model_name_or_path",
             str(OUTLINES / model), "--data", str(data), "--accelerate_config", str(path), *map(str, overrides)]
        )  # fmt: skip


def gib(report, *names):
    """Return parts of a report's memory in GiB, `-` where it has none."""
    return [f"{report['memory'][name] / GIB:.1f}" if name in report["memory"] else "-" for name in names]


def table(title, head, rows):
    """Print one Markdown table."""
    print(f"\n{title}\n\n| {' | '.join(map(str, head))} |\n|{'---|' * len(head)}", flush=True)
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |", flush=True)


def main():
    parts = ("weights", "gradients", "optimizer", "activations", "generation", "reserve", "all")
    runs = {(kind, model): report(kind, model) for kind in RECIPES for model in MODELS}
    head = ["", "audio tower", "projector", "language model", "ticks", "LoRA", "all"]
    rows = []
    for model, name in MODELS.items():
        counts = runs["sft", model]["parameters"]
        rows.append([name, *(f"{counts[part][0] / 1e6:,.1f}" for part in head[1:])])
    table("Parameters, millions; of them LoRA is trained", head, rows)
    rows = []
    for (kind, model), run in runs.items():
        longest = run["longest"]
        rows.append([kind, MODELS[model], run["batch"], f"{longest['tokens']:,}", *gib(run, *parts)])
    table("LoRA on one GPU, GiB", ["", "", "at a time", "tokens", *parts], rows)
    rows = []
    for kind in RECIPES:
        sizes = (4, 8, 16, 32) if kind == "sft" else (4, 8, 16)
        for model, name in MODELS.items():
            batches = [
                report(
                    kind,
                    model,
                    "cpu",
                    "--per_device_train_batch_size",
                    size,
                    "--gradient_accumulation_steps",
                    32 // size,
                )
                for size in sizes
            ]
            rows.append([kind, name, *(gib(run, "all")[0] for run in batches), *[""] * (4 - len(sizes))])
    table("LoRA on one GPU, GiB, by clips or answers at a time, 32 a step", ["", "", 4, 8, 16, 32], rows)
    rows = []
    for kind in RECIPES:
        for model, name in MODELS.items():
            # An adapter cannot generate under FSDP2.
            setups = [None if (kind, setup) == ("grpo", "fsdp2") else setup for setup in SETUPS]
            rows.append([kind, name, *(gib(report(kind, model, s), "all")[0] if s else "-" for s in setups)])
    table("LoRA on each of 8 GPUs, GiB", ["", "", *SETUPS], rows)
    rows = []
    for kind in RECIPES:
        for model, name in MODELS.items():
            one = [gib(report(kind, model, setup, *FULL), "all")[0] for setup in ("cpu", *SETUPS)]
            rows.append([kind, name, *one])
    table("All weights trained, float32 with bfloat16 sums, GiB per GPU", ["", "", "one GPU", *SETUPS], rows)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for processes in (8, 16, 32, 64):
            cells = []
            for setup in ("fsdp2", "deepspeed_zero3"):
                text = (CONFIGS / "accelerate" / f"{setup}.yaml").read_text()
                text = text.replace("num_processes: 8", f"num_processes: {processes}")
                path = Path(folder) / f"{setup}.yaml"
                path.write_text(text)
                cells += [gib(report(kind, "qwen2_5_omni_7b", path, *FULL), "all")[0] for kind in RECIPES]
            rows.append([processes, *cells])
    head = ["GPUs", "FSDP2, SFT", "FSDP2, GRPO", "ZeRO-3, SFT", "ZeRO-3, GRPO"]
    table("All weights of Qwen2.5-Omni-7B trained on a cluster, GiB per GPU", head, rows)


if __name__ == "__main__":
    main()
