"""The audio towers and language models that TimePro can be built of, towers with one way to call them.

A tower takes `input_features` `(num_clips, num_mel_bins, num_mel_frames)` and `input_features_mask` `(num_clips,
num_mel_frames)`, and returns frames `(num_clips, num_frames, size)` whose first `output_lengths` of each clip are real.
"""

import torch
from torch import nn
from transformers import AutoModel
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.audioflamingo3.modeling_audioflamingo3 import AudioFlamingo3Encoder
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniAudioEncoder, Qwen2_5OmniThinkerTextModel
from transformers.models.qwen2_audio.modeling_qwen2_audio import Qwen2AudioEncoder

from .yamnet_encoder import TimeProYamnetEncoder


def similar_lengths(lengths):
    """Return the indices of lengths in groups, the longest first, each length at least 3/4 of its group's longest."""
    groups = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if groups and 4 * lengths[index] >= 3 * lengths[groups[-1][0]]:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


class MaskedWhisperEncoder:
    """Whisper's encoder with average pooling, without the padding to 30 s that the stock classes compute and mask.

    Frames past the end of a clip are masked in every layer, so what is real hangs on them through the convolutions
    alone: the last real position reads mel frames up to the second past the end. Positions count from the start. Hence
    two mel frames more than the longest clip give what 3,000 give, but for the rounding of sums of other lengths.
    Clips of other lengths are computed apart, so that a short one does not pay for a long one beside it; not so where
    several processes train together.
    """

    def output_lengths(self, mel_lengths):
        """Return the number of frames of clips with `mel_lengths` (any shape, long) 10 ms mel frames."""
        return self._get_feat_extract_output_lengths(mel_lengths)[1]

    def forward(self, input_features, input_features_mask):
        max_length = 2 * self.config.max_source_positions
        lengths = input_features_mask.sum(-1).long().tolist()
        if max(lengths) > max_length:
            raise ValueError(
                f"input_features has a clip of {max(lengths)} mel frames but the audio tower takes at most "
                f"{max_length}; split the audio into shorter windows."
            )
        # Processes that hold weights together must all call the layers equally often.
        has_others = torch.distributed.is_available() and torch.distributed.is_initialized()
        has_others = has_others and torch.distributed.get_world_size() > 1
        groups = [list(range(len(lengths)))] if has_others else similar_lengths(lengths)
        outputs = [self._encode(input_features[rows], [lengths[row] for row in rows]) for rows in groups]
        frames = outputs[0].new_zeros(len(lengths), outputs[0].shape[1], outputs[0].shape[2])
        for rows, output in zip(groups, outputs):
            frames[rows, : output.shape[1]] = output
        return BaseModelOutput(last_hidden_state=frames)

    def _encode(self, input_features, lengths):
        longest = max(lengths)
        num_mel = min(longest + 2 + longest % 2, 2 * self.config.max_source_positions)
        states = nn.functional.pad(input_features, (0, num_mel - input_features.shape[-1]))
        states = nn.functional.gelu(self.conv1(states))
        states = nn.functional.gelu(self.conv2(states)).transpose(1, 2)
        num_real = [(length - 1) // 2 + 1 for length in lengths]
        # Pooling needs two positions, even where they are no whole frame.
        positions = torch.arange(max(2, *num_real), device=states.device)
        states = states[:, : len(positions)] + self.embed_positions(positions)
        states = nn.functional.dropout(states, p=self.dropout, training=self.training)
        is_real = positions < torch.tensor(num_real, device=states.device)[:, None]
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=states, attention_mask=is_real.long())
        for layer in self.layers:
            if not (self.training and self.layerdrop and torch.rand([]) < self.layerdrop):
                states = layer(states, mask)
        return self.layer_norm(self.avg_pooler(states.transpose(1, 2)).transpose(1, 2))


class TimeProQwen2AudioEncoder(MaskedWhisperEncoder, Qwen2AudioEncoder):
    """Qwen2-Audio's encoder; see [`MaskedWhisperEncoder`]."""


class TimeProAudioFlamingo3Encoder(MaskedWhisperEncoder, AudioFlamingo3Encoder):
    """Audio Flamingo 3's encoder; see [`MaskedWhisperEncoder`]."""


class TimeProOmniEncoder(Qwen2_5OmniAudioEncoder):
    """Qwen2.5-Omni's encoder, which hears in chunks of 2 s and ends in the projection to the language model."""

    def output_lengths(self, mel_lengths):
        """Return the number of frames of clips with `mel_lengths` (any shape, long) 10 ms mel frames."""
        return self._get_feat_extract_output_lengths(mel_lengths)[1]

    def forward(self, input_features, input_features_mask):
        # The stock class takes the real mel frames of all clips in a row, and returns their frames in a row.
        lengths = input_features_mask.sum(-1).long()
        packed = input_features.transpose(1, 2)[input_features_mask.bool()].T
        frames = super().forward(packed, feature_lens=lengths).last_hidden_state
        split = frames.split(self.output_lengths(lengths).tolist())
        return BaseModelOutput(last_hidden_state=nn.utils.rnn.pad_sequence(split, batch_first=True))


class TimeProOmniTextModel(Qwen2_5OmniThinkerTextModel):
    """Qwen2.5-Omni's language model; audio alone takes plain positions, the same on all axes of its rotary embedding.

    As in the stock class, padding takes no positions: shifting all of them changes nothing but the rounding.
    """

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, inputs_embeds=None, **kwargs):
        if position_ids is None and attention_mask is not None and attention_mask.dim() == 2:
            length = (input_ids if inputs_embeds is None else inputs_embeds).shape[1]
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )


TOWERS = {
    "audioflamingo3_encoder": TimeProAudioFlamingo3Encoder,
    "qwen2_5_omni_audio_encoder": TimeProOmniEncoder,
    "qwen2_audio_encoder": TimeProQwen2AudioEncoder,
    "timepro_yamnet": TimeProYamnetEncoder,
}


def build_audio_tower(config):
    """Return the tower of an audio configuration, with random weights."""
    if config.model_type not in TOWERS:
        raise ValueError(f"audio_config has model_type {config.model_type!r}; supported are {sorted(TOWERS)}.")
    return TOWERS[config.model_type]._from_config(config)


def build_language_model(config):
    """Return the language model of a text configuration, without a head and with random weights."""
    if config.model_type == "qwen2_5_omni_text":
        return TimeProOmniTextModel._from_config(config)
    return AutoModel.from_config(config)
