"""Configuration of the small audio encoder: a frozen YAMNet trunk with trained context layers on top."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PretrainedConfig

NUM_TRUNK_LAYERS = 13


class TimeProYamnetConfig(PretrainedConfig):
    """Hold the sizes of a `TimeProYamnetEncoder`.

    Args:
        num_mel_bins: mel bins of the input; YAMNet's trunk is made for 64.
        mel_per_frame: mel columns of 10 ms per audio frame: 4 (25 frames a second) or 8 (12.5).
        stem_layers: which of the trunk's 13 separable blocks (0 to 12) are read out and concatenated.
        hidden_size: width of the context layers and of the output.
        num_hidden_layers: number of context layers.
        num_attention_heads: attention heads per context layer.
        intermediate_size: width of the feed-forward part.
        conv_kernel_size: taps of the depthwise convolution over time in each context layer, odd.
        dropout: dropout on every residual branch of the context layers, while training.
        rope_theta: base of the rotary position embedding.
        initializer_range: standard deviation of the initial weights of the context layers.
        max_source_positions: audio frames of the longest clip; the encoder takes any number, servers plan with this.

    Raises:
        ValueError: for sizes that do not fit together.
    """

    model_type = "timepro_yamnet"

    def __init__(
        self,
        num_mel_bins: int = 64,
        mel_per_frame: int = 8,
        stem_layers: Sequence[int] = (3, 5, 10, 12),
        hidden_size: int = 256,
        num_hidden_layers: int = 3,
        num_attention_heads: int = 4,
        intermediate_size: int = 768,
        conv_kernel_size: int = 7,
        dropout: float = 0.1,
        rope_theta: float = 10000.0,
        initializer_range: float = 0.02,
        max_source_positions: int = 750,
        **kwargs: Any,
    ):
        if num_mel_bins != 64:
            raise ValueError(f"num_mel_bins={num_mel_bins}: the YAMNet trunk reads 64 mel bins.")
        if mel_per_frame not in (4, 8):
            raise ValueError(f"mel_per_frame={mel_per_frame}: must be 4 (25 Hz) or 8 (12.5 Hz).")
        stem_layers = list(stem_layers)
        if not stem_layers or any(not 0 <= i < NUM_TRUNK_LAYERS for i in stem_layers):
            raise ValueError(f"stem_layers={stem_layers}: expected one or more of 0 to {NUM_TRUNK_LAYERS - 1}.")
        if sorted(set(stem_layers)) != stem_layers:
            raise ValueError(f"stem_layers={stem_layers}: must ascend without repeats.")
        if hidden_size % num_attention_heads or (hidden_size // num_attention_heads) % 2:
            raise ValueError(
                f"hidden_size={hidden_size} over num_attention_heads={num_attention_heads}: must give an even size."
            )
        if conv_kernel_size % 2 == 0:
            raise ValueError(f"conv_kernel_size={conv_kernel_size}: must be odd, to be centred on a frame.")
        self.num_mel_bins = num_mel_bins
        self.mel_per_frame = mel_per_frame
        self.stem_layers = stem_layers
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.conv_kernel_size = conv_kernel_size
        self.dropout = dropout
        self.rope_theta = rope_theta
        self.initializer_range = initializer_range
        self.max_source_positions = max_source_positions
        super().__init__(**kwargs)
