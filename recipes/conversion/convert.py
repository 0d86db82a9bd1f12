"""Turn an audio language model into a TimePro checkpoint: add, initialise and, for digits, suppress ticks.

    timepro convert --backbone DIR_OR_HUB_ID --out DIR

Weights are copied file by file, so a large backbone needs little memory.
"""

import copy
import logging
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors import safe_open
from tokenizers import AddedToken
from transformers.dynamic_module_utils import custom_object_save

from modeling_timepro import TimeProAudioForCausalLM
from modeling_timepro.configuration_timepro import ANSWER_FORMATS
from processing import TimeGrid, TimeProAudioProcessor
from processing.constrained_decoding import MAX_NEW_TOKENS, TOKEN_SETTINGS, greedy_settings
from recipes.conversion.atomic_folder import atomic_folder, check_output_folder
from recipes.conversion.backbone_files import EMBEDDINGS, HEAD, check_weights, read_backbone
from recipes.conversion.card import conversion_card
from recipes.conversion.tick_embeddings import number_tokens, tick_head, time_embeddings
from recipes.conversion.weight_files import DTYPES, one_file_open, shard_size, stored_tensors, write_shards

logger = logging.getLogger(__name__)


def add_tick_tokens(tokenizer, grid) -> range:
    """Add the grid's ticks to a tokenizer and return their ids.

    Raises:
        ValueError: the tokenizer already has some of them.
    """
    ticks, vocabulary = grid.tick_tokens(), tokenizer.get_vocab()
    if known := [text for text in ticks if text in vocabulary]:
        raise ValueError(f"the tokenizer knows some ticks already ({known[0]}); use the backbone's original tokenizer.")
    # Not special, because decoding with skip_special_tokens must keep the times of an answer.
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in ticks])
    found = tokenizer.convert_tokens_to_ids(ticks)
    ids = range(found[0], found[0] + len(found))
    if found != list(ids):
        raise ValueError("the tokenizer gives the ticks ids that are not consecutive.")
    return ids


def set_ticks(config, generation_config, grid, ids, time_init, answer_format, time_prompt, time_stride):
    """Add ticks with these ids to a configuration, growing its vocabulary, and return generation settings.

    Only the backbone's token settings are kept: answers are greedy, and may repeat themselves.
    """
    # Spare rows of the backbone are used first; then the matrices grow.
    config.text_config.vocab_size = max(config.text_config.vocab_size, ids.stop)
    config.time_token_start_id, config.num_time_tokens = ids.start, len(ids)
    config.time_step, config.max_time, config.frame_rate = grid.time_step, grid.max_time, grid.frame_rate
    config.time_init, config.answer_format = time_init, answer_format
    config.time_prompt, config.time_stride = time_prompt, time_stride
    settings, left_out = greedy_settings(generation_config, TOKEN_SETTINGS)
    if left_out := {name: value for name, value in left_out.items() if not name.startswith(("output_", "use_cache"))}:
        named = ", ".join(f"{name}={value!r}" for name, value in left_out.items())
        logger.warning("left out of generation_config.json, so that answers are greedy: %s", named)
    settings.suppress_tokens = [config.audio_token_id] + ([] if answer_format == "ticks" else list(ids))
    # By default transformers stops after 20 new tokens, which truncates answers about busy clips.
    settings.max_new_tokens = MAX_NEW_TOKENS
    return settings


def timed_processor(processor, grid, answer_format, time_prompt, time_stride):
    """Return a copy of a processor with the ticks of a grid."""
    kept = ("feature_extractor", "tokenizer", "chat_template", "audio_token", "audio_bos_token", "audio_eos_token")
    changed = {"answer_format": answer_format, "time_prompt": time_prompt, "time_stride": time_stride} | asdict(grid)
    return TimeProAudioProcessor(**{name: getattr(processor, name) for name in kept}, **changed)


def check_settings(config, answer_format):
    """Raise `ValueError` for an unknown answer format, or a model that already has ticks."""
    if answer_format not in ANSWER_FORMATS:
        raise ValueError(f"answer_format is {answer_format!r}; choose one of {ANSWER_FORMATS}.")
    if config.num_time_tokens:
        raise ValueError(f"model has {config.num_time_tokens} ticks already; convert the backbone it came from.")


def tick_rows(tensors, ids, number_ids, time_init, answer_format, seed):
    """Return the initial rows of the ticks, `(num_ticks, hidden_size)`, by the name of their matrix.

    Args:
        tensors: locations of the backbone's tensors, by our names.
    """
    rows = {}
    for name in (name for name in (EMBEDDINGS, HEAD) if name in tensors):
        # One matrix in memory at a time.
        with safe_open(tensors[name].file, "pt") as file:
            weight = file.get_tensor(tensors[name].name)[: ids.start]
        if name == HEAD and answer_format == "ticks":
            rows[name] = tick_head(rows[EMBEDDINGS], weight)
        else:
            rows[name] = time_embeddings(weight, number_ids, time_init, seed)
        del weight
    return rows


def write_weights(folder, tensors, rows, ids, max_shard_size):
    """Write the weights of a backbone with ticks as shards into `folder`, with a progress bar.

    Args:
        tensors: locations of the backbone's tensors, by our names.
        rows: from [`tick_rows`]; they replace spare rows first, the rest is appended.
    """
    ours = dict(tensors)
    for name in rows:
        size, *rest = tensors[name].shape
        ours[name] = replace(tensors[name], shape=(max(size, ids.stop), *rest))

    with one_file_open() as stored:

        def read(name):
            tensor = stored(tensors[name])
            if name not in rows:
                return tensor
            return torch.cat([tensor[: ids.start], rows[name].to(tensor.dtype), tensor[ids.stop :]])

        write_shards(folder, ours, read, shard_size(max_shard_size))


def convert(
    backbone, out, time_step=0.04, max_time=30.0, time_init="mean", answer_format="digits", seed=0, overwrite=False,
    time_prompt=True, time_stride=1, max_shard_size="5GB",
):  # fmt: skip
    """Write the TimePro checkpoint `out` of a backbone directory or Hub id.

    Everything is checked before anything is written, and `out` appears complete or not at all.

    Args:
        max_shard_size: bytes, or text such as `5GB`; a larger tensor gets a shard of its own.

    Raises:
        FileNotFoundError: there is no such backbone.
        ValueError: an unsupported, broken or incomplete backbone, or invalid settings, such as a `time_step` shorter
            than one audio frame.
        FileExistsError: `out` has files and `overwrite` is off, or they are not a checkpoint.
    """
    out = Path(out)
    check_output_folder(out, overwrite)
    shard_size(max_shard_size)
    source = read_backbone(backbone)
    check_settings(source.config, answer_format)
    audio_config = source.config.audio_config
    is_small = audio_config.model_type == "timepro_yamnet"
    frame_rate = 100 / audio_config.mel_per_frame if is_small else source.config.frame_rate
    grid = TimeGrid(frame_rate=frame_rate, time_step=time_step, max_time=max_time)
    tokenizer = source.processor.tokenizer
    number_ids = number_tokens(tokenizer, grid)
    ids = add_tick_tokens(tokenizer, grid)
    config, settings = copy.deepcopy(source.config), (time_init, answer_format, time_prompt, time_stride)
    generation_config = set_ticks(config, source.generation_config, grid, ids, *settings)
    config.architectures = [TimeProAudioForCausalLM.__name__]
    config.dtype = DTYPES[source.dtype]
    end_answers(source.processor, generation_config)
    processor = timed_processor(source.processor, grid, answer_format, time_prompt, time_stride)
    rows = tick_rows(source.tensors, ids, number_ids, time_init, answer_format, seed)
    with atomic_folder(out, overwrite) as folder:
        write_weights(folder, source.tensors, rows, ids, max_shard_size)
        config.save_pretrained(folder)
        generation_config.save_pretrained(folder)
        with torch.device("meta"):
            custom_object_save(TimeProAudioForCausalLM(config), folder, config=config)
        processor.save_pretrained(folder)
        written = stored_tensors(folder)
        check_weights(written, type(config).from_pretrained(folder), folder)
        num_values = sum(tensor.num_values for tensor in written.values())
        card = conversion_card(source, config, num_values, out.absolute().name, seed)
        (folder / "README.md").write_text(card, encoding="utf-8")
    logger.info("wrote %s with %d ticks of %g s", out, grid.num_ticks, time_step)


def end_answers(processor, generation_config):
    """Make tokenizer and generation settings agree with the chat template on the token that ends an answer.

    Some tokenizers name the end of a document instead, so that training would use a different token than generation.
    """
    tokenizer, answer = processor.tokenizer, "timepro"
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}]
    end = tokenizer(processor.apply_chat_template(turns).rpartition(answer)[2], add_special_tokens=False)["input_ids"]
    if not end or end[0] not in tokenizer.added_tokens_decoder:
        raise ValueError("the chat template ends answers with no special token; give one that does.")
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end[0])
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    stops = generation_config.eos_token_id
    stops = [stops] if isinstance(stops, int) else stops or []
    if end[0] not in stops:
        generation_config.eos_token_id = [end[0], *stops] if stops else end[0]
    if generation_config.pad_token_id is None:
        generation_config.pad_token_id = tokenizer.pad_token_id
