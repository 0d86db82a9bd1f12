"""Preview a run without weights and without a GPU: parameters, tokens per sample, and a lower bound on memory.

Both recipes do this with `--dry_run`. The model is built on the meta device from its `config.json`; questions about the
first rows are really tokenised. Activations are not estimated, because they depend on the attention kernels: run two
steps (`--max_steps 2`) and measure.
"""

import logging
import statistics
from pathlib import Path

import torch
from accelerate.utils import convert_bytes
from peft import get_peft_model
from transformers import AutoConfig, WhisperFeatureExtractor

from modeling_timepro import TimeProAudioConfig, TimeProAudioForCausalLM
from processing import TimeGrid, TimeProAudioProcessor
from recipes import DEFAULT_CHECKPOINT
from recipes.conversion.backbones import backbone_config
from recipes.conversion.checkpoint import load_processor
from recipes.training.freezing import freeze_audio, freeze_constants

logger = logging.getLogger(__name__)

# Number of rows to tokenise.
NUM_ROWS = 64
PARTS = {"audio encoder": "model.audio_tower.", "projector": "model.multi_modal_projector.", "language model": ""}


def dry_run_arguments(argv: list[str]) -> list[str]:
    """Return command line arguments, with `--use_cpu` added for a dry run."""
    is_dry = any(text.partition("=")[0] in ("--dry_run", "--dry-run") for text in argv)
    return [*argv, "--use_cpu", "true"] if is_dry else argv


def load_outline(path) -> tuple[TimeProAudioConfig, TimeProAudioProcessor]:
    """Return configuration and processor of a folder that contains at least `config.json`.

    The folder is a checkpoint's, or a backbone's, which is treated as if converted by `timepro convert`. Without a
    tokenizer, the embedded checkpoint's counts tokens; like Qwen's, it tokenises numbers digit by digit.

    Raises:
        ValueError: no `config.json`, or one of another model.
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
        # Without assuming spare rows in the embedding matrix.
        config.time_token_start_id, config.num_time_tokens = config.text_config.vocab_size, processor.grid.num_ticks
        config.text_config.vocab_size += processor.grid.num_ticks
    return config, processor


def outline_processor(config) -> TimeProAudioProcessor:
    """Return a processor with the grid of a configuration and the embedded checkpoint's tokenizer."""
    grid = TimeGrid(frame_rate=config.frame_rate, time_step=config.time_step, max_time=config.max_time)
    small = load_processor(DEFAULT_CHECKPOINT)
    tokenizer = small.tokenizer
    tokenizer.add_tokens([token for token in grid.tick_tokens() if token not in tokenizer.get_vocab()])
    is_small = config.audio_config.model_type == "timepro_yamnet"
    extractor = small.feature_extractor if is_small else WhisperFeatureExtractor(config.audio_config.num_mel_bins)
    names = ("time_step", "max_time", "frame_rate", "answer_format", "time_stride")
    return TimeProAudioProcessor(extractor, tokenizer, **{name: getattr(config, name) for name in names})


def outline_model(config, dtype, peft_config=None, freezes_audio=False):
    """Return the model on the meta device as it would be trained, with its adapter or with frozen parts."""
    with torch.device("meta"):
        model = TimeProAudioForCausalLM(config).to(dtype)
    if peft_config is not None:
        return get_peft_model(model, peft_config, low_cpu_mem_usage=True)
    if freezes_audio:
        freeze_audio(model)
    freeze_constants(model)
    return model


def parameters_by_part(model, config) -> dict[str, tuple[int, int]]:
    """Return total and trainable numbers of parameters by part, and for `all`; ticks are counted separately.

    Input embeddings of ticks are frozen; their rows of the output matrix are trained if the matrix is.
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


def count_audio_tokens(processor, num_mel_frames) -> int:
    """Return the number of prompt tokens of a clip, including ticks."""
    audio = processor.expand_audio(processor.num_frames(num_mel_frames))
    return len(processor.tokenizer(audio, add_special_tokens=False)["input_ids"])


def sft_lengths(collator, dataset) -> list[tuple[int, int]]:
    """Return `(num_tokens, num_mel_frames)` of the first samples of supervised fine-tuning, tokenised as in training.

    Args:
        collator: the [`~recipes.training.collator.TimeProCollator`] of the run.
    """
    batches = (collator([sample]) for sample in dataset.select(range(min(NUM_ROWS, len(dataset)))))
    return [(batch["input_ids"].shape[1], int(batch["input_features_mask"].sum())) for batch in batches]


def grpo_lengths(processor, dataset, max_completion_length) -> list[tuple[int, int]]:
    """Return `(num_tokens, num_mel_frames)` of the first prompts of GRPO, with answers of maximum length."""
    lengths = []
    for row in dataset.select(range(min(NUM_ROWS, len(dataset)))):
        inputs = processor.apply_chat_template(
            [row["prompt"]], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        num_tokens = inputs["input_ids"].shape[1] + max_completion_length
        lengths.append((num_tokens, int(inputs["input_features_mask"].sum())))
    return lengths


def describe_run(path, outline, lengths, training, model_arguments, peft_config, freezes_audio=False) -> dict:
    """Print a summary of a run, and return it.

    Args:
        path: the model.
        outline: from [`load_outline`].
        lengths: of samples, see [`sft_lengths`] and [`grpo_lengths`].
        training, model_arguments, peft_config: TRL's and PEFT's settings.

    Returns:
        `model`, `encoder`, `language_model`, `dtype`; `batch` and `step`, samples per forward pass and per optimizer
        step; `parameters` by part, total and trainable; `tokens` of the samples; `audio_tokens` of a clip of maximum
        length, and `longest`, tokens of the longest sample with such a clip; `memory`, bytes of `weights`, `gradients`
        and `optimizer` (AdamW's two moments) on a single GPU.
    """
    config, processor = outline
    named = {None: torch.float32, "auto": config.dtype or torch.float32}
    dtype = named.get(model_arguments.dtype) or getattr(torch, str(model_arguments.dtype))
    model = outline_model(config, dtype, peft_config, freezes_audio)
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    longest = count_audio_tokens(processor, round(processor.max_time * 100))
    batch = training.per_device_train_batch_size
    report = {
        "model": str(path),
        "encoder": config.audio_config.model_type,
        "language_model": config.text_config.model_type,
        "dtype": str(dtype).removeprefix("torch."),
        "batch": batch,
        "step": batch * training.gradient_accumulation_steps * training.world_size,
        "parameters": parameters_by_part(model, config),
        "tokens": [num_tokens for num_tokens, _ in lengths],
        "audio_tokens": longest,
        "longest": longest + max(tokens - count_audio_tokens(processor, mel) for tokens, mel in lengths),
        "memory": {
            "weights": model.get_memory_footprint(return_buffers=False),
            "gradients": trained,
            "optimizer": 2 * trained,
        },
    }
    if training.process_index == 0:
        print(format_run(report, processor.max_time))
    return report


def format_run(report: dict, max_time: float) -> str:
    """Return the result of [`describe_run`] as text."""
    lines = [
        f"{report['model']}: {report['encoder']} + {report['language_model']}, {report['dtype']}, {report['batch']} "
        f"samples at a time, {report['step']} per step",
        "",
        f"{'parameters':<16}{'all':>16}{'trainable':>16}",
        *(f"  {name:<14}{total:>16,}{trained:>16,}" for name, (total, trained) in report["parameters"].items()),
        "",
        f"tokens per sample (first {len(report['tokens'])}): median {statistics.median(report['tokens']):,.0f}, "
        f"max {max(report['tokens']):,}; with a clip of {max_time:g} s at most {report['longest']:,}, of which "
        f"{report['audio_tokens']:,} are audio",
        "",
        "memory, without activations: "
        + ", ".join(f"{name} {convert_bytes(size)}" for name, size in report["memory"].items()),
    ]
    return "\n".join(lines)
