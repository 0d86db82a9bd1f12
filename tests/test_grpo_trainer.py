"""The trainer: all its passes hear, and sharing the prompt changes neither answers nor losses nor gradients."""

import copy

import numpy as np
import pytest
import soundfile
import torch
from datasets import Dataset
from torch.nn import functional as F
from trl import GRPOConfig, GRPOTrainer

from modeling_timepro import TimeProAudioConfig, TimeProAudioForCausalLM
from processing import TimeGrid, TimeProAudioProcessor, TimeProYamnetFeatureExtractor
from recipes.checkpoint import load_checkpoint, save_checkpoint
from recipes.convert import add_time_tokens
from recipes.grpo_trainer import TimeProGRPOTrainer, adaptive_temporal_reward
from recipes.rewards import auxiliary_reward, event_f1_reward
from recipes.small_language import train_tokenizer

GRID = TimeGrid(frame_rate=12.5, time_step=0.08, max_time=4.0)
GROUP = 4


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Return a tiny model whose answers vary and hang on the sound, and its processor."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(vocab_size=400, num_documents=300)
    config = TimeProAudioConfig(
        audio_config={"model_type": "timepro_yamnet", "num_hidden_layers": 1, "hidden_size": 32, "dropout": 0.0},
        text_config={
            "model_type": "qwen2", "vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 64, "tie_word_embeddings": False,
        },
        audio_token_id=tokenizer.convert_tokens_to_ids("<|AUDIO|>"), time_prompt=False, frame_rate=12.5,
    )  # fmt: skip
    model = TimeProAudioForCausalLM(config)
    processor = TimeProAudioProcessor(TimeProYamnetFeatureExtractor(), tokenizer, time_prompt=False, frame_rate=12.5)
    processor = add_time_tokens(model, processor, GRID, "place", "ticks")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.25 * torch.randn(parameter.shape, generator=generator))
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    # A reference policy is loaded anew, from where the policy came from.
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(model, processor, folder)
    model, processor = load_checkpoint(folder)
    model.model.audio_tower.requires_grad_(False)
    model.model.multi_modal_projector.requires_grad_(False)
    return model.eval(), processor


@pytest.fixture
def dataset(tmp_path):
    rows = []
    for index, seconds in enumerate((1.0, 2.5, 1.7)):
        path = tmp_path / f"{index}.wav"
        soundfile.write(path, 0.1 * np.random.default_rng(index).normal(size=int(seconds * 16000)), 16000)
        blocks = [{"type": "audio", "audio": str(path)}, {"type": "text", "text": "When?" * (index + 1)}]
        rows.append({
            "prompt": [{"role": "user", "content": blocks}], "task": "grounding", "query": "siren",
            "events": [{"onset": 0.2, "offset": 0.8, "event_label": "siren"}],
        })  # fmt: skip
    return Dataset.from_list(rows)


def make_trainer(checkpoint, dataset, tmp_path, cls=TimeProGRPOTrainer, rewards=None, **settings):
    model, processor = copy.deepcopy(checkpoint[0]), checkpoint[1]
    options = {name: settings.pop(name) for name in ("shared_prefix", "tie_break") if name in settings}
    config = GRPOConfig(
        output_dir=str(tmp_path / "out"),
        **{
            "per_device_train_batch_size": 2 * GROUP, "num_generations": GROUP, "max_completion_length": 12,
            "use_cpu": True, "bf16": False, "report_to": "none", "remove_unused_columns": False, "max_steps": 2,
            "logging_steps": 1, "save_strategy": "no", "trust_remote_code": True,
            "generation_kwargs": {"suppress_tokens": model.generation_config.suppress_tokens},
        } | settings,
    )  # fmt: skip
    rewards = rewards or [adaptive_temporal_reward, event_f1_reward, auxiliary_reward]
    config.reward_weights = [1.0] + [0.0] * (len(rewards) - 1)
    trainer = cls(
        model=model, reward_funcs=rewards, args=config, train_dataset=dataset, processing_class=processor, **options
    )
    trainer.model.train()
    # Set by `train()`, which these tests do not call.
    trainer.current_gradient_accumulation_steps = 1
    return trainer


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
def test_log_probabilities_equal_a_plain_forward(checkpoint, dataset, tmp_path, shared_prefix, temperature):
    trainer = make_trainer(checkpoint, dataset, tmp_path, shared_prefix=shared_prefix, temperature=temperature)
    rows = rows_of(dataset, 0, 1)
    batch, (log_probs, _) = scored(trainer, rows)
    for index, row in enumerate(rows):
        answer = batch["completion_ids"][index][batch["completion_mask"][index].bool()]
        expected = plain_log_probs(checkpoint[0], checkpoint[1], row, answer, temperature)
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


def test_another_waveform_gives_other_log_probabilities(checkpoint, dataset, tmp_path):
    trainer = make_trainer(checkpoint, dataset, tmp_path)
    batch, (before, _) = scored(trainer, rows_of(dataset, 0, 1))
    trainer._tokenize_prompts([row["prompt"] for row in rows_of(other_sound(dataset, tmp_path), 0, 1)])
    after, _ = log_probs_of(trainer, batch | {"clips": trainer._clips})
    assert (before - after).abs().max() > 1e-3


def test_the_stock_trainer_does_not_hear(checkpoint, dataset, tmp_path):
    # So the tests above can fail. Ours refuses placeholders without sound: there is no silent deafness.
    trainer = make_trainer(checkpoint, dataset, tmp_path, cls=GRPOTrainer, rewards=[event_f1_reward])
    with pytest.raises(ValueError, match="audio placeholders"):
        scored(trainer, rows_of(dataset, 0, 1))


@pytest.mark.parametrize("order", [(0, 1), (2, 0), (1, 1)])
def test_sharing_the_prompt_changes_neither_loss_nor_gradients(checkpoint, dataset, tmp_path, order):
    gradients, losses = [], []
    for shared_prefix in (True, False):
        trainer = make_trainer(checkpoint, dataset, tmp_path, shared_prefix=shared_prefix, beta=0.1, num_iterations=2)
        batch, _ = scored(trainer, rows_of(dataset, *order))
        # Advantages of random answers may all be 0.
        batch["advantages"] = torch.linspace(-1, 1, len(batch["advantages"]))
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        losses.append(loss.item())
        gradients.append({n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None})
    assert losses[0] == pytest.approx(losses[1], rel=1e-5, abs=1e-7)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-4, atol=1e-6, msg=name)


def test_answers_from_a_shared_cache_equal_those_of_the_plain_path(checkpoint, dataset, tmp_path):
    trainer = make_trainer(checkpoint, dataset, tmp_path)
    # The trainer always samples; greedy answers are the ones that can be compared.
    trainer.generation_config.do_sample = False
    trainer.generation_kwargs = trainer.generation_kwargs | {"do_sample": False, "top_k": None, "temperature": None}
    prompts = [row["prompt"] for row in rows_of(dataset, 0, 1, 2)]
    ids, _, _ = trainer._tokenize_prompts(prompts)
    answers, _ = trainer._generate_single_turn(ids, None, {}, GROUP)
    model, processor = checkpoint
    for index in (0, GROUP, 2 * GROUP):
        inputs = processor.apply_chat_template(
            [prompts[index]], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        expected = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        for answer in answers[index : index + GROUP]:
            assert answer == expected[: len(answer)].tolist()


def test_every_clip_is_encoded_once_per_batch(checkpoint, dataset, tmp_path, monkeypatch):
    trainer = make_trainer(checkpoint, dataset, tmp_path)
    # Two questions about one recording, and one about another.
    rows = [dataset[0], dataset[0] | {"prompt": copy.deepcopy(dataset[0]["prompt"])}, dataset[1]]
    rows[1]["prompt"][0]["content"][1]["text"] = "When else?"
    calls = []
    tower = trainer.model.model.audio_tower
    handle = tower.register_forward_hook(lambda *arguments: calls.append(1))
    batch = trainer._generate_and_score_completions([row for row in rows for _ in range(GROUP)])
    trainer.compute_loss(trainer.model, batch | {"advantages": torch.ones(3 * GROUP)}).backward()
    handle.remove()
    assert len(calls) == 2


def test_a_trained_tower_gets_gradients(checkpoint, dataset, tmp_path):
    trainer = make_trainer(checkpoint, dataset, tmp_path)
    trainer.model.model.multi_modal_projector.requires_grad_(True)
    batch, _ = scored(trainer, rows_of(dataset, 0, 1))
    batch["advantages"] = torch.linspace(-1, 1, 2 * GROUP)
    trainer.compute_loss(trainer.model, batch).backward()
    assert trainer.model.model.multi_modal_projector.linear.weight.grad.abs().sum() > 0


def test_groups_stay_whole_in_every_slice(checkpoint, dataset, tmp_path):
    trainer = make_trainer(
        checkpoint, dataset, tmp_path, per_device_train_batch_size=GROUP, gradient_accumulation_steps=3
    )
    rows = rows_of(dataset, 0, 1, 2)
    seen = []
    for step in range(3):
        trainer._step = step
        inputs = trainer._prepare_inputs(rows)
        assert len({id(clip) for clip in inputs["clips"]}) == 1
        assert (inputs["prompt_ids"] == inputs["prompt_ids"][0]).all()
        seen.append(inputs["prompt_ids"][0].tolist())
    assert len({tuple(row) for row in seen}) == 3


def test_tied_groups_are_rewarded_by_the_auxiliary_reward(checkpoint, dataset, tmp_path):
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
    trainer = make_trainer(checkpoint, dataset, tmp_path, rewards=rewards)
    table = trainer._calculate_rewards(rows_of(dataset, 0, 1), [None] * 8, [""] * 8, [[]] * 8)
    # The first group is tied: 0.5 * 0, 0.5 * 0.1 and so on; the second is not.
    torch.testing.assert_close(table[:, 0], torch.tensor([0.0, 0.05, 0.1, 0.15, 0.0, 1.0, 0.5, 0.5]))
    assert trainer._metrics["train"]["tied_groups"] == [0.5]


def test_a_reward_or_loss_that_is_not_finite_stops_the_run(checkpoint, dataset, tmp_path):
    def endless_reward(completions, **kwargs):
        return [float("inf")] * len(completions)

    trainer = make_trainer(checkpoint, dataset, tmp_path, rewards=[endless_reward])
    with pytest.raises(ValueError, match="a reward is not finite"):
        trainer._generate_and_score_completions(rows_of(dataset, 0))
    trainer = make_trainer(checkpoint, dataset, tmp_path)
    batch, _ = scored(trainer, rows_of(dataset, 0))
    with pytest.raises(ValueError, match="the loss is nan"):
        trainer.compute_loss(trainer.model, batch | {"advantages": torch.full((GROUP,), float("nan"))})


def test_a_batch_of_unequal_prompts_is_refused(checkpoint, dataset, tmp_path):
    trainer = make_trainer(checkpoint, dataset, tmp_path)
    with pytest.raises(ValueError, match="not made of groups of 4 equal ones"):
        trainer._tokenize_prompts([dataset[0]["prompt"], dataset[1]["prompt"]] * 2)


def test_training_changes_the_policy_but_no_tick(checkpoint, dataset, tmp_path):
    trainer = make_trainer(checkpoint, dataset, tmp_path, learning_rate=1e-2, weight_decay=0.1)
    from recipes.sft_trainer import freeze_time_embeddings

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
    assert F.mse_loss(before[name], after[name]) >= 0
