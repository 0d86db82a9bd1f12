"""Write the embedded checkpoint: weights in half precision, training log, scores, and the cards with their figures.

    python -m recipes.small.release --checkpoint runs/small/grounder --peer runs/small/peer.json \\
        --field runs/small/score_field/report.json --seen runs/small/score_seen/report.json \\
        --unseen runs/small/score_unseen/report.json

The tables of README.md and MODEL_CARD.md stand between marks and are written from the reports and from
`recipes/soundscapes/sounds.json` alone, the figures in the card's metadata too.
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
# Seconds of the clips that it was trained on: longer ones are beyond it.
CHUNK_LENGTH = 10.0
CARDS = (REPOSITORY / "README.md", REPOSITORY / "MODEL_CARD.md")


def save_half(model, processor, out) -> None:
    """Save a checkpoint whose weights are stored in float16 and computed with in float32."""
    # The folder of the language model, on the machine that trained it.
    model.config.text_config._name_or_path = ""
    save_checkpoint(model.half(), processor, out)
    path = Path(out) / "config.json"
    # Loading goes by the settings, not by how the weights are stored; half precision is slow on a CPU.
    text = path.read_text(encoding="utf-8").replace('"dtype": "float16"', '"dtype": "float32"')
    path.write_text(text, encoding="utf-8")


def release(checkpoint, field, seen, unseen, peer, out=DEFAULT_CHECKPOINT, cards=CARDS, min_score=None, log=None):
    """Write the checkpoint `out` with all that belongs to it, and the figures into `cards`; the last is its own card.

    A new folder takes the place of `out`, whole or not at all. Where code and card were linked they are linked again.

    Args:
        checkpoint: directory of the trained checkpoint.
        field, seen, unseen: reports of the checkpoint on the three tests.
        peer: report of `recipes/small/yamnet_baseline.py` on all of them.
        log: `trainer_state.json` of the run that trained its answers; by default the log of `out` stays.
        min_score: what the pipeline shall go by; the reports must be of the same.

    Raises:
        ValueError: a report lacks recordings that failed, so that its figures are of fewer, or is of another
            `min_score`.
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
    peers = json.loads(Path(peer).read_text())
    scores = {f"{NAME}, {name}": report for name, report in reports.items()}
    scores |= {f"YAMNet's own scores, {name}": peers[f"test_{name}"] for name in reports}
    model, processor = load_checkpoint(checkpoint, dtype="float32")
    processor.min_score, processor.chunk_length_s = min_score, CHUNK_LENGTH
    if log is None:
        lines = (out / "training_log.jsonl").read_text(encoding="utf-8")
    else:
        entries = json.loads(Path(log).read_text())["log_history"]
        lines = "".join(json.dumps(one) + "\n" for one in entries if "loss" in one or "train_runtime" in one)
    # Paths of the machine that scored, and ids of its clips, say nothing to anybody else.
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
    parser.add_argument("--checkpoint", required=True, help="directory of the trained checkpoint")
    parser.add_argument("--log", help="trainer_state.json of its fine-tuning (default: keep the log of --out)")
    parser.add_argument("--field", required=True, help="report.json on the test of the field")
    parser.add_argument("--seen", required=True, help="report.json on the seen test")
    parser.add_argument("--unseen", required=True, help="report.json on the unseen test")
    parser.add_argument("--peer", required=True, help="report of recipes/small/yamnet_baseline.py")
    parser.add_argument("--min-score", type=float, help="score below which detected events are omitted by default")
    parser.add_argument("--out", default=DEFAULT_CHECKPOINT, help="directory to write (default: the embedded one)")
    release(**vars(parser.parse_args(argv)))


if __name__ == "__main__":
    main()
