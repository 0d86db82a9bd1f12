"""The weights of a checkpoint folder as safetensors headers describe them, and new shards written tensor by tensor."""

import contextlib
import json
import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from tqdm import tqdm

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
# safetensors' own limit
MAX_HEADER = 100_000_000


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: its `file`, its `name` there, its `dtype` (a key of `DTYPES`) and `shape`."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of one safetensors file by name, without reading them.

    Raises:
        ValueError: the file is cut off, is none of the kind, or holds a type of numbers that no weight here has.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(size - 8, MAX_HEADER):
            raise ValueError(f"{path} is no safetensors file, or is cut off after {size} bytes; fetch it again.")
        try:
            entries = json.loads(file.read(length))
        except ValueError:
            raise ValueError(f"{path} has a safetensors header that cannot be read; fetch it again.") from None
    entries.pop("__metadata__", None)
    end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    if 8 + length + end != size:
        raise ValueError(f"{path} is {size} bytes long but its header tells of {8 + length + end}; fetch it again.")
    tensors = {}
    for name, entry in entries.items():
        if entry["dtype"] not in DTYPES:
            raise ValueError(
                f"{path} holds {name} as {entry['dtype']}; give weights that are not quantised ({', '.join(DTYPES)})."
            )
        tensors[name] = StoredTensor(path, name, entry["dtype"], tuple(entry["shape"]))
    return tensors


def shard_names(folder: Path) -> dict[str, str] | None:
    """Return the file of each tensor as the folder's index says, or `None` where a single file holds all.

    Raises:
        ValueError: the folder has no safetensors weights, or its index cannot be read.
    """
    if (folder / INDEX).is_file():
        try:
            names = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
            plain = all(Path(name).name == name for name in names.values())
        except (ValueError, KeyError, AttributeError, TypeError):
            plain = False
        if not plain:
            raise ValueError(f"{folder / INDEX} is no index of safetensors files; fetch it again.")
        return names
    if (folder / SINGLE).is_file():
        return None
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
    stray = sorted(path.name for path in folder.glob("*.safetensors"))
    reason = f"holds neither {SINGLE} nor {INDEX}"
    if stray:
        reason += f", though {', '.join(stray)}; fetch the index too."
    elif pickles:
        reason += f" but {', '.join(pickles)}: pickles run code when they are read. Save it as safetensors first."
    else:
        reason += "; fetch the weights too."
    raise ValueError(f"{str(folder)!r} {reason}")


def stored_tensors(folder: Path, is_wanted=lambda name: True) -> dict[str, StoredTensor]:
    """Return the wanted tensors of a folder by name; files that hold none of them need not be there.

    Raises:
        ValueError: files or tensors are missing or broken; all missing ones are listed.
    """
    names = shard_names(folder)
    if names is None:
        return {name: tensor for name, tensor in read_header(folder / SINGLE).items() if is_wanted(name)}
    wanted = {name: file for name, file in names.items() if is_wanted(name)}
    files = list(dict.fromkeys(wanted.values()))
    if missing := [file for file in files if not (folder / file).is_file()]:
        raise ValueError(
            f"{str(folder)!r} lacks {len(missing)} of {len(files)} files of weights: {', '.join(missing)}."
        )
    headers = {file: read_header(folder / file) for file in files}
    if lost := [f"{name} ({file})" for name, file in wanted.items() if name not in headers[file]]:
        raise ValueError(f"{str(folder)!r} lacks {len(lost)} tensors that its index tells of: {listed(lost)}.")
    # In the order of the files, so that reading all opens each once.
    return {name: headers[file][name] for file in files for name in headers[file] if wanted.get(name) == file}


def listed(items: Iterable, limit: int = 5) -> str:
    """Return items as text, the first few of many."""
    items = [str(item) for item in items]
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


def parse_size(text: str | int) -> int:
    """Return bytes, of a number or of text such as `5GB`, `500MB` or `2GiB`.

    Raises:
        ValueError: it is neither, or not above 0.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]i?B)?\s*", str(text), re.IGNORECASE)
    size = int(float(match[1]) * UNITS[(match[2] or "").upper()]) if match else 0
    if size < 1:
        raise ValueError(f"max_shard_size is {text!r}; give bytes or such as 500MB, 5GB or 2GiB.")
    return size


def plan_shards(tensors: dict[str, StoredTensor], max_size: int) -> list[list[str]]:
    """Return names of tensors, shard by shard: in order, at most `max_size` bytes a shard unless one tensor is more."""
    shards, size = [], max_size + 1
    for name, tensor in tensors.items():
        if size + tensor.num_bytes > max_size:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += tensor.num_bytes
    return shards


def write_shard(path: Path, tensors: dict[str, StoredTensor], read) -> None:
    """Write one safetensors file, tensor by tensor, so that no more than one need be in memory.

    Args:
        tensors: dtype and shape by name.
        read: function from a name to the parts of that tensor, which follow each other along its first dimension.
    """
    # Wide types first keep all aligned, as safetensors does itself.
    order = sorted(tensors, key=lambda name: -DTYPES[tensors[name].dtype].itemsize)
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name in order:
        end = offset + tensors[name].num_bytes
        header[name] = {"dtype": tensors[name].dtype, "shape": tensors[name].shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            written = sum(file.write(part_bytes(part)) for part in read(name))
            if written != tensors[name].num_bytes:
                raise ValueError(f"{name} gave {written} bytes but {tensors[name].num_bytes} were announced.")


def part_bytes(part: torch.Tensor):
    """Return the bytes of a tensor, without a copy where it is contiguous."""
    return part.contiguous().reshape(-1).view(torch.uint8).numpy().data


@contextlib.contextmanager
def one_file_open():
    """Yield a function that reads a [`StoredTensor`], with one file open at a time.

    What was read of a mapped file counts as memory until it is closed.
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


def write_shards(folder: Path, tensors: dict[str, StoredTensor], read, max_size: int) -> None:
    """Write all tensors as shards and their index, as `save_pretrained` names them, under a progress bar.

    A single shard has no index. Arguments are those of [`write_shard`] and [`plan_shards`].
    """
    shards = plan_shards(tensors, max_size)
    weight_map = {}
    for index, names in enumerate(tqdm(shards, desc="shards", unit="shard")):
        file = SINGLE if len(shards) == 1 else f"model-{index + 1:05d}-of-{len(shards):05d}.safetensors"
        write_shard(folder / file, {name: tensors[name] for name in names}, read)
        weight_map |= dict.fromkeys(names, file)
    if len(shards) > 1:
        metadata = {
            "total_parameters": sum(math.prod(tensor.shape) for tensor in tensors.values()),
            "total_size": sum(tensor.num_bytes for tensor in tensors.values()),
        }
        index = {"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}
        text = json.dumps(index, indent=2) + os.linesep
        (folder / INDEX).write_text(text, encoding="utf-8")


__all__ = [
    "StoredTensor",
    "one_file_open",
    "parse_size",
    "plan_shards",
    "read_header",
    "shard_names",
    "stored_tensors",
    "write_shards",
]
