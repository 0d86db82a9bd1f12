"""Compare two audio encoders after the same training on frame labels.

    python -m recipes.small.compare_encoders --language-model DIR --weights yamnet.safetensors --features DIR \
        --out encoders.json

`--features` is a folder with stems and mel features of `train`, `test_seen` and `test_unseen`, see
`recipes/small/stems.py`. One encoder is YAMNet's frozen trunk with context layers, the other a small Qwen2-Audio
encoder trained from scratch.
"""

import json
import logging
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from modeling_timepro import TimeProAudioConfig, TimeProAudioForCausalLM
from recipes.arguments import script_parser
from recipes.small.backbone import join_backbone
from recipes.small.frame_labels import frame_f1, train_frames

logger = logging.getLogger(__name__)

ENCODER_THRESHOLDS = (0.2, 0.3, 0.4, 0.5)


def small_qwen2_audio(language_model):
    """Return the small language model with a Qwen2-Audio encoder of four layers, 256 wide, for 10 s."""
    language = AutoModelForCausalLM.from_pretrained(language_model)
    audio = AutoConfig.for_model(
        "qwen2_audio_encoder",
        d_model=256,
        encoder_layers=4,
        encoder_attention_heads=4,
        encoder_ffn_dim=1024,
        max_source_positions=500,
        dropout=0.1,
    )
    config = TimeProAudioConfig(audio_config=audio, text_config=language.config.to_dict(), time_prompt=False)
    model = TimeProAudioForCausalLM(config)
    model.model.language_model.load_state_dict(language.model.state_dict())
    return model


def compare(language_model, weights, features, out, num_steps=600, seed=0) -> dict:
    """Train both encoders, write and return frame F1 (micro, best of four thresholds) on the two tests."""
    tokenizer = AutoTokenizer.from_pretrained(language_model)
    report = {"num_steps": num_steps, "seed": seed}
    for name, kind in (("yamnet", "stem"), ("qwen2_audio", "mel")):
        torch.manual_seed(seed)
        model = join_backbone(language_model, weights)[0] if kind == "stem" else small_qwen2_audio(language_model)
        head, labels = train_frames(model, tokenizer, features, num_steps, seed=seed, features=kind)
        parameters = model.model.audio_tower.parameters()
        report[name] = {"trained_parameters": sum(p.numel() for p in parameters if p.requires_grad)}
        for split in ("test_seen", "test_unseen"):
            scores = frame_f1(model, head, labels, features, split, ENCODER_THRESHOLDS, kind)
            report[name][split] = {"frame_f1": max(scores), "threshold": ENCODER_THRESHOLDS[scores.index(max(scores))]}
            logger.info("%s, %s: frame F1 %.3f", name, split, max(scores))
    Path(out).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def main(argv=None):
    parser = script_parser(__doc__)
    parser.add_argument("--language-model", required=True, help="directory of the small language model")
    parser.add_argument("--weights", required=True, help="YAMNet's safetensors file")
    parser.add_argument("--features", required=True, help="directory of stored stems and mels")
    parser.add_argument("--out", required=True, help="report to write, JSON")
    parser.add_argument("--num-steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    compare(**vars(parser.parse_args(argv)))


if __name__ == "__main__":
    main()
