"""TimePro's model: `TimeProAudioConfig`, `TimeProAudioModel` and `TimeProAudioForCausalLM`.

After `import modeling_timepro` the Auto classes and `pipeline` of transformers know TimePro, and load checkpoints by
the installed code: nothing that a checkpoint carries is run, and no `trust_remote_code` is asked for.
"""

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoProcessor,
)
from transformers.pipelines import PIPELINE_REGISTRY

from processing import TemporalAudioGroundingPipeline, TimeProAudioProcessor, TimeProYamnetFeatureExtractor

from .configuration_timepro import TimeProAudioConfig
from .modeling_timepro import TimeProAudioForCausalLM, TimeProAudioModel, TimeProAudioPreTrainedModel
from .yamnet_encoder import TimeProYamnetEncoder
from .yamnet_encoder_config import TimeProYamnetConfig

AutoConfig.register("timepro_audio", TimeProAudioConfig, exist_ok=True)
AutoConfig.register("timepro_yamnet", TimeProYamnetConfig, exist_ok=True)
AutoModel.register(TimeProAudioConfig, TimeProAudioModel, exist_ok=True)
AutoModel.register(TimeProYamnetConfig, TimeProYamnetEncoder, exist_ok=True)
AutoModelForCausalLM.register(TimeProAudioConfig, TimeProAudioForCausalLM, exist_ok=True)
AutoModelForMultimodalLM.register(TimeProAudioConfig, TimeProAudioForCausalLM, exist_ok=True)
AutoProcessor.register(TimeProAudioConfig, TimeProAudioProcessor, exist_ok=True)
AutoFeatureExtractor.register(TimeProYamnetConfig, TimeProYamnetFeatureExtractor, exist_ok=True)
PIPELINE_REGISTRY.register_pipeline(
    "temporal-audio-grounding",
    pipeline_class=TemporalAudioGroundingPipeline,
    pt_model=AutoModelForCausalLM,
    type="multimodal",
)

__all__ = [
    "TimeProAudioConfig",
    "TimeProAudioForCausalLM",
    "TimeProAudioModel",
    "TimeProAudioPreTrainedModel",
    "TimeProYamnetConfig",
    "TimeProYamnetEncoder",
]
