"""TimePro: an audio tower, a projector and a causal language model whose audio prompt carries timestamp tokens.

The model never sees seconds: ticks are ordinary token ids that the processor has put between the audio placeholders.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling
from transformers.utils import can_return_tuple

from .backbone_parts import build_audio_tower, build_language_model
from .configuration_timepro import TimeProAudioConfig
from .frame_grounder import TimeProFrameGrounder, frame_grounder_settings

# transformers 5.24 renamed the key-value cache, in arguments and outputs.
CACHE_NAME = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"


@dataclass
class TimeProAudioModelOutput(BaseModelOutputWithPast):
    """Output of [`TimeProAudioModel`].

    `audio_hidden_states` are the packed frames `(num_frames, hidden_size)` that the language model is given,
    `encoder_frames` those that a frame grounder is given.
    """

    audio_hidden_states: torch.FloatTensor | None = None
    encoder_frames: torch.FloatTensor | None = None


@dataclass
class TimeProAudioFeatures(BaseModelOutputWithPooling):
    """Output of `get_audio_features`: `encoder_frames` `(total frames, size)` beside the projected `pooler_output`."""

    encoder_frames: torch.FloatTensor | None = None


@dataclass
class TimeProAudioCausalLMOutput(TimeProAudioModelOutput):
    """Output of [`TimeProAudioForCausalLM`].

    `logits` are `(batch, kept positions, vocab_size)`, `frame_logits` `(num_questions, num_frames)`.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    frame_logits: torch.FloatTensor | None = None


class TimeProMultiModalProjector(nn.Module):
    """Map tower frames `(..., audio hidden size)` to the language model's `(..., hidden size)`, in one linear layer."""

    def __init__(self, config):
        super().__init__()
        self.linear = nn.Linear(config.audio_config.hidden_size, config.text_config.hidden_size, bias=True)

    def forward(self, audio_frames):
        return self.linear(audio_frames)


class TimeProTwoLayerProjector(nn.Module):
    """Map tower frames to the language model's size in two linear layers with an activation between them."""

    def __init__(self, config):
        super().__init__()
        size, bias = config.text_config.hidden_size, config.projector_bias
        self.linear_1 = nn.Linear(config.audio_config.hidden_size, size, bias=bias)
        self.act = ACT2FN[config.projector_hidden_act]
        self.linear_2 = nn.Linear(size, size, bias=bias)

    def forward(self, audio_frames):
        return self.linear_2(self.act(self.linear_1(audio_frames)))


PROJECTOR_CLASSES = {
    "linear": TimeProMultiModalProjector,
    "mlp": TimeProTwoLayerProjector,
    "none": lambda config: nn.Identity(),
}


class TimeProAudioPreTrainedModel(PreTrainedModel):
    config_class = TimeProAudioConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("audio", "text")
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values", "cache"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True


class TimeProAudioModel(TimeProAudioPreTrainedModel):
    """The multimodal model without a language-modelling head."""

    def __init__(self, config):
        super().__init__(config)
        self.audio_tower = build_audio_tower(config.audio_config)
        self.multi_modal_projector = PROJECTOR_CLASSES[config.projector](config)
        self.language_model = build_language_model(config.text_config)
        self.post_init()

    def get_input_embeddings(self):
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value):
        self.language_model.set_input_embeddings(value)

    def get_audio_lengths(self, mel_lengths):
        """Return the number of audio frames of clips with `mel_lengths` (any shape, long) 10 ms mel frames."""
        return self.audio_tower.output_lengths(mel_lengths)

    def get_audio_features(self, input_features=None, input_features_mask=None, stem_features=None, **kwargs):
        """Encode clips to embeddings of the language model.

        Args:
            input_features: `(num_clips, num_mel_bins, num_mel_frames)` log-mel features.
            input_features_mask: `(num_clips, num_mel_frames)`, 1 for real mel frames; all real when `None`.
            stem_features: `(num_clips, max_frames, stem size)` cached output of a YAMNet tower's frozen stem, instead
                of computing it from `input_features`; `input_features_mask` still says how long each clip is.

        Returns:
            The tower's output with `pooler_output` `(total frames, hidden_size)`: the real frames of all clips, packed;
            and `encoder_frames`, what a frame grounder is given of them.
        """
        if input_features_mask is None:
            if input_features is None:
                raise ValueError("stem_features without input_features_mask; pass the mask of the mel frames too.")
            input_features_mask = torch.ones(
                (input_features.shape[0], input_features.shape[-1]), dtype=torch.long, device=input_features.device
            )
        if input_features is not None:
            input_features = input_features.to(self.audio_tower.dtype)
        # A tower that is offloaded stands on no device; accelerate moves what its layers are given.
        if self.audio_tower.device.type != "meta":
            input_features_mask = input_features_mask.to(self.audio_tower.device)
            input_features = None if input_features is None else input_features.to(self.audio_tower.device)
        reads_stem = (self.config.frame_grounder or {}).get("frames") == "stem"
        if reads_stem and stem_features is None:
            stem_features = self.audio_tower.stem(input_features, input_features_mask)
        if stem_features is None:
            output = self.audio_tower(input_features, input_features_mask)
        elif self.config.audio_config.model_type != "timepro_yamnet":
            raise ValueError("stem_features is given but only a timepro_yamnet tower has a frozen stem.")
        else:
            lengths = self.get_audio_lengths(input_features_mask.sum(-1).long())
            frames = torch.arange(stem_features.shape[1], device=lengths.device)
            output = self.audio_tower(stem_features=stem_features, stem_mask=frames[None, :] < lengths[:, None])
        frames = output.last_hidden_state
        lengths = self.get_audio_lengths(input_features_mask.sum(-1).long())
        valid = torch.arange(frames.shape[1], device=frames.device)[None, :] < lengths[:, None]
        packed = frames[valid]
        return TimeProAudioFeatures(
            last_hidden_state=frames,
            pooler_output=self.multi_modal_projector(packed),
            encoder_frames=stem_features[:, : valid.shape[1]][valid] if reads_stem else packed,
        )

    def get_placeholder_mask(self, input_ids, num_frames):
        """Return the `(batch, length)` mask of audio placeholders; raise unless there are exactly `num_frames`."""
        mask = input_ids == self.config.audio_token_id
        num_placeholders = int(mask.sum())
        if num_placeholders != num_frames:
            raise ValueError(
                f"input_ids has {num_placeholders} audio placeholders (id {self.config.audio_token_id}) but the audio "
                f"gives {num_frames} frames; pass the processor's input_features and input_ids together."
            )
        return mask

    @can_return_tuple
    def forward(
        self,
        input_ids=None,
        input_features=None,
        input_features_mask=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        use_cache=None,
        audio_embeds=None,
        stem_features=None,
        cache=None,
        **kwargs,
    ):
        """Run the language model over text, ticks and audio frames.

        Args:
            input_ids: `(batch, length)` tokens with one `config.audio_token_id` for every audio frame.
            input_features, input_features_mask, stem_features: see `get_audio_features`.
            audio_embeds: `(total frames, hidden_size)` packed embeddings from an earlier `get_audio_features`, in place
                of `input_features`, so that one clip need not be encoded twice.
            attention_mask: `(batch, length)`, or `(batch, 1, length, length)` for several answers after one prompt.
            inputs_embeds: `(batch, length, hidden_size)`, in place of `input_ids` and with the audio already merged.
            past_key_values, cache: keys and values of the tokens before, by its old or its new name.

        Raises:
            ValueError: placeholders and frames differ in number, in either direction.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Pass exactly one of input_ids and inputs_embeds.")
        has_audio = input_features is not None or stem_features is not None or audio_embeds is not None
        if has_audio and input_ids is None:
            raise ValueError("Audio needs input_ids that mark its frames; with inputs_embeds merge the audio before.")
        encoder_frames = None
        if audio_embeds is None and has_audio:
            features = self.get_audio_features(input_features, input_features_mask, stem_features)
            audio_embeds, encoder_frames = features.pooler_output, features.encoder_frames
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
            # Decoding steps carry one token that generation cannot make a placeholder: spare them the device sync.
            if has_audio or input_ids.shape[1] > 1:
                mask = self.get_placeholder_mask(input_ids, len(audio_embeds) if has_audio else 0)
            if has_audio:
                mask = mask.to(inputs_embeds.device).unsqueeze(-1).expand_as(inputs_embeds)
                frames = audio_embeds.to(inputs_embeds.device, inputs_embeds.dtype)
                inputs_embeds = inputs_embeds.masked_scatter(mask, frames)
        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=use_cache,
            **{CACHE_NAME: past_key_values if cache is None else cache},
            **kwargs,
        )
        return TimeProAudioModelOutput(
            last_hidden_state=outputs.last_hidden_state,
            **{CACHE_NAME: outputs.get(CACHE_NAME)},
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            audio_hidden_states=audio_embeds,
            encoder_frames=encoder_frames,
        )


class TimeProAudioForCausalLM(TimeProAudioPreTrainedModel, GenerationMixin):
    """TimePro with its language-modelling head."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}

    def __init__(self, config):
        super().__init__(config)
        self.model = TimeProAudioModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.frame_grounder = TimeProFrameGrounder(config) if config.frame_grounder else None
        self.post_init()
        self._unlimit_generation()

    def _unlimit_generation(self):
        """Undo that transformers reads `config.max_time` as the seconds after which `generate` breaks off an answer."""
        if self.generation_config is not None and self.generation_config.max_time == self.config.max_time:
            self.generation_config.max_time = None

    def adjust_generation_fn(self, *args, **kwargs):
        """Load the generation settings of a checkpoint; part of `from_pretrained`."""
        super().adjust_generation_fn(*args, **kwargs)
        self._unlimit_generation()

    def get_input_embeddings(self):
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value):
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self):
        return self.lm_head

    def set_output_embeddings(self, value):
        self.lm_head = value

    def add_frame_grounder(self, **settings):
        """Give the model a head that answers frame by frame, with random weights, see `frame_grounder.py`."""
        self.config.frame_grounder = frame_grounder_settings(settings)
        self.frame_grounder = TimeProFrameGrounder(self.config).to(self.device, self.dtype)
        self.frame_grounder.reset_parameters()

    def get_audio_features(self, *args, **kwargs):
        """See [`TimeProAudioModel.get_audio_features`]."""
        return self.model.get_audio_features(*args, **kwargs)

    def prepare_inputs_for_generation(self, *args, is_first_iteration=False, **kwargs):
        """Pass audio to the prefill only; transformers drops the inputs that it knows by name, not these two."""
        inputs = super().prepare_inputs_for_generation(*args, is_first_iteration=is_first_iteration, **kwargs)
        if not is_first_iteration and kwargs.get("use_cache", True):
            inputs.pop("audio_embeds", None)
            inputs.pop("stem_features", None)
        return inputs

    def _expand_inputs_for_generation(self, expand_size=1, is_encoder_decoder=False, input_ids=None, **kwargs):
        """Repeat samples for beams or several answers; clips are no rows of a batch, so frames go with their sample."""
        names = ("input_features", "input_features_mask", "stem_features", "audio_embeds")
        has_audio = any(kwargs.get(name) is not None for name in names)
        if expand_size > 1 and has_audio and input_ids is not None:
            audio = {name: kwargs.pop(name, None) for name in names}
            frames = audio.pop("audio_embeds")
            if frames is None:
                frames = self.get_audio_features(**audio).pooler_output
            counts = self.model.get_placeholder_mask(input_ids, len(frames)).sum(1).tolist()
            frames = torch.cat([part for part in frames.split(counts) for _ in range(expand_size)])
            input_ids, kwargs = super()._expand_inputs_for_generation(
                expand_size, is_encoder_decoder, input_ids, **kwargs
            )
            return input_ids, kwargs | {"audio_embeds": frames}
        return super()._expand_inputs_for_generation(expand_size, is_encoder_decoder, input_ids, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids=None,
        input_features=None,
        input_features_mask=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        labels=None,
        use_cache=None,
        logits_to_keep=0,
        audio_embeds=None,
        stem_features=None,
        cache=None,
        question_tokens=None,
        question_rows=None,
        **kwargs,
    ):
        """Predict the next token; arguments as in [`TimeProAudioModel.forward`].

        Args:
            labels: `(batch, length)` token ids, -100 where no loss is taken.
            logits_to_keep: compute logits for the last so many positions only (0: all), or for an index tensor.
            question_tokens: `(num_questions, num_tokens)` positions of the tokens of questions in `input_ids`, -1 for
                padding: score the audio frames by each, with the frame grounder.
            question_rows: `(num_questions,)` the row of `input_ids` that each is in.
        """
        is_grounded, wants_states = question_tokens is not None, kwargs.pop("output_hidden_states", None)
        if is_grounded or wants_states is not None:
            kwargs["output_hidden_states"] = wants_states or is_grounded
        outputs = self.model(
            input_ids=input_ids,
            input_features=input_features,
            input_features_mask=input_features_mask,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            audio_embeds=audio_embeds,
            stem_features=stem_features,
            cache=cache,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept, :])
        frame_logits = self._ground(outputs, input_ids, question_tokens, question_rows) if is_grounded else None
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.text_config.vocab_size, **kwargs
            )
        return TimeProAudioCausalLMOutput(
            loss=loss,
            logits=logits,
            frame_logits=frame_logits,
            **{CACHE_NAME: outputs.get(CACHE_NAME)},
            hidden_states=outputs.hidden_states if wants_states or not is_grounded else None,
            attentions=outputs.attentions,
            audio_hidden_states=outputs.audio_hidden_states,
            encoder_frames=outputs.encoder_frames,
        )

    def _ground(self, outputs, input_ids, tokens, rows):
        if self.frame_grounder is None:
            raise ValueError("question_tokens is given but there is no frame grounder; call add_frame_grounder first.")
        counts = (input_ids == self.config.audio_token_id).sum(1)
        frames = nn.utils.rnn.pad_sequence(outputs.encoder_frames.split(counts.tolist()), batch_first=True)
        mask = torch.arange(frames.shape[1], device=frames.device) < counts[:, None]
        states = outputs.hidden_states[-2][rows[:, None], tokens.clamp(min=0)]
        return self.frame_grounder(frames, mask, states, tokens >= 0, rows)


TimeProAudioModel.register_for_auto_class("AutoModel")
TimeProAudioForCausalLM.register_for_auto_class("AutoModelForCausalLM")
