"""The private parts of TRL that the trainers override or touch: a new version that renames one is told by name."""

import inspect
import re

import pytest
import trl

from recipes.training import TRL_ATTRIBUTES, TRL_METHODS
from recipes.training.grpo_trainer import TimeProGRPOTrainer
from recipes.training.sft_trainer import TimeProSFTTrainer

OURS = {"GRPOTrainer": TimeProGRPOTrainer, "SFTTrainer": TimeProSFTTrainer}
ADVICE = f"in TRL {trl.__version__}: see what took its place, and change recipes/training and setup.cfg together"


def private_methods(cls):
    return {name for name, item in vars(cls).items() if inspect.isfunction(item) and re.match(r"_[a-z]", name)}


@pytest.mark.parametrize("name", OURS)
def test_trl_still_has_the_methods_that_are_overridden(name):
    for method in TRL_METHODS[name]:
        assert hasattr(getattr(trl, name), method), f"{name}.{method} is gone {ADVICE}"


@pytest.mark.parametrize("name", OURS)
def test_overridden_methods_take_the_arguments_that_trl_passes(name):
    for method in TRL_METHODS[name]:
        theirs = inspect.signature(getattr(getattr(trl, name), method)).parameters
        mine = inspect.signature(vars(OURS[name])[method]).parameters
        takes_any = any(item.kind is item.VAR_KEYWORD for item in mine.values())
        assert takes_any or list(mine) == list(theirs), f"{name}.{method} takes {list(theirs)} {ADVICE}"


@pytest.mark.parametrize("name", OURS)
def test_trl_still_has_the_attributes_that_are_touched(name):
    source = "".join(inspect.getsource(cls) for cls in getattr(trl, name).__mro__ if cls is not object)
    for attribute in TRL_ATTRIBUTES[name]:
        assert re.search(rf"\bself\.{attribute}\b.* = ", source), f"{name}.{attribute} is gone {ADVICE}"


@pytest.mark.parametrize("name", OURS)
def test_every_private_method_that_is_overridden_is_listed(name):
    bases = set().union(*(private_methods(cls) for cls in getattr(trl, name).__mro__))
    assert private_methods(OURS[name]) & bases == set(TRL_METHODS[name])
