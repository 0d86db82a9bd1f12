"""Stock audio language models with few random weights, saved as transformers saves them, for tests of backbones."""

import torch
from stock_backbones import OMNI_TEMPLATE
from transformers import (
    AudioFlamingo3Config,
    AudioFlamingo3ForConditionalGeneration,
    AudioFlamingo3Processor,
    AutoTokenizer,
    GenerationConfig,
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)

# Layers, widths, heads and mel bins of tower and language model.
SIZES = {
    "small": {"layers": 1, "audio": 32, "text": 32, "heads": 2, "mel": 16},
    "wide": {"layers": 3, "audio": 64, "text": 128, "heads": 4, "mel": 128},
}
# Turns as Audio Flamingo 3 writes them, without what tells images and videos apart.
FLAMINGO_TEMPLATE = """{% for turn in messages if turn['content'] is not none %}<|im_start|>{{ turn['role'] }}
{% if turn['content'] is string %}{{ turn['content'] }}{% else %}{% set text = namespace(value='') %}\
{% for part in turn['content'] %}{% if part.get('type') == 'audio' %}{{ '<sound>' }}\
{% elif 'text' in part %}{% set text.value = text.value + part['text'] %}{% endif %}{% endfor %}{{ text.value }}\
{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def _text_config(size, vocab_size):
    return {
        "vocab_size": vocab_size, "hidden_size": size["text"], "num_hidden_layers": size["layers"] + 1,
        "num_attention_heads": size["heads"], "num_key_value_heads": size["heads"] // 2,
        "intermediate_size": 2 * size["text"],
    }  # fmt: skip


def _audio_config(size):
    return {
        "num_mel_bins": size["mel"], "encoder_layers": size["layers"], "encoder_attention_heads": size["heads"],
        "encoder_ffn_dim": 2 * size["audio"], "d_model": size["audio"],
    }  # fmt: skip


def _qwen2_audio(size, tokenizer, tied):
    config = Qwen2AudioConfig(
        audio_config={"model_type": "qwen2_audio_encoder"} | _audio_config(size),
        text_config={"model_type": "qwen2"} | _text_config(size, len(tokenizer)),
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
        tie_word_embeddings=tied,
    )
    extractor = WhisperFeatureExtractor(feature_size=size["mel"])
    return Qwen2AudioForConditionalGeneration(config), Qwen2AudioProcessor(extractor, tokenizer)


def _omni_thinker(size, tokenizer, tied):
    half = size["text"] // size["heads"] // 2
    sections = [half - 2 * (half // 3), half // 3, half // 3]
    config = Qwen2_5OmniThinkerConfig(
        audio_config=_audio_config(size) | {"output_dim": size["text"], "n_window": 100},
        vision_config={
            "depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": size["text"],
            "fullatt_block_indexes": [0],
        },
        text_config=_text_config(size, len(tokenizer))
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections}},
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
        audio_start_token_id=tokenizer.convert_tokens_to_ids("<|audio_bos|>"),
        audio_end_token_id=tokenizer.convert_tokens_to_ids("<|audio_eos|>"),
        vision_start_token_id=1,
        tie_word_embeddings=tied,
    )  # fmt: skip
    # The real extractor's window, ten times that of the others.
    extractor = WhisperFeatureExtractor(feature_size=size["mel"], chunk_length=300, return_attention_mask=True)
    processor = object.__new__(Qwen2_5OmniProcessor)
    processor.feature_extractor, processor.tokenizer = extractor, tokenizer
    processor.audio_token, processor.chat_template = "<|AUDIO|>", OMNI_TEMPLATE
    return Qwen2_5OmniThinkerForConditionalGeneration(config), processor


def _audio_flamingo(size, tokenizer, tied):
    tokenizer.add_special_tokens({"additional_special_tokens": ["<sound>"]})
    config = AudioFlamingo3Config(
        audio_config={"model_type": "audioflamingo3_encoder"} | _audio_config(size),
        text_config={"model_type": "qwen2"} | _text_config(size, len(tokenizer)),
        audio_token_id=tokenizer.convert_tokens_to_ids("<sound>"),
        tie_word_embeddings=tied,
    )
    extractor = WhisperFeatureExtractor(feature_size=size["mel"], return_attention_mask=True)
    processor = AudioFlamingo3Processor(extractor, tokenizer, chat_template=FLAMINGO_TEMPLATE)
    return AudioFlamingo3ForConditionalGeneration(config), processor


MAKERS = {
    "audioflamingo3": _audio_flamingo,
    "qwen2_5_omni_thinker": _omni_thinker,
    "qwen2_audio": _qwen2_audio,
}


def make_stock(model_type, tokenizer_folder, size="small", tied=False):
    """Return a stock model of random weights, large enough that answers vary with the sound, and its processor."""
    torch.manual_seed(0)
    model, processor = MAKERS[model_type](SIZES[size], AutoTokenizer.from_pretrained(tokenizer_folder), tied)
    generator = torch.Generator().manual_seed(1)
    # Sums over more inputs are larger, and so is their rounding.
    spread = 0.12 * (32 / SIZES[size]["text"]) ** 0.5
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(spread * torch.randn(parameter.shape, generator=generator))
    tokenizer = processor.tokenizer
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    return model.eval(), processor


def save_stock(model, processor, folder):
    """Write model and processor as transformers does."""
    model.save_pretrained(folder)
    processor.feature_extractor.save_pretrained(folder)
    processor.tokenizer.save_pretrained(folder)
    if processor.chat_template:
        (folder / "chat_template.jinja").write_text(processor.chat_template)
    if type(processor) is not Qwen2_5OmniProcessor:
        processor.save_pretrained(folder)
