"""Inspect a checkpoint folder, and load it as a user would: through transformers, with its own code."""

import json
import math
import os
import tempfile
from pathlib import Path

from recipes import DEFAULT_CHECKPOINT
from recipes.conversion.light_imports import built_without_meta

TASK = "temporal-audio-grounding"


def load_pipeline(model: str | os.PathLike = DEFAULT_CHECKPOINT):
    """Return the pipeline of a checkpoint folder or Hub id, with the checkpoint's code (`trust_remote_code`).

    A local folder is loaded offline, which is also faster. The embedded checkpoint uses the installed code, so nothing
    is written; transformers copies the code of others to its cache, or to a temporary folder if that is read-only.

    Raises:
        ValueError: the folder holds no TimePro checkpoint, or dangling links.
        OSError: the Hub id cannot be loaded.
    """
    if Path(model).exists() or Path(model) == DEFAULT_CHECKPOINT:
        read_config(model)
        if dangling := [path for path in sorted(Path(model).glob("*.py")) if not path.exists()]:
            raise ValueError(f"{dangling[0]} links to a file that is not there; copy checkpoints with cp -rL.")
        # transformers reads this on import, so it only works in a fresh process; later it does no harm.
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    is_embedded = os.path.realpath(model) == os.path.realpath(DEFAULT_CHECKPOINT)
    if not is_embedded:
        make_room_for_code()
    from transformers import pipeline
    from transformers.utils import logging

    from processing.constrained_decoding import MAX_NEW_TOKENS, PIPELINE_SETTINGS, greedy_settings

    logging.disable_progress_bar()
    if is_embedded:
        import modeling_timepro  # noqa: F401 - tells transformers its classes

    with built_without_meta():
        pipe = pipeline(TASK, model=str(model), trust_remote_code=not is_embedded)
    # The code of an older checkpoint may sample if its settings say so, or stop after 20 tokens.
    pipe.model.generation_config, _ = greedy_settings(pipe.model.generation_config, PIPELINE_SETTINGS)
    pipe.model.generation_config.max_new_tokens = pipe.model.generation_config.max_new_tokens or MAX_NEW_TOKENS
    return pipe


def make_room_for_code():
    """Let transformers copy code to a temporary folder if its cache is read-only."""
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    folder = os.path.expanduser(os.environ.get("HF_MODULES_CACHE") or os.path.join(home, "modules"))
    try:
        os.makedirs(folder, exist_ok=True)
        is_writable = os.access(folder, os.W_OK)
    except OSError:
        is_writable = False
    if not is_writable:
        # transformers reads it on import.
        os.environ["HF_MODULES_CACHE"] = tempfile.mkdtemp(prefix="timepro-code-")


def read_config(folder: str | os.PathLike) -> dict:
    """Return `config.json` of a checkpoint folder.

    Raises:
        ValueError: it is missing, or not TimePro's.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise ValueError(f"model is {str(folder)!r}, which holds no config.json; give a TimePro checkpoint's folder.")
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("model_type") != "timepro_audio":
        raise ValueError(
            f"model is {str(folder)!r}, of model_type {config.get('model_type')!r}; turn it into a TimePro checkpoint "
            "by recipes/conversion/convert.py first."
        )
    return config


def weight_states(model: str | os.PathLike) -> list[list]:
    """Return name, size and modification time (ns) of a folder's weights, which may change under the same path."""
    files = sorted(Path(model).glob("*.safetensors")) if Path(model).is_dir() else []
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def count_parameters(folder: str | os.PathLike) -> int:
    """Return the number of values in all safetensors files of a folder, from their headers."""
    from safetensors import safe_open

    total = 0
    for path in Path(folder).glob("*.safetensors"):
        with safe_open(path, "np") as file:
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())
    return total
