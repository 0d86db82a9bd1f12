"""The audio language models that become TimePro: a configuration, a key map and a processor for each.

    BACKBONES[config.model_type]        # by the `model_type` of the backbone's config.json
    backbone_config(config)             # TimePro's configuration, without ticks
    backbone_key(model_type, key)       # name of a tensor in our checkpoint
    backbone_processor(path, config)    # TimePro's processor, with the backbone's tokenizer and chat template

`docs/backbones.md` shows how to add one.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from transformers import AutoFeatureExtractor, AutoTokenizer

from modeling_timepro import TimeProAudioConfig
from processing import TimeProAudioProcessor
from recipes.conversion.chat_template import escape_questions, mark_answers

# Qwen2-Audio's, whose chat template is also our default.
DEFAULT_AUDIO_TOKEN = "<|AUDIO|>"


@dataclass(frozen=True)
class Backbone:
    """What differs between backbones.

    Args:
        fields: function from the stock configuration to the backbone's arguments of [`TimeProAudioConfig`].
        keys: pairs of a pattern and the replacement of the matched prefix of a tensor's name (`None`: not part of
            TimePro). The first match counts.
    """

    fields: Callable
    keys: tuple[tuple[str, str | None], ...]


# Checkpoints on the Hub have the tensor names of older classes, which transformers renames on loading. Accept both.
QWEN2_AUDIO_KEYS = (
    (r"(model\.)?audio_tower\.", "model.audio_tower."),
    (r"(model\.)?multi_modal_projector\.", "model.multi_modal_projector."),
    (r"(language_model\.)?lm_head\.", "lm_head."),
    # transformers 5.20 saves Audio Flamingo 3 with `model.` twice.
    (r"(model\.language_model|language_model\.model(\.model)?)\.", "model.language_model."),
)
OMNI_KEYS = (
    (r"(talker|token2wav)\.", None),
    (r"(thinker\.)?(model\.)?visual\.", None),
    (r"(thinker\.)?(model\.)?audio_tower\.", "model.audio_tower."),
    (r"(thinker\.)?lm_head\.", "lm_head."),
    (r"(thinker\.)?model\.(language_model\.)?(?=(embed_tokens|layers|norm)\.)", "model.language_model."),
)


def qwen2_audio_fields(stock):
    # The stock class never ties weights, whatever its configuration says.
    return {"audio_token_id": stock.audio_token_id, "projector": "linear", "tie_word_embeddings": False}


def omni_thinker_fields(stock):
    return {
        "audio_token_id": stock.audio_token_id,
        # The encoder's last layer is the projection.
        "projector": "none",
        "tie_word_embeddings": stock.tie_word_embeddings,
    }


def audio_flamingo_fields(stock):
    projector = {name: getattr(stock, name) for name in ("projector_hidden_act", "projector_bias")}
    return {"audio_token_id": stock.audio_token_id, "projector": "mlp", "tie_word_embeddings": False} | projector


BACKBONES = {
    "audioflamingo3": Backbone(audio_flamingo_fields, QWEN2_AUDIO_KEYS),
    "qwen2_audio": Backbone(qwen2_audio_fields, QWEN2_AUDIO_KEYS),
    "qwen2_5_omni_thinker": Backbone(omni_thinker_fields, OMNI_KEYS),
    # The whole model; talker and vocoder, which synthesise speech, are dropped.
    "qwen2_5_omni": Backbone(omni_thinker_fields, OMNI_KEYS),
}


def _backbone(model_type):
    if model_type not in BACKBONES:
        raise ValueError(f"backbone has model_type {model_type!r}; supported are {', '.join(sorted(BACKBONES))}.")
    return BACKBONES[model_type]


def backbone_config(stock_config) -> TimeProAudioConfig:
    """Return TimePro's configuration for a backbone, without ticks and with the time prompt off.

    Raises:
        ValueError: the backbone's `model_type` is not one of [`BACKBONES`].
    """
    backbone = _backbone(stock_config.model_type)
    stock = getattr(stock_config, "thinker_config", stock_config)
    return TimeProAudioConfig(
        audio_config=stock.audio_config.to_dict(),
        text_config=stock.text_config.to_dict(),
        time_prompt=False,
        frame_rate=25.0,
        dtype=stock_config.dtype or stock.dtype,
        **backbone.fields(stock),
    )


def backbone_key(model_type, key) -> str | None:
    """Return our name for a backbone's tensor, or `None` if it is not part of TimePro (vision, speech synthesis).

    Raises:
        ValueError: the `model_type` is not one of [`BACKBONES`], or has no such tensor.
    """
    for pattern, ours in _backbone(model_type).keys:
        match = re.match(pattern, key)
        if match:
            return None if ours is None else ours + key[match.end() :]
    raise ValueError(f"key is {key!r}, which no {model_type} checkpoint has; is this the backbone's own folder?")


def backbone_processor(path, config) -> TimeProAudioProcessor:
    """Return TimePro's processor with a backbone's feature extractor, tokenizer and chat template, marks added.

    Args:
        path: directory or Hub id of the backbone.
        config: its [`backbone_config`].

    Raises:
        ValueError: the tokenizer lacks the audio placeholder, or the chat template cannot be marked.
    """
    # Not AutoProcessor: Qwen2.5-Omni's needs the dependencies for images and videos.
    settings, _ = TimeProAudioProcessor.get_processor_dict(path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    audio_token = tokenizer.convert_ids_to_tokens(config.audio_token_id)
    if audio_token is None:
        raise ValueError(
            f"audio_token_id is {config.audio_token_id} but the tokenizer has {len(tokenizer)} tokens; config.json and "
            "tokenizer are not of the same backbone."
        )
    # Some tokenizers have the template of the text-only language model.
    templates = [_default_template(source) for source in (settings.get("chat_template"), tokenizer.chat_template)]
    template = next((template for template in templates if template and audio_token in template), None)
    if template is None and audio_token != DEFAULT_AUDIO_TOKEN:
        raise ValueError(f"the backbone has no chat template with {audio_token}; add its chat_template.jinja.")
    vocabulary = tokenizer.get_vocab()
    marks = [mark if mark in vocabulary else None for mark in ("<|audio_bos|>", "<|audio_eos|>")]
    return TimeProAudioProcessor(
        AutoFeatureExtractor.from_pretrained(path),
        tokenizer,
        chat_template=escape_questions(mark_answers(template)) if template else None,
        audio_token=audio_token,
        audio_bos_token=marks[0],
        audio_eos_token=marks[1],
        time_prompt=False,
        frame_rate=config.frame_rate,
    )


def _default_template(templates):
    return templates.get("default") if isinstance(templates, dict) else templates
