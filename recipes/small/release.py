"""Write the embedded checkpoint: weights in half precision, training log, scores, and cards with their figures.

    python -m recipes.small.release --checkpoint runs/small/grounder --baseline runs/small/baseline.json \\
        --field runs/small/score_field/report.json --seen runs/small/score_seen/report.json \\
        --unseen runs/small/score_unseen/report.json

The tables in README.md and MODEL_CARD.md, between marks, and the figures in the card's metadata are generated from the
reports and `recipes/soundscapes/sounds.json`.
"""

import json
import logging
from pathlib import Path

from recipes import DEFAULT_CHECKPOINT
from recipes.arguments import script_parser
from recipes.conversion.atomic_folder import atomic_folder
from recipes.conversion.checkpoint import load_checkpoint, save_checkpoint
from recipes.publishing.model_card import FIGURES_MARKS, figures_table, fill, fill_card
from recipes.small.link_code import REPOSITORY, link_code
from recipes.soundscapes.catalogue import load_catalogue

logger = logging.getLogger(__name__)

NAME = "timepro-small"
# Length in seconds of the clips that it was trained on; it cannot handle longer ones.
CHUNK_LENGTH = 10.0
CARDS = (REPOSITORY / "README.md", REPOSITORY / "MODEL_CARD.md")


def save_half(model, processor, out) -> None:
    """Save a checkpoint with weights that are stored in float16 and loaded in float32."""
    # A path on the machine that trained the language model.
    model.config.text_config._name_or_path = ""
    save_checkpoint(model.half(), processor, out)
    path = Path(out) / "config.json"
    # Loading uses the configured dtype, not the stored one; half precision is slow on CPUs.
    text = path.read_text(encoding="utf-8").replace('"dtype": "float16"', '"dtype": "float32"')
    path.write_text(text, encoding="utf-8")


def release(checkpoint, field, seen, unseen, baseline, out=DEFAULT_CHECKPOINT, cards=CARDS, min_score=None, log=None):
    """Write the complete checkpoint `out`, and the figures into `cards`, of which the last is its own card.

    A new folder replaces `out` atomically. If code and card were links, they are linked again.

    Args:
        checkpoint: folder of the trained checkpoint.
        field, seen, unseen: reports of the checkpoint on the three tests.
        baseline: reports of `recipes/small/yamnet_baseline.py`, which together have all of them.
        log: `trainer_state.json` of its fine-tuning; by default the log of `out` is kept.
        min_score: default of the pipeline, which must be that of the reports.

    Raises:
        ValueError: a report has failed recordings, or another `min_score`.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    paths = {"field": field, "seen": seen, "unseen": unseen}
    reports = {name: json.loads(Path(path).read_text()) for name, path in paths.items()}
    for name, report in reports.items():
        if report.get("failures"):
            raise ValueError(f"{name} has {len(report['failures'])} recordings that failed; score them first.")
        if report.get("min_score") != min_score:
            found = report.get("min_score")
            raise ValueError(f"{name} was scored with min_score {found}, not {min_score}; score it again.")
    baselines = {name: part for path in baseline for name, part in json.loads(Path(path).read_text()).items()}
    scores = {f"{NAME}, {name}": report for name, report in reports.items()}
    scores |= {f"YAMNet's own scores, {name}": baselines[f"test_{name}"] for name in reports}
    model, processor = load_checkpoint(checkpoint, dtype="float32")
    processor.min_score, processor.chunk_length_s = min_score, CHUNK_LENGTH
    if log is None:
        lines = (out / "training_log.jsonl").read_text(encoding="utf-8")
    else:
        entries = json.loads(Path(log).read_text())["log_history"]
        lines = "".join(json.dumps(one) + "\n" for one in entries if "loss" in one or "train_runtime" in one)
    # Paths and clip ids of the machine that scored are meaningless elsewhere.
    local = ("model", "data", "label_aliases", "worst_clips", "failures")
    scores = {name: {k: v for k, v in report.items() if k not in local} for name, report in scores.items()}
    files = [file for file in load_catalogue() if file.split]
    for card in cards:
        text = card.read_text(encoding="utf-8")
        is_own = card == cards[-1]
        text = fill_card(text, scores, NAME, files) if is_own else fill(text, FIGURES_MARKS, figures_table(scores))
        card.write_text(text, encoding="utf-8")
    is_linked = any(path.is_symlink() for path in out.glob("*.py"))
    with atomic_folder(out, overwrite=True) as folder:
        save_half(model, processor, folder)
        (folder / "training_log.jsonl").write_text(lines, encoding="utf-8")
        (folder / "scores.json").write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(Path(cards[-1]).read_text(encoding="utf-8"), encoding="utf-8")
        if is_linked:
            link_code(folder, beside=out)
    logger.info("wrote %s, %.1f MB", out, sum(path.stat().st_size for path in out.rglob("*")) / 1e6)


def main(argv=None):
    parser = script_parser(__doc__)
    parser.add_argument("--checkpoint", required=True, help="folder of the trained checkpoint")
    parser.add_argument("--log", help="trainer_state.json of its fine-tuning (default: keep the log of --out)")
    parser.add_argument("--field", required=True, help="report.json on the field test")
    parser.add_argument("--seen", required=True, help="report.json on the seen test")
    parser.add_argument("--unseen", required=True, help="report.json on the unseen test")
    parser.add_argument("--baseline", required=True, nargs="+", help="reports of recipes/small/yamnet_baseline.py")
    parser.add_argument("--min-score", type=float, help="by default omit detected events with a lower score")
    parser.add_argument("--out", default=DEFAULT_CHECKPOINT, help="folder to write (default: the embedded checkpoint)")
    release(**vars(parser.parse_args(argv)))


if __name__ == "__main__":
    main()
