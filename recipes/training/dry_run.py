"""What a run would be, without weights and without a GPU: parameters, tokens per sample, and memory per GPU.

Both recipes do this with `--dry_run`. The model is built on the meta device from its `config.json` alone; questions
about the first rows are really tokenised.
"""

import logging
import statistics
from pathlib import Path

import torch
from peft import get_peft_model
from transformers import AutoConfig, WhisperFeatureExtractor

from modeling_timepro import TimeProAudioConfig, TimeProAudioForCausalLM
from processing import TimeGrid, TimeProAudioProcessor
from recipes import DEFAULT_CHECKPOINT
from recipes.conversion.backbones import backbone_config
from recipes.conversion.checkpoint import load_processor
from recipes.training.freezing import freeze_audio, freeze_constants
from recipes.training.memory_estimate import (
    GIB,
    grpo_bytes,
    model_sizes,
    parallel_setup,
    sft_bytes,
    state_bytes,
    total_bytes,
)
from recipes.training.sharding import check_generation

logger = logging.getLogger(__name__)

# So many rows are tokenised.
NUM_ROWS = 64
PARTS = {
    "audio tower": "model.audio_tower.",
    "projector": "model.multi_modal_projector.",
    "language model": "",
}
FORMULAS = {
    "weights": "all weights, in the type they are loaded in",
    "gradients": "of what is trained",
    "optimizer": "AdamW's two moments of what is trained",
    "activations": "what the backward pass needs",
    "generation": "keys, values and prefill; before activations exist, so that the larger one counts",
    "reserve": "1 GiB for CUDA and 10 % for fragments",
    "all": "",
}


def dry_run_arguments(argv: list[str]) -> list[str]:
    """Return command line arguments that need no GPU, if they ask for a dry run."""
    is_dry = any(text.partition("=")[0] in ("--dry_run", "--dry-run") for text in argv)
    return [*argv, "--use_cpu", "true"] if is_dry else argv


def load_outline(path) -> tuple[TimeProAudioConfig, TimeProAudioProcessor]:
    """Return configuration and processor of a folder that need hold no more than `config.json`.

    The folder is a checkpoint's, or a backbone's, which is taken as `timepro convert` would convert it. Without a
    tokenizer there, that of the embedded checkpoint counts tokens, which writes numbers digit by digit as Qwen's does.

    Raises:
        ValueError: no `config.json` there, or one of another model.
    """
    path = Path(path)
    if not (path / "config.json").is_file():
        raise ValueError(
            f"model_name_or_path is {str(path)!r}, which holds no config.json; give a checkpoint's folder."
        )
    stock = AutoConfig.from_pretrained(path)
    config = stock if stock.model_type == TimeProAudioConfig.model_type else backbone_config(stock)
    if (path / "tokenizer.json").is_file() and config is stock:
        processor = load_processor(path)
    else:
        logger.warning("%s has no tokenizer: tokens are counted with the embedded checkpoint's.", path)
        processor = outline_processor(config)
    if not config.num_time_tokens:
        # No spare rows are counted on.
        config.time_token_start_id, config.num_time_tokens = config.text_config.vocab_size, processor.grid.num_ticks
        config.text_config.vocab_size += processor.grid.num_ticks
    return config, processor


def outline_processor(config) -> TimeProAudioProcessor:
    """Return a processor with the grid of a configuration and the tokenizer of the embedded checkpoint."""
    grid = TimeGrid(frame_rate=config.frame_rate, time_step=config.time_step, max_time=config.max_time)
    small = load_processor(DEFAULT_CHECKPOINT)
    tokenizer = small.tokenizer
    tokenizer.add_tokens([token for token in grid.tick_tokens() if token not in tokenizer.get_vocab()])
    is_small = config.audio_config.model_type == "timepro_yamnet"
    extractor = small.feature_extractor if is_small else WhisperFeatureExtractor(config.audio_config.num_mel_bins)
    names = ("time_step", "max_time", "frame_rate", "answer_format", "time_stride")
    return TimeProAudioProcessor(extractor, tokenizer, **{name: getattr(config, name) for name in names})


def outline_model(config, dtype, peft_config=None, freezes_audio=False):
    """Return the model on the meta device, as it would be trained: with its adapter, or with parts of it frozen."""
    with torch.device("meta"):
        model = TimeProAudioForCausalLM(config).to(dtype)
    if peft_config is not None:
        return get_peft_model(model, peft_config, low_cpu_mem_usage=True)
    if freezes_audio:
        freeze_audio(model)
    freeze_constants(model)
    return model


def count_parameters(model, config) -> dict[str, tuple[int, int]]:
    """Return total and trainable numbers of parameters by part, and of `all`; ticks are counted apart, frozen.

    Where answers can be written in ticks, only their input embeddings are frozen; they are counted by their matrix.
    """
    counts = {name: [0, 0] for name in [*PARTS, "ticks", "LoRA"]}
    ticks = config.num_time_tokens * config.text_config.hidden_size
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            part = "LoRA"
        else:
            part = next(part for part, prefix in PARTS.items() if prefix in name)
        size, trained = parameter.numel(), parameter.numel() if parameter.requires_grad else 0
        if name.endswith(("embed_tokens.weight", "lm_head.weight")):
            is_input = "embed_tokens" in name
            moved = ticks if trained else 0
            counts["ticks"][0] += ticks
            counts["ticks"][1] += 0 if is_input else moved
            size, trained = size - ticks, trained - moved
        counts[part][0] += size
        counts[part][1] += trained
    counts = {name: tuple(values) for name, values in counts.items() if values[0] or name != "LoRA"}
    return counts | {"all": tuple(map(sum, zip(*counts.values(), strict=True)))}


def weight_counts(model) -> dict[str, int]:
    """Return numbers of frozen and trainable weights, and of the largest part that sharding gathers at a time."""
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    total = sum(parameter.numel() for parameter in model.parameters())
    blocks = [
        sum(parameter.numel() for parameter in module.parameters())
        for module in model.modules()
        if type(module).__name__ in model._no_split_modules or isinstance(module, (torch.nn.Embedding, torch.nn.Linear))
    ]
    return {"frozen": total - trainable, "trainable": trainable, "largest": max(blocks)}


def count_audio_tokens(processor, num_mel_frames) -> int:
    """Return how many tokens of a prompt a clip takes, its ticks included."""
    audio = processor.expand_audio(processor.num_frames(num_mel_frames))
    return len(processor.tokenizer(audio, add_special_tokens=False)["input_ids"])


def longest_sample(lengths: list[dict], processor) -> dict:
    """Return what the longest sample would be if its clip lasted `max_time`.

    Args:
        lengths: of samples, `{"tokens", "audio_tokens", "answer_tokens", "seconds"}`.
    """
    audio_tokens = count_audio_tokens(processor, round(processor.max_time * 100))
    return {
        "tokens": max(row["tokens"] - row["audio_tokens"] for row in lengths) + audio_tokens,
        "audio_tokens": audio_tokens,
        "answer_tokens": max(row["answer_tokens"] for row in lengths),
        "seconds": processor.max_time,
    }


def sft_lengths(collator, dataset) -> list[dict]:
    """Return the lengths of the first samples of supervised fine-tuning, tokenised as in training."""
    lengths = []
    for sample in dataset.select(range(min(NUM_ROWS, len(dataset)))):
        batch = collator([sample])
        mel = int(batch["input_features_mask"].sum())
        lengths.append(
            {
                "tokens": batch["input_ids"].shape[1],
                "audio_tokens": count_audio_tokens(collator.processor, mel),
                "answer_tokens": int((batch["labels"] != -100).sum()),
                "seconds": mel / 100,
            }
        )
    return lengths


def grpo_lengths(processor, dataset, max_completion_length) -> list[dict]:
    """Return the lengths of the first prompts of GRPO, tokenised as in training; answers are as long as they may be."""
    lengths = []
    for row in dataset.select(range(min(NUM_ROWS, len(dataset)))):
        inputs = processor.apply_chat_template(
            [row["prompt"]], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        mel = int(inputs["input_features_mask"].sum())
        lengths.append(
            {
                "tokens": inputs["input_ids"].shape[1],
                "audio_tokens": count_audio_tokens(processor, mel),
                "answer_tokens": max_completion_length,
                "seconds": mel / 100,
            }
        )
    return lengths


def dry_run(kind, path, config, processor, lengths, training, model_arguments, peft_config, options) -> dict:
    """Return what a run would be, see [`format_report`].

    Args:
        kind: `sft` or `grpo`.
        lengths: of samples, see [`sft_lengths`] and [`grpo_lengths`].
        training, model_arguments, peft_config: TRL's settings.
        options: `accelerate_config`, `freezes_audio`, and for GRPO `is_shared`.
    """
    named = {None: torch.float32, "auto": config.dtype or torch.float32}
    dtype = named.get(model_arguments.dtype) or getattr(torch, str(model_arguments.dtype))
    model = outline_model(config, dtype, peft_config, options["freezes_audio"])
    parallel = parallel_setup(options["accelerate_config"])
    computing = 2 if training.bf16 or training.fp16 else dtype.itemsize
    is_eager = model_arguments.attn_implementation == "eager"
    sizes = model_sizes(config, computing, dtype.itemsize, is_eager)
    trained_width = next((p.element_size() for p in model.parameters() if p.requires_grad), 4)
    counts = weight_counts(model)
    parts = state_bytes(counts, parallel, dtype.itemsize, trained_width, computing)
    longest = longest_sample(lengths, processor)
    rows, is_checkpointed = training.per_device_train_batch_size, training.gradient_checkpointing
    if kind == "sft":
        is_trained = any(parameter.requires_grad for parameter in audio_parameters(model))
        parts |= sft_bytes(
            sizes, rows, longest["tokens"], longest["answer_tokens"], longest["seconds"], is_checkpointed, is_trained
        )
    else:
        check_generation(parallel.name == "FSDP2", peft_config is not None)
        steps = training.steps_per_generation or training.gradient_accumulation_steps
        parts |= grpo_bytes(
            sizes, rows, training.num_generations, longest["tokens"], longest["answer_tokens"], rows * steps,
            longest["seconds"], is_checkpointed, options["is_shared"],
        )  # fmt: skip
        if parallel.generates_whole:
            parts["generation"] += (counts["frozen"] + counts["trainable"]) * computing
        if training.beta and peft_config is None:
            parts["weights"] *= 2
    return {
        "kind": kind,
        "model": str(path),
        "towers": [config.audio_config.model_type, config.text_config.model_type],
        "dtype": str(dtype).removeprefix("torch."),
        "parallel": parallel.name,
        "num_processes": parallel.num_processes,
        "batch": rows,
        "step": rows * training.gradient_accumulation_steps * parallel.num_processes,
        "parameters": count_parameters(model, config),
        "tokens": [row["tokens"] for row in lengths],
        "longest": longest,
        "memory": total_bytes(parts),
    }


def audio_parameters(model):
    """Yield the parameters of audio tower and projector."""
    for name, parameter in model.named_parameters():
        if "audio_tower." in name or "multi_modal_projector." in name:
            yield parameter


def format_report(report: dict) -> str:
    """Return a dry run's report as text."""
    longest, unit = report["longest"], "answers" if report["kind"] == "grpo" else "clips"
    lines = [
        f"{report['model']}: {' + '.join(report['towers'])}, {report['dtype']}",
        "",
        f"{'parameters':<16}{'all':>16}{'trainable':>16}",
        *(f"  {name:<14}{total:>16,}{trained:>16,}" for name, (total, trained) in report["parameters"].items()),
        "",
        f"tokens per sample (first {len(report['tokens'])}): median {statistics.median(report['tokens']):,.0f}, "
        f"max {max(report['tokens']):,}",
        f"of a clip of {longest['seconds']:g} s at most {longest['tokens']:,}, of them {longest['audio_tokens']:,} for "
        f"the sound" + (f"; answers up to {longest['answer_tokens']:,}" if report["kind"] == "grpo" else ""),
        "",
        f"memory per GPU, GiB: {report['parallel']}, {report['num_processes']} "
        f"{'process' if report['num_processes'] == 1 else 'processes'}, {report['batch']} {unit} at a time, "
        f"{report['step']} a step",
        *(f"  {name:<14}{size / GIB:>8.2f}  {FORMULAS[name]}".rstrip() for name, size in report["memory"].items()),
    ]
    return "\n".join(lines)


__all__ = ["dry_run", "dry_run_arguments", "format_report", "grpo_lengths", "load_outline", "sft_lengths"]
