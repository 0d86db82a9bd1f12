"""How much memory a GPU needs for a run, worked out from sizes alone. `docs/scaling.md` has the formulas in words.

All is counted in bytes, for PyTorch's fused attention (`sdpa`, flash); `eager` adds its matrices of scores.
"""

import math
import os
from dataclasses import dataclass, replace

GIB = 2**30
# What the CUDA context and libraries take, and what the allocator loses to fragments.
CONTEXT, FRAGMENTS = 1 * GIB, 0.1
# DeepSpeed reduces gradients in buckets of so many numbers; TRL's fused head takes so many words at once.
DEEPSPEED_BUCKET, HEAD_TILE = 500_000_000, 32_768


@dataclass(frozen=True)
class Parallel:
    """How a run is spread: what of it each of `num_processes` holds only its part of."""

    name: str = "one process"
    num_processes: int = 1
    splits_weights: bool = False
    splits_gradients: bool = False
    splits_optimizer: bool = False
    # DeepSpeed keeps weights in float32 beside those in 16 bits.
    has_master_weights: bool = False
    # Distributed data parallel copies gradients into buckets.
    has_buckets: bool = False
    # accelerate makes what FSDP2 trains float32.
    trains_float32: bool = False
    # TRL gathers all weights to generate under ZeRO-3.
    generates_whole: bool = False


FSDP2 = Parallel("FSDP2", 1, True, True, True, trains_float32=True)
ZERO = {
    0: Parallel("DeepSpeed ZeRO-0", has_master_weights=True),
    1: Parallel("DeepSpeed ZeRO-1", splits_optimizer=True, has_master_weights=True),
    2: Parallel("DeepSpeed ZeRO-2", splits_gradients=True, splits_optimizer=True, has_master_weights=True),
    3: Parallel("DeepSpeed ZeRO-3", 1, True, True, True, has_master_weights=True, generates_whole=True),
}


def parallel_setup(path: str | None = None) -> Parallel:
    """Return how a run is spread, of an accelerate configuration file or of the launch that this process is part of.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or accelerate cannot read it.
        ValueError: it spreads in a way that is not estimated.
    """
    if path is None:
        processes = int(os.environ.get("WORLD_SIZE", 1))
        kind = "MULTI_GPU" if processes > 1 else "NO"
        if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("1", "true"):
            kind = "FSDP"
        if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() in ("1", "true"):
            kind = "DEEPSPEED"
        version = int(os.environ.get("FSDP_VERSION", 1))
        stage = int(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", 2))
        offloads = False
    else:
        from accelerate.commands.config.config_args import load_config_from_file

        config = load_config_from_file(str(path))
        kind, processes = str(getattr(config.distributed_type, "value", config.distributed_type)), config.num_processes
        version = int(config.fsdp_config.get("fsdp_version", 1))
        stage = int(config.deepspeed_config.get("zero_stage", 2))
        devices = [config.deepspeed_config.get(f"offload_{what}_device", "none") for what in ("optimizer", "param")]
        offloads = set(devices) != {"none"} or bool(config.fsdp_config.get("fsdp_offload_params", False))
    if kind in ("NO", "MULTI_CPU") or (kind == "MULTI_GPU" and processes == 1):
        return Parallel(num_processes=max(1, processes))
    if kind == "MULTI_GPU":
        return Parallel("DDP", processes, has_buckets=True)
    if kind == "FSDP" and version == 2 and not offloads:
        return replace(FSDP2, num_processes=processes)
    if kind == "DEEPSPEED" and not offloads:
        return replace(ZERO[stage], num_processes=processes)
    raise ValueError(
        f"accelerate_config is {str(path)!r}, of distributed_type {kind}; memory is estimated for NO, MULTI_GPU, FSDP "
        "(version 2) and DEEPSPEED, without offloading."
    )


@dataclass(frozen=True)
class Sizes:
    """What of a model memory hangs on.

    Args:
        hidden, layers, intermediate, heads, key_values, vocabulary: of the language model; `key_values` is the width
            of all keys of a token.
        audio_hidden, audio_layers, audio_intermediate, audio_positions: of the tower; positions a second.
        width: bytes of what layers compute.
        stream: bytes of what passes between layers, which is in the type of the weights.
        is_eager: scores of attention are stored.
    """

    hidden: int
    layers: int
    intermediate: int
    heads: int
    key_values: int
    vocabulary: int
    audio_hidden: int
    audio_layers: int
    audio_intermediate: int
    audio_positions: float
    width: int
    stream: int
    is_eager: bool = False


def model_sizes(config, width: int, stream: int, is_eager: bool = False) -> Sizes:
    """Return the [`Sizes`] of a [`TimeProAudioConfig`]."""
    text, audio = config.text_config, config.audio_config
    heads = text.num_attention_heads
    head_size = getattr(text, "head_dim", None) or text.hidden_size // heads
    return Sizes(
        hidden=text.hidden_size,
        layers=text.num_hidden_layers,
        intermediate=text.intermediate_size,
        heads=heads,
        key_values=(text.num_key_value_heads or heads) * head_size,
        vocabulary=text.vocab_size,
        audio_hidden=audio.hidden_size,
        audio_layers=audio.num_hidden_layers,
        audio_intermediate=getattr(audio, "encoder_ffn_dim", None) or audio.intermediate_size,
        # Whisper's layers see two mel frames at a time, YAMNet's the frames that leave it.
        audio_positions=config.frame_rate if audio.model_type == "timepro_yamnet" else 50.0,
        width=width,
        stream=stream,
        is_eager=is_eager,
    )


def layer_activations(sizes: Sizes, rows: int, length: int) -> float:
    """Return what one decoder layer keeps of `rows` sequences of `length` tokens for its backward pass.

    Per token: two norms in float32 (8 h) and their outputs (2 h); the queries, the attention's output and its copy for
    the output projection (3 h), keys and values (2 k), and gate, activated gate, value and product (4 f).
    """
    per_token = 8 * sizes.hidden + 2 * sizes.hidden * sizes.stream
    per_token += sizes.width * (3 * sizes.hidden + 2 * sizes.key_values + 4 * sizes.intermediate)
    scores = sizes.heads * length * (4 + 2 * sizes.width) if sizes.is_eager else 0
    return rows * length * (per_token + scores)


def layer_workspace(sizes: Sizes, rows: int, length: int) -> float:
    """Return what passes through one decoder layer without being kept: its largest products and their gradients."""
    return rows * length * sizes.width * (3 * sizes.intermediate + 2 * sizes.hidden)


def mask_bytes(sizes: Sizes, rows: int, length: int) -> float:
    """Return the mask of each row, bool and as numbers, that several answers after one prompt need."""
    return rows * length**2 * (1 + sizes.width)


def head_bytes(sizes: Sizes, num_tokens: int) -> float:
    """Return logits and losses of `num_tokens` answer tokens: three times as they are, three times in float32."""
    return num_tokens * sizes.vocabulary * (3 * sizes.width + 3 * 4)


def language_model_activations(sizes: Sizes, rows: int, length: int, is_checkpointed: bool) -> float:
    """Return the activations of the language model in a training step, without head and mask."""
    one = layer_activations(sizes, rows, length)
    stream = rows * length * sizes.hidden * sizes.stream
    if is_checkpointed:
        return (sizes.layers + 2) * stream + one + layer_workspace(sizes, rows, length)
    return 2 * stream + sizes.layers * one + layer_workspace(sizes, rows, length)


def tower_activations(sizes: Sizes, clips: int, seconds: float, is_trained: bool, is_checkpointed: bool) -> float:
    """Return the activations of the audio tower for `clips` recordings: of one layer at a time where it is frozen.

    Two convolutions of 100 and 50 positions a second come before its layers.
    """
    positions = clips * seconds * sizes.audio_positions
    convolutions = 3 * clips * seconds * 100 * sizes.audio_hidden * sizes.width
    layer = positions * sizes.width * (10 * sizes.audio_hidden + 3 * sizes.audio_intermediate)
    if not is_trained:
        return max(convolutions, layer)
    kept = sizes.audio_layers * (positions * sizes.audio_hidden * sizes.width if is_checkpointed else layer)
    return convolutions + kept + layer


def cache_bytes(sizes: Sizes, rows: int, length: int) -> float:
    """Return keys and values of `rows` sequences of `length` tokens."""
    return rows * length * 2 * sizes.layers * sizes.key_values * sizes.width


def state_bytes(counts: dict, parallel: Parallel, width: int, trained_width: int, computing: int) -> dict[str, float]:
    """Return the bytes of weights, gradients and optimiser (AdamW) of each process.

    Float32 weights that compute in 16 bits leave a copy in them until the backward pass; FSDP2's is the gathered one,
    and DeepSpeed turns all weights into 16 bits.

    Args:
        counts: numbers of parameters: `frozen`, `trainable`, `largest` (what is gathered at a time where weights are
            split).
        width, trained_width: bytes of a frozen and of a trainable weight.
        computing: bytes of what layers compute.
    """
    processes = parallel.num_processes
    copies = 0
    if parallel.has_master_weights:
        width, trained_width = min(width, computing), min(trained_width, computing)
    elif not parallel.splits_weights and computing < width:
        copies = (counts["frozen"] + counts["trainable"]) * computing
    trained_width = 4 if parallel.trains_float32 and width < 4 else trained_width
    weights = counts["frozen"] * width + counts["trainable"] * trained_width
    if parallel.splits_weights:
        # The part that computes, and the next one, are gathered whole.
        weights = weights / processes + 2 * counts["largest"] * computing
    gradients = counts["trainable"] * trained_width
    if parallel.splits_gradients:
        gradients /= processes
    if parallel.has_buckets:
        gradients *= 2
    if parallel.has_master_weights:
        gradients += min(counts["trainable"], DEEPSPEED_BUCKET) * trained_width
        optimizer = counts["trainable"] * 12
    else:
        optimizer = counts["trainable"] * 2 * trained_width
    if parallel.splits_optimizer:
        optimizer /= processes
    return {"weights": weights + copies, "gradients": gradients, "optimizer": optimizer}


def sft_bytes(sizes, rows, length, num_answer_tokens, seconds, is_checkpointed, is_audio_trained) -> dict[str, float]:
    """Return the activations of a step of supervised fine-tuning on each GPU.

    Args:
        rows: clips at a time.
        length: tokens of a sequence.
        num_answer_tokens: of one sequence.
        seconds: of a clip.
    """
    tower = tower_activations(sizes, rows, seconds, is_audio_trained, is_checkpointed)
    language = language_model_activations(sizes, rows, length, is_checkpointed) + mask_bytes(sizes, rows, length)
    language += head_bytes(sizes, rows * num_answer_tokens)
    # What is frozen is done before the language model starts.
    return {"activations": tower + language if is_audio_trained else max(tower, language)}


def grpo_bytes(
    sizes, rows, group, prompt_length, answer_length, rows_generated, seconds, is_checkpointed, is_shared
) -> dict[str, float]:
    """Return the activations of a step of GRPO on each GPU, and what generating answers takes in their place.

    Args:
        rows: answers at a time in the update.
        group: answers to one prompt.
        rows_generated: answers at a time in generation.
        is_shared: prompts are computed once for their group.
    """
    prompts = math.ceil(rows / group) if is_shared else rows
    length = prompt_length + (group if is_shared else 1) * answer_length
    language = language_model_activations(sizes, prompts, length, is_checkpointed)
    language += mask_bytes(sizes, prompts, length) if is_shared else 0
    language += 2 * rows * answer_length * min(sizes.vocabulary, HEAD_TILE) * 4
    tower = tower_activations(sizes, 1, seconds, False, False)
    cache = cache_bytes(sizes, rows_generated, prompt_length + answer_length)
    # A layer's cache is copied when it grows.
    cache += cache / sizes.layers
    prefill = (
        math.ceil(rows_generated / group) * prompt_length * sizes.width * (3 * sizes.intermediate + 4 * sizes.hidden)
    )
    logits = rows_generated * sizes.vocabulary * 4 * 4
    return {"activations": max(language, tower), "generation": cache + max(prefill, logits)}


def total_bytes(parts: dict[str, float]) -> dict[str, float]:
    """Return parts, the reserve and their sum; answers are generated before activations exist."""
    held = sum(value for name, value in parts.items() if name not in ("activations", "generation"))
    peak = held + max(parts["activations"], parts.get("generation", 0.0))
    reserve = CONTEXT + FRAGMENTS * peak
    return parts | {"reserve": reserve, "all": peak + reserve}


__all__ = ["Parallel", "Sizes", "model_sizes", "parallel_setup", "state_bytes", "total_bytes"]
