"""Read the headers of a checkpoint's safetensors files, and write new weight files."""

import contextlib
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm import tqdm
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import convert_file_size_to_int

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class StoredTensor:
    """Location of a tensor: its `file`, its `name` in it, its `dtype` (a key of `DTYPES`) and `shape`."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def num_values(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return self.num_values * DTYPES[self.dtype].itemsize


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of one safetensors file by name, without reading them.

    Raises:
        ValueError: the file is truncated, not a safetensors file, or has tensors of an unsupported dtype.
    """
    try:
        with safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}
            tensors = {n: StoredTensor(path, n, s.get_dtype(), tuple(s.get_shape())) for n, s in slices.items()}
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated, or is not a safetensors file ({error}); fetch it again.") from None
    for tensor in tensors.values():
        if tensor.dtype not in DTYPES:
            raise ValueError(
                f"{path} holds {tensor.name} as {tensor.dtype}; give weights that are not quantised "
                f"({', '.join(DTYPES)})."
            )
    return tensors


def shard_names(folder: Path) -> dict[str, str] | None:
    """Return the file of each tensor from the folder's index, or `None` for a single weight file.

    Raises:
        ValueError: the folder has no safetensors weights, or its index is malformed.
    """
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    if index.is_file():
        try:
            names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            if all(Path(name).name == name for name in names.values()):
                return names
        except (ValueError, KeyError, AttributeError, TypeError):
            pass
        raise ValueError(f"{index} is not an index of safetensors files; fetch it again.")
    if (folder / SAFE_WEIGHTS_NAME).is_file():
        return None
    stray = sorted(path.name for path in folder.glob("*.safetensors"))
    pickles = sorted(path.name for path in folder.glob("*") if path.suffix in (".bin", ".pt", ".pth", ".ckpt"))
    reason = f"holds neither {SAFE_WEIGHTS_NAME} nor {SAFE_WEIGHTS_INDEX_NAME}"
    if stray:
        reason += f", though {', '.join(stray)}; fetch the index too."
    elif pickles:
        reason += f" but {', '.join(pickles)}: pickles run code when they are read. Save it as safetensors first."
    else:
        reason += "; fetch the weights too."
    raise ValueError(f"{str(folder)!r} {reason}")


def stored_tensors(folder: Path, is_wanted=lambda name: True) -> dict[str, StoredTensor]:
    """Return the wanted tensors of a folder by name; files without any of them need not exist.

    Raises:
        ValueError: missing or broken files or tensors; all missing ones are listed.
    """
    names = shard_names(folder)
    if names is None:
        return {name: tensor for name, tensor in read_header(folder / SAFE_WEIGHTS_NAME).items() if is_wanted(name)}
    wanted = {name: file for name, file in names.items() if is_wanted(name)}
    files = list(dict.fromkeys(wanted.values()))
    if missing := [file for file in files if not (folder / file).is_file()]:
        raise ValueError(
            f"{str(folder)!r} lacks {len(missing)} of {len(files)} files of weights: {', '.join(missing)}."
        )
    headers = {file: read_header(folder / file) for file in files}
    if lost := [f"{name} ({file})" for name, file in wanted.items() if name not in headers[file]]:
        raise ValueError(f"{str(folder)!r} lacks {len(lost)} tensors that its index lists: {listed(lost)}.")
    # In the order of the files, so that each is opened once.
    return {name: headers[file][name] for file in files for name in headers[file] if wanted.get(name) == file}


def listed(items: Iterable, limit: int = 5) -> str:
    """Return the first items as text."""
    items = [str(item) for item in items]
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


def shard_size(size: str | int) -> int:
    """Return a size in bytes, from a number or text such as `5GB`, `500MB` or `2GiB`.

    Raises:
        ValueError: it is neither, or not above 0.
    """
    try:
        num_bytes = int(size) if str(size).isdigit() else convert_file_size_to_int(size)
    except ValueError:
        num_bytes = 0
    if num_bytes < 1:
        raise ValueError(f"max_shard_size is {size!r}; give bytes or such as 500MB, 5GB or 2GiB.")
    return num_bytes


@contextlib.contextmanager
def one_file_open():
    """Yield a function that reads a [`StoredTensor`], with one file open at a time.

    Pages of a mapped file count as memory until it is closed.
    """
    with contextlib.ExitStack() as stack:
        opened = {}

        def read(stored: StoredTensor) -> torch.Tensor:
            if stored.file not in opened:
                stack.close()
                opened.clear()
                opened[stored.file] = stack.enter_context(safe_open(stored.file, "pt"))
            return opened[stored.file].get_tensor(stored.name)

        yield read


def write_shards(
    folder: Path, tensors: dict[str, StoredTensor], read: Callable[[str], torch.Tensor], max_size: int
) -> None:
    """Write tensors as safetensors files with an index, named as by `save_pretrained`, with a progress bar.

    Only one file is in memory at a time. A single file has no index.

    Args:
        tensors: dtype and shape by name.
        read: function from a name to that tensor.
        max_size: maximum size of a file in bytes, unless a single tensor is larger.

    Raises:
        OSError: a file cannot be written.
    """
    plan = split_state_dict_into_shards_factory(
        tensors, get_storage_size=lambda tensor: tensor.num_bytes, max_shard_size=max_size,
        filename_pattern=SAFE_WEIGHTS_NAME.replace(".", "{suffix}."),
    )  # fmt: skip
    for file, names in tqdm(plan.filename_to_tensors.items(), desc="shards", unit="shard"):
        try:
            save_file({name: read(name).contiguous() for name in names}, folder / file, metadata={"format": "pt"})
        except SafetensorError as error:
            raise OSError(f"{folder / file}: {error}") from None
    if plan.is_sharded:
        metadata = {"total_parameters": sum(tensor.num_values for tensor in tensors.values())} | plan.metadata
        index = {"metadata": metadata, "weight_map": dict(sorted(plan.tensor_to_filename.items()))}
        (folder / SAFE_WEIGHTS_INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
