"""Rewards for temporal answers, as functions for TRL's GRPOTrainer, and the adaptive reward over a group.

Every reward takes `completions` (strings, or chats whose last message holds the answer) and columns of the rows:
`task`, `events` (the reference: dictionaries of `onset`, `offset` in seconds and `event_label`) and `query`. It returns
one float from 0 to 1 per completion, based on the metrics in `recipes/scoring/__init__.py`. An unparseable answer gets
0 from all rewards.
"""

import importlib
import math
import os
import sys

import torch

from processing.answer_text import parse_events
from processing.events import Event
from recipes.scoring import event_f1, has_right_count, label_iou, text_meteor, union_iou

TIE_BREAKS = ("product", "sum", "none")
# Below this variance of the main reward a group counts as tied (arXiv 2604.13715).
TIED_VARIANCE = 1e-6


def read_answers(completions, task, events, query=None) -> list[tuple]:
    """Return `(task, reference, prediction)` of every completion; the prediction is `None` if it cannot be parsed.

    Grounding answers have no labels, so both sides get the query as label.
    """
    queries = [None] * len(completions) if query is None else query
    read = []
    for completion, name, reference, label in zip(completions, task, events, queries, strict=True):
        text = completion if isinstance(completion, str) else completion[-1]["content"]
        label = (label or "") if name == "grounding" else ""
        wanted = [
            Event.from_dict(event | ({"event_label": label} if name == "grounding" else {})) for event in reference
        ]
        read.append((name, wanted, parse_events(text, name, label)))
    return read


def event_f1_reward(completions, task, events, query=None, **kwargs) -> list[float]:
    """Return event-based F1 of each answer; captions are matched by their times.

    The collar is 0.2 s, for offsets at least 20 % of the length. Rejecting an absent query gets 1.
    """
    return [
        0.0 if found is None else event_f1(wanted, found, time_only=name == "captioning")
        for name, wanted, found in read_answers(completions, task, events, query)
    ]


def iou_reward(completions, task, events, query=None, **kwargs) -> list[float]:
    """Return the IoU of the unions of intervals, in detection averaged over the labels of both sides."""
    return [_iou(*answer) for answer in read_answers(completions, task, events, query)]


def auxiliary_reward(completions, task, events, query=None, **kwargs) -> list[float]:
    """Return the tie-breaking reward (arXiv 2604.13715): METEOR for captions, else the IoU.

    This METEOR aligns words and stems but not synonyms, so it needs no data.
    """
    return [
        text_meteor(wanted, found, synonyms=False) if name == "captioning" else _iou(name, wanted, found)
        for name, wanted, found in read_answers(completions, task, events, query)
    ]


def format_reward(completions, task, **kwargs) -> list[float]:
    """Return 1 for canonical answers, 0 for others, even if they can be parsed."""
    texts = [completion if isinstance(completion, str) else completion[-1]["content"] for completion in completions]
    return [float(parse_events(text, name, tolerant=False) is not None) for text, name in zip(texts, task, strict=True)]


def count_reward(completions, task, events, query=None, **kwargs) -> list[float]:
    """Return 1 for answers with as many events as the reference, else 0."""
    return [
        float(has_right_count(wanted, found)) for _, wanted, found in read_answers(completions, task, events, query)
    ]


def rejection_reward(completions, task, events, query=None, **kwargs) -> list[float | None]:
    """Return 1 if an absent query is rejected or a present one is not, else 0; `None` for other tasks."""
    return [
        float(found is not None and bool(found) == bool(wanted)) if name == "grounding" else None
        for name, wanted, found in read_answers(completions, task, events, query)
    ]


REWARDS = {
    "event_f1": event_f1_reward,
    "auxiliary": auxiliary_reward,
    "iou": iou_reward,
    "format": format_reward,
    "count": count_reward,
    "rejection": rejection_reward,
}


def adaptive_reward(main, auxiliary, tie_break="product", auxiliary_weight=1.0):
    """Return the adaptive temporal reward (arXiv 2604.13715) and which groups were tied.

    If the main reward distinguishes the answers of a group, it is used alone. Otherwise (variance below 1e-6) it is
    combined with the auxiliary reward: by the element-wise `product`, as in the paper, which gives no signal if the
    main reward is always 0; by the `sum` main + weight * auxiliary, which does; or not at all (`none`).

    Args:
        main, auxiliary: `(num_groups, num_generations)`, complete groups.

    Returns:
        rewards of the same shape, and `(num_groups,)` bool.

    Raises:
        ValueError: an unknown `tie_break`.
    """
    check_tie_break(tie_break)
    tied = main.var(dim=1, unbiased=False) < TIED_VARIANCE
    joined = {"product": main * auxiliary, "sum": main + auxiliary_weight * auxiliary, "none": main}[tie_break]
    return torch.where(tied[:, None], joined, main), tied


def check_tie_break(tie_break):
    """Raise a `ValueError` unless `tie_break` is one of `TIE_BREAKS`."""
    if tie_break not in TIE_BREAKS:
        raise ValueError(f"tie_break is {tie_break!r}; choose one of {', '.join(TIE_BREAKS)}.")


def _iou(task, wanted, found):
    return (label_iou if task == "detection" else union_iou)(wanted, found)


def load_reward(name: str):
    """Return the function and weight named by `module:function` or `module:function:weight`; the default weight is 1.

    Modules are imported from Python's path or the working directory. Functions follow TRL's convention: keyword
    arguments `prompts`, `completions`, `completion_ids` and the columns of the rows, each a list with one entry per
    answer. They return one number per answer, `None` if they do not apply.

    Raises:
        ValueError: a malformed name, a module that cannot be imported, an unknown function, or an invalid weight.
    """
    module_name, _, rest = name.partition(":")
    function_name, colon, weight = rest.partition(":")
    if not (module_name and function_name):
        raise ValueError(f"reward is {name!r}; give module:function, or module:function:weight.")
    try:
        weight = float(weight) if colon else 1.0
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise ValueError(f"reward is {name!r}, whose weight is not a number; give for example module:function:0.5.")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever a user's module raises
        raise ValueError(f"reward is {name!r}, but {module_name} cannot be imported: {error!r}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        own = sorted(key for key, value in vars(module).items() if callable(value) and key[0] != "_")
        raise ValueError(f"reward is {name!r}, but {module_name} has no function {function_name}; it has {own}.")
    return function, weight


def reward_functions(own, names) -> tuple[list, list[float]]:
    """Return the functions of a run and their weights.

    Args:
        own: `(function, weight)` of the recipe's rewards.
        names: further ones, for [`load_reward`].

    Raises:
        ValueError: as [`load_reward`], or two functions with the same name, under which rewards are logged.
    """
    pairs = [*own, *map(load_reward, names)]
    called = [function.__name__ for function, _ in pairs]
    if twice := sorted({name for name in called if called.count(name) > 1}):
        raise ValueError(f"reward names several functions called {', '.join(twice)}; rename those of your own.")
    functions, weights = zip(*pairs, strict=True)
    return list(functions), list(weights)
