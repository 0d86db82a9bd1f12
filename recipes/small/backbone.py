"""Build the small backbone: YAMNet's trunk, context layers trained on frame labels, and the small language model.

    python -m recipes.small.backbone --language-model DIR --weights yamnet.safetensors --stems DIR --out DIR

Context layers and projector are trained with a frame-level loss (`frame_labels.py`); a language model learns much
faster to read frames that already encode their labels.
"""

import logging

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from modeling_timepro import TimeProAudioConfig, TimeProAudioForCausalLM, TimeProYamnetConfig
from processing import TimeProAudioProcessor, TimeProYamnetFeatureExtractor
from recipes.arguments import script_parser
from recipes.conversion.checkpoint import load_checkpoint, save_checkpoint
from recipes.small.frame_labels import frame_f1, train_frames
from recipes.small.yamnet_weights import load_trunk

# The frame head that is discarded, as a linear map of the encoder's frames; see `label_grounder.py`.
FRAME_MAP = "frame_map.safetensors"

logger = logging.getLogger(__name__)


def join_backbone(language_model, weights):
    """Return `(model, processor)`: a YAMNet encoder and the trained language model, without ticks.

    Args:
        language_model: directory of a small Qwen2 and its tokenizer, see `recipes/small/language_model.py`.
        weights: YAMNet's `safetensors` file, see `recipes/small/yamnet_weights.py`.
    """
    language = AutoModelForCausalLM.from_pretrained(language_model)
    tokenizer = AutoTokenizer.from_pretrained(language_model)
    audio = TimeProYamnetConfig()
    frame_rate = 100 / audio.mel_per_frame
    config = TimeProAudioConfig(
        audio_config=audio,
        text_config=language.config.to_dict(),
        audio_token_id=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
        time_prompt=False,
        frame_rate=frame_rate,
    )
    model = TimeProAudioForCausalLM(config)
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.lm_head.load_state_dict(language.lm_head.state_dict())
    load_trunk(model.model.audio_tower.trunk, load_file(weights))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    extractor = TimeProYamnetFeatureExtractor(mel_per_frame=audio.mel_per_frame)
    return model, TimeProAudioProcessor(extractor, tokenizer, time_prompt=False, frame_rate=frame_rate)


def main(argv=None):
    parser = script_parser(__doc__)
    parser.add_argument("--language-model", help="directory of the small language model")
    parser.add_argument("--weights", help="YAMNet's safetensors file")
    parser.add_argument("--checkpoint", help="checkpoint to train further, instead of these two")
    parser.add_argument("--stems", required=True, help="directory of stored stem features: train, validation")
    parser.add_argument("--out", required=True, help="directory to write")
    parser.add_argument("--num-steps", type=int, default=600, help="steps of the frame-level loss; 0 to skip it")
    parser.add_argument("--split", default="train", help="which stems to learn from (default: train)")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument(
        "--blank-fraction", type=float, default=0.15, help="channels of the stem that are zero in a step"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    torch.manual_seed(arguments.seed)
    if (arguments.checkpoint is None) == (arguments.language_model is None or arguments.weights is None):
        parser.error("give --language-model and --weights, or --checkpoint alone.")
    if arguments.checkpoint:
        model, processor = load_checkpoint(arguments.checkpoint, dtype="float32")
    else:
        model, processor = join_backbone(arguments.language_model, arguments.weights)
    if arguments.num_steps:
        head, labels = train_frames(
            model, processor.tokenizer, arguments.stems, arguments.num_steps, learning_rate=arguments.learning_rate,
            seed=arguments.seed, split=arguments.split, blank_fraction=arguments.blank_fraction,
            is_continued=bool(arguments.checkpoint), resume=f"{arguments.out}.resume",
        )  # fmt: skip
        model.config.event_labels = labels
        validation = arguments.split.replace("train", "validation")
        scores = frame_f1(model, head, labels, arguments.stems, validation, (0.2, 0.3, 0.4, 0.5))
        logger.info("frame F1 on %s at 0.2, 0.3, 0.4, 0.5: %s", validation, [round(score, 3) for score in scores])
    save_checkpoint(model, processor, arguments.out)
    if arguments.num_steps:
        weight, bias = head.linear_map(model.model.multi_modal_projector)
        save_file({"weight": weight.detach().contiguous(), "bias": bias.detach()}, f"{arguments.out}/{FRAME_MAP}")


if __name__ == "__main__":
    main()
