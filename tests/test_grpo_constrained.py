"""GRPO of what is shipped: constrained answers, log-probabilities that fit them, and rewards after the threshold."""

from functools import partial

import numpy as np
import pytest
import soundfile
import torch
from conftest import make_grpo_trainer
from datasets import Dataset

from processing.answer_text import parse_events, prompt_text
from processing.events import Event
from processing.pipeline_timepro import TemporalAudioGroundingPipeline
from recipes.training.rewards import event_f1_reward

GROUP = 4


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Two questions about each of two recordings: all events, and one of them."""
    folder, rows = tmp_path_factory.mktemp("clips"), []
    for index, seconds in enumerate((1.0, 2.5)):
        path = folder / f"{index}.wav"
        soundfile.write(path, 0.1 * np.random.default_rng(index).normal(size=int(seconds * 16000)), 16000)
        for task, query in (("detection", None), ("grounding", "siren")):
            text = {"type": "text", "text": prompt_text(task, query)}
            prompt = [{"role": "user", "content": [{"type": "audio", "audio": str(path)}, text]}]
            events = [{"onset": 0.2, "offset": 0.8, "event_label": "siren"}]
            row = {"id": f"{index}/{task}", "prompt": prompt, "task": task, "query": query, "events": events}
            rows.append(row | {"duration": seconds})
    return Dataset.from_list(rows)


@pytest.fixture
def make_trainer(lively_checkpoint, dataset, tmp_path):
    settings = {"max_completion_length": 24, "per_device_train_batch_size": 16, "disable_dropout": True}
    return partial(make_grpo_trainer, lively_checkpoint, dataset, tmp_path, **settings)


def sampled(trainer, dataset):
    torch.manual_seed(0)
    return trainer._generate_and_score_completions([row for row in dataset for _ in range(GROUP)])


def answers_of(batch):
    return [ids[mask.bool()] for ids, mask in zip(batch["completion_ids"], batch["completion_mask"], strict=True)]


def test_constrained_answers_of_all_tasks_can_be_read(make_trainer, dataset):
    trainer, texts = make_trainer(constrained=True), []
    batch = sampled(trainer, dataset)
    for row, answer in zip([row for row in dataset for _ in range(GROUP)], answers_of(batch), strict=True):
        if answer[-1] not in trainer.eos_token_ids:
            continue
        texts.append(trainer._tokenizer.decode(answer, skip_special_tokens=True))
        events = parse_events(texts[-1], row["task"], row["query"] or "", tolerant=False)
        assert events is not None and all(event.offset <= row["duration"] + 0.08 for event in events)
    assert len(set(texts)) > 4
    free = sampled(make_trainer(), dataset)
    tasks = [row["task"] for row in dataset for _ in range(GROUP)]
    said = trainer._tokenizer.batch_decode(answers_of(free), skip_special_tokens=True)
    assert any(parse_events(text, task, tolerant=False) is None for text, task in zip(said, tasks, strict=True))


@pytest.mark.parametrize("shared_prefix", [True, False])
def test_training_probabilities_are_those_sampled_from(make_trainer, dataset, shared_prefix):
    trainer = make_trainer(constrained=True, shared_prefix=shared_prefix, temperature=0.7)
    batch = sampled(trainer, dataset)
    trainer.compute_loss(trainer.model, batch)
    mask = batch["completion_mask"].bool()
    torch.testing.assert_close(trainer._log_probs[mask], batch["sampling_per_token_logps"][mask], rtol=0, atol=2e-5)
    metrics = {name: values[-1] for name, values in trainer._metrics["train"].items()}
    assert 0 < metrics["sampling/sampling_logp_difference/max"] < 2e-5
    assert metrics["sampling/sampling_logp_difference/correlation"] == pytest.approx(1, abs=1e-5)


def test_free_answers_differ_in_probability_by_what_is_never_said(make_trainer, dataset):
    # The placeholder of audio frames is suppressed in sampling, and has some probability in the random model.
    trainer = make_trainer()
    batch = sampled(trainer, dataset)
    trainer.compute_loss(trainer.model, batch)
    mask = batch["completion_mask"].bool()
    difference = (batch["sampling_per_token_logps"] - trainer._log_probs)[mask]
    assert difference.min() > -2e-5 and 0 < difference.max() < 1


@pytest.mark.parametrize("mode", ["raw_logprobs", "processed_logprobs"])
def test_old_reference_and_current_policy_agree_before_the_first_step(make_trainer, dataset, mode):
    trainer = make_trainer(constrained=True, logprobs_mode=mode, beta=0.1, num_iterations=2)
    batch = sampled(trainer, dataset)
    batch["advantages"] = torch.linspace(-1, 1, len(batch["completion_ids"]))
    trainer.compute_loss(trainer.model, batch)
    mask = batch["completion_mask"].bool()
    for name in ("old_per_token_logps", "ref_per_token_logps"):
        torch.testing.assert_close(batch[name][mask], trainer._log_probs[mask], rtol=0, atol=1e-6)
    assert trainer._metrics["train"]["kl"][-1] == pytest.approx(0, abs=1e-6)
    assert trainer._metrics["train"]["clip_ratio/region_mean"][-1] == 0
    # Among fewer tokens each is likelier: a raw model gives most of its probability to what is banned.
    difference = trainer._metrics["train"]["sampling/sampling_logp_difference/mean"][-1]
    assert difference < 1e-5 if mode == "processed_logprobs" else difference > 0.1


def test_processed_log_probabilities_and_entropies_are_those_of_allowed_tokens(make_trainer, dataset):
    trainer = make_trainer(constrained=True)
    batch = sampled(trainer, dataset)
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    width, found = batch["completion_ids"].shape[1], {}
    for banned in (batch["banned"], None):
        trainer._clips, trainer._banned = batch["clips"], banned
        found[banned is None] = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, mask, width, compute_entropy=True
        )[:2]
    kept = batch["completion_mask"].bool()
    assert (found[False][0][kept] >= found[True][0][kept] - 1e-5).all()
    sizes = torch.stack([
        torch.nn.functional.pad((~masks[steps]).sum(1), (0, width - len(steps))) for masks, steps in batch["banned"]
    ])  # fmt: skip
    entropy = found[False][1]
    assert (entropy[kept] <= sizes[kept].log() + 1e-5).all() and (entropy[kept] >= -1e-6).all()
    assert (sizes[kept] == 1).any() and (entropy[kept & (sizes == 1)].abs() < 1e-6).all()


def test_gradients_of_shared_and_separate_prompts_are_equal(make_trainer, dataset):
    gradients = []
    for shared_prefix in (True, False):
        trainer = make_trainer(constrained=True, shared_prefix=shared_prefix)
        batch = sampled(trainer, dataset)
        trainer.compute_loss(trainer.model, batch | {"advantages": torch.linspace(-1, 1, 16)}).backward()
        gradients.append({n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 10
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("min_score", [0.0, 0.02])
def test_rewards_are_of_what_the_pipeline_ships(make_trainer, lively_checkpoint, dataset, min_score):
    seen = []

    def spying_reward(completions, **kwargs):
        seen.extend(chat[-1]["content"] for chat in completions)
        return [0.0] * len(completions)

    options = {"max_completion_length": 64, "temperature": 0.5}
    trainer = make_trainer(constrained=True, answer_min_score=min_score, rewards=[spying_reward], **options)
    batch = sampled(trainer, dataset)
    model, processor = lively_checkpoint
    pipe = TemporalAudioGroundingPipeline(model, processor=processor)
    num_dropped = 0
    for row, answer, text in zip([r for r in dataset for _ in range(GROUP)], answers_of(batch), seen, strict=True):
        # The pipeline's own way from tokens to events, with the sampled tokens forced.
        question = row["task"], row["query"]
        waveform, _ = soundfile.read(row["prompt"][0]["content"][0]["audio"], dtype="float32")
        rows = [{"task": question[0], "query": question[1], "duration": row["duration"]}]
        forced = [lambda ids, scores, a=answer: _only(scores, a[(ids.shape[1] - width)])]
        inputs = {"waveforms": [waveform], "questions": [[prompt_text(*question)]], "rows": rows}
        width = len(_prompt_ids(processor, row))
        outputs = pipe._forward(inputs, limits={"constrained": True}, logits_processor=forced, max_new_tokens=64)
        ((_, events, truncated),) = pipe.postprocess(outputs)
        assert outputs["answers"][0, : len(answer)].tolist() == answer.tolist()
        shipped = [e for e in events if row["task"] == "grounding" or e.score >= min_score]
        num_dropped += len(events) - len(shipped)
        if truncated and not events:
            assert parse_events(text, *question[:1]) is None
        else:
            expected = [Event(e.onset, e.offset, e.event_label) for e in shipped]
            found = parse_events(text, row["task"], row["query"] or "", tolerant=False)
            # The pipeline cuts what lasts longer than the recording, by less than a tick.
            assert [(e.onset, min(e.offset, row["duration"]), e.event_label) for e in found] == [
                (e.onset, e.offset, e.event_label) for e in expected
            ]
    assert (num_dropped > 0) == (min_score > 0)


def _only(scores, token):
    kept = torch.full_like(scores, -torch.inf)
    kept[:, token] = 0
    return kept


def _prompt_ids(processor, row):
    inputs = processor.apply_chat_template(
        [row["prompt"]], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    return inputs["input_ids"][0]


def rewarding(values):
    def fixed_reward(completions, **kwargs):
        return values

    return fixed_reward


def test_tied_groups_are_dropped_from_loss_and_count(make_trainer, dataset):
    # Of four groups the second and the last are tied.
    values = [0.0, 1.0, 0.0, 0.5, *[1.0] * 4, 0.2, 0.4, 0.0, 0.0, *[0.0] * 4]
    losses, gradients, batches = [], [], []
    for drops in (True, False):
        trainer = make_trainer(rewards=[rewarding(values)], drop_tied_groups=drops)
        batches.append(sampled(trainer, dataset))
        losses.append(trainer.compute_loss(trainer.model, batches[-1]))
        losses[-1].backward()
        gradients.append(trainer.model.lm_head.weight.grad.clone())
        assert trainer._metrics["train"]["dropped_groups"] == [0.5 if drops else 0.0]
    kept, every = batches
    assert kept["completion_mask"].any(1).tolist() == [True] * 4 + [False] * 4 + [True] * 4 + [False] * 4
    # Advantages of the others are 0, so that only the number of tokens that losses are divided by differs.
    ratio = every["num_items_in_batch"] / kept["num_items_in_batch"]
    assert ratio > 1
    torch.testing.assert_close(gradients[0], gradients[1] * ratio, rtol=1e-4, atol=1e-8)


def test_a_batch_of_tied_groups_alone_changes_nothing(make_trainer, dataset):
    trainer = make_trainer(rewards=[rewarding([1.0] * 16)], drop_tied_groups=True, beta=0.1)
    loss = trainer.compute_loss(trainer.model, sampled(trainer, dataset))
    loss.backward()
    assert loss == 0 and not trainer.model.lm_head.weight.grad.any()


def test_rewards_are_logged_by_task(make_trainer, dataset):
    values = [0.0, 0.0, 1.0, 1.0, *[0.2] * 4, *[0.0] * 4, *[0.6] * 4]
    trainer = make_trainer(rewards=[rewarding(values)])
    sampled(trainer, dataset)
    metrics = trainer._metrics["train"]
    assert metrics["rewards/detection/fixed_reward"] == [pytest.approx(0.25)]
    assert metrics["rewards/grounding/fixed_reward"] == [pytest.approx(0.4)]
    assert len(metrics["completions/clipped_ratio"]) == 1


def test_groups_that_are_all_right_and_all_wrong_are_counted(make_trainer, dataset):
    main = rewarding([1.0] * 4 + [0.0] * 8 + [0.5, 0.5, 0.5, 1.0])
    main.__name__ = event_f1_reward.__name__
    from recipes.training.grpo_trainer import adaptive_temporal_reward

    other = rewarding([0.5] * 16)
    trainer = make_trainer(rewards=[adaptive_temporal_reward, main, other])
    sampled(trainer, dataset)
    metrics = {name: values[-1] for name, values in trainer._metrics["train"].items()}
    assert (metrics["all_right_groups"], metrics["all_wrong_groups"], metrics["tied_groups"]) == (0.25, 0.5, 0.75)


def test_an_unknown_logprobs_mode_is_refused(make_trainer):
    with pytest.raises(ValueError, match="logprobs_mode is 'model'; choose one of raw_logprobs, processed_logprobs"):
        make_trainer(logprobs_mode="model")
