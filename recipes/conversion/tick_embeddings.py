"""Initial tick embeddings: the paper's mean, an order-aware mean, either of them centred, or noise."""

import torch

from modeling_timepro.configuration_timepro import TIME_INITS
from processing.events import TimeGrid


def number_tokens(tokenizer, grid: TimeGrid) -> list[list[int]]:
    """Return the token ids of every tick's number as plain text, e.g. `1.24` -> ids of `1`, `.`, `2`, `4`."""
    numbers = [token.strip("<>") for token in grid.tick_tokens()]
    return tokenizer(numbers, add_special_tokens=False)["input_ids"]


def place_weights(num_tokens: int) -> torch.Tensor:
    """Return weights `(num_tokens,)` that decrease by a third from each position to the next and sum to one.

    With a ratio r between positions, changing the last of four digits moves the mean by r^3, and swapping the last two
    by r^2 (1 - r); a ratio of two thirds maximises the smaller of them.
    """
    weights = (2 / 3) ** torch.arange(num_tokens, dtype=torch.float64)
    return weights / weights.sum()


def time_embeddings(
    weight: torch.Tensor, number_ids: list[list[int]], init: str = "mean", seed: int = 0
) -> torch.Tensor:
    """Return initial embeddings of the ticks, `(num_ticks, hidden_size)`.

    `mean` is the paper's semantic initialisation (arXiv 2604.13715): the mean of the embeddings of the number's tokens.
    It ignores order, so with digit tokens `1.24` and `4.12` coincide. `place` weights each token by its decimal place,
    which keeps all ticks distinct. Both are dominated by a component common to all ticks: `centred_mean` and
    `centred_place` subtract it, and scale the rest to the spread of the vocabulary. `random` is the ablation: normal
    noise with that spread.

    Args:
        weight: `(vocab_size, hidden_size)` embedding matrix before the ticks.
        number_ids: token ids of every tick's number, see `number_tokens`.
        init: one of `TIME_INITS`.
        seed: seed of the noise.

    Raises:
        ValueError: unknown `init`.
    """
    if init == "random":
        generator = torch.Generator().manual_seed(seed)
        mean, spread = column_moments(weight)
        noise = torch.randn((len(number_ids), weight.shape[1]), generator=generator) * spread
        return (noise + mean).to(weight)
    if init not in TIME_INITS:
        raise ValueError(f"init is {init!r}; choose one of {', '.join(TIME_INITS)}.")
    rows = []
    for ids in number_ids:
        parts = weight[torch.tensor(ids)].double()
        weights = place_weights(len(ids)).to(parts.device)
        rows.append(weights @ parts if init.endswith("place") else parts.mean(0))
    rows = torch.stack(rows)
    if init.startswith("centred"):
        rows = rows - rows.mean(0)
        rows *= column_moments(weight)[1].double().norm() / rows.square().sum(1).mean().sqrt()
    return rows.to(weight.dtype)


def column_moments(weight: torch.Tensor, rows: int = 4096) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation of each column, on the CPU, computed in chunks to save memory.

    Args:
        weight: `(vocab_size, hidden_size)`.
    """
    total = sum(part.double().sum(0) for part in weight.split(rows))
    mean = total / len(weight)
    squares = sum((part.double() - mean).square().sum(0) for part in weight.split(rows))
    return mean.float().cpu(), (squares / (len(weight) - 1)).sqrt().float().cpu()


def tick_head(embeddings: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    """Return initial output weights of ticks, `(num_ticks, hidden_size)`, for answers in ticks.

    Each has the direction of the tick's embedding minus the mean over ticks, and twice the norm of other rows, so that
    a state copied from a tick predicts that tick.

    Args:
        embeddings: `(num_ticks, hidden_size)` input embeddings of the ticks.
        head: `(vocab_size, hidden_size)` output weights of the other tokens.
    """
    centred = embeddings.float() - embeddings.float().mean(0)
    # In chunks, to save memory.
    length = 2 * torch.cat([part.float().norm(dim=1) for part in head.split(4096)]).mean()
    return (torch.nn.functional.normalize(centred, dim=1) * length).to(head)
