"""TRL's GRPOTrainer for audio: every pass has the audio, every clip is encoded and every prompt computed once.

The stock trainer gives the audio to generation alone: log-probabilities of the old, the reference and the current
policy are computed without it. Here the embeddings of a clip travel with its answers to all of them.
"""

import logging

import torch
from accelerate.utils import gather_object
from trl import GRPOTrainer
from trl.models import unwrap_model_for_generation
from trl.trainer.utils import pad, split_tensor_dict

from modeling_timepro.modeling_timepro import CACHE_NAME
from recipes.training.collator import mask_for
from recipes.training.freezing import NoDecayOnTicks
from recipes.training.grpo_resume import EpochSampler, ResumeGeneration
from recipes.training.packing import pack_answers
from recipes.training.rewards import adaptive_reward, check_tie_break
from recipes.training.sharding import check_generation, gather_for

logger = logging.getLogger(__name__)

# What takes a mask of its own for every row. Others know causal masks alone.
BLOCK_MASK_ATTENTION = ("sdpa", "eager")


def adaptive_temporal_reward(completions, **kwargs):
    """Hold the place of the adaptive reward, which is known only when groups are whole, see `TimeProGRPOTrainer`."""
    return [0.0] * len(completions)


class TimeProGRPOTrainer(NoDecayOnTicks, GRPOTrainer):
    """Train on chats with audio by the rewards of `recipes/training/rewards.py`.

    Where `adaptive_temporal_reward` is the first of the reward functions, it becomes the adaptive reward of the second
    (main) and the third (auxiliary), per group over all processes.

    Args:
        tie_break, auxiliary_weight: see [`adaptive_reward`].
        shared_prefix: score the answers of a prompt in one sequence, see `packing.py`; by default where
            the attention implementation can.
    """

    def __init__(self, *args, tie_break="product", auxiliary_weight=1.0, shared_prefix=None, **kwargs):
        check_tie_break(tie_break)
        super().__init__(*args, **kwargs)
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
        # The audio of the rows that are being generated or scored; one object for all answers to a prompt.
        self._clips = None

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
        """Process each prompt once for all its answers, and encode every clip once."""
        size = self.num_generations if self.model.training else self.num_generations_eval
        unique = prompts[::size]
        if any(prompt != unique[index // size] for index, prompt in enumerate(prompts)):
            raise ValueError(
                f"a batch of {len(prompts)} prompts is not made of groups of {size} equal ones; make the batch of each "
                "process a multiple of num_generations."
            )
        encoded, ids, clips = {}, [], []
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
            clips.append(encoded[sources])
        self._clips = [clips[index // size] for index in range(len(prompts))]
        return [ids[index // size] for index in range(len(prompts))], None, {}

    def _encode(self, inputs):
        """Return what the model is given of the clips of one prompt: embeddings, or features if these are trained."""
        names = ("input_features", "input_features_mask")
        features = {name: inputs[name].to(self.accelerator.device) for name in names if name in inputs}
        if not features or self._is_audio_trained:
            return features
        model, tower = self.accelerator.unwrap_model(self.model), self._base_model.model.audio_tower
        gather_for(model, "get_audio_features")
        # What is not trained needs no dropout.
        training = tower.training
        tower.eval()
        with torch.no_grad(), self.accelerator.autocast():
            embeddings = model.get_audio_features(**features).pooler_output
        tower.train(training)
        return {"audio_embeds": embeddings}

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
        """Compute the cache of each prompt once, and sample all its answers from copies of it."""
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
            # The last token is left to `generate`, which wants at least one.
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
            cache.batch_repeat_interleave(num_generations)
            sequences = model.generate(
                input_ids=ids.repeat_interleave(num_generations, 0),
                attention_mask=mask.repeat_interleave(num_generations, 0),
                generation_config=self.generation_config,
                **{CACHE_NAME: cache},
            )
        answers = []
        for row in sequences[:, ids.shape[1] :].tolist():
            end = next((i + 1 for i, token in enumerate(row) if token in self.eos_token_ids), len(row))
            answers.append(row[:end])
        return answers, None

    def _generate_and_score_completions(self, inputs):
        """Add to the batch the clips of every row, and what it is called."""
        outputs = super()._generate_and_score_completions(inputs)
        outputs["clips"], self._clips = self._clips, None
        outputs["names"] = [row_name(row) for row in inputs]
        return outputs

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        """Fill in the adaptive reward, for which groups must be whole: over the rewards of all processes."""
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        is_adaptive = self.reward_func_names[0] == adaptive_temporal_reward.__name__
        if is_adaptive:
            size = self.num_generations if self.model.training else self.num_generations_eval
            main, auxiliary = (rewards[:, column].view(-1, size) for column in (1, 2))
            adaptive, tied = adaptive_reward(main, auxiliary, self.tie_break, self.auxiliary_weight)
            rewards[:, 0] = adaptive.flatten()
            mode = "train" if self.model.training else "eval"
            self._metrics[mode]["tied_groups"].append(tied.float().mean().item())
        # A reward may leave out what is not its task (`None`, here NaN), but not all of them, nor those that guide.
        broken = rewards.isinf().any(1) | rewards.isnan().all(1) | (is_adaptive & rewards[:, :3].isnan().any(1))
        if broken.any():
            names = gather_object([f"{row_name(row)}: {text}" for row, text in zip(inputs, completions, strict=True)])
            first = broken.nonzero()[0].item()
            values = dict(zip(self.reward_func_names, rewards[first].tolist(), strict=True))
            raise ValueError(f"a reward is not finite: {values} for the answer to {names[first]}")
        return rewards

    def _prepare_inputs(self, generation_batch):
        """Hand out slices of a generated batch as the parent does, but shuffle whole groups."""
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
        self._clips = inputs["clips"]
        loss = super()._compute_loss(model, inputs)
        self._clips = None
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
        parts = [
            self._score(model, input_ids[rows], attention_mask[rows], logits_to_keep, self._clips[rows])
            for rows in (slice(start, start + batch_size) for start in range(0, len(input_ids), batch_size))
        ]
        log_probs, entropies = (torch.cat(values) if values[0] is not None else None for values in zip(*parts))
        return log_probs, entropies if compute_entropy else None, None

    def _score(self, model, input_ids, attention_mask, width, clips):
        prompt_width = input_ids.shape[1] - width
        kept = attention_mask.bool()
        prompts = [ids[:prompt_width][mask[:prompt_width]] for ids, mask in zip(input_ids, kept, strict=True)]
        if not self.shared_prefix:
            labels = input_ids.masked_fill(~kept, -100)
            labels[:, :prompt_width] = -100
            with self.accelerator.autocast():
                outputs = model(
                    input_ids=input_ids,
                    attention_mask=attention_mask,
                    labels=labels,
                    fused_lm_head=True,
                    **joined(clips),
                )
            entropy = outputs.entropy
            return outputs.log_probs[:, -width:], None if entropy is None else entropy[:, -width:]
        # Rows of one prompt hold the same clips; equal prompts about other clips are others.
        keys = [(id(clip), tuple(prompt.tolist())) for clip, prompt in zip(clips, prompts, strict=True)]
        positions = {}
        owners = [positions.setdefault(key, len(positions)) for key in keys]
        firsts = [owners.index(position) for position in positions.values()]
        answers = [ids[prompt_width:][mask[prompt_width:]] for ids, mask in zip(input_ids, kept, strict=True)]
        packed = pack_answers([prompts[row] for row in firsts], answers, owners, self._tokenizer.pad_token_id)
        model_config, mask = self._base_model.config, packed.inputs["attention_mask"]
        packed.inputs["attention_mask"] = mask_for(model_config._attn_implementation, mask, self._base_model.dtype)
        with self.accelerator.autocast():
            outputs = model(**packed.inputs, fused_lm_head=True, **joined([clips[row] for row in firsts]))
        entropy = outputs.entropy
        return packed.unpack(outputs.log_probs, width), None if entropy is None else packed.unpack(entropy, width)


def row_name(row):
    """Return what a row of the data set is called in messages: its id, else its question."""
    return row["id"] if row.get("id") is not None else str(row["prompt"])


def joined(clips):
    """Return the clips of several prompts as arguments of the model, features padded to the longest."""
    names = {name for clip in clips for name in clip}
    arguments = {}
    for name in names:
        parts = [clip[name] for clip in clips if name in clip]
        if name != "audio_embeds":
            longest = max(part.shape[-1] for part in parts)
            parts = [torch.nn.functional.pad(part, (0, longest - part.shape[-1])) for part in parts]
        arguments[name] = torch.cat(parts)
    return arguments


def reordered(values, order):
    """Return the rows of a tensor or list in another order; what has no rows stays."""
    if values is None or (isinstance(values, torch.Tensor) and values.dim() == 0):
        return values
    return values[order] if isinstance(values, torch.Tensor) else [values[index] for index in order.tolist()]
