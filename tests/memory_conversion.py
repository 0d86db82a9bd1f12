"""Conversion of models in memory, against which the conversion of files is tested."""

import torch

from modeling_timepro import TimeProAudioForCausalLM
from recipes.conversion.backbone_files import EMBEDDINGS, HEAD, read_backbone
from recipes.conversion.convert import add_tick_tokens, check_settings, set_ticks, timed_processor
from recipes.conversion.tick_embeddings import number_tokens, tick_head, time_embeddings
from recipes.conversion.weight_files import DTYPES, one_file_open


def load_backbone(name):
    """Return `(model, processor)` of a backbone in TimePro's classes, still without ticks.

    Raises:
        FileNotFoundError, ValueError: see [`read_backbone`].
    """
    source = read_backbone(name)
    with one_file_open() as read:
        weights = {ours: read(stored) for ours, stored in source.tensors.items()}
    weights.setdefault(HEAD, weights[EMBEDDINGS])
    model = TimeProAudioForCausalLM._from_config(source.config, dtype=DTYPES[source.dtype]).eval()
    model.load_state_dict(weights, strict=True)
    model.generation_config = source.generation_config
    return model, source.processor


def add_time_tokens(
    model, processor, grid, time_init="mean", answer_format="digits", seed=0, time_prompt=True, time_stride=1
):
    """Add the grid's ticks to tokenizer, embeddings and configuration, in place, and return the new processor.

    For a model in memory; [`convert`] does the same to files. Without `time_prompt` no ticks will stand among the audio
    frames; answers may be written in them all the same.

    Raises:
        ValueError: the checkpoint has ticks already, or `answer_format` is unknown.
    """
    check_settings(model.config, answer_format)
    number_ids = number_tokens(processor.tokenizer, grid)
    ids = add_tick_tokens(processor.tokenizer, grid)
    if ids.stop > model.config.text_config.vocab_size:
        model.resize_token_embeddings(ids.stop, mean_resizing=False)
    with torch.no_grad():
        embeddings, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        rows = slice(ids.start, ids.stop)
        embeddings[rows] = time_embeddings(embeddings[: ids.start], number_ids, time_init, seed)
        if head is not embeddings:
            if answer_format == "ticks":
                head[rows] = tick_head(embeddings[rows], head[: ids.start])
            else:
                head[rows] = time_embeddings(head[: ids.start], number_ids, time_init, seed)
    settings = (time_init, answer_format, time_prompt, time_stride)
    model.generation_config = set_ticks(model.config, model.generation_config, grid, ids, *settings)
    return timed_processor(processor, grid, answer_format, time_prompt, time_stride)
