"""TRL's GRPOTrainer for audio: every pass gets the audio, and clips and prompts are computed only once.

The stock trainer passes the audio only to generation, and computes log-probabilities of the old, reference and current
policy without it. Here all of them get the embeddings of the clip.
"""

import logging
from contextlib import nullcontext
from functools import partial

import torch
from accelerate.utils import gather_object
from transformers.integrations import is_deepspeed_zero3_enabled
from trl import GRPOTrainer
from trl.models import unwrap_model_for_generation
from trl.trainer.utils import pad, split_tensor_dict

from modeling_timepro.modeling_timepro import CACHE_NAME
from recipes.evaluation.best_of_k import TIED_RANGE
from recipes.training.answer_sampling import (
    LOGPROBS_MODES,
    TaskConstraints,
    TokenLogProbs,
    agreement,
    shipped_answer,
)
from recipes.training.answer_scoring import joined, score_answers
from recipes.training.freezing import NoDecayOnTicks
from recipes.training.grpo_resume import EpochSampler, ResumeGeneration
from recipes.training.packing import sample_packed
from recipes.training.rewards import adaptive_reward, check_tie_break
from recipes.training.rollouts import RolloutServer, banned_tokens
from recipes.training.sharding import check_generation, gather_for

logger = logging.getLogger(__name__)

# Attention implementations that accept arbitrary masks; others support only causal ones.
BLOCK_MASK_ATTENTION = ("sdpa", "eager")
# Size of the cache of encoded audio, for later questions about the same recordings.
FRAME_BYTES = 2**28


def adaptive_temporal_reward(completions, **kwargs):
    """Placeholder for the adaptive reward, which needs complete groups, see `TimeProGRPOTrainer`."""
    return [0.0] * len(completions)


class TimeProGRPOTrainer(NoDecayOnTicks, GRPOTrainer):
    """Train on chats with audio, with the rewards of `recipes/training/rewards.py`.

    If `adaptive_temporal_reward` is the first reward function, it becomes the adaptive reward of the second (main) and
    third (auxiliary), per group over all processes.

    Args:
        tie_break, auxiliary_weight: see [`adaptive_reward`].
        shared_prefix: score the answers of a prompt in one sequence, see `packing.py`; by default if the attention
            implementation supports it.
        constrained: sample with the pipeline's constraint. Rows need a `duration` in seconds.
        logprobs_mode: normalise log-probabilities of constrained answers in the old, reference and current policy over
            the allowed tokens (`processed_logprobs`), which is the sampling distribution, or over all tokens.
        answer_min_score: reward answers as shipped, without detected events of a lower score; `None` keeps all events.
        drop_tied_groups: exclude groups whose rewards are all equal from the update.
    """

    def __init__(
        self, *args, tie_break="product", auxiliary_weight=1.0, shared_prefix=None, constrained=False,
        logprobs_mode="processed_logprobs", answer_min_score=None, drop_tied_groups=False, **kwargs,
    ):  # fmt: skip
        check_tie_break(tie_break)
        if logprobs_mode not in LOGPROBS_MODES:
            raise ValueError(f"logprobs_mode is {logprobs_mode!r}; choose one of {', '.join(LOGPROBS_MODES)}.")
        # TRL's engine would be deaf; what corrects for an engine's rounding is its own.
        settings = kwargs["args"]
        is_served, settings.use_vllm = settings.use_vllm, False
        super().__init__(*args, **kwargs)
        settings.use_vllm = self.use_vllm = is_served
        check_generation(self.is_fsdp_enabled, hasattr(self.model, "get_base_model"))
        if self.args.per_device_train_batch_size % self.num_generations:
            raise ValueError(
                f"per_device_train_batch_size is {self.args.per_device_train_batch_size} but num_generations is "
                f"{self.num_generations}; make it a multiple, so that the answers to a prompt stay together."
            )
        self._position = ResumeGeneration(self)
        self.add_callback(self._position)
        self.tie_break, self.auxiliary_weight = tie_break, auxiliary_weight
        attention = self._base_model.config._attn_implementation
        can_share = attention in BLOCK_MASK_ATTENTION
        if shared_prefix and not can_share:
            raise ValueError(
                f"shared_prefix is on but attn_implementation is {attention!r}, which takes no mask per row; choose "
                f"{' or '.join(BLOCK_MASK_ATTENTION)}, or shared_prefix=False."
            )
        if shared_prefix is None and not can_share:
            logger.warning("Prompts are computed once per answer: attention %r takes no mask per row.", attention)
        self.shared_prefix = can_share if shared_prefix is None else shared_prefix
        self.constrained, self.logprobs_mode, self.answer_min_score = constrained, logprobs_mode, answer_min_score
        self.drop_tied_groups = drop_tied_groups
        self._server = RolloutServer(settings, self.processing_class, answer_min_score) if is_served else None
        # Packed sampling needs full attention, and processes that may take different numbers of steps.
        layers = getattr(self._base_model.config.text_config, "layer_types", None) or ()
        is_split = self.is_fsdp_enabled or is_deepspeed_zero3_enabled()
        self._can_pack = self.shared_prefix and not is_split and set(layers) <= {"full_attention"}
        # State of the rows being generated or scored: audio, one object per prompt; banned tokens, as masks and their
        # indices; and for the rewards the rows themselves and the answers as shipped.
        self._clips = self._banned = self._rows = self._shipped = None
        # Output of a frozen encoder by the sources of a prompt.
        self._frames = {}

    @property
    def _base_model(self):
        model = self.accelerator.unwrap_model(self.model)
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    @property
    def _is_audio_trained(self):
        parts = (self._base_model.model.audio_tower, self._base_model.model.multi_modal_projector)
        return any(parameter.requires_grad for part in parts for parameter in part.parameters())

    def _get_train_sampler(self, dataset=None):
        parent = super()._get_train_sampler(dataset)
        return EpochSampler(
            parent.data_source,
            parent.mini_repeat_count,
            parent.batch_size,
            parent.repeat_count,
            parent.shuffle,
            parent.seed,
            epoch=lambda: self._position.epoch,
        )

    def _tokenize_prompts(self, prompts):
        """Process each prompt once for all its answers, and encode every clip once, even across batches."""
        size = self.num_generations if self.model.training else self.num_generations_eval
        unique = prompts[::size]
        if any(prompt != unique[index // size] for index, prompt in enumerate(prompts)):
            raise ValueError(
                f"a batch of {len(prompts)} prompts is not made of groups of {size} equal ones; make the batch of each "
                "process a multiple of num_generations."
            )
        encoded, ids, clips = {} if self._is_audio_trained else self._frames, [], []
        for prompt in unique:
            inputs = self.processing_class.apply_chat_template(
                [prompt],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                **self.chat_template_kwargs,
            )
            ids.append(inputs["input_ids"][0].tolist())
            sources = tuple(
                block.get("audio") or block.get("path") or block.get("url")
                for message in prompt
                if not isinstance(message["content"], str)
                for block in message["content"]
                if block["type"] == "audio"
            )
            if sources not in encoded:
                encoded[sources] = self._encode(inputs)
            # Keep the cache in order of last use.
            encoded[sources] = encoded.pop(sources)
            clips.append(encoded[sources])
        num_bytes = sum(part.nbytes for clip in encoded.values() for part in clip.values())
        while num_bytes > FRAME_BYTES and len(encoded) > len(unique):
            num_bytes -= sum(part.nbytes for part in encoded.pop(next(iter(encoded))).values())
        self._clips = [clips[index // size] for index in range(len(prompts))]
        return [ids[index // size] for index in range(len(prompts))], None, {}

    def _encode(self, inputs):
        """Return the audio arguments of the model for one prompt: embeddings, or features if the encoder is trained."""
        names = ("input_features", "input_features_mask")
        features = {name: inputs[name].to(self.accelerator.device) for name in names if name in inputs}
        if not features or self._is_audio_trained:
            return features
        model, encoder = self.accelerator.unwrap_model(self.model), self._base_model.model.audio_tower
        gather_for(model, "get_audio_features")
        # A frozen encoder needs no dropout.
        training = encoder.training
        encoder.eval()
        with torch.no_grad(), self.accelerator.autocast():
            embeddings = model.get_audio_features(**features).pooler_output
        encoder.train(training)
        return {"audio_embeds": embeddings}

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
        """Prefill each prompt once, and sample all its answers from that cache, or ask a server."""
        if self._server is not None:
            return self._sample_served(prompt_ids[::num_generations], num_generations)
        pad_id, device = self._tokenizer.pad_token_id, self.accelerator.device
        prompts = [torch.tensor(ids) for ids in prompt_ids[::num_generations]]
        ids = pad(prompts, padding_value=pad_id, padding_side="left").to(device)
        mask = pad([torch.ones_like(row) for row in prompts], padding_value=0, padding_side="left").to(device)
        clips = joined(self._clips[::num_generations])
        with (
            unwrap_model_for_generation(
                self.model_wrapped,
                self.accelerator,
                gather_deepspeed3_params=self.args.ds3_gather_for_generation,
                generation_kwargs=self.generation_kwargs,
                gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
            ) as model,
            torch.no_grad(),
        ):
            # `generate` needs at least one token, the last.
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            outputs = model(
                input_ids=ids[:, :-1],
                attention_mask=mask[:, :-1],
                position_ids=positions[:, :-1],
                use_cache=True,
                logits_to_keep=1,
                **clips,
            )
            cache = outputs[CACHE_NAME]
            own, constraint, sampled = processors = self._processors(ids.shape[1])
            inputs, hook = {"input_ids": ids.repeat_interleave(num_generations, 0)}, nullcontext()
            if self._can_pack:
                decode = partial(sample_packed, cache=cache, prompt_mask=mask, observe=own and own.observe)
                inputs["custom_generate"] = decode
            else:
                cache.batch_repeat_interleave(num_generations)
                inputs[CACHE_NAME] = cache
                if own:
                    head = model.get_output_embeddings()
                    hook = head.register_forward_hook(lambda *call: own.observe(call[-1][:, -1]))
            with hook:
                sequences = model.generate(
                    **inputs,
                    attention_mask=mask.repeat_interleave(num_generations, 0),
                    generation_config=self.generation_config,
                    logits_processor=[processor for processor in processors if processor],
                )
        answers = []
        for row in sequences[:, ids.shape[1] :].tolist():
            end = next((i + 1 for i, token in enumerate(row) if token in self.eos_token_ids), len(row))
            answers.append(row[:end])
        if constraint and self.logprobs_mode == "processed_logprobs":
            masks, steps = constraint.banned_tokens()
            self._banned = [(masks, row[: len(answer)]) for row, answer in zip(steps, answers, strict=True)]
        if own:
            self._shipped = self._ship(answers, *own.finish(sequences))
        log_probs, _ = sampled.finish(sequences)
        return answers, [row[: len(answer)] for row, answer in zip(log_probs.tolist(), answers, strict=True)]

    def _sample_served(self, prompts, size):
        self._server.follow(self)
        settings, rows = self.generation_config, self._rows[::size]
        answers, log_probs = self._server.sample(rows, prompts, size, settings, self.constrained)
        if self.constrained and self.logprobs_mode == "processed_logprobs":
            vocab_size = self._base_model.config.text_config.vocab_size
            self._banned = banned_tokens(answers, self._rows, self.processing_class, self.eos_token_ids, vocab_size)
        return answers, log_probs

    def _processors(self, prompt_length):
        """Return processors that record the model's own log-probabilities, constrain, and record those sampled from.

        The first two may be `None`.
        """
        own = constraint = None
        if self.answer_min_score is not None:
            # In digits a time is several tokens, without a joint distribution.
            in_ticks = self.processing_class.answer_format == "ticks"
            own = TokenLogProbs(ticks=self._base_model.config.time_token_ids if in_ticks else None)
        if self.constrained:
            tasks, durations = ([row[name] for row in self._rows] for name in ("task", "duration"))
            constraint = TaskConstraints(self.processing_class, tasks, durations, prompt_length, self.eos_token_ids)
        return own, constraint, TokenLogProbs(self.temperature)

    def _ship(self, answers, log_probs, times):
        times = [None] * len(answers) if times is None else times.cpu()
        return [
            shipped_answer(
                self.processing_class, answer, own[: len(answer)], ticks if ticks is None else ticks[: len(answer)],
                row["task"], row["query"], self.answer_min_score, answer[-1] not in self.eos_token_ids,
            )
            for answer, own, ticks, row in zip(answers, log_probs.tolist(), times, self._rows, strict=True)
        ]  # fmt: skip

    def _generate_and_score_completions(self, inputs):
        """Add clips and names of rows to the batch; drop tied groups if asked to."""
        self._rows, self._banned, self._shipped = inputs, None, None
        outputs = super()._generate_and_score_completions(inputs)
        outputs["clips"], self._clips = self._clips, None
        if self._banned is not None:
            outputs["banned"], self._banned = self._banned, None
        outputs["names"] = [row_name(row) for row in inputs]
        if self.drop_tied_groups and self.model.training:
            start = self.accelerator.process_index * len(inputs)
            kept = ~self._is_tied[start : start + len(inputs)]
            outputs["completion_mask"] = outputs["completion_mask"] * kept[:, None]
            outputs["num_items_in_batch"] = self.accelerator.gather(outputs["completion_mask"].sum()).sum()
        return outputs

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        """Fill in the adaptive reward, which needs complete groups, from the rewards of all processes."""
        if self._shipped is not None:
            completions = [
                said if text is None else text if isinstance(said, str) else [{"role": "assistant", "content": text}]
                for said, text in zip(completions, self._shipped, strict=True)
            ]
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        is_adaptive = self.reward_func_names[0] == adaptive_temporal_reward.__name__
        size = self.num_generations if self.model.training else self.num_generations_eval
        metrics = self._metrics["train" if self.model.training else "eval"]
        if is_adaptive:
            main, auxiliary = (rewards[:, column].view(-1, size) for column in (1, 2))
            adaptive, tied = adaptive_reward(main, auxiliary, self.tie_break, self.auxiliary_weight)
            rewards[:, 0] = adaptive.flatten()
            metrics["tied_groups"].append(tied.float().mean().item())
            metrics["all_right_groups"].append((main == 1).all(1).float().mean().item())
            metrics["all_wrong_groups"].append((main == 0).all(1).float().mean().item())
        # A reward may skip other tasks (`None`, here NaN), but not all rewards may, nor those of the adaptive one.
        broken = rewards.isinf().any(1) | rewards.isnan().all(1) | (is_adaptive & rewards[:, :3].isnan().any(1))
        if broken.any():
            names = gather_object([f"{row_name(row)}: {text}" for row, text in zip(inputs, completions, strict=True)])
            first = broken.nonzero()[0].item()
            values = dict(zip(self.reward_func_names, rewards[first].tolist(), strict=True))
            raise ValueError(f"a reward is not finite: {values} for the answer to {names[first]}")
        groups = (rewards * self.reward_weights.to(rewards.device)).nansum(1).view(-1, size)
        is_tied = groups.amax(1) - groups.amin(1) < TIED_RANGE
        self._is_tied = is_tied.repeat_interleave(size)
        metrics["dropped_groups"].append(is_tied.float().mean().item() if self.drop_tied_groups else 0.0)
        tasks = gather_object([row.get("task") for row in inputs])
        for task in sorted(set(tasks) - {None}):
            mine = rewards[torch.tensor([name == task for name in tasks], device=rewards.device)]
            for name, mean in zip(self.reward_func_names, mine.nanmean(0).tolist(), strict=True):
                metrics[f"rewards/{task}/{name}"].append(mean)
        return rewards

    def _prepare_inputs(self, generation_batch):
        """Return slices of a generated batch as the parent does, but shuffle whole groups."""
        if not self.model.training:
            return super()._prepare_inputs(generation_batch)
        steps = self.args.steps_per_generation
        if self._step % (steps * self.num_iterations) == 0 or self._buffered_inputs is None:
            batch = self._generate_and_score_completions(generation_batch)
            size = len(batch["prompt_ids"])
            groups = torch.arange(size).view(-1, self.num_generations)
            order = groups[torch.randperm(len(groups))].flatten()
            self._buffered_inputs = split_tensor_dict(
                {key: reordered(value, order) for key, value in batch.items()}, steps
            )
        return self._buffered_inputs[self._step % steps]

    def _compute_loss(self, model, inputs):
        self._clips, self._banned = inputs["clips"], inputs.get("banned")
        loss = super()._compute_loss(model, inputs)
        self._clips = self._banned = None
        # Old log-probabilities exist if answers are reused after an update. Otherwise the weights are the same.
        trained = inputs.get("old_per_token_logps", self._log_probs)
        metrics = self._metrics["train" if self.model.training else "eval"]
        if (sampled := inputs.get("sampling_per_token_logps")) is not None:
            for name, value in agreement(self.accelerator, sampled, trained, inputs["completion_mask"]).items():
                metrics[f"sampling/sampling_logp_difference/{name}"].append(value)
        if not loss.isfinite():
            texts = self._tokenizer.batch_decode(inputs["completion_ids"], skip_special_tokens=True)
            listed = "".join(f"\n  {name}: {text!r}" for name, text in zip(inputs["names"], texts, strict=True))
            raise ValueError(f"the loss is {loss.item()}; lower the learning rate, or see what is odd here:{listed}")
        return loss

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, batch_size=None, compute_entropy=False, **kwargs
    ):
        """Return log-probabilities and entropies `(batch, logits_to_keep)` of the answers, given the audio."""
        batch_size = batch_size or len(input_ids)
        # Skip empty rows, but compute at least one, for the gradient.
        filled = attention_mask[:, -logits_to_keep:].any(1).nonzero()[:, 0].tolist() or [0]
        settings = self._base_model, self.shared_prefix, self.temperature, self._tokenizer.pad_token_id
        parts = []
        for start in range(0, len(filled), batch_size):
            rows = filled[start : start + batch_size]
            clips, banned = ([kept[r] for r in rows] if kept else None for kept in (self._clips, self._banned))
            with self.accelerator.autocast():
                parts.append(
                    score_answers(
                        model, input_ids[rows], attention_mask[rows], logits_to_keep, clips, banned, *settings
                    )
                )
        index = torch.tensor(filled, device=input_ids.device)
        log_probs, entropies = (
            None if values[0] is None
            else values[0].new_zeros(len(input_ids), logits_to_keep).index_copy(0, index, torch.cat(values))
            for values in zip(*parts, strict=True)
        )  # fmt: skip
        self._log_probs = log_probs.detach()
        return log_probs, entropies if compute_entropy else None, None


def row_name(row):
    """Return the name of a row in messages: its id, or else its question."""
    return row["id"] if row.get("id") is not None else str(row["prompt"])


def reordered(values, order):
    """Return the rows of a tensor or list in another order; scalars and `None` stay."""
    if values is None or (isinstance(values, torch.Tensor) and values.dim() == 0):
        return values
    return values[order] if isinstance(values, torch.Tensor) else [values[index] for index in order.tolist()]
