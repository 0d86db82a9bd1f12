"""Merge an adapter into the checkpoint that it was trained on, file by file.

    timepro merge ADAPTER OUT

Sums are computed in float32 and stored in the dtype of the weights, as in PEFT.
"""

import json
import logging
import math
import shutil
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData, snapshot_download
from safetensors.torch import load_file

from modeling_timepro import TimeProAudioConfig
from recipes.conversion.atomic_folder import atomic_folder, check_output_folder
from recipes.conversion.backbone_files import check_weights, is_hub_id
from recipes.conversion.checkpoint_folder import read_config
from recipes.conversion.weight_files import DTYPES, one_file_open, read_header, shard_size, stored_tensors, write_shards

logger = logging.getLogger(__name__)

PREFIX = "base_model.model."
# Options that must be off for plain LoRA; they would change the sum.
OFF = (
    "alora_invocation_tokens",
    "alpha_pattern",
    "fan_in_fan_out",
    "layer_replication",
    "lora_bias",
    "modules_to_save",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
    "use_dora",
)
CARD = """# {name}

A TimePro checkpoint: the adapter `{adapter}` (LoRA, rank {rank}) merged into `{base}`. Made by
`timepro merge`; nothing was measured in doing so.
"""


def read_adapter(folder):
    """Return the settings of a plain LoRA adapter, and its pairs of matrices by the name of the weight.

    Args:
        folder: with `adapter_config.json` and `adapter_model.safetensors`.

    Raises:
        ValueError: there is no adapter, or it is of another kind.
    """
    folder = Path(folder)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise ValueError(f"adapter is {str(folder)!r}, which holds no {name}; give the folder of an adapter.")
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    odd = [name for name in OFF if settings.get(name)]
    if settings.get("peft_type") != "LORA" or settings.get("bias", "none") != "none" or odd:
        raise ValueError(
            f"adapter is {str(folder)!r}, a {settings.get('peft_type')} with {', '.join(odd) or 'biases'}; only plain "
            "LoRA can be merged here. PEFT's merge_and_unload merges others."
        )
    read_header(folder / "adapter_model.safetensors")
    pairs = {}
    for name, matrix in load_file(folder / "adapter_model.safetensors").items():
        module, _, part = name.removeprefix(PREFIX).rpartition(".lora_")
        if not module or part not in ("A.weight", "B.weight"):
            raise ValueError(f"adapter is {str(folder)!r}, which holds {name}; only plain LoRA can be merged here.")
        pairs.setdefault(f"{module}.weight", {})[part[0]] = matrix
    return settings, pairs


def merge(adapter, out, base=None, overwrite=False, max_shard_size="5GB"):
    """Write the checkpoint `out`: a base checkpoint with an adapter added to its weights.

    Args:
        adapter: folder of a LoRA adapter.
        base: folder or Hub id of the checkpoint that it was trained on; by default the one that it names.

    Raises:
        ValueError: adapter or base is broken, or they do not match.
        FileExistsError: `out` has files and `overwrite` is off, or they are not a checkpoint.
    """
    out = Path(out)
    check_output_folder(out, overwrite)
    size = shard_size(max_shard_size)
    settings, pairs = read_adapter(adapter)
    base = _base_folder(base or settings["base_model_name_or_path"])
    read_config(base)
    tensors = stored_tensors(base)
    rank = settings["r"]
    scale = settings["lora_alpha"] / (math.sqrt(rank) if settings.get("use_rslora") else rank)
    for name, pair in pairs.items():
        expected = (pair["B"].shape[0], pair["A"].shape[1]) if set(pair) == {"A", "B"} else None
        if name not in tensors or tensors[name].shape != expected:
            raise ValueError(
                f"adapter is {str(adapter)!r}, which changes {name} by {expected}, but base is {str(base)!r}, where it "
                f"is {tensors[name].shape if name in tensors else 'missing'}; give the base that it was trained on."
            )
    with atomic_folder(out, overwrite) as folder, one_file_open() as stored:

        def read(name):
            weight = stored(tensors[name])
            if name in pairs:
                delta = scale * (pairs[name]["B"].float() @ pairs[name]["A"].float())
                weight = (weight.float() + delta).to(DTYPES[tensors[name].dtype])
            return weight

        write_shards(folder, tensors, read, size)
        for path in base.iterdir():
            is_weight = path.name.endswith((".safetensors", ".safetensors.index.json"))
            if path.is_file() and not is_weight and path.name not in ("README.md", "trainer_state.json"):
                shutil.copy2(path, folder / path.name)
        (folder / "README.md").write_text(_card(adapter, base, out.absolute().name, rank), encoding="utf-8")
        check_weights(stored_tensors(folder), TimeProAudioConfig.from_pretrained(folder), folder)
    logger.info("wrote %s", out)


def _base_folder(name) -> Path:
    if not is_hub_id(name):
        return Path(name)
    try:
        return Path(snapshot_download(str(name)))
    except (OSError, ValueError) as error:
        raise ValueError(f"base is {str(name)!r}: no such folder, and the Hub does not return it ({error}).") from error


def _card(adapter, base, name, rank):
    """Return the README.md of the merged checkpoint, with the metadata of the base's card, if any."""
    data = {"library_name": "transformers", "pipeline_tag": "audio-text-to-text", "tags": ["audio", "timepro"]}
    if (base / "README.md").is_file():
        data |= ModelCard.load(base / "README.md", ignore_metadata_errors=True).data.to_dict()
    text = CARD.format(name=name, adapter=Path(adapter).resolve().name, base=base.resolve().name, rank=rank)
    return f"---\n{ModelCardData(**data).to_yaml()}\n---\n\n{text}"
