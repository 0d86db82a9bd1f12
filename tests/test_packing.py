"""Scoring all answers of a prompt in one sequence gives the losses and gradients of scoring each in its own."""

import copy

import pytest
import torch
from conftest import make_grpo_trainer
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recipes.training.answer_scoring import score_answers
from recipes.training.packing import pack_answers

HIDDEN = 32
LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo")


@pytest.fixture(scope="module")
def trainer(lively_checkpoint, tmp_path_factory):
    rows = [{"prompt": [{"role": "user", "content": "?"}]}] * 2
    return make_grpo_trainer(lively_checkpoint, Dataset.from_list(rows), tmp_path_factory.mktemp("trainer"))


@pytest.fixture(scope="module")
def double_trainer(lively_checkpoint, tmp_path_factory):
    """In double precision, where paths that differ cannot hide behind rounding: among random batches are some whose
    gradients nearly cancel out."""
    rows = [{"prompt": [{"role": "user", "content": "?"}]}] * 2
    trainer = make_grpo_trainer(lively_checkpoint, Dataset.from_list(rows), tmp_path_factory.mktemp("trainer"))
    trainer.model.double()
    return trainer


def padded(rows, filler, is_left):
    width = max(map(len, rows))
    return torch.tensor(
        [[filler] * (width - len(r)) * is_left + r + [filler] * (width - len(r)) * (not is_left) for r in rows]
    )


def make_batch(trainer, sizes, seed):
    """Return what a generated batch holds, of random tokens, frames, advantages and earlier log-probabilities.

    Args:
        sizes: for each prompt `(number of text tokens, of audio frames, lengths of the answers)`. Of an answer of
            length 0 tokens are there, but masked as those of truncated answers are.
    """
    generator = torch.Generator().manual_seed(seed)
    config = trainer.model.config

    def tokens(count):
        return torch.randint(3, 200, (count,), generator=generator).tolist()

    prompts, answers, masks, clips = [], [], [], []
    for num_text, num_frames, lengths in sizes:
        prompt = [*tokens(num_text), *[config.audio_token_id] * num_frames, *tokens(1)]
        clip = {"audio_embeds": torch.randn(num_frames, HIDDEN, generator=generator)} if num_frames else {}
        for length in lengths:
            prompts.append(prompt)
            clips.append(clip)
            answers.append(tokens(length or 3))
            masks.append([int(length > 0)] * (length or 3))
    completion_ids = padded(answers, trainer._tokenizer.pad_token_id, False)
    batch = {
        "prompt_ids": padded(prompts, trainer._tokenizer.pad_token_id, True),
        "prompt_mask": padded([[1] * len(prompt) for prompt in prompts], 0, True),
        "completion_ids": completion_ids,
        "completion_mask": padded(masks, 0, False),
        "advantages": torch.randn(len(answers), generator=generator),
        "clips": clips,
        "names": [str(index) for index in range(len(answers))],
    }
    for name in ("old_per_token_logps", "ref_per_token_logps"):
        batch[name] = -3 + torch.randn(completion_ids.shape, generator=generator)
    batch["num_items_in_batch"] = batch["completion_mask"].sum()
    return batch


def loss_and_gradients(trainer, batch, shared_prefix):
    trainer.shared_prefix = shared_prefix
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    gradients = [p.grad.flatten().clone() for p in trainer.model.parameters() if p.grad is not None]
    return loss.item(), torch.cat(gradients)


def assert_paths_agree(trainer, batch):
    shared_loss, shared = loss_and_gradients(trainer, batch, True)
    loss, plain = loss_and_gradients(trainer, batch, False)
    assert shared_loss == pytest.approx(loss, rel=1e-5, abs=1e-7)
    assert (shared - plain).norm() <= 1e-5 * plain.norm() + 1e-9


PROMPT = st.tuples(st.integers(0, 6), st.integers(0, 9), st.lists(st.integers(0, 7), min_size=1, max_size=5))


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(PROMPT, min_size=1, max_size=3),
    loss_type=st.sampled_from(LOSS_TYPES),
    level=st.sampled_from(["token", "sequence"]),
    beta=st.sampled_from([0.0, 0.1]),
    seed=st.integers(0, 99),
)
def test_loss_and_gradients_equal_those_of_the_plain_path(double_trainer, sizes, loss_type, level, beta, seed):
    trainer = double_trainer
    trainer.loss_type, trainer.importance_sampling_level, trainer.beta = loss_type, level, beta
    assert_paths_agree(trainer, make_batch(trainer, sizes, seed))


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_single_precision_is_as_good(trainer, loss_type):
    trainer.loss_type, trainer.importance_sampling_level, trainer.beta = loss_type, "sequence", 0.1
    for seed, sizes in enumerate([[(0, 1, [3])], [(6, 9, [7, 1, 4]), (0, 0, [2, 2])], [(2, 5, [1, 6]), (3, 0, [5])]]):
        assert_paths_agree(trainer, make_batch(trainer, sizes, seed))


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_truncated_answers_weigh_nothing(trainer, loss_type):
    # One in the middle of a group, and all of another group.
    trainer.loss_type, trainer.importance_sampling_level, trainer.beta = loss_type, "token", 0.1
    batch = make_batch(trainer, [(3, 4, [2, 0, 5]), (2, 0, [0, 0]), (1, 6, [4, 3])], 7)
    assert_paths_agree(trainer, batch)
    loss, gradients = loss_and_gradients(trainer, batch, True)
    batch["completion_ids"] = torch.where(batch["completion_mask"].bool(), batch["completion_ids"], 5)
    batch["advantages"] = torch.where(batch["completion_mask"].any(1), batch["advantages"], 9.0)
    other_loss, other_gradients = loss_and_gradients(trainer, batch, True)
    assert other_loss == loss and torch.equal(gradients, other_gradients)


def test_eager_attention_masks_too(trainer):
    # Its masks are added to the scores, so that one of booleans would mask nothing and raise nothing.
    trainer.loss_type, trainer.importance_sampling_level, trainer.beta = "dapo", "token", 0.0
    batch = make_batch(trainer, [(3, 4, [2, 5]), (2, 3, [4, 1])], 7)
    expected_loss, expected = loss_and_gradients(trainer, batch, True)
    trainer.model.set_attn_implementation("eager")
    try:
        assert_paths_agree(trainer, batch)
        loss, gradients = loss_and_gradients(trainer, batch, True)
    finally:
        trainer.model.set_attn_implementation("sdpa")
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert (gradients - expected).norm() <= 1e-5 * expected.norm()


def test_answers_are_blind_to_each_other(trainer):
    trainer.shared_prefix = True
    batch = make_batch(trainer, [(3, 4, [4, 4])], 0)
    other = copy.deepcopy(batch)
    other["clips"] = batch["clips"]
    other["completion_ids"][0] = 5
    values = []
    for one in (batch, other):
        ids = torch.cat([one["prompt_ids"], one["completion_ids"]], 1)
        mask = torch.cat([one["prompt_mask"], one["completion_mask"]], 1)
        pad_token_id = trainer.processing_class.tokenizer.pad_token_id
        settings = None, trainer.model, True, trainer.temperature, pad_token_id
        values.append(score_answers(trainer.model, ids, mask, 4, one["clips"], *settings)[0])
    assert not torch.equal(values[0][0], values[1][0])
    torch.testing.assert_close(values[0][1], values[1][1], rtol=0, atol=1e-6)


def test_packing_by_hand():
    prompt, other = torch.tensor([1, 2, 3]), torch.tensor([4])
    answers = [torch.tensor([5, 6]), torch.tensor([], dtype=torch.long), torch.tensor([7]), torch.tensor([8, 9])]
    packed = pack_answers([prompt, other], answers, [0, 0, 1, 0], pad_token_id=0)
    # The prompt but its last token; that token and all but the last of an answer; the same of the next.
    assert packed.inputs["input_ids"].tolist() == [[1, 2, 3, 5, 3, 8], [4, 0, 0, 0, 0, 0]]
    assert packed.inputs["position_ids"].tolist() == [[0, 1, 2, 3, 2, 3], [0, 0, 0, 0, 0, 0]]
    assert packed.inputs["shift_labels"].tolist() == [[-100, -100, 5, 6, 8, 9], [7, *[-100] * 5]]
    values = torch.arange(12.0).view(2, 6)
    assert packed.unpack(values, 3).tolist() == [[2, 3, 0], [0, 0, 0], [6, 0, 0], [4, 5, 0]]


@pytest.mark.parametrize("num_iterations", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_training_with_and_without_sharing_ends_alike(lively_checkpoint, tmp_path, num_iterations):
    """Whole runs, in which truncated answers are masked and, with two iterations, old log-probabilities are used."""
    rows = [{"prompt": [{"role": "user", "content": f"What is {number}?"}]} for number in range(8)]

    def even_reward(completion_ids, **kwargs):
        return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]

    results, generated = [], []
    for shared_prefix in (True, False):
        trainer = make_grpo_trainer(
            lively_checkpoint, Dataset.from_list(rows), tmp_path, rewards=[even_reward], shared_prefix=shared_prefix,
            num_iterations=num_iterations, mask_truncated_completions=True, max_steps=4, learning_rate=1e-3,
            max_completion_length=40, steps_per_generation=1,
        )  # fmt: skip
        calls = []
        generate = trainer._generate_single_turn
        trainer._generate_single_turn = lambda *args, calls=calls, go=generate: calls.append(go(*args)) or calls[-1]
        trainer.train()
        results.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
        generated.append(calls)
    assert len(generated[0]) == 4 // num_iterations
    lengths = [len(answer) for answers, _ in generated[0] for answer in answers]
    assert max(lengths) == 40 and min(lengths) < 40, "answers of both kinds are needed"
    start = torch.cat([p.detach().flatten() for p in lively_checkpoint[0].parameters()])
    assert (results[0] - results[1]).norm() <= 1e-3 * (results[0] - start).norm()
