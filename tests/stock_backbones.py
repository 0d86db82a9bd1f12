"""Tiny stock backbones of random weights, written as their own classes and the Hub write them."""

import torch
from transformers import WhisperFeatureExtractor

TEXT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "intermediate_size": 48}  # fmt: skip
AUDIO = {"num_mel_bins": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 48, "d_model": 32}
# Qwen2.5-Omni's, in short: it numbers no clips unless asked to.
OMNI_TEMPLATE = (
    "{% set audio_count = namespace(value=0) %}{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'audio' or 'audio' in content or 'audio_url' in content %}"
    "{% set audio_count.value = audio_count.value + 1 %}"
    "{% if add_audio_id %}Audio {{ audio_count.value }}: {% endif %}<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def lively(model):
    """Return a model whose random weights are large enough for the sound to weigh something."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


def write_qwen2_audio(folder, tokenizer, num_spare=0, text=None, change=lively, **saving):
    """Write a stock Qwen2-Audio, and return it."""
    from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

    torch.manual_seed(0)
    config = Qwen2AudioConfig(
        audio_config={"model_type": "qwen2_audio_encoder"} | AUDIO,
        text_config={"model_type": "qwen2", "vocab_size": len(tokenizer) + num_spare} | TEXT | (text or {}),
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    model = change(Qwen2AudioForConditionalGeneration(config)).eval()
    model.save_pretrained(folder, **saving)
    Qwen2AudioProcessor(WhisperFeatureExtractor(feature_size=16), tokenizer).save_pretrained(folder)
    return model


def write_qwen2_5_omni(folder, tokenizer, num_spare=0, **saving):
    """Write a whole Qwen2.5-Omni, which sees and speaks too, and return it."""
    from transformers import Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration

    torch.manual_seed(0)
    audio_token = tokenizer.convert_tokens_to_ids("<|AUDIO|>")
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    size = {"vocab_size": len(tokenizer) + num_spare, "rope_parameters": rope} | TEXT
    config = Qwen2_5OmniConfig(
        thinker_config={
            "audio_config": AUDIO | {"output_dim": 32},
            "text_config": size,
            "vision_config": {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2,
                              "out_hidden_size": 32, "fullatt_block_indexes": [0]},
            "audio_token_index": audio_token, "image_token_index": 1, "video_token_index": 2,
        },
        talker_config=size | {"embedding_size": 32, "head_dim": 16, "pad_token_id": None},
        token2wav_config={
            "dit_config": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "emb_dim": 16,
                           "head_dim": 16, "num_embeds": 8, "enc_dim": 8, "enc_emb_dim": 8,
                           "enc_channels": [8, 8, 8, 8, 24], "enc_attention_channels": 4, "enc_se_channels": 4},
            "bigvgan_config": {"upsample_initial_channel": 64},
        },
        enable_audio_output=True,
    )  # fmt: skip
    model = lively(Qwen2_5OmniForConditionalGeneration(config)).eval()
    model.save_pretrained(folder, **saving)
    WhisperFeatureExtractor(feature_size=16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(OMNI_TEMPLATE)
    return model
