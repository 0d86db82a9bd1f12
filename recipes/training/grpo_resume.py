"""How a killed GRPO run resumes exactly: prompts in an order that the epoch determines, and whole generations.

TRL draws the orders of all epochs from one generator, so that a run resumed in a later epoch sees the first one's order
again, and it restarts its count of passes, so that answers may be generated at other steps than before.
"""

import logging
import math

import torch
from transformers import TrainerCallback
from trl.trainer.utils import RepeatSampler

logger = logging.getLogger(__name__)


class EpochSampler(RepeatSampler):
    """Repeat prompts as [`RepeatSampler`] does, in an order that depends on seed and epoch alone.

    Args:
        epoch: function that returns the epoch about to begin. (`set_epoch` does not reach the sampler of a resumed run
            in several processes.)

    Raises:
        ValueError: there are fewer prompts than a batch takes.
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
            # Sums of seed and epoch would give runs of neighbouring seeds the same orders.
            seeds = torch.randint(2**62, (self.epoch() + 1,), generator=torch.Generator().manual_seed(self.seed))
            self.generator.manual_seed(seeds[-1].item())
        return super().__iter__()


class ResumeGeneration(TrainerCallback):
    """Begin a run, resumed or not, with new answers, and refuse checkpoints that none could resume from exactly.

    `epoch` is the current one.

    Raises:
        ValueError: by `on_train_begin`: checkpoints would be saved, or one is resumed, between steps that share a batch
            of generated answers, which is not saved.
    """

    def __init__(self, trainer):
        self.trainer, self.epoch = trainer, 0

    def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
        # Passes, and steps, for which the same generated answers are used.
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
            # A run that has ended need not be resumed.
            saves = (int(state.save_steps), state.max_steps, int(state.save_steps))
            if any(passes(step) % cycle for step in range(*saves)):
                raise ValueError(f"save_steps is {state.save_steps} but {advice}")
        if state.global_step < state.max_steps and passes(state.global_step) % cycle:
            raise ValueError(f"resume_from_checkpoint is one of step {state.global_step} but {advice}")
        # New answers are due.
        self.trainer._step, self.trainer._buffered_inputs = 0, None

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        self.epoch = state.global_step // _steps_per_epoch(args, train_dataloader)


def _steps_per_epoch(args, train_dataloader):
    # The last step of an epoch may be one of fewer passes.
    return math.ceil(len(train_dataloader) / args.gradient_accumulation_steps)
