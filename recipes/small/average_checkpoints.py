"""Average the weights of checkpoints that were trained from one another.

    python -m recipes.small.average_checkpoints --checkpoints DIR DIR --out DIR

Between a model and one that was fine-tuned from it lie models that keep what the first knew and have much of what the
second learned (Wortsman et al. 2022, Robust fine-tuning of zero-shot models).
"""

import torch

from recipes.arguments import script_parser
from recipes.conversion.checkpoint import load_checkpoint, save_checkpoint


def average_checkpoints(checkpoints, out) -> None:
    """Write the mean of all weights to `out`, a checkpoint with the settings of the first.

    Raises:
        ValueError: fewer than two checkpoints, or weights of other names or shapes.
    """
    if len(checkpoints) < 2:
        raise ValueError(f"checkpoints is {checkpoints!r}; give two or more.")
    model, processor = load_checkpoint(checkpoints[0], dtype="float32")
    # Buffers, a frozen encoder among them, and tied weights once.
    weights = dict(model.named_parameters()) | dict(model.named_buffers())
    for path in checkpoints[1:]:
        other = load_checkpoint(path, dtype="float32")[0]
        others = dict(other.named_parameters()) | dict(other.named_buffers())
        if {name: one.shape for name, one in others.items()} != {name: one.shape for name, one in weights.items()}:
            raise ValueError(f"{path} has weights of other names or shapes than {checkpoints[0]}; average like models.")
        with torch.no_grad():
            for name, weight in weights.items():
                weight += others[name]
    with torch.no_grad():
        for weight in weights.values():
            weight /= len(checkpoints)
    save_checkpoint(model, processor, out)


def main(argv=None):
    parser = script_parser(__doc__)
    parser.add_argument("--checkpoints", required=True, nargs="+", help="folders of the checkpoints")
    parser.add_argument("--out", required=True, help="folder to write")
    average_checkpoints(**vars(parser.parse_args(argv)))


if __name__ == "__main__":
    main()
