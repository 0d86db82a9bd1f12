"""TimePro and the stock models it is made of, small, as the test suites of transformers want them.

Run by `test_transformers_suite.py`, in a process whose path holds those suites as the package `tests`. Which models are
tested, `TIMEPRO_SUITE` says: `timepro` or `stock`.

`GenerationTesterMixin` is in none of the source distributions of 5.20.0, 5.23.0 and 5.24.0: they hold
`tests/test_*.py`, but no folder of tests. What it tests is tested here:

| its tests | ours, of `test_generation_modes.py` unless said |
|---|---|
| greedy, sample, beam search and beam sample, also as a dict | what is returned with an answer, beams, samples |
| assisted decoding, prompt lookup | an assistant, ways to decode |
| left padding | padding on the left, batches |
| `inputs_embeds`, with beams and a static cache | embeddings |
| static cache, caches that are given, going on from one | caches, a conversation |
| `logits_to_keep`, several answers of a sample | `test_modeling_timepro.py` |
| offloaded caches, compiled generation | none: they need an accelerator |
| quantised caches, Flash Attention | none: they need packages that are not among ours |
"""

import os
import tempfile
import unittest

import numpy as np
import torch
import transformers
from tests.generation.test_utils import GenerationTesterMixin
from tests.test_configuration_common import ConfigTester
from tests.test_modeling_common import ModelTesterMixin, floats_tensor, ids_tensor
from tests.test_processing_common import ProcessorTesterMixin
from transformers import (
    AudioFlamingo3Config,
    AudioFlamingo3ForConditionalGeneration,
    AudioFlamingo3Model,
    AutoTokenizer,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioModel,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_MAPPING_NAMES

from modeling_timepro import TimeProAudioConfig, TimeProAudioForCausalLM, TimeProAudioModel
from processing import TimeGrid, TimeProAudioProcessor, TimeProYamnetFeatureExtractor
from recipes.conversion.convert import add_tick_tokens
from recipes.small.language_model import train_tokenizer
from tests import test_modeling_common

# What the suites look up by a model's type, they know of models in transformers alone.
MODEL_MAPPING_NAMES["timepro_audio"] = TimeProAudioModel.__name__
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["timepro_audio"] = TimeProAudioForCausalLM.__name__
AUDIO_TOKEN, PAD_TOKEN, VOCAB_SIZE = 0, 1, 99
# Random text is to be text.
test_modeling_common.ids_tensor = lambda shape, vocab_size, *rest, **options: (
    ids_tensor(shape, vocab_size - 1, *rest, **options) + 1
)
TEXT = {
    "model_type": "qwen2", "vocab_size": VOCAB_SIZE, "hidden_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 32, "max_position_embeddings": 128,
    "pad_token_id": PAD_TOKEN, "bos_token_id": 2, "eos_token_id": 3,
}  # fmt: skip
WHISPER = {
    "num_mel_bins": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "d_model": 32,
    "max_source_positions": 30,
}  # fmt: skip
OMNI_TEXT = TEXT | {
    "model_type": "qwen2_5_omni_text",
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]},
}
OMNI_AUDIO = WHISPER | {"output_dim": 32, "n_window": 15}
YAMNET = {"model_type": "timepro_yamnet", "num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2,
          "intermediate_size": 32}  # fmt: skip
AUDIO = {
    "audioflamingo3": {"model_type": "audioflamingo3_encoder"} | WHISPER,
    "omni": {"model_type": "qwen2_5_omni_audio_encoder"} | OMNI_AUDIO,
    "qwen2_audio": {"model_type": "qwen2_audio_encoder"} | WHISPER,
    "yamnet": YAMNET,
}


def timepro_config(shape):
    return TimeProAudioConfig(
        audio_config=dict(AUDIO[shape]),
        text_config=dict(OMNI_TEXT if shape == "omni" else TEXT),
        projector={"audioflamingo3": "mlp", "omni": "none"}.get(shape, "linear"),
        audio_token_id=AUDIO_TOKEN,
    )


def stock_config(shape):
    if shape == "omni":
        vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32,
                  "fullatt_block_indexes": [0]}  # fmt: skip
        return Qwen2_5OmniThinkerConfig(
            audio_config=dict(OMNI_AUDIO), text_config=dict(OMNI_TEXT), vision_config=vision,
            audio_token_index=AUDIO_TOKEN, image_token_index=4, video_token_index=5, vision_start_token_id=6,
            audio_start_token_id=7, audio_end_token_id=8,
        )  # fmt: skip
    config_class = {"audioflamingo3": AudioFlamingo3Config, "qwen2_audio": Qwen2AudioConfig}[shape]
    name = "audio_token_id" if shape == "audioflamingo3" else "audio_token_index"
    return config_class(audio_config=dict(AUDIO[shape]), text_config=dict(TEXT), **{name: AUDIO_TOKEN})


MAKERS = {"stock": stock_config, "timepro": timepro_config}
STOCK_CLASSES = {
    "audioflamingo3": (AudioFlamingo3Model, AudioFlamingo3ForConditionalGeneration),
    "omni": (Qwen2_5OmniThinkerForConditionalGeneration,),
    "qwen2_audio": (Qwen2AudioModel, Qwen2AudioForConditionalGeneration),
}
# Not in the oldest version.
if hasattr(transformers, "Qwen2_5OmniThinkerModel"):
    STOCK_CLASSES["omni"] += (transformers.Qwen2_5OmniThinkerModel,)
# What the stock classes call the mask of the mel frames.
STOCK_MASKS = {"audioflamingo3": "input_features_mask"}


class SmallModelTester:
    """Make the configuration and the inputs of a model: three clips, of 60 mel frames, each with some text around."""

    batch_size, seq_length, num_hidden_layers, num_attention_heads, hidden_size = 3, 24, 2, 2, 32
    encoder_seq_length, is_training = 24, True

    def __init__(self, parent, kind, shape):
        self.parent, self.kind, self.shape = parent, kind, shape
        self.audio_config, self.text_config = AUDIO[shape], TEXT

    def get_config(self):
        return MAKERS[self.kind](self.shape)

    def prepare_config_and_inputs_for_common(self):
        num_frames = {"yamnet": 7}.get(self.shape, 15)
        num_mel_bins = 64 if self.shape == "yamnet" else 16
        input_ids = ids_tensor([self.batch_size, self.seq_length], VOCAB_SIZE - 10) + 10
        input_ids = input_ids.clamp(max=VOCAB_SIZE - 1)
        input_ids[:, 2 : 2 + num_frames] = AUDIO_TOKEN
        mask = torch.ones(self.batch_size, 60, dtype=torch.long)
        mask_name = "input_features_mask"
        if self.kind == "stock":
            mask_name = STOCK_MASKS.get(self.shape, "feature_attention_mask")
        return self.get_config(), {
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids),
            "input_features": floats_tensor([self.batch_size, num_mel_bins, 60]),
            mask_name: mask,
        }


def model_test(kind, shape):
    """Return the test case of a model."""

    class Case(ModelTesterMixin, GenerationTesterMixin, unittest.TestCase):
        def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
            inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
            # Some tests leave the audio out and its placeholders in, which TimePro refuses.
            if "input_features" not in inputs and "input_ids" in inputs:
                inputs["input_ids"] = inputs["input_ids"].masked_fill(inputs["input_ids"] == AUDIO_TOKEN, 10)
            return inputs

        all_model_classes = (TimeProAudioModel, TimeProAudioForCausalLM) if kind == "timepro" else STOCK_CLASSES[shape]
        _is_composite = True

        def setUp(self):
            self.model_tester = SmallModelTester(self, kind, shape)
            config_class = type(self.model_tester.get_config())
            self.config_tester = ConfigTester(self, config_class=config_class, has_text_modality=False)

        def test_config(self):
            self.config_tester.run_common_tests()

    Case.__name__ = Case.__qualname__ = f"{kind.title()}{shape.title().replace('_', '')}Test"
    return Case


def processor_test(kind, shape):
    """Return the test case of a processor."""

    class Case(ProcessorTesterMixin, unittest.TestCase):
        processor_class = TimeProAudioProcessor if kind == "timepro" else Qwen2AudioProcessor
        audio_text_kwargs_max_length = 400

        @classmethod
        def _setup_feature_extractor(cls):
            if kind == "timepro" and shape == "yamnet":
                return TimeProYamnetFeatureExtractor(mel_per_frame=4)
            return WhisperFeatureExtractor(feature_size=16)

        @classmethod
        def _setup_tokenizer(cls):
            tokenizer = train_tokenizer(vocab_size=400, num_documents=300)
            if kind == "timepro":
                add_tick_tokens(tokenizer, TimeGrid(frame_rate=25, time_step=0.04, max_time=30.0))
            with tempfile.TemporaryDirectory() as folder:
                tokenizer.save_pretrained(folder)
                return AutoTokenizer.from_pretrained(folder)

        @staticmethod
        def prepare_processor_dict():
            return {} if kind == "stock" else {"time_stride": 2, "min_score": 0.5}

        def prepare_audio_inputs(self, batch_size=None):
            # One frame takes 70 ms; the suite's own clips are shorter.
            audio = [np.random.default_rng(0).uniform(size=2000).astype(np.float32)]
            return audio if batch_size is None else audio * batch_size

    Case.__name__ = Case.__qualname__ = f"{kind.title()}{shape.title().replace('_', '')}ProcessorTest"
    return Case


KIND = os.environ.get("TIMEPRO_SUITE", "timepro")
for name in ("audioflamingo3", "omni", "qwen2_audio", "yamnet"):
    if KIND == "timepro" or name != "yamnet":
        case = model_test(KIND, name)
        globals()[case.__name__] = case
for name in ("qwen2_audio", "yamnet") if KIND == "timepro" else ("qwen2_audio",):
    case = processor_test(KIND, name)
    globals()[case.__name__] = case
del case
