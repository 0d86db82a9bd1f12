"""Configuration of TimePro: an audio encoder, a projector, a language model, and the time prompt between them."""

import copy
import math

from transformers import AutoConfig, PreTrainedConfig

from .frame_grounder import frame_grounder_settings
from .yamnet_encoder_config import TimeProYamnetConfig

try:
    from transformers.configuration_utils import SubConfigSpec
except ImportError:  # transformers 5.19
    SubConfigSpec = None

PROJECTORS = ("linear", "mlp", "none")
TIME_INITS = ("mean", "place", "centred_mean", "centred_place", "random")
ANSWER_FORMATS = ("digits", "ticks")
AUTO_MAP = {
    "AutoConfig": "configuration_timepro.TimeProAudioConfig",
    "AutoModel": "modeling_timepro.TimeProAudioModel",
    "AutoModelForCausalLM": "modeling_timepro.TimeProAudioForCausalLM",
    "AutoModelForMultimodalLM": "modeling_timepro.TimeProAudioForCausalLM",
    "AutoProcessor": "processing_timepro.TimeProAudioProcessor",
}
CUSTOM_PIPELINES = {
    "temporal-audio-grounding": {
        "impl": "pipeline_timepro.TemporalAudioGroundingPipeline",
        "pt": ["AutoModelForCausalLM"],
        "type": "multimodal",
    }
}


def _audio_config(config):
    """Build the encoder's config; the YAMNet encoder is ours and unknown to `AutoConfig`."""
    if config is None:
        return AutoConfig.for_model("qwen2_audio_encoder")
    if not isinstance(config, dict):
        return config
    fields = {key: value for key, value in config.items() if key != "model_type"}
    model_type = config.get("model_type", "qwen2_audio_encoder")
    if model_type == TimeProYamnetConfig.model_type:
        return TimeProYamnetConfig(**fields)
    return AutoConfig.for_model(model_type, **fields)


class TimeProAudioConfig(PreTrainedConfig):
    """Configure a [`TimeProAudioForCausalLM`].

    Args:
        audio_config: config (or dict) of the audio encoder, `qwen2_audio_encoder`, `qwen2_5_omni_audio_encoder`,
            `audioflamingo3_encoder` or `timepro_yamnet`.
        text_config: config (or dict) of the language model, `qwen2` or `qwen2_5_omni_text`.
        projector: what leads from encoder to language model: `linear`, `mlp` (two layers), or `none` where the encoder
            itself ends in the language model's size.
        projector_hidden_act, projector_bias: activation between the layers of an `mlp` projector, and their biases.
        audio_token_id: id of the placeholder of one audio frame.
        time_token_start_id: id of the first tick `<0.00>`; ticks have consecutive ids. `None` before conversion.
        num_time_tokens: number of ticks in the vocabulary (0 before conversion).
        time_prompt: whether the processor interleaves ticks with the audio frames.
        time_step: seconds between two ticks.
        time_stride: put only every n-th tick among the audio frames.
        max_audio_time: seconds that the ticks cover; longer audio is refused by the processor. `max_time` reads and
            sets it too, but it is not stored by that name, of which transformers makes a limit on the seconds that
            `generate` may take.
        time_init: how the tick embeddings were initialised: `mean` (the paper) or another of `TIME_INITS`.
        frame_rate: audio frames per second that reach the language model.
        answer_format: how answers write times, `digits` (`1.24`) or `ticks` (`<1.24>`).
        event_labels: the closed label set that the checkpoint was trained on, or `None` for open vocabulary.
        frame_grounder: sizes and decoding of the head that answers frame by frame, see `frame_grounder.py`; `None` for
            no such head, `{}` for its defaults.
    """

    model_type = "timepro_audio"
    if SubConfigSpec is None:
        sub_configs = {"audio_config": AutoConfig, "text_config": AutoConfig}
    else:
        sub_configs_defaults = {
            "audio_config": SubConfigSpec(config_class=AutoConfig, model_type="qwen2_audio_encoder"),
            "text_config": SubConfigSpec(config_class=AutoConfig, model_type="qwen2"),
        }
    # TRL reads `image_token_id` of any model that has a processor.
    attribute_map = {"image_token_id": "audio_token_id", "max_time": "max_audio_time"}
    # `Trainer.evaluate` takes all other outputs for predictions, and concatenates them over batches.
    keys_to_ignore_at_inference = ["past_key_values", "cache", "audio_hidden_states"]

    audio_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    projector: str = "linear"
    projector_hidden_act: str = "gelu"
    projector_bias: bool = True
    audio_token_id: int = 151646
    time_token_start_id: int | None = None
    num_time_tokens: int = 0
    time_prompt: bool = True
    time_step: float = 0.04
    time_stride: int = 1
    max_audio_time: float = 30.0
    time_init: str = "mean"
    frame_rate: float = 25.0
    answer_format: str = "digits"
    event_labels: list[str] | None = None
    frame_grounder: dict | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        self.audio_config = _audio_config(self.audio_config)
        if self.text_config is None:
            self.text_config = AutoConfig.for_model("qwen2")
        elif isinstance(self.text_config, dict):
            fields = {key: value for key, value in self.text_config.items() if key != "model_type"}
            self.text_config = AutoConfig.for_model(self.text_config.get("model_type", "qwen2"), **fields)
        self.max_audio_time = kwargs.pop("max_time", self.max_audio_time)
        # Several Auto classes share this checkpoint, and registering a class keeps only one of them.
        kwargs["auto_map"] = {**AUTO_MAP, **(kwargs.get("auto_map") or {})}
        # The installed package registers its pipeline; named here, it would be the checkpoint's that `pipeline()` runs.
        is_installed = type(self).__module__.startswith("modeling_timepro.")
        kwargs["custom_pipelines"] = {} if is_installed else copy.deepcopy(CUSTOM_PIPELINES)
        self.frame_grounder = frame_grounder_settings(self.frame_grounder)
        super().__post_init__(**kwargs)
        self._check()
        # What reads sub-configurations alone, as servers do, must find in them what holds for the whole.
        self.text_config.tie_word_embeddings = self.tie_word_embeddings
        if self.audio_config.model_type == TimeProYamnetConfig.model_type:
            self.audio_config.max_source_positions = math.ceil(self.max_audio_time * self.frame_rate)

    def _check(self):
        if self.projector not in PROJECTORS:
            raise ValueError(f"projector is {self.projector!r}; choose one of {PROJECTORS}.")
        tower_size = getattr(self.audio_config, "output_dim", self.audio_config.hidden_size)
        if self.projector == "none" and tower_size != self.text_config.hidden_size:
            raise ValueError(
                f"projector is 'none' but the encoder's frames have {tower_size} values and the language model's "
                f"{self.text_config.hidden_size}; make them equal."
            )
        if self.time_init not in TIME_INITS:
            raise ValueError(f"time_init is {self.time_init!r}; choose one of {TIME_INITS}.")
        if self.answer_format not in ANSWER_FORMATS:
            raise ValueError(f"answer_format is {self.answer_format!r}; choose one of {ANSWER_FORMATS}.")
        for name in ("time_step", "max_audio_time", "frame_rate"):
            value = getattr(self, name)
            if not value > 0:
                raise ValueError(f"{name} is {value}; give a positive number.")
        if self.time_stride < 1:
            raise ValueError(f"time_stride is {self.time_stride}; give 1 or more.")
        if self.num_time_tokens < 0:
            raise ValueError(f"num_time_tokens is {self.num_time_tokens}; give 0 or more.")
        if self.num_time_tokens and self.time_token_start_id is None:
            raise ValueError(
                f"num_time_tokens is {self.num_time_tokens} but time_token_start_id is None; "
                "set it to the id of the first tick."
            )
        if self.num_time_tokens and self.time_token_start_id + self.num_time_tokens > self.text_config.vocab_size:
            raise ValueError(
                f"ticks end at id {self.time_token_start_id + self.num_time_tokens} but text_config.vocab_size is "
                f"{self.text_config.vocab_size}; enlarge the vocabulary first."
            )

    def to_dict(self):
        output = super().to_dict()
        # `pipeline()` replaces the class names in here by classes, which JSON cannot write.
        output["custom_pipelines"] = copy.deepcopy(CUSTOM_PIPELINES)
        output["text_config"]["tie_word_embeddings"] = self.tie_word_embeddings
        return output

    @property
    def time_token_ids(self):
        """Ids of all ticks, a `range` (empty before conversion)."""
        start = self.time_token_start_id or 0
        return range(start, start + self.num_time_tokens)


TimeProAudioConfig.register_for_auto_class()
