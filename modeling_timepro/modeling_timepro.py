"""TimePro: an audio encoder, a projector and a causal language model whose audio prompt carries timestamp tokens.

The model never sees seconds: ticks are ordinary token ids that the processor has put between the audio placeholders.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple, torch_compilable_check

from .backbone_parts import build_audio_tower, build_language_model, build_projector
from .configuration_timepro import TimeProAudioConfig
from .frame_grounder import FrameGroundedModel, make_frame_grounder

# transformers 5.24 renamed the key-value cache, in arguments and outputs.
CACHE_NAME = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"
AUDIO_INPUTS = ("input_features", "input_features_mask", "stem_features", "audio_embeds")


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
class TimeProAudioCausalLMOutput(CausalLMOutputWithPast):
    """Output of [`TimeProAudioForCausalLM`].

    `logits` are `(batch, kept positions, vocab_size)`, `frame_logits` `(num_questions, num_frames)`.
    """

    audio_hidden_states: torch.FloatTensor | None = None
    frame_logits: torch.FloatTensor | None = None


def stack_clips(clips):
    """Return clips of servers, a list of `(..., num_mel_frames)`, as one tensor, zeros after shorter ones."""
    if not isinstance(clips, (list, tuple)):
        return clips
    length = max(clip.shape[-1] for clip in clips)
    return torch.stack([nn.functional.pad(clip, (0, length - clip.shape[-1])) for clip in clips])


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

    # vLLM builds this one, adds a head of its own and refuses weights for which it has no place.
    _keys_to_ignore_on_load_unexpected = [r"^frame_grounder\."]

    def __init__(self, config):
        super().__init__(config)
        self.audio_tower = build_audio_tower(config.audio_config)
        self.multi_modal_projector = build_projector(config)
        self.language_model = build_language_model(config.text_config)
        self.post_init()

    def get_input_embeddings(self):
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value):
        self.language_model.set_input_embeddings(value)

    def get_audio_lengths(self, mel_lengths):
        """Return the number of audio frames of clips with `mel_lengths` (any shape, long) 10 ms mel frames."""
        return self.audio_tower.output_lengths(mel_lengths)

    @can_return_tuple
    def get_audio_features(
        self, input_features=None, input_features_mask=None, stem_features=None, **kwargs: Unpack[TransformersKwargs]
    ):
        """Encode clips to embeddings of the language model.

        Args:
            input_features: `(num_clips, num_mel_bins, num_mel_frames)` log-mel features, or a list of such of one clip.
            input_features_mask: `(num_clips, num_mel_frames)`, 1 for real mel frames; all real when `None`.
            stem_features: `(num_clips, max_frames, stem size)` cached output of a YAMNet encoder's frozen stem, instead
                of computing it from `input_features`; `input_features_mask` still says how long each clip is.
            kwargs: `output_hidden_states`, `output_attentions` of the encoder, `return_dict`.

        Returns:
            The encoder's output with `pooler_output` `(total frames, hidden_size)`: all real frames, packed;
            and `encoder_frames`, what a frame grounder is given of them.
        """
        input_features, input_features_mask = stack_clips(input_features), stack_clips(input_features_mask)
        if input_features_mask is None:
            if input_features is None:
                raise ValueError("stem_features without input_features_mask; pass the mask of the mel frames too.")
            input_features_mask = torch.ones_like(input_features[:, 0], dtype=torch.long)
        if input_features is not None:
            input_features = input_features.to(self.audio_tower.dtype)
        # An offloaded encoder has no device; accelerate moves what its layers are given.
        if self.audio_tower.device.type != "meta":
            input_features_mask = input_features_mask.to(self.audio_tower.device)
            input_features = None if input_features is None else input_features.to(self.audio_tower.device)
        reads_stem = (self.config.frame_grounder or {}).get("frames") == "stem"
        if reads_stem and stem_features is None:
            stem_features = self.audio_tower.stem(input_features, input_features_mask)
        lengths = self.get_audio_lengths(input_features_mask.sum(-1).long())
        kwargs["return_dict"] = True
        if stem_features is None:
            output = self.audio_tower(input_features, input_features_mask, **kwargs)
        elif self.config.audio_config.model_type != "timepro_yamnet":
            raise ValueError("stem_features is given but only a timepro_yamnet encoder has a frozen stem.")
        else:
            frames = torch.arange(stem_features.shape[1], device=lengths.device)
            stem_mask = frames[None, :] < lengths[:, None]
            output = self.audio_tower(stem_features=stem_features, stem_mask=stem_mask, **kwargs)
        frames = output.last_hidden_state
        valid = torch.arange(frames.shape[1], device=frames.device)[None, :] < lengths[:, None].to(frames.device)
        packed = frames[valid]
        return TimeProAudioFeatures(
            last_hidden_state=frames,
            pooler_output=self.multi_modal_projector(packed),
            encoder_frames=stem_features[:, : valid.shape[1]][valid] if reads_stem else packed,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )

    def get_placeholder_mask(self, input_ids, num_frames, inputs_embeds=None):
        """Return the `(batch, length)` mask of audio placeholders; raise unless there are exactly `num_frames`.

        Without `input_ids`, placeholders are the positions of `inputs_embeds` that hold the placeholder's embedding.
        """
        if input_ids is None:
            token = torch.tensor(self.config.audio_token_id, device=inputs_embeds.device)
            mask = (inputs_embeds == self.get_input_embeddings()(token)).all(-1)
        else:
            mask = input_ids == self.config.audio_token_id
        num_placeholders = mask.sum()
        if torch.compiler.is_compiling() or num_placeholders != num_frames:  # the check imports torch's compiler
            name = "input_ids" if inputs_embeds is None else "inputs_embeds"
            torch_compilable_check(
                num_placeholders == num_frames,
                lambda: (
                    f"{name} has {int(num_placeholders)} audio placeholders (id {self.config.audio_token_id}) but the "
                    f"audio gives {num_frames} frames; pass the processor's input_features and input_ids together."
                ),
            )
        return mask

    def get_rope_index(self, input_ids=None, attention_mask=None, inputs_embeds=None, **kwargs):
        """Return positions, which padding does not take, and their shift after the prompt (batch, 1), always 0.

        Positions are `(batch, length)`, in models of several axes `(3, batch, length)` and the same on all of them.
        vLLM asks for them.
        """
        shape = (input_ids if inputs_embeds is None else inputs_embeds[..., 0]).shape
        if attention_mask is None:
            attention_mask = torch.ones(shape, dtype=torch.long, device=self.device)
        positions = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
        if self.config.text_config.model_type == "qwen2_5_omni_text":
            positions = positions.expand(3, *shape)
        return positions, positions.new_zeros(shape[0], 1)

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
        **kwargs: Unpack[TransformersKwargs],
    ):
        """Run the language model over text, ticks and audio frames.

        Args:
            input_ids: `(batch, length)` tokens with one `config.audio_token_id` for every audio frame.
            input_features, input_features_mask, stem_features: see `get_audio_features`.
            audio_embeds: `(total frames, hidden_size)` packed embeddings from an earlier `get_audio_features`, in place
                of `input_features`, so that one clip need not be encoded twice.
            attention_mask: `(batch, length)`, or `(batch, 1, length, length)` for several answers after one prompt.
            inputs_embeds: `(batch, length, hidden_size)`, instead of `input_ids`; with the audio already merged, or
                with audio given as well, which replaces the placeholder's embeddings.
            past_key_values: keys and values of the tokens before; from transformers 5.24 on called `cache`.

        Raises:
            ValueError: placeholders and frames differ in number, in either direction.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Pass exactly one of input_ids and inputs_embeds.")
        encoder_frames = None
        if audio_embeds is None and (input_features is not None or stem_features is not None):
            heard = self.get_audio_features(input_features, input_features_mask, stem_features, return_dict=True)
            audio_embeds, encoder_frames = heard.pooler_output, heard.encoder_frames
        # Decoding steps carry one token that generation cannot make a placeholder: spare them the device sync.
        if audio_embeds is not None or (input_ids is not None and input_ids.shape[1] > 1):
            num_frames = 0 if audio_embeds is None else len(audio_embeds)
            mask = self.get_placeholder_mask(input_ids, num_frames, inputs_embeds)
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if audio_embeds is not None:
            mask = mask.to(inputs_embeds.device).unsqueeze(-1).expand_as(inputs_embeds)
            frames = audio_embeds.to(inputs_embeds.device, inputs_embeds.dtype)
            inputs_embeds = inputs_embeds.masked_scatter(mask, frames)
        # By the other name it may be the cache of a server, which attention takes from the keyword arguments.
        if past_key_values is not None:
            kwargs[CACHE_NAME] = past_key_values
        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=use_cache,
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


class TimeProAudioForCausalLM(FrameGroundedModel, TimeProAudioPreTrainedModel, GenerationMixin):
    """TimePro with its language-modelling head."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}

    def __init__(self, config):
        super().__init__(config)
        self.model = TimeProAudioModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.frame_grounder = make_frame_grounder(config)
        self.post_init()

    def adjust_generation_fn(self, *args, **kwargs):
        """Load generation settings, without the longest clip that older checkpoints name as a limit on computing."""
        super().adjust_generation_fn(*args, **kwargs)
        if self.generation_config.max_time == self.config.max_audio_time:
            self.generation_config.max_time = None

    def get_input_embeddings(self):
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value):
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self):
        return self.lm_head

    def set_output_embeddings(self, value):
        self.lm_head = value

    def get_audio_features(self, *args, **kwargs):
        """See [`TimeProAudioModel.get_audio_features`]."""
        return self.model.get_audio_features(*args, **kwargs)

    def prepare_inputs_for_generation(
        self, input_ids, inputs_embeds=None, is_first_iteration=False, past_key_values=None, cache=None, **kwargs
    ):
        """Pass on the audio of what is not in the cache yet; transformers drops the inputs that it knows by name."""
        kwargs[CACHE_NAME] = cache = past_key_values if cache is None else cache
        num_cached = 0 if cache is None else cache.get_seq_length()
        # An assistant's first tokens come with a cache that is still empty.
        is_first_iteration = is_first_iteration or (cache is not None and num_cached == 0)
        inputs = super().prepare_inputs_for_generation(
            input_ids, inputs_embeds=inputs_embeds, is_first_iteration=is_first_iteration, **kwargs
        )
        audio = {name: inputs.get(name) for name in AUDIO_INPUTS}
        if num_cached and any(value is not None for value in audio.values()):
            inputs = {name: value for name, value in inputs.items() if name not in AUDIO_INPUTS}
            # Of a conversation that goes on, the frames of earlier clips are in the cache.
            if is_first_iteration and inputs.get("input_ids") is not None:
                inputs |= self._rest_of_audio(input_ids, inputs["input_ids"], audio)
        return inputs

    def _rest_of_audio(self, all_ids, rest_ids, audio):
        """Return the frames whose placeholders are among the last, not the first, of all tokens."""
        all_counts, counts = ((ids == self.config.audio_token_id).sum(1) for ids in (all_ids, rest_ids))
        if not counts.any():
            return {}
        frames = audio.pop("audio_embeds")
        if frames is None:
            frames = self.get_audio_features(**audio, return_dict=True).pooler_output
        if len(frames) == all_counts.sum():
            parts = zip(frames.split(all_counts.tolist()), counts.tolist())
            frames = torch.cat([part[len(part) - count :] for part, count in parts])
        return {"audio_embeds": frames}

    def _expand_inputs_for_generation(self, expand_size=1, is_encoder_decoder=False, input_ids=None, **kwargs):
        """Repeat samples for beams or several answers; clips are no rows of a batch, so frames go with their sample."""
        has_audio = any(kwargs.get(name) is not None for name in AUDIO_INPUTS)
        if expand_size > 1 and has_audio:
            audio = {name: kwargs.pop(name, None) for name in AUDIO_INPUTS}
            frames = audio.pop("audio_embeds")
            if frames is None:
                frames = self.get_audio_features(**audio, return_dict=True).pooler_output
            embeds = kwargs.get("inputs_embeds")
            ids = input_ids if embeds is None else None
            counts = self.model.get_placeholder_mask(ids, len(frames), embeds).sum(1).tolist()
            frames = torch.cat([part for part in frames.split(counts) for _ in range(expand_size)])
        repeated = super()._expand_inputs_for_generation(expand_size, is_encoder_decoder, input_ids, **kwargs)
        if expand_size > 1 and has_audio:
            repeated[1]["audio_embeds"] = frames
        return repeated

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
        question_tokens=None,
        question_rows=None,
        **kwargs: Unpack[TransformersKwargs],
    ):
        """Predict the next token; arguments as in [`TimeProAudioModel.forward`].

        Args:
            labels: `(batch, length)` token ids, -100 where no loss is taken.
            logits_to_keep: compute logits for the last so many positions only (0: all), or for an index tensor.
            question_tokens: `(num_questions, num_tokens)` positions of the tokens of questions in `input_ids`, -1 for
                padding: score the audio frames by each, with the frame grounder.
            question_rows: `(num_questions,)` the row of `input_ids` that each is in.
        """
        is_grounded, states = question_tokens is not None, kwargs.pop("output_hidden_states", None)
        kwargs |= {} if states is None and not is_grounded else {"output_hidden_states": is_grounded or states}
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
            hidden_states=None if is_grounded and not states else outputs.hidden_states,
            attentions=outputs.attentions,
            audio_hidden_states=outputs.audio_hidden_states,
        )


TimeProAudioModel.register_for_auto_class("AutoModel")
TimeProAudioForCausalLM.register_for_auto_class("AutoModelForCausalLM")
