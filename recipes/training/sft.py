"""Supervised fine-tuning of a TimePro checkpoint on annotated clips.

    accelerate launch recipes/sft.py --config recipes/configs/sft/small.yaml

Every clip becomes one sequence: its audio prompt, then detection, grounding of each label heard and of labels that are
absent. The loss is taken on the answers only. Ticks stay frozen. Resumes with --resume_from_checkpoint DIR.
"""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset
from trl import ModelConfig, SFTConfig, TrlParser

from recipes.arguments import option
from recipes.conversion.checkpoint import load_checkpoint
from recipes.data.augmentation import curriculum, group_by_length, lists_all
from recipes.data.tasks import make_turns
from recipes.data.training_rows import read_training_rows
from recipes.training.adapter import adapter_config, save_trained
from recipes.training.auxiliary_losses import READING_LOSSES
from recipes.training.collator import TimeProCollator
from recipes.training.dry_run import NUM_ROWS, dry_run, dry_run_arguments, format_report, load_outline, sft_lengths
from recipes.training.freezing import freeze_audio, freeze_constants, freeze_time_embeddings
from recipes.training.sft_trainer import StopAfterSave, TimeProSFTTrainer
from recipes.training.sharding import check_training

logger = logging.getLogger(__name__)


@dataclass
class SFTArguments:
    """What to train on, and how."""

    data: str = option("data", "folder with <split>.jsonl, whose audio paths are relative to it")
    split: str = option("train", "split to train on")
    stems: bool = option(False, "train from <split>_stem.npy (the output of the frozen YAMNet stem) instead of audio")
    num_absent: int = option(1, "absent labels to ask about per clip")
    wordings: int = option(4, "number of built-in prompt templates to use")
    captions: bool = option(False, "also ask for captions, one sentence per event, made from its label")
    num_variants: int = option(1, "how often each clip appears in an epoch, each time with other questions")
    window_share: float = option(0.0, "fraction of clips that are cut to a random window of 2 s or more")
    join_share: float = option(0.0, "fraction of clips that are followed by one or two others, up to the last tick")
    curriculum_share: float = option(
        0.0, "first fraction of the run, in which clips are windows that grow from 1.2 s to the whole clip"
    )
    questions_per_sequence: int = option(0, "questions that share one audio prompt; 0: all questions about a clip")
    time_label_sigma: float = option(0.0, "seconds of Gaussian soft targets for time tokens; 0: plain cross entropy")
    audio_learning_rate: float | None = option(
        None,
        "peak learning rate of audio encoder and projector; 0: freeze them; default: that of the rest. A language "
        "model that cannot read them yet has large gradients, which destroy what they have learned",
    )
    clock_weight: float = option(0.0, "weight of the clock loss, see recipes/training/auxiliary_losses.py")
    pointer_weight: float = option(0.0, "weight of the pointer loss")
    name_weight: float = option(0.0, "weight of the name loss")
    max_minutes: float = option(0.0, "stop and save after so many minutes; 0: no limit")
    dry_run: bool = option(False, "do not train; print parameters, tokens per sample and memory per GPU")
    accelerate_config: str | None = option(
        None, "configuration file of accelerate that a dry run is for; default: the current launch"
    )


def load_samples(arguments, grid, answer_format, batch_size, seed, limit=None):
    """Return the `Dataset` of training samples `{"pieces", "duration", "turns"}`, in the order of training.

    Args:
        limit: only the first so many rows.

    Raises:
        FileNotFoundError: the rows, or any of the audio files they name; all missing files are listed.
        ValueError: a row that cannot be trained on.
    """
    folder = Path(arguments.data)
    path = folder / f"{arguments.split}.jsonl"
    if not path.is_file():
        raise FileNotFoundError(f"data is {arguments.data!r} but {path} does not exist; run `timepro synthesize`.")
    rows = read_training_rows(path, not arguments.stems, limit)
    rng = np.random.default_rng(seed)
    shares = (arguments.window_share, arguments.join_share, arguments.curriculum_share)
    # Questions about one recording share its prompt, whichever rows they come from.
    turns_of, clips = {}, {}
    for place, clip in enumerate(curriculum(rows, arguments.num_variants, rng, grid, *shares)):
        turns = make_turns(clip, rng, grid, answer_format, arguments.num_absent, arguments.wordings, arguments.captions)
        is_shared = not lists_all(clip) and clip["pieces"][0]["duration"] is None
        key = (place // len(rows), clip["pieces"][0]["audio"]) if is_shared else place
        clips.setdefault(key, clip)
        turns_of.setdefault(key, []).extend(turns)
    samples = []
    for key, clip in clips.items():
        pieces = [piece | {"audio": str(folder / piece["audio"])} for piece in clip["pieces"]]
        turns = turns_of[key]
        size = arguments.questions_per_sequence or len(turns)
        for start in range(0, len(turns), size):
            samples.append({"pieces": pieces, "duration": clip["duration"], "turns": turns[start : start + size]})
    return Dataset.from_list(group_by_length(samples, batch_size, rng))


def load_stems(arguments):
    """Return stored stem features if these are trained on."""
    if not arguments.stems:
        return None
    return np.load(Path(arguments.data) / f"{arguments.split}_stem.npy", mmap_mode="r", allow_pickle=False)


def describe_run(arguments, training, model_arguments):
    """Print what the run would be, and return it; see `recipes/training/dry_run.py`."""
    path = model_arguments.model_name_or_path
    config, processor = load_outline(path)
    batch_size = training.per_device_train_batch_size
    dataset = load_samples(arguments, processor.grid, processor.answer_format, batch_size, training.seed, NUM_ROWS)
    lengths = sft_lengths(TimeProCollator(processor, load_stems(arguments), training.max_length), dataset)
    options = {
        "accelerate_config": arguments.accelerate_config,
        "freezes_audio": arguments.audio_learning_rate == 0,
    }
    peft_config = adapter_config(model_arguments)
    report = dry_run("sft", path, config, processor, lengths, training, model_arguments, peft_config, options)
    if training.process_index == 0:
        print(format_report(report))
    return report


def main(argv: list[str] | None = None):
    """Run the command line."""
    parser = TrlParser((SFTArguments, SFTConfig, ModelConfig))
    argv = dry_run_arguments(sys.argv[1:] if argv is None else argv)
    arguments, training, model_arguments = parser.parse_args_and_config(argv)
    logging.basicConfig(level=logging.INFO)
    if arguments.dry_run:
        return describe_run(arguments, training, model_arguments)
    model, processor = load_checkpoint(
        model_arguments.model_name_or_path,
        dtype=model_arguments.dtype or "float32",
        attn_implementation=model_arguments.attn_implementation or "sdpa",
    )
    batch_size = training.per_device_train_batch_size * training.world_size
    dataset = load_samples(arguments, processor.grid, processor.answer_format, batch_size, training.seed)
    # The samples are drawn and ordered already, short clips first.
    training.train_sampling_strategy = "sequential"
    # Our collator tokenises and carries the audio; TRL's own preparation would drop it.
    training.remove_unused_columns = False
    training.dataset_kwargs = {"skip_prepare_dataset": True}
    peft_config = adapter_config(model_arguments)
    if peft_config is None:
        if arguments.audio_learning_rate == 0:
            freeze_audio(model)
        freeze_constants(model)
        freeze_time_embeddings(model)
    max_length, training.max_length = training.max_length, None
    reading_weights = {name: getattr(arguments, f"{name}_weight") for name in READING_LOSSES}
    has_names = bool(arguments.name_weight) and processor.answer_format == "ticks"
    trainer = TimeProSFTTrainer(
        model=model,
        args=training,
        train_dataset=dataset,
        data_collator=TimeProCollator(processor, load_stems(arguments), max_length, has_names),
        processing_class=processor.tokenizer,
        peft_config=peft_config,
        time_label_sigma=arguments.time_label_sigma,
        audio_learning_rate=arguments.audio_learning_rate,
        reading_weights=reading_weights,
        callbacks=[StopAfterSave(arguments.max_minutes)] if arguments.max_minutes else None,
    )
    check_training(trainer, trainer.reading_weights)
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    save_trained(trainer, processor)
    trainer.accelerator.end_training()
