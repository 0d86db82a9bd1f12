"""Supervised fine-tuning of a TimePro checkpoint on annotated clips.

    accelerate launch recipes/sft.py --config recipes/configs/sft/small.yaml

Every clip becomes one sequence: its audio prompt, then detection, and grounding of present and absent labels. Only
answers contribute to the loss. Ticks are frozen. Resumes with --resume_from_checkpoint DIR.
"""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset
from trl import ModelConfig, SFTConfig, TrlParser

from processing.answer_text import format_events
from recipes.arguments import option
from recipes.conversion.checkpoint import load_checkpoint
from recipes.data.augmentation import curriculum, group_by_length
from recipes.data.questions import SFT, questions
from recipes.training.adapter import adapter_config, save_trained
from recipes.training.auxiliary_losses import READING_LOSSES
from recipes.training.collator import TimeProCollator
from recipes.training.data_arguments import DataArguments
from recipes.training.dry_run import NUM_ROWS, describe_run, dry_run_arguments, load_outline, sft_lengths
from recipes.training.freezing import freeze_audio, freeze_constants, freeze_time_embeddings
from recipes.training.grounder_loss import prepare_grounder
from recipes.training.sft_trainer import StopAfterSave, TimeProSFTTrainer
from recipes.training.sharding import check_training

logger = logging.getLogger(__name__)


@dataclass
class SFTArguments(DataArguments):
    """What to train on, and how."""

    stems: bool = option(False, "train from <split>_stem.npy (the output of the frozen YAMNet stem) instead of audio")
    blank_fraction: float = option(0.0, "fraction of the stems' channels that are zero in each clip of a step")
    captions: bool = option(False, "also train on captions: one sentence per event, made from its label")
    num_variants: int = option(1, "how often each clip appears in an epoch, each time with different questions")
    window_fraction: float = option(0.0, "fraction of clips that are cut to a random window of 2 s or more")
    join_fraction: float = option(0.0, "fraction of clips that are joined with one or two others, up to the last tick")
    curriculum_fraction: float = option(
        0.0, "first fraction of the run in which clips are cut to windows that grow from 1.2 s to the whole clip"
    )
    questions_per_sequence: int = option(0, "number of questions per audio prompt; 0: all questions about a clip")
    time_label_sigma: float = option(0.0, "seconds; width of Gaussian soft targets of time tokens; 0: cross-entropy")
    audio_learning_rate: float | None = option(
        None,
        "peak learning rate of audio encoder and projector; 0: freeze them; default: that of the rest. A language "
        "model that cannot read them yet has large gradients, which destroy what they have learned",
    )
    clock_weight: float = option(0.0, "weight of the clock loss, see recipes/training/auxiliary_losses.py")
    pointer_weight: float = option(0.0, "weight of the pointer loss")
    name_weight: float = option(0.0, "weight of the name loss")
    grounder_weight: float = option(
        0.0, "weight of the frame grounder's loss; a model without a frame grounder gets one; 0: do not train one"
    )
    grounder_frames: str = option(
        "encoder", "input of a new frame grounder: the encoder's frames, or (stem) a YAMNet encoder's frozen stem"
    )
    answer_weight: float = option(1.0, "weight of the loss on answers; 0: train the frame grounder alone")
    max_minutes: float = option(0.0, "stop and save after this many minutes; 0: no limit")
    dry_run: bool = option(False, "do not train; print parameters, tokens per sample and the memory of weights")


def load_samples(arguments, grid, answer_format, batch_size, seed, limit=None):
    """Return the `Dataset` of training samples `{"pieces", "duration", "turns"}`, in the order of training.

    A turn is `{"question", "answer", "event_label"}`, see [`~recipes.data.questions.Question`].

    Args:
        limit: only the first clips.

    Raises:
        FileNotFoundError: the annotations or recordings are missing; all missing recordings are listed.
        ValueError: a clip that cannot be used for training.
    """
    clips = arguments.load_clips(limit, needs_audio=not arguments.stems, needs_duration=True)
    if too_long := [clip for clip in clips if clip.duration > grid.max_time]:
        raise ValueError(
            f"{len(too_long)} clips are longer than the {grid.max_time:g} s of the checkpoint's ticks, "
            f"{too_long[0].id!r} ({too_long[0].duration:g} s) first; cut them, with their events."
        )
    policy = arguments.question_policy(SFT, clips, has_captions=arguments.captions)
    rng = np.random.default_rng(seed)
    fractions = (arguments.window_fraction, arguments.join_fraction, arguments.curriculum_fraction)
    # Questions about one recording share its prompt, even if they come from several clips.
    turns_of, cuts = {}, {}
    for position, (clip, pieces) in enumerate(curriculum(clips, arguments.num_variants, rng, grid, *fractions)):
        turns = [
            {
                "question": question.text,
                "answer": format_events(question.reference, question.task, grid, answer_format),
                "event_label": question.event_label,
            }
            for question in questions(clip, policy, rng)
        ]
        is_shared = clip.task != "detection" and pieces[0]["duration"] is None
        key = (position // len(clips), clip.audio) if is_shared else position
        cuts.setdefault(key, (clip.duration, pieces))
        turns_of.setdefault(key, []).extend(turns)
    samples = []
    for key, (duration, pieces) in cuts.items():
        turns = turns_of[key]
        size = arguments.questions_per_sequence or len(turns)
        for start in range(0, len(turns), size):
            samples.append({"pieces": pieces, "duration": duration, "turns": turns[start : start + size]})
    return Dataset.from_list(group_by_length(samples, batch_size, rng))


def load_stems(arguments):
    """Return the stored stem features if `--stems` is on."""
    if not arguments.stems:
        return None
    return np.load(Path(arguments.data) / f"{arguments.split}_stem.npy", mmap_mode="r", allow_pickle=False)


def main(argv: list[str] | None = None):
    """Run the command line."""
    parser = TrlParser((SFTArguments, SFTConfig, ModelConfig))
    argv = dry_run_arguments(sys.argv[1:] if argv is None else argv)
    arguments, training, model_arguments = parser.parse_args_and_config(argv)
    logging.basicConfig(level=logging.INFO)
    peft_config = adapter_config(model_arguments)
    if arguments.dry_run:
        path = model_arguments.model_name_or_path
        _, processor = outline = load_outline(path)
        batch_size = training.per_device_train_batch_size
        dataset = load_samples(arguments, processor.grid, processor.answer_format, batch_size, training.seed, NUM_ROWS)
        lengths = sft_lengths(TimeProCollator(processor, load_stems(arguments), training.max_length), dataset)
        freezes_audio = arguments.audio_learning_rate == 0
        return describe_run(path, outline, lengths, training, model_arguments, peft_config, freezes_audio)
    model, processor = load_checkpoint(
        model_arguments.model_name_or_path,
        dtype=model_arguments.dtype or "float32",
        attn_implementation=model_arguments.attn_implementation or "sdpa",
    )
    batch_size = training.per_device_train_batch_size * training.world_size
    dataset = load_samples(arguments, processor.grid, processor.answer_format, batch_size, training.seed)
    # The samples are already drawn and ordered, short clips first.
    training.train_sampling_strategy = "sequential"
    # Our collator tokenises and loads the audio, which TRL's own preparation would drop.
    training.remove_unused_columns = False
    training.dataset_kwargs = {"skip_prepare_dataset": True}
    if not arguments.answer_weight and not arguments.grounder_weight:
        raise ValueError("answer_weight and grounder_weight are both 0; give one of them to train something.")
    if peft_config is None:
        if arguments.audio_learning_rate == 0:
            freeze_audio(model)
        freeze_constants(model)
        freeze_time_embeddings(model)
    if arguments.grounder_weight:
        prepare_grounder(model, not arguments.answer_weight, peft_config, arguments.grounder_frames)
    max_length, training.max_length = training.max_length, None
    reading_weights = {name: getattr(arguments, f"{name}_weight") for name in READING_LOSSES}
    has_names = bool(arguments.name_weight) and processor.answer_format == "ticks"
    trainer = TimeProSFTTrainer(
        model=model,
        args=training,
        train_dataset=dataset,
        data_collator=TimeProCollator(
            processor,
            load_stems(arguments),
            max_length,
            has_names,
            bool(arguments.grounder_weight),
            arguments.blank_fraction,
        ),  # fmt: skip
        processing_class=processor.tokenizer,
        peft_config=peft_config,
        time_label_sigma=arguments.time_label_sigma,
        audio_learning_rate=arguments.audio_learning_rate,
        reading_weights=reading_weights,
        answer_weight=arguments.answer_weight,
        grounder_weight=arguments.grounder_weight,
        callbacks=[StopAfterSave(arguments.max_minutes)] if arguments.max_minutes else None,
    )
    check_training(trainer, trainer.reading_weights)
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    save_trained(trainer, processor)
    trainer.accelerator.end_training()
