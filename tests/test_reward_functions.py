"""Rewards of a user's own: found by name, weighted, and told apart from what is wrong."""

import pytest

from recipes.training.rewards import format_reward, load_reward, reward_functions


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = "def short(completions, **kwargs):\n    return [0.5] * len(completions)\nLIMIT = 3\n"
    (tmp_path / "my_own_rewards.py").write_text(source + "def format_reward(completions, **kwargs):\n    return []\n")
    (tmp_path / "broken_rewards.py").write_text("import no_such_module\n")


def test_a_function_of_the_working_directory_is_found_with_its_weight():
    function, weight = load_reward("my_own_rewards:short")
    assert (function(["a", "b"]), weight) == ([0.5, 0.5], 1.0)
    assert load_reward("my_own_rewards:short:0.25")[1] == 0.25


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("short", "reward is 'short'; give module:function"),
        ("my_own_rewards:", "give module:function"),
        ("my_own_rewards:short:much", "weight is not a number"),
        ("my_own_rewards:short:nan", "weight is not a number"),
        ("no_such_rewards:short", "no_such_rewards cannot be imported: ModuleNotFoundError"),
        ("broken_rewards:short", "broken_rewards cannot be imported: .*no_such_module"),
        ("my_own_rewards:long", r"has no function long; it has \['format_reward', 'short'\]"),
        ("my_own_rewards:LIMIT", "has no function LIMIT"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused_by_name(name, message):
    with pytest.raises(ValueError, match=message):
        load_reward(name)


def test_functions_of_one_name_are_refused():
    functions, weights = reward_functions([(format_reward, 0.5)], ["my_own_rewards:short:2"])
    assert [f.__name__ for f in functions] == ["format_reward", "short"] and weights == [0.5, 2.0]
    with pytest.raises(ValueError, match="several functions called format_reward"):
        reward_functions([(format_reward, 0.5)], ["my_own_rewards:format_reward"])
