"""TimePro's model: `TimeProAudioConfig`, `TimeProAudioModel` and `TimeProAudioForCausalLM`."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from .configuration_timepro import TimeProAudioConfig
from .modeling_timepro import TimeProAudioForCausalLM, TimeProAudioModel, TimeProAudioPreTrainedModel
from .yamnet_encoder import TimeProYamnetEncoder
from .yamnet_encoder_config import TimeProYamnetConfig

# Where this package is installed, checkpoints load through the Auto classes without running code of their own.
AutoConfig.register("timepro_audio", TimeProAudioConfig, exist_ok=True)
AutoModel.register(TimeProAudioConfig, TimeProAudioModel, exist_ok=True)
AutoModelForCausalLM.register(TimeProAudioConfig, TimeProAudioForCausalLM, exist_ok=True)

__all__ = [
    "TimeProAudioConfig",
    "TimeProAudioForCausalLM",
    "TimeProAudioModel",
    "TimeProAudioPreTrainedModel",
    "TimeProYamnetConfig",
    "TimeProYamnetEncoder",
]
