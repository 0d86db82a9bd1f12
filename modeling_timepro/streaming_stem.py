"""`StreamingStem`: YAMNet's frozen stem over sound that is still coming in; only new frames are computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F


class StreamingStem:
    """Compute the stem features of a clip piece by piece, equal to [`TimeProYamnetEncoder.stem`] of the whole clip.

    Every convolution keeps the end of its input, so each column is convolved once. What reaches past the last column
    is computed on demand, with the zeros that end a clip, and not kept: 38 frames of 40 ms at the top layer.

    State (see `state_dict`): `tails.N` (1, channels, time, frequency), the end of the input of the N-th convolution;
    `outputs.N` (1, num_frames, channels), what the N-th of `config.stem_layers` has given so far.

    Args:
        encoder: the [`TimeProYamnetEncoder`] whose trunk computes.
    """

    def __init__(self, encoder: Any):
        self.encoder = encoder
        self.blocks = encoder.trunk.blocks[: max(encoder.config.stem_layers) + 1]
        weight, frequency = encoder.trunk.stem.weight, encoder.config.num_mel_bins
        self.tails = [weight.new_zeros(1, 1, 1, frequency)]
        channels, frequency, self.outputs = weight.shape[0], frequency // 2, []
        # Zeros before and after the input of each convolution. A block that strides in time reads only ahead.
        self.padding = [(1, 1), *((0, 1) if block.stride[0] == 2 else (block.dilation,) * 2 for block in self.blocks)]
        for index, (block, (before, _)) in enumerate(zip(self.blocks, self.padding[1:], strict=True)):
            tail = weight.new_zeros(1, channels, before, frequency, dtype=encoder.trunk.dtype_of(index))
            self.tails.append(tail)
            channels, frequency = block.pointwise.weight.shape[0], frequency // block.stride[1]
            if index in encoder.config.stem_layers:
                self.outputs.append(weight.new_zeros(1, 0, channels))
        self.num_columns = 0

    @torch.no_grad()
    def push(self, columns: torch.Tensor) -> None:
        """Take the next mel columns of the clip, `input_features` (1, 64, num_columns)."""
        self.num_columns += columns.shape[-1]
        for index, (states, tail) in enumerate(self._convolve(columns, [0] * len(self.tails))):
            self.tails[index] = tail.clone()
            place = self._place_of(index)
            if place is not None and states is not None:
                self.outputs[place] = torch.cat(
                    [self.outputs[place], states.mean(3, dtype=self.outputs[place].dtype).transpose(1, 2)], 1
                )

    @torch.no_grad()
    def frames(self, columns: torch.Tensor | None = None) -> torch.Tensor:
        """Return the stem features (1, num_frames, stem_size) of a clip that ends here, or with more columns."""
        num_columns = self.num_columns + (0 if columns is None else columns.shape[-1])
        num_frames = self.encoder.output_lengths(num_columns)
        outputs = list(self.outputs)
        for index, (states, _) in enumerate(self._convolve(columns, [after for _, after in self.padding])):
            place = self._place_of(index)
            if place is not None and states is not None:
                outputs[place] = torch.cat(
                    [outputs[place], states.mean(3, dtype=self.outputs[place].dtype).transpose(1, 2)], 1
                )
        features = torch.cat([F.layer_norm(output, output.shape[-1:]) for output in outputs], dim=-1)
        if self.encoder.config.mel_per_frame == 8:
            return features[:, : 2 * num_frames].unflatten(1, (num_frames, 2)).mean(2)
        return features[:, :num_frames]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the state as tensors; the number of columns is one of them."""
        state = {f"tails.{index}": tail for index, tail in enumerate(self.tails)}
        state |= {f"outputs.{index}": output for index, output in enumerate(self.outputs)}
        return state | {"num_columns": torch.tensor(self.num_columns)}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from a state of the same encoder.

        Raises:
            ValueError: names that are missing or unknown, or tensors that do not fit the encoder.
        """
        own = self.state_dict()
        if state.keys() != own.keys():
            wrong = f"missing {sorted(own.keys() - state.keys())}, unknown {sorted(state.keys() - own.keys())}"
            raise ValueError(f"state of the stem has wrong names: {wrong}; give what state_dict returned.")
        for name, tensor in state.items():
            # Time alone is free.
            fixed = [size for axis, size in enumerate(tensor.shape) if axis != (2 if name.startswith("tails") else 1)]
            expected = [s for axis, s in enumerate(own[name].shape) if axis != (2 if name.startswith("tails") else 1)]
            if fixed != expected or tensor.dim() != own[name].dim():
                raise ValueError(
                    f"state of the stem has {name} of shape {tuple(tensor.shape)} for {tuple(own[name].shape)}; it is "
                    "that of another checkpoint."
                )
        self.num_columns = int(state["num_columns"])
        self.tails = [state[f"tails.{index}"].to(tail) for index, tail in enumerate(self.tails)]
        self.outputs = [state[f"outputs.{index}"].to(output) for index, output in enumerate(self.outputs)]

    def _place_of(self, index: int) -> int | None:
        """Return which of the outputs the `index`-th convolution gives, the first being before all blocks."""
        layers = sorted(self.encoder.config.stem_layers)
        return layers.index(index - 1) if index - 1 in layers else None

    def _convolve(self, columns, padding) -> Iterator[tuple[torch.Tensor | None, torch.Tensor]]:
        """Yield the new outputs (1, channels, time, frequency) of each convolution, if any, and the tail it leaves.

        Args:
            columns: (1, 64, num_columns), or `None`.
            padding: how many zeros end the input of each convolution.
        """
        states = None if columns is None else columns.transpose(1, 2)[:, None].to(self.tails[0])
        for index, tail in enumerate(self.tails):
            whole = tail if states is None else torch.cat([tail, states.to(tail.dtype)], 2)
            whole = F.pad(whole, (0, 0, 0, padding[index]))
            if whole.device.type == "cpu":
                whole = whole.contiguous(memory_format=torch.channels_last)
            block = self.blocks[index - 1] if index else None
            stride, dilation = (2, 1) if block is None else (block.stride[0], block.dilation)
            count = max(0, (whole.shape[2] - 2 * dilation - 1) // stride + 1)
            states = None
            if count and block is None:
                states = self.encoder.trunk.stem(F.pad(whole, (0, 1)), stride=2)
            elif count:
                # Frequency is padded as in the block itself.
                padded = F.pad(whole, (0, 1) if block.stride[1] == 2 else (1, 1))
                states = block.pointwise(block.depthwise(padded, stride=block.stride, dilation=(dilation, 1)))
            yield states, whole[:, :, count * stride :]


__all__ = ["StreamingStem"]
