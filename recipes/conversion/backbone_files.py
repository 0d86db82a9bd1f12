"""Check a backbone's files before conversion, so that missing or broken files are reported immediately."""

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open
from transformers import AutoConfig, GenerationConfig
from transformers.integrations import deepspeed
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from modeling_timepro import TimeProAudioConfig, TimeProAudioForCausalLM
from processing import TimeProAudioProcessor
from recipes.conversion.backbones import backbone_config, backbone_key, backbone_processor
from recipes.conversion.checkpoint import load_processor
from recipes.conversion.weight_files import StoredTensor, listed, shard_names, stored_tensors

EMBEDDINGS, HEAD = "model.language_model.embed_tokens.weight", "lm_head.weight"
# A checkpoint must have one file of each of these groups.
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "tokenizer.model", "tekken.json")
EXTRACTOR_FILES = ("preprocessor_config.json", "processor_config.json")
SMALL_FILES = ["*.json", "*.jinja", "*.txt", "tokenizer.model", "README.md"]


@dataclass
class BackboneFiles:
    """A backbone that can be converted.

    Args:
        name: Hub id or folder, as given.
        folder: folder of its files.
        config: TimePro's configuration, without ticks.
        processor: TimePro's processor, with the time prompt off.
        generation_config: the backbone's own.
        tensors: locations of the model's tensors by our names, in the order of the files.
    """

    name: str
    folder: Path
    config: TimeProAudioConfig
    processor: TimeProAudioProcessor
    generation_config: GenerationConfig
    tensors: dict[str, StoredTensor]

    @property
    def dtype(self) -> str:
        """The dtype of most weights, a key of `weight_files.DTYPES`."""
        sizes = Counter()
        for tensor in self.tensors.values():
            sizes[tensor.dtype] += tensor.num_bytes
        return sizes.most_common(1)[0][0]


def read_backbone(name) -> BackboneFiles:
    """Check a backbone, reading headers but no weights.

    Args:
        name: folder, or Hub id, whose files are fetched as needed.

    Raises:
        FileNotFoundError: neither a folder nor a repository that can be reached.
        ValueError: it is unsupported, broken, incomplete or inconsistent.
    """
    folder = backbone_folder(name)
    stock = read_stock_config(folder)
    is_ours = stock.model_type == TimeProAudioConfig.model_type
    config, key_of = stock if is_ours else backbone_config(stock), our_key_of(stock.model_type)
    stored = stored_tensors(folder, lambda key: key_of(key) is not None)
    tensors = {}
    for key, tensor in stored.items():
        if (ours := key_of(key)) in tensors:
            raise ValueError(f"{str(folder)!r} holds {ours} twice, as {tensors[ours].name} and {key}.")
        tensors[ours] = tensor
    tie_or_untie(config, tensors)
    check_weights(tensors, config, folder)
    check_side_files(folder)
    processor = load_processor(folder) if is_ours else backbone_processor(folder, config)
    check_tokenizer(processor, config, folder)
    if (folder / "generation_config.json").is_file():
        generation_config = GenerationConfig.from_pretrained(folder)
    else:
        generation_config = GenerationConfig.from_model_config(config.text_config)
    return BackboneFiles(str(name), folder, config, processor, generation_config, tensors)


def our_key_of(model_type):
    """Return the function from the names of a checkpoint's tensors to ours, see [`backbone_key`]."""
    if model_type == TimeProAudioConfig.model_type:
        return lambda key: key
    return partial(backbone_key, model_type)


def is_hub_id(name) -> bool:
    """Return whether a name can be a repository id, and is not a path."""
    return not (Path(name).exists() or str(name).startswith(("/", ".", "~")) or str(name).count("/") > 1)


def backbone_folder(name) -> Path:
    """Return the folder of a backbone; for a Hub id, fetch its small files and the shards that are needed.

    Raises:
        FileNotFoundError: neither a folder nor a repository that can be reached.
    """
    if Path(name).is_dir():
        return Path(name)
    if not is_hub_id(name):
        raise FileNotFoundError(
            f"backbone is {str(name)!r}, which is not a folder; give one, or a Hub id such as org/name."
        )
    try:
        folder = Path(snapshot_download(str(name), allow_patterns=SMALL_FILES))
        names = {SAFE_WEIGHTS_NAME}
        if (folder / SAFE_WEIGHTS_INDEX_NAME).is_file():
            key_of = our_key_of(read_stock_config(folder).model_type)
            names = {file for key, file in shard_names(folder).items() if key_of(key) is not None}
        return Path(snapshot_download(str(name), allow_patterns=[*SMALL_FILES, *sorted(names)]))
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError) and "backbone" in str(error):
            raise
        raise FileNotFoundError(
            f"backbone is {str(name)!r}: no such folder, and the Hub does not return it ({error})"
        ) from error


def read_stock_config(folder):
    """Return the configuration of a backbone's folder.

    Raises:
        ValueError: it is missing or unreadable, or the weights are quantised.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(f"backbone is {str(folder)!r}, which holds no config.json; give the folder of a checkpoint.")
    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'config.json'} cannot be read: {error}") from error
    if getattr(config, "quantization_config", None):
        raise ValueError(f"backbone is {str(folder)!r}, whose weights are quantised; give those it was made from.")
    return config


def tie_or_untie(config, tensors):
    """Set whether `config` ties embedding and head according to the files, and drop a redundant copy of the matrix."""
    if HEAD not in tensors or EMBEDDINGS not in tensors:
        return
    if config.tie_word_embeddings and same_values(tensors[EMBEDDINGS], tensors[HEAD]):
        del tensors[HEAD]
    else:
        config.tie_word_embeddings = False


def same_values(one: StoredTensor, other: StoredTensor) -> bool:
    """Return whether two stored tensors are equal, comparing a few thousand rows at a time."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    with safe_open(one.file, "pt") as first, safe_open(other.file, "pt") as second:
        left, right = first.get_slice(one.name), second.get_slice(other.name)
        parts = (slice(start, start + 4096) for start in range(0, one.shape[0], 4096))
        return all(torch.equal(left[part], right[part]) for part in parts)


@contextmanager
def built_whole():
    """Disable ZeRO-3, under which transformers shards every model as it is built."""
    reference = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = reference


def expected_shapes(config) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor in a checkpoint with this configuration."""
    with built_whole(), torch.device("meta"):
        model = TimeProAudioForCausalLM(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        shapes.pop(HEAD, None)
    return shapes


def check_weights(tensors: dict[str, StoredTensor], config, folder) -> None:
    """Raise `ValueError` unless these are exactly the tensors of the model, with the right shapes."""
    shapes = expected_shapes(config)
    if missing := [name for name in shapes if name not in tensors]:
        raise ValueError(f"{str(folder)!r} lacks {len(missing)} of {len(shapes)} weights: {listed(missing)}.")
    if unknown := [tensors[name].name for name in tensors if name not in shapes]:
        raise ValueError(f"{str(folder)!r} holds {len(unknown)} weights unknown to its config.json: {listed(unknown)}.")
    wrong = [(tensor, shapes[name]) for name, tensor in tensors.items() if tensor.shape != shapes[name]]
    if wrong:
        shown = listed(f"{tensor.name} is {list(tensor.shape)}, not {list(shape)}" for tensor, shape in wrong)
        raise ValueError(f"{str(folder)!r} has {len(wrong)} weights of other shapes than its config.json: {shown}.")


def check_side_files(folder) -> None:
    """Raise `ValueError` unless the folder has a tokenizer and the settings of a feature extractor."""
    for what, files in (("a tokenizer", TOKENIZER_FILES), ("a feature extractor", EXTRACTOR_FILES)):
        if not any((folder / file).is_file() for file in files):
            raise ValueError(f"{str(folder)!r} lacks {what} ({' or '.join(files)}); fetch that too.")


def check_tokenizer(processor, config, folder) -> None:
    """Raise `ValueError` unless the tokenizer has the placeholder under its id, and every id has an embedding."""
    tokenizer = processor.tokenizer
    if config.audio_token_id not in tokenizer.added_tokens_decoder or processor.audio_token_id != config.audio_token_id:
        raise ValueError(
            f"{str(folder)!r}: audio_token_id is {config.audio_token_id}, not a placeholder in the tokenizer but "
            f"{tokenizer.convert_ids_to_tokens(config.audio_token_id)!r}; they are not of the same checkpoint."
        )
    last = max(tokenizer.get_vocab().values())
    if last >= config.text_config.vocab_size:
        raise ValueError(
            f"{str(folder)!r}: the tokenizer has ids up to {last} but the embedding {config.text_config.vocab_size} "
            "rows; they are not of the same checkpoint."
        )
