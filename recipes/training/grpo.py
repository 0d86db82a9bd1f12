"""GRPO after supervised fine-tuning, with rewards for correct times.

    accelerate launch recipes/grpo.py --config recipes/configs/grpo/small.yaml

Starts from a checkpoint or an adapter. Every question about a recording is a prompt; its answers are rewarded by the
adaptive temporal reward of `rewards.py`, and by others with nonzero weight. Resumes with --resume_from_checkpoint DIR.
"""

import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset
from peft import PeftConfig, PeftModel
from tqdm import tqdm
from trl import GRPOConfig, ModelConfig, TrlParser

from processing.audio_io import load_audio
from recipes.arguments import option
from recipes.data.questions import GRPO, key_name, questions
from recipes.evaluation.best_of_k import read_difficulties
from recipes.training.adapter import adapter_config, load_policy, save_trained
from recipes.training.data_arguments import DataArguments
from recipes.training.dry_run import NUM_ROWS, describe_run, dry_run_arguments, grpo_lengths, load_outline
from recipes.training.freezing import freeze_audio, freeze_time_embeddings
from recipes.training.grpo_trainer import TimeProGRPOTrainer, adaptive_temporal_reward
from recipes.training.rewards import REWARDS, reward_functions
from recipes.training.sharding import check_training

logger = logging.getLogger(__name__)

EXTRA_REWARDS = ("iou", "format", "count", "rejection")


@dataclass
class GRPOArguments(DataArguments):
    """What to train on, and what is rewarded."""

    tasks: str = option("grounding,detection", "comma-separated tasks to train on")
    tie_break: str = option(
        "product",
        "how the auxiliary reward is combined with the main one in tied groups: product (as in the paper), sum or none",
    )
    auxiliary_weight: float = option(1.0, "weight of the auxiliary reward in the sum")
    iou_weight: float = option(0.0, "weight of the IoU reward, added to the adaptive one")
    format_weight: float = option(0.0, "weight of the reward for the canonical grammar")
    count_weight: float = option(0.0, "weight of the reward for the correct number of events")
    rejection_weight: float = option(0.0, "weight of the reward for rejecting queries that are absent, and no others")
    reward: list[str] = field(
        default_factory=list,
        metadata={"help": "rewards of your own: module:function or module:function:weight, several if need be"},
    )
    constrained: bool = option(False, "sample only answers that can be read, as the pipeline does")
    logprobs_mode: str = option(
        "processed_logprobs",
        "log-probabilities of constrained answers: among the tokens that the constraint allows (processed_logprobs), "
        "or among all (raw_logprobs)",
    )
    answer_min_score: float | None = option(
        None, "reward answers as they are shipped, without detected events whose score is lower; default: all events"
    )
    drop_tied_groups: bool = option(False, "leave groups whose answers are all worth the same out of the update")
    curriculum: str | None = option(
        None,
        "folder that recipes.evaluation.best_of_k wrote: ask only what some of its samples answer better than others, "
        "the easiest first",
    )
    shared_prefix: bool | None = option(
        None, "compute each prompt once for all its answers; default: where the attention implementation supports it"
    )
    dry_run: bool = option(False, "do not train; print parameters, tokens per sample and the memory of weights")


def load_prompts(arguments, processor, seed, limit=None):
    """Return the `Dataset` of prompts: chats about a recording, and the columns for rewards.

    Args:
        limit: use only the first `limit` clips.

    Raises:
        ValueError: recordings that are missing, unreadable, too long or too short; all are listed.
    """
    clips = arguments.load_clips(limit, needs_audio=True)
    tasks = tuple(task.strip() for task in arguments.tasks.split(","))
    policy = arguments.question_policy(GRPO, clips, tasks=tasks, seed=(seed,))
    failures, durations = [], {}
    for path in tqdm(sorted({clip.audio for clip in clips}), desc="decoding"):
        try:
            waveform = load_audio(path, processor.sampling_rate)
            processor.check_audio([waveform])
            durations[path] = len(waveform) / processor.sampling_rate
        except (OSError, ValueError) as error:
            failures.append(f"{path}: {error}")
    if failures:
        listed = "\n  ".join(failures)
        raise ValueError(f"{len(failures)} recordings cannot be trained on; repair or drop them:\n  {listed}")
    prompts = []
    for clip in clips:
        for question in questions(clip, policy):
            blocks = [{"type": "audio", "audio": clip.audio}, {"type": "text", "text": question.text}]
            events = [{"onset": e.onset, "offset": e.offset, "event_label": e.event_label} for e in question.reference]
            chat = {"id": key_name(question.key), "prompt": [{"role": "user", "content": blocks}]}
            chat |= {"task": question.task, "query": question.query, "events": events}
            prompts.append(chat | {"duration": durations[clip.audio]})
    if not prompts:
        kinds = ", ".join(sorted({clip.task for clip in clips}))
        raise ValueError(f"tasks is {arguments.tasks!r}, but data has {kinds} clips, which answer none of them.")
    return Dataset.from_list(prompts)


def easiest_first(dataset, arguments) -> Dataset:
    """Return the prompts of a curriculum, those for which some samples are better than others, the easiest first."""
    found, ids = read_difficulties(arguments.curriculum, dataset, arguments.answer_min_score), list(dataset["id"])
    logger.info("%d of %d prompts have answers of different value in the curriculum", len(found), len(ids))
    if not found:
        raise ValueError(f"curriculum is {arguments.curriculum!r}, whose samples answer none of the questions.")
    return dataset.select(sorted((i for i, name in enumerate(ids) if name in found), key=lambda i: found[ids[i]]))


def main(argv: list[str] | None = None):
    """Run the command line."""
    parser = TrlParser((GRPOArguments, GRPOConfig, ModelConfig))
    argv = dry_run_arguments(sys.argv[1:] if argv is None else argv)
    arguments, training, model_arguments = parser.parse_args_and_config(argv)
    logging.basicConfig(level=logging.INFO)
    if arguments.dry_run:
        path, peft_config = model_arguments.model_name_or_path, adapter_config(model_arguments)
        if (Path(path) / "adapter_config.json").is_file():
            peft_config = PeftConfig.from_pretrained(path)
            peft_config.inference_mode, path = False, peft_config.base_model_name_or_path
        _, processor = outline = load_outline(path)
        dataset = load_prompts(arguments, processor, training.seed, NUM_ROWS)
        dataset = easiest_first(dataset, arguments) if arguments.curriculum else dataset
        lengths = grpo_lengths(processor, dataset, training.max_completion_length)
        return describe_run(path, outline, lengths, training, model_arguments, peft_config, freezes_audio=True)
    model, processor = load_policy(
        model_arguments.model_name_or_path,
        dtype=model_arguments.dtype or "float32",
        attn_implementation=model_arguments.attn_implementation or "sdpa",
    )
    dataset = load_prompts(arguments, processor, training.seed)
    dataset = easiest_first(dataset, arguments) if arguments.curriculum else dataset
    # The rewards read the columns of the reference.
    training.remove_unused_columns = False
    # TRL replaces the checkpoint's generation settings, including the suppressed tokens.
    suppressed = model.generation_config.suppress_tokens or [model.config.audio_token_id]
    training.generation_kwargs = {"suppress_tokens": suppressed} | (training.generation_kwargs or {})
    # With beta > 0 TRL loads the reference model with the checkpoint's code.
    training.trust_remote_code = training.trust_remote_code or training.beta > 0
    # The main and the auxiliary reward enter through the adaptive one.
    own = [(adaptive_temporal_reward, 1.0), (REWARDS["event_f1"], 0.0), (REWARDS["auxiliary"], 0.0)]
    extra = ((name, getattr(arguments, f"{name}_weight")) for name in EXTRA_REWARDS)
    own += [(REWARDS[name], weight) for name, weight in extra if weight]
    functions, training.reward_weights = reward_functions(own, arguments.reward)
    training.shuffle_dataset = training.shuffle_dataset and not arguments.curriculum
    is_adapter = isinstance(model, PeftModel)
    if is_adapter and model_arguments.use_peft:
        logger.warning("%r is an adapter: its settings hold, not lora_*.", model_arguments.model_name_or_path)
    peft_config = None if is_adapter else adapter_config(model_arguments)
    if peft_config is None and not is_adapter:
        # Audio encoder and projector are frozen, so that clips are encoded only once.
        freeze_audio(model)
        freeze_time_embeddings(model)
    trainer = TimeProGRPOTrainer(
        model=model,
        reward_funcs=functions,
        args=training,
        train_dataset=dataset,
        processing_class=processor,
        peft_config=peft_config,
        tie_break=arguments.tie_break,
        auxiliary_weight=arguments.auxiliary_weight,
        shared_prefix=arguments.shared_prefix,
        constrained=arguments.constrained,
        logprobs_mode=arguments.logprobs_mode,
        answer_min_score=arguments.answer_min_score,
        drop_tied_groups=arguments.drop_tied_groups,
    )
    check_training(trainer)
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    save_trained(trainer, processor)
    trainer.accelerator.end_training()
