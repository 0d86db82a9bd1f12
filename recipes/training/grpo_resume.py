"""Exact resumption of a killed GRPO run: the epoch determines the order of prompts, and generations are complete.

TRL draws the orders of all epochs from one generator, so a run that resumes in a later epoch repeats the first order;
and it restarts its step count, so answers may be generated at different steps than before.
"""

import logging
import math

import torch
from transformers import TrainerCallback
from trl.trainer.utils import RepeatSampler

logger = logging.getLogger(__name__)


class EpochSampler(RepeatSampler):
    """A [`RepeatSampler`] whose order depends only on seed and epoch.

    Args:
        epoch: function that returns the epoch about to begin. (`set_epoch` does not reach the sampler of a resumed run
            with several processes.)

    Raises:
        ValueError: there are fewer prompts than a batch needs.
    """

    def __init__(self, *args, epoch, **kwargs):
        super().__init__(*args, **kwargs)
        self.epoch = epoch
        if self.num_samples < self.batch_size:
            raise ValueError(
                f"there are {self.num_samples} prompts but answers are generated for {self.batch_size} at a time; give "
                "more prompts, or lower per_device_train_batch_size or steps_per_generation."
            )
        left = self.num_samples % self.batch_size
        if left:
            logger.warning(
                "%d of %d prompts, others in each epoch, are left out: batches take %d.",
                left, self.num_samples, self.batch_size,
            )  # fmt: skip

    def __iter__(self):
        if self.shuffle:
            # The sum of seed and epoch would give runs with adjacent seeds the same orders.
            seeds = torch.randint(2**62, (self.epoch() + 1,), generator=torch.Generator().manual_seed(self.seed))
            self.generator.manual_seed(seeds[-1].item())
        return super().__iter__()


class ResumeGeneration(TrainerCallback):
    """Start every run, resumed or not, with new answers, and refuse checkpoints from which no exact resumption exists.

    `epoch` is the current epoch.

    Raises:
        ValueError: from `on_train_begin`: checkpoints would be saved, or the run resumes, between steps that share
            generated answers, which are not saved.
    """

    def __init__(self, trainer):
        self.trainer, self.epoch = trainer, 0

    def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
        # Number of passes, and of steps, that use the same generated answers.
        cycle = args.steps_per_generation * self.trainer.num_iterations
        num_steps = cycle // math.gcd(cycle, args.gradient_accumulation_steps)
        advice = (
            f"answers are generated for {num_steps} steps at a time and are not saved, so that a run can resume only "
            f"where new ones are due; make save_steps a multiple of {num_steps}, or save_strategy 'epoch'."
        )

        def passes(step):
            epochs, rest = divmod(step, _steps_per_epoch(args, train_dataloader))
            return epochs * len(train_dataloader) + rest * args.gradient_accumulation_steps

        if args.save_strategy == "steps":
            # The last step need not be resumable.
            saves = (int(state.save_steps), state.max_steps, int(state.save_steps))
            if any(passes(step) % cycle for step in range(*saves)):
                raise ValueError(f"save_steps is {state.save_steps} but {advice}")
        if state.global_step < state.max_steps and passes(state.global_step) % cycle:
            raise ValueError(f"resume_from_checkpoint is one of step {state.global_step} but {advice}")
        # Generate new answers.
        self.trainer._step, self.trainer._buffered_inputs = 0, None

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        self.epoch = state.global_step // _steps_per_epoch(args, train_dataloader)


def _steps_per_epoch(args, train_dataloader):
    # The last step of an epoch may have fewer passes.
    return math.ceil(len(train_dataloader) / args.gradient_accumulation_steps)
