"""Check the files of a checkpoint folder."""

import ast
import json
import pickletools
import re
from pathlib import Path

from recipes.conversion.checkpoint_folder import read_config

CODE_FOLDERS = tuple(Path(__file__).parents[2] / name for name in ("modeling_timepro", "processing"))
SETTINGS = ("config.json", "generation_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json",
            "chat_template.jinja")  # fmt: skip
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
# Files that are allowed but not loaded.
PAPERS = ("README.md", "LICENSE", "scores.json", "report.json", "training_log.jsonl", "trainer_state.json")
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".h5")


def checkpoint_code(folder) -> set[str]:
    """Return the code files of a checkpoint, following relative imports from the classes that its settings name.

    Raises:
        ValueError: settings that are not JSON, or that name code of another repository.
        SyntaxError: invalid Python code.
    """
    folder, names = Path(folder), set()
    for file in ("config.json", "processor_config.json", "tokenizer_config.json"):
        if (folder / file).is_file():
            names |= _named_classes(json.loads((folder / file).read_text(encoding="utf-8")))
    if foreign := sorted(name for name in names if "--" in name):
        raise ValueError(f"auto_map names {foreign}, code of another repository; save the checkpoint again.")
    found, todo = set(), {name.split(".")[0] for name in names}
    while todo:
        file = f"{todo.pop()}.py"
        if file in found:
            continue
        found.add(file)
        if (folder / file).is_file():
            tree = ast.walk(ast.parse((folder / file).read_bytes(), file))
            todo |= {node.module for node in tree if isinstance(node, ast.ImportFrom) and node.level and node.module}
    return found


def _named_classes(settings) -> set[str]:
    """Return every `module.Class` in `auto_map` and `custom_pipelines` of (nested) settings."""
    names = set()
    for key, value in settings.items():
        if key == "auto_map":
            values = [name for item in value.values() for name in (item if isinstance(item, list) else [item])]
            names |= {name for name in values if name}
        elif key == "custom_pipelines":
            names |= {item["impl"] for item in value.values()}
        elif isinstance(value, dict):
            names |= _named_classes(value)
    return names


def is_pickle(path) -> bool:
    """Return whether a file is a pickle, or a zip archive as written by `torch.save`, whatever its name."""
    with open(path, "rb") as file:
        if file.read(4) == b"PK\x03\x04":
            return True
        file.seek(0)
        try:
            # It fails at the first byte that is not an opcode.
            return any(operation.name == "STOP" for operation, *_ in pickletools.genops(file))
        except (ValueError, MemoryError, OverflowError):
            return False


def check_files(folder) -> tuple[list[str], list[str]]:
    """Return problems with the files of a checkpoint folder, and notes for the publisher."""
    folder = Path(folder)
    try:
        read_config(folder)
        code = checkpoint_code(folder)
    except (ValueError, SyntaxError) as error:
        return [str(error)], []
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
    weights, problems = _weights(folder, files)
    empty = sorted(path.name for path in folder.iterdir() if path.is_dir() and not any(path.iterdir()))
    problems += [f"{name} is an empty folder, and no part of a checkpoint; remove it." for name in empty]
    needed = {*SETTINGS, *weights, *code}
    problems += [f"{name} is missing; save the checkpoint again." for name in sorted(needed - files)]
    for name in sorted(files):
        # The header length of safetensors may look like opcodes; these files were checked above.
        if name.endswith(PICKLE_SUFFIXES) or (name not in weights and is_pickle(folder / name)):
            problems.append(f"{name} is, or may hold, a pickle, which runs code when it is read; remove it.")
        elif name not in needed and name not in PAPERS:
            problems.append(f"{name} is not part of a checkpoint; move it out of the folder.")
    sources = {path.name: path for package in CODE_FOLDERS for path in package.glob("*.py")}
    present = sorted(code & files)
    other = [
        name for name in present if name not in sources or (folder / name).read_bytes() != sources[name].read_bytes()
    ]
    notes = [f"{len(present)} code files, equal to those of this package."]
    if other:
        notes = [f"code that differs from this package's, published as it is: {', '.join(other)}."]
    return problems, notes


def _weights(folder, files) -> tuple[set[str], list[str]]:
    """Return the weight files, and problems with them."""
    from safetensors import SafetensorError, safe_open

    shards = {name for name in files if SHARD.fullmatch(name)}
    needed, problems = {WEIGHTS}, []
    if INDEX in files:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        needed = {INDEX, *index["weight_map"].values()}
        if WEIGHTS in files:
            problems.append(f"there are both {WEIGHTS} and {INDEX}, of which one would be ignored; remove one.")
            needed.add(WEIGHTS)
    for name in sorted((needed | shards) & files):
        if name.endswith(".safetensors"):
            try:
                safe_open(folder / name, "np")
            except SafetensorError as error:
                problems.append(f"{name} is not a whole safetensors file ({error}); save the checkpoint again.")
    return needed, problems
