"""`timepro info`: describe a checkpoint, the figures of its card, and the versions needed in a bug report."""

import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from recipes.conversion.checkpoint_folder import count_parameters, read_config

REPORTED_PACKAGES = (
    "timepro", "torch", "transformers", "huggingface_hub", "tokenizers", "safetensors", "numpy", "scipy", "soundfile",
    "soxr", "torchaudio", "peft", "trl", "datasets", "accelerate", "gradio",
)  # fmt: skip


def describe_checkpoint(folder: str | os.PathLike) -> dict:
    """Describe a checkpoint without loading its weights.

    Returns:
        A dict for JSON: `folder`; `backbone`, the model types of encoder and language model; `parameters`;
        `frame_rate`, frames per second; `ticks` with `number`, `step` and `max_time` in seconds, `init` and `stride`;
        `time_prompt`; `answer_format`; `min_score`, below which the pipeline omits detected events, or `None`;
        `chunk_length_s`, window length in seconds; `labels`, `None` for an open vocabulary; `figures` of the card, each
        with `metric`, `dataset` and `value`; `versions` by name, `None` for packages that are not installed. Settings
        missing from the checkpoint are `None`.

    Raises:
        ValueError: the folder holds no TimePro checkpoint, or the card's metadata are malformed.
    """
    config = read_config(folder)
    path = Path(folder) / "processor_config.json"
    processor = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    # Older checkpoints use a name that means something else in `GenerationConfig`.
    max_time = config.get("max_audio_time", config.get("max_time"))
    return {
        "folder": str(Path(folder).resolve()),
        "backbone": [config.get(part, {}).get("model_type") for part in ("audio_config", "text_config")],
        "parameters": count_parameters(folder),
        "frame_rate": config.get("frame_rate"),
        "ticks": {
            "number": config.get("num_time_tokens", 0), "step": config.get("time_step"),
            "max_time": max_time, "init": config.get("time_init"), "stride": config.get("time_stride", 1),
        },
        "time_prompt": bool(config.get("time_prompt")),
        "answer_format": config.get("answer_format"),
        "min_score": processor.get("min_score"),
        "chunk_length_s": processor.get("chunk_length_s") or max_time,
        "labels": config.get("event_labels") or None,
        "frame_labels": (config.get("frame_grounder") or {}).get("labels"),
        "figures": _figures(Path(folder) / "README.md"),
        "versions": _versions(),
    }  # fmt: skip


def description_lines(description: dict) -> list[str]:
    """Return a description as lines of text, starting with the folder."""
    ticks, versions = description["ticks"], description["versions"]
    rows = {
        "backbone": " + ".join(name or "?" for name in description["backbone"]),
        "parameters": f"{description['parameters']:,}",
        "frames": f"{description['frame_rate'] or '?'} per second",
        "ticks": f"{ticks['number']}, every {ticks['step']} s, for clips of up to {ticks['max_time']} s",
        "tick init": ticks["init"] or "?",
        "time prompt": "off" if not description["time_prompt"] else "on" if ticks["stride"] == 1
        else f"on, every {ticks['stride']} ticks",
        "answers": description["answer_format"] or "?",
        "min score": "none: all events are kept" if description["min_score"] is None else description["min_score"],
        "windows": f"{description['chunk_length_s']} s",
        "labels": ", ".join(description["labels"] or ["open vocabulary"]),
    }  # fmt: skip
    if description["frame_labels"]:
        rows["by frames"] = ", ".join(description["frame_labels"])
    for dataset in dict.fromkeys(figure["dataset"] for figure in description["figures"]):
        mine = [figure for figure in description["figures"] if figure["dataset"] == dataset]
        rows[f"card, {dataset}"] = ", ".join(f"{figure['metric']} {figure['value']}" for figure in mine)
    rows["versions"] = ", ".join(f"{name} {value}" for name, value in versions.items() if value)
    if missing := [name for name, value in versions.items() if value is None]:
        rows["missing"] = ", ".join(missing)
    return [description["folder"], *(f"{name:<12}  {value}" for name, value in rows.items())]


def _figures(path) -> list[dict]:
    """Return the figures in the metadata of a card, if there is one."""
    if not path.is_file():
        return []
    from huggingface_hub import ModelCard

    try:
        results = ModelCard(path.read_text(encoding="utf-8")).data.eval_results or []
    # YAML's errors, and those of huggingface_hub for a model-index.
    except Exception as error:
        raise ValueError(f"{path}: its metadata cannot be read: {error}") from error
    return [
        {
            "metric": r.metric_name or r.metric_type,
            "dataset": r.dataset_config or r.dataset_name,
            "value": r.metric_value,
        }
        for r in results
    ]


def _versions() -> dict[str, str | None]:
    found = {"Python": sys.version.split()[0], "system": platform.platform()}
    for name in REPORTED_PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found
