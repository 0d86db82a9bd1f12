"""The small audio encoder: YAMNet run at 25 Hz, and bidirectional context layers that are trained on top of it.

YAMNet (AudioSet; MobileNet v1 of 13 separable convolutions) is trained on patches of 0.96 s and halves time five times.
Here it runs *a trous*: the two halvings that lead to 40 ms are kept, and every later stride becomes a dilation of the
layers after it, so the same weights compute the same function once per 40 ms. Its batch norms are folded into the
convolutions, and its weights are buffers, so it stays frozen.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen2.modeling_qwen2 import eager_attention_forward
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .streaming_stem import StreamingStem
from .yamnet_encoder_config import NUM_TRUNK_LAYERS, TimeProYamnetConfig

STEM_CHANNELS = 32
# (output channels, stride) of the 13 separable blocks of MobileNet v1.
TRUNK_BLOCKS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1),
    (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip
assert len(TRUNK_BLOCKS) == NUM_TRUNK_LAYERS
# The first halving is the stem convolution, the second this block; together they lead from 10 ms to 40 ms.
LAST_STRIDED_BLOCK = 1
CPU_DTYPES = ("auto", "float32", "bfloat16")


def length_mask(lengths: torch.Tensor, max_length: int) -> torch.Tensor:
    """Return a bool mask (batch, max_length), true at positions below each of `lengths` (batch,)."""
    return torch.arange(max_length, device=lengths.device)[None] < lengths[:, None]


def rotary_angles(num_frames: int, head_size: int, theta: float, device: torch.device) -> torch.Tensor:
    """Return rotary angles (num_frames, head_size / 2) in radians (Su et al. 2021, RoFormer)."""
    inverse_frequency = theta ** (-torch.arange(0, head_size, 2, device=device, dtype=torch.float32) / head_size)
    return torch.arange(num_frames, device=device, dtype=torch.float32)[:, None] * inverse_frequency


def rotate(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate the halves of each head of `states` (batch, heads, num_frames, head_size) by their position."""
    first, second = states.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class FrozenConv2d(nn.Module):
    """Hold a convolution's weight and bias as buffers: no optimiser sees them, however the model was loaded."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, groups: int = 1):
        super().__init__()
        self.groups = groups
        shape = out_channels, in_channels // groups, kernel_size, kernel_size
        self.register_buffer("weight", self.initial_weight(shape))
        self.register_buffer("bias", torch.zeros(out_channels))

    @staticmethod
    def initial_weight(shape: Sequence[int]) -> torch.Tensor:
        """Return what stands in for the pretrained weight until it is loaded: always the same, as buffers should be.

        Its spread, He et al.'s sqrt(2 / fan in), keeps the signal alive through 27 rectified layers.
        """
        weight = (2 / math.prod(shape[1:]) ** 0.5) * torch.arange(math.prod(shape)).float().square().sin().view(shape)
        return weight.to(torch.get_default_dtype())

    def forward(self, states: torch.Tensor, **geometry: Any) -> torch.Tensor:
        """Convolve (batch, in_channels, time, frequency) and rectify; `geometry` is stride, padding and dilation."""
        weight, bias = self.weight.to(states.dtype), self.bias.to(states.dtype)
        return F.relu_(F.conv2d(states, weight, bias, groups=self.groups, **geometry))


class SeparableBlock(nn.Module):
    """Convolve depthwise over 3 x 3 and mix channels, with folded batch norms.

    A block with a frequency stride of 2 pads frequency as TensorFlow's "SAME" does (one bin above). In time the block
    either strides (`time_stride` 2: output k reads inputs 2k, 2k + 1, 2k + 2) or dilates, centred.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, time_stride: int, dilation: int):
        super().__init__()
        self.stride = (time_stride, stride)
        self.dilation = dilation
        self.depthwise = FrozenConv2d(in_channels, in_channels, 3, groups=in_channels)
        self.pointwise = FrozenConv2d(in_channels, out_channels, 1)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Map (batch, in_channels, time, frequency) to (batch, out_channels, time, frequency)."""
        before, after = (self.dilation, self.dilation) if self.stride[0] == 1 else (0, 1)
        if self.stride[1] == 2:
            states, padding = F.pad(states, (0, 1, before, after)), 0
        else:
            padding = (self.dilation, 1)
        states = self.depthwise(states, stride=self.stride, padding=padding, dilation=(self.dilation, 1))
        return self.pointwise(states)


class YamnetTrunk(nn.Module):
    """YAMNet's convolutions, one output per 40 ms.

    Output j reads a field that is centred at mel column 4 j + 2, the middle of the interval from j * 40 ms on.

    On CPUs it is computed in channels-last order, which takes less time, and without gradients in the numbers of
    `dtype_of`, see [`TimeProYamnetEncoder.set_cpu_dtype`].
    """

    cpu_dtype = None

    def __init__(self):
        super().__init__()
        self.stem = FrozenConv2d(1, STEM_CHANNELS, 3)
        blocks, channels, dilation = [], STEM_CHANNELS, 1
        for index, (out_channels, stride) in enumerate(TRUNK_BLOCKS):
            strided = stride == 2 and index <= LAST_STRIDED_BLOCK
            blocks.append(SeparableBlock(channels, out_channels, stride, 2 if strided else 1, dilation))
            if stride == 2 and not strided:
                dilation *= 2
            channels = out_channels
        self.blocks = nn.ModuleList(blocks)

    def dtype_of(self, index: int) -> torch.dtype:
        """Return in which numbers a separable block is computed, without gradients.

        The stem and the first two stay in those of the weights. They take little of the time, and rounded mel features
        alone would make for a third of the error at the last block.
        """
        weight = self.stem.weight
        is_shorter = self.cpu_dtype is not None and weight.device.type == "cpu" and index > LAST_STRIDED_BLOCK
        return self.cpu_dtype if is_shorter else weight.dtype

    def forward(self, input_features: torch.Tensor, mel_mask: torch.Tensor | None, layers: list[int]):
        """Return the outputs of `layers`, averaged over frequency.

        Every convolution pads with zeros. Padding of a batch is therefore set to zero before each of them, which makes
        a padded clip see exactly what it would see alone.

        Args:
            input_features: (batch, 64, num_mel_frames) log-mel.
            mel_mask: bool (batch, num_mel_frames), or None if nothing is padded.
            layers: ascending indices of separable blocks, 0 to 12.

        Returns:
            list of (batch, num_frames, channels), one per layer, at 25 Hz (for layers after block 0).
        """
        states, dtype = input_features.transpose(1, 2)[:, None], input_features.dtype
        if states.device.type == "cpu":
            states = states.contiguous(memory_format=torch.channels_last)
        half_mask = frame_mask = None
        if mel_mask is not None:
            states = states * mel_mask[:, None, :, None]
            half_lengths = (mel_mask.sum(1) - 1) // 2 + 1
            half_mask = length_mask(half_lengths, (mel_mask.shape[1] - 1) // 2 + 1)[:, None, :, None]
            frame_mask = length_mask(half_lengths // 2, half_mask.shape[2] // 2)[:, None, :, None]
        states = self.stem(F.pad(states, (0, 1, 1, 1)), stride=2)
        outputs = []
        for index, block in enumerate(self.blocks[: max(layers) + 1]):
            if mel_mask is not None:
                states = states * (half_mask if index <= LAST_STRIDED_BLOCK else frame_mask)
            states = block(states if torch.is_grad_enabled() else states.to(self.dtype_of(index)))
            if index in layers:
                outputs.append(states.mean(3, dtype=dtype).transpose(1, 2))
        return outputs


class ContextAttention(nn.Module):
    """Attend in both directions, with rotary positions (relative, so that the length of a clip is free)."""

    is_causal = False
    num_key_value_groups = 1

    def __init__(self, config: TimeProYamnetConfig):
        super().__init__()
        self.config = config
        self.num_heads = config.num_attention_heads
        self.scaling = (config.hidden_size // config.num_attention_heads) ** -0.5
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, mask: torch.Tensor | None):
        """Map (batch, num_frames, hidden_size) to the same shape, and return the attention weights too, if known.

        `mask` is what [`create_bidirectional_mask`] makes for the attention implementation.
        """
        batch, num_frames, _ = states.shape
        # Products may be in bfloat16 where sums are not, see `set_cpu_dtype`.
        qkv = self.qkv(states).to(states.dtype).view(batch, num_frames, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = rotate(qkv[0], cos, sin), rotate(qkv[1], cos, sin), qkv[2]
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        attended, weights = attend(self, query, key, value, mask, scaling=self.scaling)
        return self.out(attended.flatten(2)), weights


class ContextLayer(GradientCheckpointingLayer):
    """Attention over the clip, a short depthwise convolution that sharpens edges, and a feed-forward part; pre-norm."""

    def __init__(self, config: TimeProYamnetConfig):
        super().__init__()
        hidden_size, kernel_size = config.hidden_size, config.conv_kernel_size
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.attention = ContextAttention(config)
        self.conv_norm = nn.LayerNorm(hidden_size)
        self.conv = nn.Conv1d(hidden_size, hidden_size, kernel_size, padding=kernel_size // 2, groups=hidden_size)
        self.conv_out = nn.Linear(hidden_size, hidden_size)
        self.mlp_norm = nn.LayerNorm(hidden_size)
        self.mlp_in = nn.Linear(hidden_size, config.intermediate_size)
        self.mlp_out = nn.Linear(config.intermediate_size, hidden_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        states: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ):
        """Map (batch, num_frames, hidden_size) to the same shape.

        `mask` is bool (batch, num_frames) or None, `attention_mask` what attention takes in its place.
        """
        states = states + self.dropout(self.attention(self.attention_norm(states), cos, sin, attention_mask)[0])
        local = self.conv_norm(states)
        if mask is not None:
            local = local * mask[:, :, None]
        # Matrix products of some servers want their input contiguous.
        local = F.silu(self.conv(local.transpose(1, 2)).transpose(1, 2).contiguous())
        states = states + self.dropout(self.conv_out(local))
        return states + self.dropout(self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(states)))))


class TimeProYamnetEncoder(PreTrainedModel):
    """Encode log-mel features into one embedding per audio frame (40 or 80 ms)."""

    config_class = TimeProYamnetConfig
    base_model_prefix = "encoder"
    main_input_name = "input_features"
    input_modalities = ("audio",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _no_split_modules = ["ContextLayer", "SeparableBlock"]  # noqa: RUF012
    _can_record_outputs = {"hidden_states": ContextLayer, "attentions": ContextAttention}  # noqa: RUF012

    def __init__(self, config: TimeProYamnetConfig):
        super().__init__(config)
        self.trunk = YamnetTrunk()
        self.stem_channels = [TRUNK_BLOCKS[layer][0] for layer in config.stem_layers]
        self.stem_projection = nn.Linear(sum(self.stem_channels), config.hidden_size)
        self.layers = nn.ModuleList([ContextLayer(config) for _ in range(config.num_hidden_layers)])
        self.norm = nn.LayerNorm(config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, FrozenConv2d):
            init.copy_(module.weight, module.initial_weight(module.weight.shape))
            init.zeros_(module.bias)

    def set_cpu_dtype(self, name: str = "auto") -> None:
        """Choose the numbers in which audio is put through the model on CPUs, where no gradients are needed.

        All frozen convolutions but the first are computed in them; in the pipeline the context layers too, and the
        language model as far as audio goes through it, multiply in them and add in float32. Answers are generated in
        float32.

        Args:
            name: `float32`; `bfloat16`, for processors that multiply in it (avx512_bf16, amx_bf16), slow on others; or
                `auto`, which looks at what the processor can do.

        Raises:
            ValueError: any other name.
        """
        if name not in CPU_DTYPES:
            raise ValueError(f"cpu_dtype is {name!r}; choose one of {CPU_DTYPES}.")
        found = getattr(torch.cpu, "get_capabilities", dict)()
        is_half = name == "bfloat16" or (name == "auto" and (found.get("avx512_bf16") or found.get("amx_bf16")))
        self.trunk.cpu_dtype = torch.bfloat16 if is_half else None

    @property
    def cpu_dtype(self) -> torch.dtype | None:
        """Return the numbers in which matrix products on a CPU are to be taken, `None` for those of the weights."""
        is_float32 = self.device.type == "cpu" and self.dtype == torch.float32
        return self.trunk.cpu_dtype if is_float32 else None

    def output_lengths(self, mel_lengths: torch.Tensor | int) -> torch.Tensor | int:
        """Return how many audio frames clips of `mel_lengths` mel columns give."""
        return ((mel_lengths - 1) // 2 + 1) // (self.config.mel_per_frame // 2)

    def stem(self, input_features: torch.Tensor, input_features_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Compute the frozen part: YAMNet's layers, layer-normed, concatenated, averaged to the frame rate.

        Args:
            input_features: (batch, 64, num_mel_frames) log-mel, 10 ms per column.
            input_features_mask: (batch, num_mel_frames), 1 for audio and then 0 for padding.

        Returns:
            (batch, num_frames, stem_size); frames of padding are zero.

        Raises:
            ValueError: for features of another shape, or too short for one frame.
        """
        num_mel_frames = input_features.shape[-1]
        if input_features.dim() != 3 or input_features.shape[1] != self.config.num_mel_bins:
            raise ValueError(
                f"input_features has shape {tuple(input_features.shape)}: expected "
                f"(batch, {self.config.num_mel_bins}, num_mel_frames)."
            )
        num_frames = self.output_lengths(num_mel_frames)
        if num_frames < 1:
            raise ValueError(
                f"input_features has {num_mel_frames} mel columns: one audio frame needs "
                f"{self.config.mel_per_frame - 1}."
            )
        mask = None if input_features_mask is None else input_features_mask.bool()
        if mask is not None and not torch.compiler.is_compiling() and bool(mask.all()):
            mask = None
        # It chooses its numbers itself.
        with torch.autocast("cpu", enabled=False) if self.cpu_dtype else contextlib.nullcontext():
            outputs = self.trunk(input_features.to(self.trunk.stem.weight.dtype), mask, self.config.stem_layers)
        stem_features = torch.cat([F.layer_norm(output, output.shape[-1:]) for output in outputs], dim=-1)
        if self.config.mel_per_frame == 8:
            stem_features = stem_features[:, : 2 * num_frames].unflatten(1, (num_frames, 2)).mean(2)
        if mask is not None:
            stem_features = stem_features * length_mask(self.output_lengths(mask.sum(1)), num_frames)[:, :, None]
        return stem_features

    def streaming_stem(self) -> StreamingStem:
        """Return what computes `stem` of a clip while its sound comes in."""
        return StreamingStem(self)

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_features: torch.Tensor | None = None,
        input_features_mask: torch.Tensor | None = None,
        stem_features: torch.Tensor | None = None,
        stem_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput | tuple[torch.Tensor]:
        """Encode a batch, from mel features or from stored stem features.

        Args:
            input_features: (batch, 64, num_mel_frames) log-mel.
            input_features_mask: (batch, num_mel_frames), 1 for audio.
            stem_features: (batch, num_frames, stem_size) as `stem` returns them, in place of `input_features`.
            stem_mask: (batch, num_frames), 1 for audio; goes with `stem_features`.
            kwargs: `output_hidden_states`, `output_attentions` (known with `eager` attention alone), `return_dict`.

        Returns:
            `last_hidden_state` (batch, num_frames, hidden_size), zero in frames of padding.

        Raises:
            ValueError: unless exactly one of `input_features` and `stem_features` is given.
        """
        if (input_features is None) == (stem_features is None):
            given = "neither" if input_features is None else "both"
            raise ValueError(f"Pass either input_features or stem_features; {given} given.")
        if stem_features is None:
            stem_features = self.stem(input_features, input_features_mask)
            if input_features_mask is not None:
                lengths = self.output_lengths(input_features_mask.sum(1))
                stem_mask = length_mask(lengths, stem_features.shape[1])
        mask = None if stem_mask is None else stem_mask.bool()
        if mask is not None and not torch.compiler.is_compiling() and bool(mask.all()):
            mask = None

        # Weights in 4 or 8 bits have no floating-point type; the frozen convolutions keep theirs.
        dtype = self.trunk.stem.weight.dtype
        states = self.dropout(self.stem_projection(stem_features.to(dtype)).to(dtype))
        attention_mask = None
        if mask is not None:
            attention_mask = create_bidirectional_mask(config=self.config, inputs_embeds=states, attention_mask=mask)
        head_size = self.config.hidden_size // self.config.num_attention_heads
        angles = rotary_angles(states.shape[1], head_size, self.config.rope_theta, states.device)
        cos, sin = angles.cos().to(states.dtype), angles.sin().to(states.dtype)
        for layer in self.layers:
            states = layer(states, cos, sin, mask, attention_mask)
        states = self.norm(states)
        if mask is not None:
            states = states * mask[:, :, None]
        return BaseModelOutput(last_hidden_state=states)
