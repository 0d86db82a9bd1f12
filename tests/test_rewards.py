"""Rewards: worth what the metric says, safe for any answer, and adaptive only where a group is tied."""

import json
import random
from multiprocessing.reduction import ForkingPickler

import pytest
import torch

from recipes.training.rewards import REWARDS, TIED_VARIANCE, adaptive_reward

DOG = {"onset": 1.0, "offset": 2.0, "event_label": "dog bark"}
SIREN = {"onset": 4.0, "offset": 6.0, "event_label": "siren"}


def reward(name, completion, task="detection", events=(DOG, SIREN), query=None):
    return REWARDS[name]([completion], task=[task], events=[list(events)], query=[query])[0]


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("dog bark: 1.00-2.00; siren: 4.00-6.00", 1.0),
        # One of two events, no false alarm: 2 / (1 + 2).
        ("dog bark: 1.10-2.10", 2 / 3),
        ("dog bark: <1.00>-<2.00>; siren: <4.00>-<5.00>", 0.5),
        ("none", 0.0),
        ("bow wow", 0.0),
    ],
)
def test_event_f1_of_one_answer(completion, expected):
    assert reward("event_f1", completion) == pytest.approx(expected)


def test_rejection_of_an_absent_query_is_worth_all():
    grounding = {"task": "grounding", "events": [], "query": "drum"}
    assert reward("event_f1", "none", **grounding) == 1.0
    assert reward("event_f1", "1.00-2.00", **grounding) == 0.0
    assert reward("auxiliary", "none", **grounding) == 1.0
    assert reward("rejection", "none", **grounding) == 1.0
    assert reward("rejection", "?!", **grounding) == 0.0
    assert reward("rejection", "1.00-2.00", "grounding", [DOG], "dog bark") == 1.0
    assert reward("rejection", "none", "grounding", [DOG], "dog bark") == 0.0
    assert reward("rejection", "none") is None


def test_a_grounding_answer_bears_the_label_of_its_query():
    # The query is another wording than the label of the reference.
    assert reward("event_f1", "1.00-2.00", "grounding", [DOG], "a dog barks") == 1.0


def test_iou_is_the_mean_over_the_labels_of_either_side():
    # dog bark 0.5 / 1.0, siren 2 / 2, drum 0: (0.5 + 1 + 0) / 3.
    assert reward("iou", "dog bark: 1.00-1.50; siren: 4.00-6.00; drum: 7.00-8.00") == pytest.approx(0.5)
    assert reward("auxiliary", "1.00-1.50", "grounding", [DOG], "dog bark") == pytest.approx(0.5)
    assert reward("iou", "none", events=[]) == 1.0


def test_captions_are_matched_by_time_and_compared_by_words():
    events = [DOG | {"event_label": "a dog barks"}]
    right, wrong = "1.00-2.00: a dog barks", "1.00-2.00: rain falls"
    assert reward("event_f1", right, "captioning", events) == reward("event_f1", wrong, "captioning", events) == 1.0
    # Three words in one chunk: 1 - 0.5 / 3 ** 3.
    assert reward("auxiliary", right, "captioning", events) == pytest.approx(1 - 0.5 / 27)
    assert reward("auxiliary", wrong, "captioning", events) == 0.0


def test_the_form_and_the_number_of_answers():
    assert reward("format", "dog bark: 1.00-2.00") == 1.0
    assert reward("format", "The dog barks from 1.0 to 2.0 seconds.") == 0.0
    assert reward("count", "drum: 1.00-2.00, 3.00-4.00") == 1.0
    assert reward("count", "drum: 1.00-2.00") == 0.0


def test_answers_may_be_chats():
    assert reward("event_f1", [{"role": "assistant", "content": "dog bark: 1.00-2.00; siren: 4.00-6.00"}]) == 1.0


def test_no_answer_makes_a_reward_raise():
    rng = random.Random(0)
    seeds = [
        "dog bark: 1.00-2.00; siren: 4.00-6.00",
        "<1.00>-<2.00>, <4.00>-<6.00>",
        "1.00-2.00: a dog",
        "none",
        "[[1,",
    ]
    for index in range(1_500):
        if index % 2:
            text = bytes(rng.randrange(256) for _ in range(rng.randrange(40))).decode("utf-8", "surrogateescape")
        else:
            text = list(rng.choice(seeds))
            for _ in range(rng.randrange(1, 4)):
                text[rng.randrange(len(text))] = rng.choice(["", "-", ":", "\\", "9" * 30, "<", "\x00", ";", "e"])
            text = "".join(text)
        task = ("detection", "grounding", "captioning")[index % 3]
        for name, function in REWARDS.items():
            (value,) = function([text], task=[task], events=[[DOG]], query=["dog bark"])
            assert value is None or 0.0 <= value <= 1.0, (name, text)


def test_rewards_can_be_pickled_and_named():
    for name, function in REWARDS.items():
        assert ForkingPickler.dumps(function) and function.__name__ == f"{name}_reward"
    assert json.dumps(reward("event_f1", "none")) == "0.0"


MAIN = torch.tensor([[0.0, 0.5, 1.0, 0.5], [0.5, 0.5, 0.5, 0.5], [0.0, 0.0, 0.0, 0.0]])
AUXILIARY = torch.tensor([[0.9, 0.1, 0.2, 0.3], [0.2, 0.4, 0.6, 0.8], [0.1, 0.2, 0.3, 0.4]])


@pytest.mark.parametrize(
    ("tie_break", "second", "third"),
    [
        ("product", [0.1, 0.2, 0.3, 0.4], [0.0] * 4),
        # 0.5 + 0.5 * auxiliary, and 0 + 0.5 * auxiliary.
        ("sum", [0.6, 0.7, 0.8, 0.9], [0.05, 0.1, 0.15, 0.2]),
        ("none", [0.5] * 4, [0.0] * 4),
    ],
)
def test_the_auxiliary_reward_joins_in_tied_groups_only(tie_break, second, third):
    rewards, tied = adaptive_reward(MAIN, AUXILIARY, tie_break, auxiliary_weight=0.5)
    assert tied.tolist() == [False, True, True]
    torch.testing.assert_close(rewards, torch.tensor([MAIN[0].tolist(), second, third]))


def test_a_group_is_tied_below_the_paper_s_variance():
    # Half at 0, half at d: variance d ** 2 / 4.
    for factor, expected in ((0.99, True), (1.01, False)):
        distance = (4 * TIED_VARIANCE * factor) ** 0.5
        _, tied = adaptive_reward(torch.tensor([[0.0, distance]], dtype=torch.float64), torch.ones(1, 2))
        assert tied.item() is expected
    with pytest.raises(ValueError, match="tie_break is 'max'; choose one of product, sum, none"):
        adaptive_reward(MAIN, AUXILIARY, "max")
