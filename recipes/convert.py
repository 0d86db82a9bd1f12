"""Turn an audio-language backbone into a TimePro checkpoint: ticks added, initialised and kept from being emitted.

    timepro convert --backbone DIR_OR_HUB_ID --out DIR

`python -m recipes.convert` does the same.
"""

import argparse
import contextlib
import logging
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from safetensors.torch import load_file
from tokenizers import AddedToken
from transformers import AutoConfig, GenerationConfig

from modeling_timepro import TimeProAudioForCausalLM
from modeling_timepro.configuration_timepro import ANSWER_FORMATS
from processing import TimeGrid, TimeProAudioProcessor
from recipes.backbones import backbone_config, backbone_key, backbone_processor
from recipes.checkpoint import load_checkpoint, save_checkpoint
from recipes.convert_arguments import add_convert_arguments
from recipes.time_embeddings import number_tokens, tick_head, time_embeddings

logger = logging.getLogger(__name__)


def load_backbone(path):
    """Return `(model, processor)` in TimePro's classes, still without ticks, of any supported backbone.

    Raises:
        ValueError: the backbone's `model_type` is not supported, or its weights do not map one to one.
    """
    config = AutoConfig.from_pretrained(path)
    if config.model_type == "timepro_audio":
        return load_checkpoint(path)
    ours = backbone_config(config)
    folder = (
        Path(path) if Path(path).is_dir() else Path(snapshot_download(str(path), allow_patterns=["*.safetensors*"]))
    )
    weights = {}
    for file in sorted(folder.glob("*.safetensors")):
        for key, tensor in load_file(file).items():
            name = backbone_key(config.model_type, key)
            if name is not None:
                weights[name] = tensor
    if ours.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.language_model.embed_tokens.weight"]
    dtype = weights["model.language_model.embed_tokens.weight"].dtype
    model = TimeProAudioForCausalLM._from_config(ours, dtype=dtype).eval()
    model.load_state_dict(weights, strict=True)
    with contextlib.suppress(OSError):
        model.generation_config = GenerationConfig.from_pretrained(path)
    return model, backbone_processor(path, ours)


def add_time_tokens(
    model, processor, grid, time_init="mean", answer_format="digits", seed=0, time_prompt=True, time_stride=1
):
    """Add the grid's ticks to tokenizer, embeddings and configuration, in place, and return the new processor.

    Without `time_prompt` no ticks will stand among the audio frames; answers may be written in them all the same.

    Raises:
        ValueError: the checkpoint has ticks already, or `answer_format` is unknown.
    """
    tokenizer = processor.tokenizer
    if answer_format not in ANSWER_FORMATS:
        raise ValueError(f"answer_format is {answer_format!r}; choose one of {ANSWER_FORMATS}.")
    if model.config.num_time_tokens:
        raise ValueError(f"model has {model.config.num_time_tokens} ticks already; convert the backbone it came from.")
    number_ids = number_tokens(tokenizer, grid)
    start = len(tokenizer)
    # Not special: decoding with skip_special_tokens must keep the times of an answer.
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in grid.tick_tokens()])
    if tokenizer.convert_tokens_to_ids(grid.tick_tokens()) != list(range(start, start + grid.num_ticks)):
        raise ValueError("the tokenizer knows some ticks already; use the backbone's original tokenizer.")
    end = start + grid.num_ticks
    if end > model.config.text_config.vocab_size:
        # Spare rows are used where the backbone has them; otherwise the matrices grow by what is missing.
        model.resize_token_embeddings(end, mean_resizing=False)
    with torch.no_grad():
        embeddings, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        embeddings[start:end] = time_embeddings(embeddings[:start], number_ids, time_init, seed)
        if answer_format == "ticks" and head is not embeddings:
            head[start:end] = tick_head(embeddings[start:end], head[:start])
        else:
            head[start:end] = time_embeddings(head[:start], number_ids, time_init, seed)
    config = model.config
    config.time_token_start_id, config.num_time_tokens = start, grid.num_ticks
    config.time_step, config.max_time, config.frame_rate = grid.time_step, grid.max_time, grid.frame_rate
    config.time_init, config.answer_format = time_init, answer_format
    config.time_prompt, config.time_stride = time_prompt, time_stride
    suppressed = [config.audio_token_id] + ([] if answer_format == "ticks" else list(config.time_token_ids))
    model.generation_config.suppress_tokens = suppressed
    # transformers stops after 20 new tokens by default, which cuts the answer about a busy clip.
    model.generation_config.max_new_tokens = 256
    return TimeProAudioProcessor(
        processor.feature_extractor,
        tokenizer,
        chat_template=processor.chat_template,
        audio_token=processor.audio_token,
        audio_bos_token=processor.audio_bos_token,
        audio_eos_token=processor.audio_eos_token,
        time_step=grid.time_step,
        max_time=grid.max_time,
        frame_rate=grid.frame_rate,
        answer_format=answer_format,
        time_prompt=time_prompt,
        time_stride=time_stride,
    )


def convert(
    backbone,
    out,
    time_step=0.04,
    max_time=30.0,
    time_init="mean",
    answer_format="digits",
    seed=0,
    overwrite=False,
    time_prompt=True,
    time_stride=1,
):
    """Write the TimePro checkpoint `out` of a backbone directory or Hub id.

    Raises:
        ValueError: unsupported backbone, or a `time_step` shorter than one audio frame.
        FileExistsError: `out` is a directory with files and `overwrite` is off.
    """
    out = Path(out)
    if out.exists() and any(out.iterdir()) and not overwrite:
        raise FileExistsError(f"out is {str(out)!r}, which has files already; choose another or pass --overwrite.")
    model, processor = load_backbone(backbone)
    audio_config = model.config.audio_config
    frame_rate = 100 / audio_config.mel_per_frame if audio_config.model_type == "timepro_yamnet" else 25.0
    grid = TimeGrid(frame_rate=frame_rate, time_step=time_step, max_time=max_time)
    processor = add_time_tokens(model, processor, grid, time_init, answer_format, seed, time_prompt, time_stride)
    save_checkpoint(model, processor, out)
    load_checkpoint(out)
    logger.info("wrote %s with %d ticks of %g s", out, grid.num_ticks, time_step)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_convert_arguments(parser)
    logging.basicConfig(level=logging.INFO)
    convert(**vars(parser.parse_args(argv)))


if __name__ == "__main__":
    main()
