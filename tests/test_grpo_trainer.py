"""The trainer: all its passes hear, and sharing the prompt changes neither answers nor losses nor gradients."""

import copy
from functools import partial

import numpy as np
import pytest
import soundfile
import torch
from conftest import make_grpo_trainer
from datasets import Dataset
from trl import GRPOTrainer

from recipes.training import grpo_trainer
from recipes.training.freezing import freeze_time_embeddings
from recipes.training.grpo_trainer import adaptive_temporal_reward
from recipes.training.rewards import event_f1_reward

GROUP = 4


@pytest.fixture
def dataset(tmp_path):
    rows = []
    for index, seconds in enumerate((1.0, 2.5, 1.7)):
        path = tmp_path / f"{index}.wav"
        soundfile.write(path, 0.1 * np.random.default_rng(index).normal(size=int(seconds * 16000)), 16000)
        blocks = [{"type": "audio", "audio": str(path)}, {"type": "text", "text": "When?" * (index + 1)}]
        rows.append({
            "id": f"clip {index}", "prompt": [{"role": "user", "content": blocks}], "task": "grounding",
            "query": "siren", "events": [{"onset": 0.2, "offset": 0.8, "event_label": "siren"}], "duration": seconds,
        })  # fmt: skip
    return Dataset.from_list(rows)


@pytest.fixture
def make_trainer(lively_checkpoint, dataset, tmp_path):
    """Return a function that returns a trainer."""
    return partial(make_grpo_trainer, lively_checkpoint, dataset, tmp_path)


def rows_of(dataset, *indices):
    return [dataset[index] for index in indices for _ in range(GROUP)]


def scored(trainer, rows):
    """Return a generated batch, and log-probabilities `(batch, width)` of its answers in the loss path."""
    torch.manual_seed(0)
    batch = trainer._generate_and_score_completions(rows)
    return batch, log_probs_of(trainer, batch)


def log_probs_of(trainer, batch):
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    trainer._clips = batch.get("clips")
    width = batch["completion_ids"].shape[1]
    log_probs, entropies, _ = trainer._get_per_token_logps_and_entropies(
        trainer.model, ids, mask, width, compute_entropy=True
    )
    return log_probs * batch["completion_mask"], entropies * batch["completion_mask"]


def plain_log_probs(model, processor, row, answer, temperature=1.0):
    """Return log-probabilities of an answer by one forward of the whole sequence, through the processor alone."""
    inputs = processor.apply_chat_template(
        [row["prompt"]], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    ids = torch.cat([inputs["input_ids"], answer[None]], 1)
    with torch.no_grad():
        logits = model(
            input_ids=ids, input_features=inputs["input_features"], input_features_mask=inputs["input_features_mask"]
        ).logits
    start = inputs["input_ids"].shape[1]
    log_probs = torch.log_softmax(logits[0, start - 1 : -1] / temperature, -1)
    return log_probs.gather(-1, answer[:, None])[:, 0]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("shared_prefix", [True, False])
def test_log_probabilities_equal_a_plain_forward(make_trainer, lively_checkpoint, dataset, shared_prefix, temperature):
    trainer = make_trainer(shared_prefix=shared_prefix, temperature=temperature)
    rows = rows_of(dataset, 0, 1)
    batch, (log_probs, _) = scored(trainer, rows)
    for index, row in enumerate(rows):
        answer = batch["completion_ids"][index][batch["completion_mask"][index].bool()]
        expected = plain_log_probs(lively_checkpoint[0], lively_checkpoint[1], row, answer, temperature)
        torch.testing.assert_close(log_probs[index, : len(answer)], expected, rtol=0, atol=1e-5)


def other_sound(dataset, tmp_path):
    """Return the same prompts about other recordings of the same lengths."""

    def change(row):
        path = row["prompt"][0]["content"][0]["audio"]
        noise = 0.1 * np.random.default_rng(99).normal(size=soundfile.info(path).frames)
        soundfile.write(path.replace(".wav", "-other.wav"), noise, 16000)
        row["prompt"][0]["content"][0]["audio"] = path.replace(".wav", "-other.wav")
        return row

    return dataset.map(change, keep_in_memory=True)


def test_another_waveform_gives_other_log_probabilities(make_trainer, dataset, tmp_path):
    trainer = make_trainer()
    batch, (before, _) = scored(trainer, rows_of(dataset, 0, 1))
    trainer._tokenize_prompts([row["prompt"] for row in rows_of(other_sound(dataset, tmp_path), 0, 1)])
    after, _ = log_probs_of(trainer, batch | {"clips": trainer._clips})
    assert (before - after).abs().max() > 1e-3


def test_the_stock_trainer_does_not_hear(make_trainer, dataset):
    # So the tests above can fail. Ours refuses placeholders without sound: there is no silent deafness.
    trainer = make_trainer(cls=GRPOTrainer, rewards=[event_f1_reward])
    with pytest.raises(ValueError, match="audio placeholders"):
        scored(trainer, rows_of(dataset, 0, 1))


def test_answers_from_a_shared_cache_equal_those_of_the_plain_path(make_trainer, lively_checkpoint, dataset):
    trainer = make_trainer()
    # The trainer always samples; greedy answers are the ones that can be compared.
    trainer.generation_config.do_sample = False
    trainer.generation_kwargs = trainer.generation_kwargs | {"do_sample": False, "top_k": None, "temperature": None}
    prompts = [row["prompt"] for row in rows_of(dataset, 0, 1, 2)]
    ids, _, _ = trainer._tokenize_prompts(prompts)
    answers, _ = trainer._generate_single_turn(ids, None, {}, GROUP)
    model, processor = lively_checkpoint
    for index in (0, GROUP, 2 * GROUP):
        inputs = processor.apply_chat_template(
            [prompts[index]], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        expected = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert answers[index : index + GROUP] == [expected.tolist()] * GROUP


def test_answers_that_end_leave_the_row_and_change_no_other(make_trainer, lively_checkpoint, dataset):
    # With many tokens that end an answer, answers are of many lengths.
    rows, found = rows_of(dataset, 0, 1, 2), []
    for can_pack in (True, False):
        trainer = make_trainer(max_completion_length=30)
        trainer._can_pack = can_pack
        ends = list(range(5, 100))
        trainer.eos_token_ids = trainer.generation_config.eos_token_id = ends
        trainer._rows = rows
        ids, _, _ = trainer._tokenize_prompts([row["prompt"] for row in rows])
        torch.manual_seed(5)
        found.append(trainer._generate_single_turn(ids, None, {}, GROUP))
    (answers, log_probs), (plain, plain_log_probs) = found
    assert answers == plain and len({len(answer) for answer in answers}) > 3
    for one, other in zip(log_probs, plain_log_probs, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_sampled_answers_equal_those_of_the_plain_path(make_trainer, lively_checkpoint, dataset):
    # The same draws from equal probabilities.
    trainer = make_trainer()
    prompts = [row["prompt"] for row in rows_of(dataset, 0, 1, 2)]
    ids, _, _ = trainer._tokenize_prompts(prompts)
    torch.manual_seed(3)
    answers, _ = trainer._generate_single_turn(ids, None, {}, GROUP)
    length = max(map(len, ids))
    padded = torch.tensor([[trainer._tokenizer.pad_token_id] * (length - len(row)) + row for row in ids])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in ids])
    frames = torch.cat([clip["audio_embeds"] for clip in trainer._clips])
    torch.manual_seed(3)
    sequences = lively_checkpoint[0].generate(
        input_ids=padded, attention_mask=mask, audio_embeds=frames, generation_config=trainer.generation_config
    )
    assert len({tuple(answer) for answer in answers}) > 8
    for answer, sequence in zip(answers, sequences[:, length:].tolist(), strict=True):
        assert answer == sequence[: len(answer)] and (len(answer) == 12 or answer[-1] in trainer.eos_token_ids)


def test_every_clip_is_encoded_once(make_trainer, dataset, monkeypatch):
    trainer = make_trainer()
    # Two questions about one recording, and one about another.
    rows = [dataset[0], dataset[0] | {"prompt": copy.deepcopy(dataset[0]["prompt"])}, dataset[1]]
    rows[1]["prompt"][0]["content"][1]["text"] = "When else?"
    calls = []
    tower = trainer.model.model.audio_tower
    handle = tower.register_forward_hook(lambda *arguments: calls.append(1))
    batch = trainer._generate_and_score_completions([row for row in rows for _ in range(GROUP)])
    trainer.compute_loss(trainer.model, batch | {"advantages": torch.ones(3 * GROUP)}).backward()
    assert len(calls) == 2
    # And for later batches, as far as they are kept.
    prompts = [dataset[index]["prompt"] for index in (1, 0, 2) for _ in range(GROUP)]
    trainer._tokenize_prompts(prompts)
    assert len(calls) == 3
    monkeypatch.setattr(grpo_trainer, "FRAME_BYTES", 0)
    trainer._tokenize_prompts(prompts[:GROUP])
    assert len(calls) == 3 and len(trainer._frames) == 1
    trainer._tokenize_prompts(prompts[GROUP : 2 * GROUP])
    handle.remove()
    assert len(calls) == 4


def test_a_trained_tower_gets_gradients(make_trainer, dataset):
    trainer = make_trainer()
    trainer.model.model.multi_modal_projector.requires_grad_(True)
    batch, _ = scored(trainer, rows_of(dataset, 0, 1))
    batch["advantages"] = torch.linspace(-1, 1, 2 * GROUP)
    trainer.compute_loss(trainer.model, batch).backward()
    assert trainer.model.model.multi_modal_projector.linear.weight.grad.abs().sum() > 0


def test_groups_stay_whole_in_every_slice(make_trainer, dataset):
    trainer = make_trainer(per_device_train_batch_size=GROUP, gradient_accumulation_steps=3)
    rows = rows_of(dataset, 0, 1, 2)
    seen = []
    for step in range(3):
        trainer._step = step
        inputs = trainer._prepare_inputs(rows)
        assert len({id(clip) for clip in inputs["clips"]}) == 1
        assert (inputs["prompt_ids"] == inputs["prompt_ids"][0]).all()
        seen.append(inputs["prompt_ids"][0].tolist())
    assert len({tuple(row) for row in seen}) == 3


def test_tied_groups_are_rewarded_by_the_auxiliary_reward(make_trainer, dataset):
    columns = {
        "event_f1_reward": [0.5, 0.5, 0.5, 0.5, 0.0, 1.0, 0.5, 0.5],
        "auxiliary_reward": [0.1 * i for i in range(8)],
    }

    def fixed(name):
        def function(completions, **kwargs):
            return columns[name]

        function.__name__ = name
        return function

    rewards = [adaptive_temporal_reward, fixed("event_f1_reward"), fixed("auxiliary_reward")]
    trainer = make_trainer(rewards=rewards)
    table = trainer._calculate_rewards(rows_of(dataset, 0, 1), [None] * 8, [""] * 8, [[]] * 8)
    # The first group is tied: 0.5 * 0, 0.5 * 0.1 and so on; the second is not.
    torch.testing.assert_close(table[:, 0], torch.tensor([0.0, 0.05, 0.1, 0.15, 0.0, 1.0, 0.5, 0.5]))
    assert trainer._metrics["train"]["tied_groups"] == [0.5]


def test_a_reward_or_loss_that_is_not_finite_stops_the_run(make_trainer, dataset):
    def endless_reward(completions, **kwargs):
        return [float("inf")] * len(completions)

    trainer = make_trainer(rewards=[endless_reward])
    with pytest.raises(ValueError, match="a reward is not finite: {'endless_reward': inf} for the answer to clip 0: "):
        trainer._generate_and_score_completions(rows_of(dataset, 0))
    trainer = make_trainer()
    batch, _ = scored(trainer, rows_of(dataset, 0))
    with pytest.raises(ValueError, match="the loss is nan; .*\n  clip 0: "):
        trainer.compute_loss(trainer.model, batch | {"advantages": torch.full((GROUP,), float("nan"))})


def test_a_batch_of_unequal_prompts_is_refused(make_trainer, dataset):
    trainer = make_trainer()
    with pytest.raises(ValueError, match="not made of groups of 4 equal ones"):
        trainer._tokenize_prompts([dataset[0]["prompt"], dataset[1]["prompt"]] * 2)


def test_training_changes_the_policy_but_no_tick(make_trainer):
    trainer = make_trainer(learning_rate=1e-2, weight_decay=0.1)
    freeze_time_embeddings(trainer.model)

    def wobbling_reward(completions, **kwargs):
        return [float(index % 2) for index in range(len(completions))]

    trainer.reward_funcs, trainer.reward_func_names = [wobbling_reward], ["wobbling_reward"]
    trainer.reward_weights, trainer.reward_processing_classes = torch.ones(1), [None]
    before = copy.deepcopy(trainer.model.state_dict())
    trainer.train()
    after = trainer.model.state_dict()
    ticks = list(trainer.model.config.time_token_ids)
    name = "model.language_model.embed_tokens.weight"
    assert torch.equal(before[name][ticks], after[name][ticks])
    assert not torch.equal(before["lm_head.weight"], after["lm_head.weight"])
    assert not torch.equal(before[name], after[name])
