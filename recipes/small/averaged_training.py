"""The training loop for parts of the small model on stored features, with averaged weights."""

import logging
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from recipes.small.language_model import load_progress, save_progress

logger = logging.getLogger(__name__)


def train_averaged(
    trained: nn.Module, step_loss: Callable[[np.random.Generator], torch.Tensor], num_steps: int, learning_rate: float,
    num_warmup_steps: int, seed: int, desc: str, resume=None, save_every: int = 50,
):  # fmt: skip
    """Train a module in place; the result is a running average of the weights, which is more stable than the last.

    AdamW with linear warm-up and cosine decay to 0, gradients clipped to a norm of 1.

    Args:
        step_loss: returns the loss of one step, using the given generator for random draws.
        learning_rate: peak learning rate.
        desc: name of the progress bar.
        resume: folder to save to every `save_every` steps, and to resume from.
    """
    average = AveragedModel(trained, multi_avg_fn=get_ema_multi_avg_fn(max(0.0, min(0.99, 1 - 10 / num_steps))))
    both = nn.ModuleList([trained, average])
    parameters = [p for p in trained.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.02)
    first = load_progress(Path(resume), both, optimizer) if resume else 0
    bar = tqdm(range(first, num_steps), initial=first, total=num_steps, desc=desc)
    for step in bar:
        warmup = min(1, (step + 1) / num_warmup_steps)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * warmup * (0.5 + 0.5 * math.cos(math.pi * step / num_steps))
        loss = step_loss(np.random.default_rng([seed, step]))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        average.update_parameters(trained)
        if step % 10 == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
            logger.info("%s, step %d: loss %.4f", desc, step, loss.item())
        if resume and step % save_every == save_every - 1:
            save_progress(Path(resume), both, optimizer, step + 1)
    trained.load_state_dict(average.module.state_dict())
