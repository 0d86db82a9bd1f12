"""Custom reward functions, named on the command line."""

import importlib
import math
import os
import sys


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
        raise ValueError(f"reward is {name!r}, whose weight is no number; give module:function:0.5, say.")
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
