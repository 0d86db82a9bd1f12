"""TRL's SFTTrainer for audio, with frozen ticks and optional soft targets for time tokens."""

import re

import torch
from torch.nn import functional as F
from transformers import TrainerCallback
from trl import SFTTrainer

from modeling_timepro import TimeProAudioForCausalLM
from recipes.training.auxiliary_losses import TimeReading
from recipes.training.collator import mask_for
from recipes.training.freezing import NoDecayOnTicks
from recipes.training.grounder_loss import FRAME_TARGETS, grounder_loss

AUDIO_PARTS = re.compile(r"\b(audio_tower|multi_modal_projector)\b")


def time_aware_loss(logits, labels, time_token_ids, sigma=0.0, time_step=0.04):
    """Return the cross-entropy summed over tokens, with Gaussian soft targets for ticks.

    A soft target assigns the ticks near the true one the weights `exp(-(dt / sigma)^2 / 2)`, normalised, since a time
    that is off by one step is nearly correct. (TEMPO trains time tokens this way, with a sigma of 0.3 s.)

    Args:
        logits: `(num_tokens, vocab_size)`.
        labels: `(num_tokens,)` ids, none ignored.
        time_token_ids: `range` of tick ids.
        sigma: seconds; 0 for the ordinary loss.
        time_step: seconds between ticks.
    """
    if not sigma or not len(time_token_ids):
        return F.cross_entropy(logits.float(), labels, reduction="sum")
    start, end = time_token_ids.start, time_token_ids.stop
    is_time = (labels >= start) & (labels < end)
    loss = F.cross_entropy(logits[~is_time].float(), labels[~is_time], reduction="sum")
    ticks = torch.arange(end - start, device=labels.device)
    distance = (ticks[None, :] - (labels[is_time] - start)[:, None]) * time_step
    target = torch.softmax(-0.5 * (distance / sigma) ** 2, dim=-1)
    log_probs = torch.log_softmax(logits[is_time].float(), dim=-1)[:, start:end]
    return loss - (target * log_probs).sum()


class StopAfterSave(TrainerCallback):
    """Save a checkpoint and stop after `minutes` of wall-clock time."""

    def __init__(self, minutes):
        import time

        self.clock, self.limit = time.monotonic, time.monotonic() + 60 * minutes

    def on_step_end(self, args, state, control, **kwargs):
        is_over = torch.tensor(float(self.clock() > self.limit), device=args.device)
        if args.world_size > 1:
            # Clocks differ, and all processes must stop at the same step.
            torch.distributed.all_reduce(is_over, torch.distributed.ReduceOp.MAX)
        if is_over:
            control.should_save = control.should_training_stop = True


class TimeProSFTTrainer(NoDecayOnTicks, SFTTrainer):
    """Train on answers, computing logits only for positions with answers.

    Args:
        time_label_sigma: seconds; width of the soft targets of time tokens, 0 for ordinary cross-entropy.
        audio_learning_rate: peak learning rate of audio encoder and projector; by default that of the rest.
        answer_weight, grounder_weight: weights of the answer loss and the frame grounder's loss; 0 for none.
        reading_weights: weights of the losses in `recipes/training/auxiliary_losses.py`, by name; none by default.
    """

    def __init__(
        self, *args, time_label_sigma=0.0, audio_learning_rate=None, reading_weights=None, answer_weight=1.0,
        grounder_weight=0.0, **kwargs,
    ):  # fmt: skip
        self.time_label_sigma, self.audio_learning_rate = time_label_sigma, audio_learning_rate
        self.answer_weight, self.grounder_weight = answer_weight, grounder_weight
        self.reading_weights = {name: weight for name, weight in (reading_weights or {}).items() if weight}
        super().__init__(*args, **kwargs)
        config = self.model.config
        self._time_token_ids, self._time_step = config.time_token_ids, config.time_step

    def create_optimizer(self, model=None):
        optimizer = super().create_optimizer(model)
        if self.audio_learning_rate is not None:
            audio = {id(p) for name, p in self.model.named_parameters() if AUDIO_PARTS.search(name)}
            for group in list(optimizer.param_groups):
                heard = [p for p in group["params"] if id(p) in audio]
                group["params"] = [p for p in group["params"] if id(p) not in audio]
                if heard:
                    optimizer.add_param_group(group | {"params": heard, "lr": self.audio_learning_rate})
            self.audio_learning_rate = None
        return optimizer

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        # Each position predicts the next token's label.
        targets, names = (
            F.pad(inputs[name][:, 1:], (0, 1), value=-100) if name in inputs else None
            for name in ("labels", "name_targets")
        )
        kept = (targets != -100).any(0).nonzero().squeeze(1)
        hidden = ("labels", "name_targets", FRAME_TARGETS)
        features = {name: value for name, value in inputs.items() if name not in hidden}
        is_taught = self.model.training and bool(self.reading_weights)
        mask = mask_for(self.model.config._attn_implementation, features["attention_mask"], self.model.dtype)
        outputs = model(
            **(features | {"attention_mask": mask}),
            use_cache=False,
            logits_to_keep=kept,
            output_hidden_states=is_taught,
        )
        reading = self._reading_loss(outputs.hidden_states, features, targets, names) if is_taught else 0.0
        targets = targets[:, kept]
        chosen = targets != -100
        logits, targets = outputs.logits[chosen], targets[chosen]
        loss = time_aware_loss(logits, targets, self._time_token_ids, self.time_label_sigma, self._time_step)
        loss = self.answer_weight * loss
        if FRAME_TARGETS in inputs:
            heard = grounder_loss(outputs.frame_logits, inputs[FRAME_TARGETS])
            self._metrics["train" if self.model.training else "eval"]["grounder_loss"].append(heard.item())
            reading = reading + self.grounder_weight * heard
        num_items = num_items_in_batch if num_items_in_batch is not None else chosen.sum()
        # The loss is this batch's part of the whole step's loss, over `num_items` answer tokens.
        loss = loss / num_items + reading * (chosen.sum() / num_items)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes
        accuracy = (logits.argmax(-1) == targets).float().mean()
        mode = "train" if self.model.training else "eval"
        self._metrics[mode]["mean_token_accuracy"].append(self.accelerator.gather(accuracy).mean().item())
        return (loss, outputs) if return_outputs else loss

    def _reading_loss(self, hidden_states, features, targets, names):
        model = next(module for module in self.model.modules() if isinstance(module, TimeProAudioForCausalLM))
        reading = TimeReading(model, self.processing_class)
        losses = reading(hidden_states[reading.layer], features, targets, names)
        for name in self.reading_weights:
            self._metrics["train"][f"{name}_loss"].append(losses[name].item())
        return sum(weight * losses[name] for name, weight in self.reading_weights.items())
