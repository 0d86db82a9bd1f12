"""The audio encoders and language models that TimePro can be built of, encoders with one way to call them.

An encoder takes `input_features` `(num_clips, num_mel_bins, num_mel_frames)` and `input_features_mask` `(num_clips,
num_mel_frames)`, and returns frames `(num_clips, num_frames, size)` whose first `output_lengths` of each clip are real.
"""

import torch
from torch import nn
from transformers import AutoModel
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.audioflamingo3.modeling_audioflamingo3 import AudioFlamingo3Encoder
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import (
    Qwen2_5OmniAudioAttention,
    Qwen2_5OmniAudioEncoder,
    Qwen2_5OmniAudioEncoderLayer,
    Qwen2_5OmniThinkerTextModel,
    eager_attention_forward,
)
from transformers.models.qwen2_audio.modeling_qwen2_audio import Qwen2AudioEncoder
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

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

    Frames past the end of a clip are masked in every layer, so what is real depends on them through the convolutions
    alone: the last real position reads mel frames up to the second past the end. Positions count from the start. Hence
    two mel frames more than the longest clip give what 3,000 give, but for the rounding of sums of other lengths.
    Clips of other lengths are computed apart, so that a short one does not pay for a long one beside it; not so where
    several processes train together, where layers are recorded, and in a graph, which must not depend on lengths.
    """

    def output_lengths(self, mel_lengths):
        """Return the number of frames of clips with `mel_lengths` (any shape, long) 10 ms mel frames."""
        return self._get_feat_extract_output_lengths(mel_lengths)[1]

    @merge_with_config_defaults
    @capture_outputs
    def forward(self, input_features, input_features_mask, **kwargs):
        max_length = 2 * self.config.max_source_positions
        lengths = input_features_mask.sum(-1).long()
        if torch.compiler.is_compiling():
            return BaseModelOutput(last_hidden_state=self._encode(input_features, lengths, input_features.shape[-1]))
        counts = lengths.tolist()
        if max(counts) > max_length:
            raise ValueError(
                f"input_features has a clip of {max(counts)} mel frames but the audio encoder takes at most "
                f"{max_length}; split the audio into shorter windows."
            )
        is_recorded = any(
            kwargs.get(name, getattr(self.config, name, None)) for name in ("output_hidden_states", "output_attentions")
        )
        # Processes that hold weights together must all call the layers equally often.
        has_others = torch.distributed.is_available() and torch.distributed.is_initialized()
        has_others = has_others and torch.distributed.get_world_size() > 1
        groups = [list(range(len(counts)))] if has_others or is_recorded else similar_lengths(counts)
        outputs = [
            self._encode(input_features[rows], lengths[rows], max(counts[row] for row in rows)) for rows in groups
        ]
        frames = outputs[0].new_zeros(len(counts), outputs[0].shape[1], outputs[0].shape[2])
        for rows, output in zip(groups, outputs):
            frames[rows, : output.shape[1]] = output
        return BaseModelOutput(last_hidden_state=frames)

    def _encode(self, input_features, lengths, longest):
        num_mel = min(longest + 2 + longest % 2, 2 * self.config.max_source_positions)
        states = nn.functional.pad(input_features, (0, num_mel - input_features.shape[-1]))
        states = nn.functional.gelu(self.conv1(states))
        states = nn.functional.gelu(self.conv2(states)).transpose(1, 2)
        # Pooling needs two positions, even where they are no whole frame.
        positions = torch.arange(max(2, (longest - 1) // 2 + 1), device=states.device)
        states = states[:, : positions.shape[0]] + self.embed_positions(positions)
        states = nn.functional.dropout(states, p=self.dropout, training=self.training)
        is_real = positions < ((lengths - 1) // 2 + 1)[:, None]
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=states, attention_mask=is_real.long())
        for layer in self.layers:
            if not (self.training and self.layerdrop and torch.rand([]) < self.layerdrop):
                states = layer(states, mask)
        return self.layer_norm(self.avg_pooler(states.transpose(1, 2)).transpose(1, 2))


class TimeProQwen2AudioEncoder(MaskedWhisperEncoder, Qwen2AudioEncoder):
    """Qwen2-Audio's encoder; see [`MaskedWhisperEncoder`]."""


class TimeProAudioFlamingo3Encoder(MaskedWhisperEncoder, AudioFlamingo3Encoder):
    """Audio Flamingo 3's encoder; see [`MaskedWhisperEncoder`]."""


class ChunkAttention(Qwen2_5OmniAudioAttention):
    """Attend within the chunks `(num_chunks, length, size)`, which the stock class takes in a row and one by one."""

    def forward(self, states, attention_mask, **kwargs):
        shape = (*states.shape[:2], self.num_heads, -1)
        query, key, value = (
            project(states).view(shape).transpose(1, 2) for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        states, weights = attend(self, query, key, value, attention_mask, scaling=self.scaling, **kwargs)
        return self.out_proj(states.flatten(2)), weights


class ChunkLayer(Qwen2_5OmniAudioEncoderLayer):
    """A layer of Qwen2.5-Omni's encoder on a batch of chunks."""

    def __init__(self, config):
        super().__init__(config)
        self.self_attn = ChunkAttention(config)

    def forward(self, states, attention_mask, **kwargs):
        states = states + self.self_attn(self.self_attn_layer_norm(states), attention_mask, **kwargs)[0]
        states = states + self.fc2(self.activation_fn(self.fc1(self.final_layer_norm(states))))
        if states.dtype == torch.float16:
            limit = torch.finfo(states.dtype).max - 1000
            states = states.clamp(-limit, limit)
        return states


class TimeProOmniEncoder(Qwen2_5OmniAudioEncoder):
    """Qwen2.5-Omni's encoder, which listens in chunks of 2 s and ends in the projection to the language model.

    Chunks do not see each other, so that all chunks of all clips are rows of one batch.
    """

    _no_split_modules = ["ChunkLayer"]  # noqa: RUF012
    _can_record_outputs = {"hidden_states": ChunkLayer, "attentions": ChunkAttention}  # noqa: RUF012

    def __init__(self, config):
        super().__init__(config)
        self.layers = nn.ModuleList([ChunkLayer(config) for _ in range(config.encoder_layers)])
        # Read for speech alone; without gradients it would hold up data-parallel training.
        self.audio_bos_eos_token.requires_grad_(False)
        self.post_init()

    def output_lengths(self, mel_lengths):
        """Return the number of frames of clips with `mel_lengths` (any shape, long) 10 ms mel frames."""
        return self._get_feat_extract_output_lengths(mel_lengths)[1]

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, input_features, input_features_mask, **kwargs):
        batch, num_mel = input_features_mask.shape
        size = 2 * self.n_window
        # ONNX would round the negative quotient of the usual ceiling towards zero.
        num_chunks = (num_mel + size - 1) // size
        padding = (0, num_chunks * size - num_mel)
        is_real = nn.functional.pad(input_features_mask.bool(), padding).view(batch * num_chunks, size)
        states = nn.functional.pad(input_features, padding).unflatten(-1, (num_chunks, size)).transpose(1, 2)
        states = states.flatten(0, 1) * is_real[:, None]
        states = nn.functional.gelu(self.conv1(states)) * is_real[:, None]
        states = nn.functional.gelu(self.conv2(states)).transpose(1, 2)
        states = states + self.positional_embedding(states.shape[1]).to(states.dtype)
        # Position k reads mel frames from the one before 2k on.
        mask = is_real[:, ::2].long()
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=states, attention_mask=mask)
        for layer in self.layers:
            states = layer(states, mask)
        # Pairs of positions are pooled across the borders of chunks.
        states = states.reshape(batch, -1, states.shape[-1]).transpose(1, 2)
        states = self.avg_pooler(states).transpose(1, 2)[:, : self.output_lengths(num_mel)]
        return BaseModelOutput(last_hidden_state=self.proj(self.ln_post(states)))


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


class TimeProMultiModalProjector(nn.Module):
    """Map audio frames `(..., audio hidden size)` to the language model's `(..., hidden size)`, in one linear layer."""

    def __init__(self, config):
        super().__init__()
        self.linear = nn.Linear(config.audio_config.hidden_size, config.text_config.hidden_size, bias=True)

    def forward(self, audio_frames):
        return self.linear(audio_frames)


class TimeProTwoLayerProjector(nn.Module):
    """Map encoder frames to the language model's size in two linear layers with an activation between them."""

    def __init__(self, config):
        super().__init__()
        size, bias = config.text_config.hidden_size, config.projector_bias
        self.linear_1 = nn.Linear(config.audio_config.hidden_size, size, bias=bias)
        self.act = ACT2FN[config.projector_hidden_act]
        self.linear_2 = nn.Linear(size, size, bias=bias)

    def forward(self, audio_frames):
        return self.linear_2(self.act(self.linear_1(audio_frames)))


TOWERS = {
    "audioflamingo3_encoder": TimeProAudioFlamingo3Encoder,
    "qwen2_5_omni_audio_encoder": TimeProOmniEncoder,
    "qwen2_audio_encoder": TimeProQwen2AudioEncoder,
    "timepro_yamnet": TimeProYamnetEncoder,
}


def build_audio_tower(config):
    """Return the encoder of an audio configuration, with random weights."""
    if config.model_type not in TOWERS:
        raise ValueError(f"audio_config has model_type {config.model_type!r}; supported are {sorted(TOWERS)}.")
    return TOWERS[config.model_type]._from_config(config)


def build_projector(config):
    """Return what leads from encoder to language model, with random weights."""
    projectors = {"linear": TimeProMultiModalProjector, "mlp": TimeProTwoLayerProjector}
    return nn.Identity() if config.projector == "none" else projectors[config.projector](config)


def build_language_model(config):
    """Return the language model of a text configuration, without a head and with random weights."""
    if config.model_type == "qwen2_5_omni_text":
        return TimeProOmniTextModel._from_config(config)
    return AutoModel.from_config(config)
