"""Load a checkpoint by the code that it carries, and reach that code: this folder needs nothing else of the project."""

import importlib
import os
from pathlib import Path

CODE_FOLDER = Path(__file__).resolve().parent
TASK = "temporal-audio-grounding"
# A checkpoint that was put into this folder, or the one of the project that this folder is part of.
NEARBY = (CODE_FOLDER / "timepro-small", CODE_FOLDER.parent / "recipes" / "checkpoints" / "timepro-small")


def find_model(model: str | None = None) -> str:
    """Return the name of the checkpoint to load: what is given, or `TIMEPRO_MODEL`, or one near this folder.

    Raises:
        ValueError: none of them.
    """
    model = model or os.environ.get("TIMEPRO_MODEL") or next((str(path) for path in NEARBY if path.is_dir()), None)
    if model is None:
        raise ValueError(
            "no checkpoint is named; give --model, or TIMEPRO_MODEL, a directory or the id of one on the Hub."
        )
    return model


def load_pipeline(model: str):
    """Return the pipeline of a checkpoint.

    Args:
        model: a directory, which is read offline, or an id on the Hub.

    Raises:
        ValueError: not a TimePro checkpoint, or one whose code is older than this page.
        OSError: it cannot be loaded.
    """
    if os.path.isdir(model):
        # Read by transformers when it is imported.
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import pipeline
    from transformers.utils import logging

    logging.disable_progress_bar()
    pipe = pipeline(TASK, model=model, trust_remote_code=True)
    missing = [name for name in ("stream", "format_annotations", "read_annotations") if not hasattr(pipe, name)]
    if missing:
        raise ValueError(
            f"model is {model!r}, whose code has no {', '.join(missing)}; copy the *.py of a newer checkpoint into it."
        )
    settings = pipe.model.generation_config
    if settings.max_new_tokens is None and settings.max_length is None:
        settings.max_new_tokens = 256
    return pipe


def carried(pipe, module: str):
    """Return a module of the code that a pipeline's checkpoint carries, such as `audio_io`."""
    return importlib.import_module("." + module, type(pipe).__module__.rpartition(".")[0])
