"""A baseline for the test of the field: a linear map from the encoder's frozen stem to the labels, smoothed over time.

    python -m recipes.small.linear_probe --stems DIR --out report.json

It shows what the features hold: a checkpoint that scores lower loses the rest in its trained layers. `--stems` is a
folder with `train_field`, `validation_field` and `test_field`, see `recipes/small/stems.py`.
"""

import json
import logging
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from recipes.arguments import script_parser
from recipes.small.averaged_training import train_averaged
from recipes.small.frame_labels import frame_targets, known_labels, read_stems
from recipes.small.grounder import choose_decoder, choose_query_threshold, detection_f1, score_queries

logger = logging.getLogger(__name__)

FRAME_RATE = 12.5
# Each label has few recordings: half of the features are dropped in training, so that they are not learned by heart.
DROPOUT = 0.5
NUM_SMOOTHED = 9


class LinearProbe(nn.Module):
    """Map stem features `(batch, num_frames, stem_size)` to logits `(batch, num_frames, num_labels)`."""

    def __init__(self, stem_size, num_labels):
        super().__init__()
        self.linear = nn.Linear(stem_size, num_labels)
        nn.init.zeros_(self.linear.weight)
        nn.init.constant_(self.linear.bias, -4.0)
        self.smooth = nn.Conv1d(1, 1, NUM_SMOOTHED, padding="same", padding_mode="replicate", bias=False)
        nn.init.constant_(self.smooth.weight, 1 / NUM_SMOOTHED)

    def forward(self, features):
        logits = self.linear(features).transpose(1, 2)
        return self.smooth(logits.flatten(0, 1)[:, None])[:, 0].view_as(logits).transpose(1, 2)


def train_probe(folder, split="train_field", num_steps=600, batch_size=32, learning_rate=1e-3, seed=0, resume=None):
    """Return `(probe, labels)` trained on the stored stems of a split."""
    stems, rows = read_stems(folder, split)
    labels = known_labels(rows)
    targets, _ = frame_targets(rows, labels, stems.shape[1], FRAME_RATE)
    torch.manual_seed(seed)
    probe = LinearProbe(stems.shape[-1], len(labels))

    def step_loss(rng):
        chosen = np.sort(rng.integers(0, len(rows), batch_size))
        frames = F.dropout(torch.from_numpy(stems[chosen].astype(np.float32)), DROPOUT)
        return F.binary_cross_entropy_with_logits(probe(frames), targets[chosen])

    train_averaged(probe, step_loss, num_steps, learning_rate, 50, seed, "linear probe", resume)
    return probe, labels


@torch.no_grad()
def probe_scores(probe, stems):
    """Return the scores of all labels, `(num_clips, num_labels, num_frames)`."""
    return np.stack([probe(torch.from_numpy(stem[None].astype(np.float32)))[0].sigmoid().T.numpy() for stem in stems])


def main(argv=None):
    parser = script_parser(__doc__)
    parser.add_argument("--stems", required=True, help="folder of stored stem features, see recipes/small/stems.py")
    parser.add_argument("--out", required=True, help="report to write, JSON")
    parser.add_argument("--num-steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    probe, labels = train_probe(
        arguments.stems, num_steps=arguments.num_steps, seed=arguments.seed, resume=f"{arguments.out}.resume"
    )
    report = {"num_steps": arguments.num_steps, "seed": arguments.seed}
    for split in ("validation_field", "test_field"):
        stems, rows = read_stems(arguments.stems, split)
        scores = probe_scores(probe, stems)
        if not split.startswith("test"):
            decoder, _ = choose_decoder(scores, rows, labels, FRAME_RATE)
            threshold, *_ = choose_query_threshold(scores, rows, labels, FRAME_RATE, decoder)
            report |= {"decoder": decoder, "query_threshold": threshold}
        recall, rejected = score_queries(scores, rows, labels, FRAME_RATE, decoder, threshold)
        found = {"eb_f1_micro": detection_f1(scores, rows, labels, FRAME_RATE, decoder)}
        report[split] = {"num_clips": len(rows), **found, "R@0.5": recall, "rejected": rejected}
        logger.info("%s: %s", split, report[split])
    Path(arguments.out).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
