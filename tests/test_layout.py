"""The layout that everything else rests on: layers, remote code, names, and what no file may do."""

import ast
import configparser
import functools
import importlib.metadata
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("modeling_timepro", "processing", "recipes", "space_app")
# Both are copied flat into every checkpoint and loaded there without this package.
FLAT = ("modeling_timepro", "processing")
FILES = sorted(path for package in (*PACKAGES, "tests") for path in (ROOT / package).rglob("*.py")
               if "checkpoints" not in path.parts)  # fmt: skip

# Text and time need nothing but Python, so that they can be used, tested and reasoned about alone.
STDLIB_ONLY = (
    "__init__", "events", "answer_text", "lenient_parser", "windowing", "text_files",
    "annotations", "answer_grammar", "token_masks", "audio_formats", "event_scores",
    "audio_extents",
)  # fmt: skip
THIRD_PARTY = {
    "modeling_timepro": {"torch", "transformers"},
    "processing": {"av", "numpy", "safetensors", "soundfile", "soxr", "torch", "torchaudio", "tqdm", "transformers"},
    "space_app": {"numpy", "matplotlib", "gradio", "gradio_client", "jams", "plotly", "praatio", "pympi", "scipy",
                  "starlette", "torch", "transformers"},
}  # fmt: skip
OURS = {
    "modeling_timepro": set(),
    "processing": set(),
    "recipes": {"modeling_timepro", "processing", "recipes", "space_app"},
    "space_app": {"space_app"},
}
# recipes/ from the ground up: each folder may import those before it.
FOLDERS = (
    "arguments", "scoring", "metrics", "data", "soundscapes", "conversion", "evaluation", "serving", "bulk", "training",
    "publishing", "small", "cli",
)  # fmt: skip
INSTALL_NAMES = {"PyYAML": "yaml", "pyyaml": "yaml", "pyannote-core": "pyannote", "webvtt-py": "webvtt"}
INSTALL_NAMES |= {"pillow": "pil", "pyannote-database": "pyannote", "pympi-ling": "pympi"}


def files_of(package):
    return [path for path in FILES if path.relative_to(ROOT).parts[0] == package]


@functools.cache
def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imports_of(path):
    """Return `(level, module, names)` of every import of a file, those inside functions too."""
    found = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found += [(0, alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module, tuple(alias.name for alias in node.names)))
    return found


def dotted(node):
    """Return `a.b.c` of names and attributes; of what else there is, nothing. `ast.unparse` takes far longer."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    if isinstance(node, ast.Subscript):
        return dotted(node.value)
    if isinstance(node, ast.Call):
        return f"{dotted(node.func)}()"
    return node.id if isinstance(node, ast.Name) else ""


def third_party_of(path):
    roots = {module.split(".")[0] for level, module, _ in imports_of(path) if level == 0}
    return roots - set(sys.stdlib_module_names) - set(PACKAGES)


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for package in PACKAGES for path in files_of(package)}


def modules_imported_by(name):
    """Return the modules of ours that a module imports, inside functions too."""
    path, found = SOURCES[name], set()
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for level, module, names in imports_of(path):
        base = ".".join(filter(None, [".".join(package.split(".")[: len(package.split(".")) - level + 1]), module]))
        base = base if level else module
        of_ours = {f"{base}.{item}" for item in names} & SOURCES.keys()
        # `from package import module` needs the module, and of the package's __init__ nothing.
        found |= of_ours if names and len(of_ours) == len(names) else of_ours | ({base} & SOURCES.keys())
    return found - {name}


def definitions_of(path):
    """Yield `(name, is_top_level)` of what a file defines: functions, classes, constants, methods and attributes."""
    tree = tree_of(path)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name, node in tree.body
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                for item in ast.walk(target) if not dotted(target).startswith("sys.path") else ():
                    if isinstance(item, ast.Name):
                        yield item.id, node in tree.body
                    elif isinstance(item, ast.Attribute) and isinstance(item.ctx, ast.Store):
                        yield item.attr, False


def test_every_package_has_files():
    for package in PACKAGES:
        assert files_of(package), package


@pytest.mark.parametrize("package", PACKAGES)
def test_layers_run_one_way(package):
    for path in files_of(package):
        ours = {module.split(".")[0] for level, module, _ in imports_of(path) if level == 0} & set(PACKAGES)
        # It registers both packages with transformers; checkpoints do not carry it.
        if path == ROOT / "modeling_timepro" / "__init__.py":
            ours -= {"processing"}
        assert ours <= OURS[package], f"{path} imports {ours - OURS[package]}"


def test_only_the_command_and_one_figure_draw_by_the_page():
    # The page stands alone, so what others share with it lies in its folder: formats of other programs, and colours.
    for path in files_of("recipes"):
        ours = {module for _, module, _ in imports_of(path) if (module or "").startswith("space_app")}
        if path.relative_to(ROOT / "recipes").as_posix() not in ("cli/main.py", "small/attention_plot.py"):
            shared = ("space_app.exchange", "space_app.palette")
            assert all(module.startswith(shared) for module in ours), f"{path} imports {ours}"


def test_all_pictures_take_their_colours_from_one_palette():
    # Greys of backgrounds and grids are no colours.
    for path in (*files_of("recipes"), *files_of("processing")):
        for colour in re.findall(r"#[0-9A-Fa-f]{6}", path.read_text(encoding="utf-8")):
            assert colour[1:3] == colour[3:5] == colour[5:7], f"{path} has {colour}; take one of space_app/palette.py"


def test_folders_of_recipes_import_only_those_before_them():
    folders = {path.name for path in (ROOT / "recipes").iterdir() if path.is_dir() and any(path.rglob("*.py"))}
    assert folders - {"checkpoints", "__pycache__"} == set(FOLDERS[1:])
    for name in SOURCES:
        parts = name.split(".")
        if parts[0] != "recipes" or len(parts) == 1:
            continue
        # recipes/sft.py and recipes/grpo.py only start what is in training/.
        allowed = FOLDERS[: FOLDERS.index(parts[1]) + 1] if parts[1] in FOLDERS else ("training",)
        for other in modules_imported_by(name):
            if other.startswith("recipes."):
                assert other.split(".")[1] in allowed, f"{name} imports {other}, which is above it"


def test_no_modules_import_each_other_in_a_circle():
    imported, done = {name: modules_imported_by(name) for name in SOURCES}, set()

    def follow(name, trail):
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name not in done:
            for other in sorted(imported[name]):
                follow(other, [*trail, name])
            done.add(name)

    for name in SOURCES:
        follow(name, [])


def test_no_module_reaches_for_what_is_private_in_another():
    private = {}
    for name, path in SOURCES.items():
        for item, _ in definitions_of(path):
            if re.match(r"_[a-z]", item, re.IGNORECASE):
                private.setdefault(item, set()).add(name)
    reaches = []
    for name, path in SOURCES.items():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ImportFrom):
                used = [alias.name for alias in node.names]
            elif isinstance(node, ast.Attribute) and dotted(node.value) not in ("self", "cls", "super()"):
                used = [node.attr]
            else:
                continue
            others = [item for item in used if name not in private.get(item, {name})]
            owners = [(item, sorted(private[item])) for item in others]
            reaches += [f"{name}:{node.lineno} uses {item} of {' or '.join(where)}" for item, where in owners]
    assert not reaches, "\n".join(reaches)


def test_no_public_name_is_defined_twice():
    # Packages that travel alone each need their own: what a checkpoint carries, and the page.
    for worlds in (("modeling_timepro", "recipes"), ("processing", "recipes"), ("space_app",)):
        homes = {}
        for name, path in SOURCES.items():
            if name.partition(".")[0] in worlds:
                for item in {item for item, is_top_level in definitions_of(path) if is_top_level}:
                    if not item.startswith("_") and item not in ("logger", "main"):
                        homes.setdefault(item, []).append(name)
        twice = {item: names for item, names in homes.items() if len(names) > 1}
        assert not twice, f"import what is there, or say the difference: {twice}"


def test_scores_have_one_door():
    for path in files_of("recipes"):
        if path.relative_to(ROOT / "recipes").parts[0] != "scoring":
            modules = {module for _, module, _ in imports_of(path) if (module or "").startswith("recipes.scoring.")}
            assert not modules, f"{path} imports {modules}; import from recipes.scoring"


@pytest.mark.parametrize("package", FLAT)
def test_remote_code_is_flat_and_relative(package):
    folders = [path for path in (ROOT / package).iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert not folders
    for path in files_of(package):
        for level, module, names in imports_of(path):
            if level:
                assert level == 1 and module and "." not in module, f"{path}: write `from .x import y`"
                assert "*" not in names, path
                assert (ROOT / package / f"{module}.py").exists(), f"{path} imports .{module}"
        # transformers finds relative imports by a regular expression that does not know docstrings.
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                pattern = r"^\s*(from|import)\s+\.\S*\s*(import)?"
                assert not re.search(pattern, node.value, re.MULTILINE), f"{path}:{node.lineno}"


def test_third_party_imports():
    for package, allowed in THIRD_PARTY.items():
        for path in files_of(package):
            rest = third_party_of(path) - allowed
            assert not rest, f"{path} imports {rest}"
    for path in files_of("processing"):
        if path.stem in STDLIB_ONLY:
            assert not third_party_of(path), path


def test_every_import_is_declared():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lists = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    names = {re.split(r"[<>=!\s%(\[]", line)[0] for text in lists for line in text.splitlines() if line}
    declared = {INSTALL_NAMES.get(name, name).lower().replace("-", "_") for name in names}
    # Hard dependencies of transformers and of gradio, of the versions that fit them.
    declared |= {"tokenizers", "packaging", "gradio_client", "starlette"}
    for path in FILES:
        rest = {name for name in third_party_of(path) if name.lower() not in declared}
        # The suites of transformers are unpacked as the package `tests`.
        rest -= {path.stem for path in files_of("tests")} | {"tests"}
        assert not rest, f"{path} imports {rest}, which setup.cfg does not name"


def test_basenames_are_unique_in_a_checkpoint():
    names = [path.name for package in FLAT for path in files_of(package) if path.name != "__init__.py"]
    assert len(names) == len(set(names))


def test_no_module_or_folder_shadows_a_package():
    # `accelerate launch recipes/sft.py` puts recipes/ first on the path.
    installed = set(importlib.metadata.packages_distributions()) | set(sys.stdlib_module_names)
    installed |= {"datasets", "evaluate", "peft", "trl", "accelerate", "gradio", "transformers"}
    for package in ("recipes", "space_app"):
        mine = {path.stem for path in (ROOT / package).iterdir() if path.is_dir() or path.suffix == ".py"}
        assert not mine & installed, f"{package}: {mine & installed}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_short_safe_and_well_named(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    assert path.stem not in ("utils", "helpers", "common", "misc")
    calls = [dotted(node.func) for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]
    unsafe = {"torch.load", "pickle.load", "pickle.loads", "eval", "exec", "joblib.load", "dill.load"}
    assert not unsafe & set(calls), f"{path} calls {unsafe & set(calls)}"
    assert not {"pickle", "dill", "joblib"} & {module for level, module, _ in imports_of(path)}


def test_every_module_says_what_it_is():
    for path in (path for package in PACKAGES for path in files_of(package)):
        tree = tree_of(path)
        assert ast.get_docstring(tree) or not tree.body, path


def test_constraints_pin_what_is_installed():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    for text in (setup["options"]["install_requires"], extras["train"], extras["space"], extras["test"]):
        for line in filter(None, text.splitlines()):
            name = re.split(r"[<>=!\s\[]", line)[0].lower().replace("_", "-")
            assert name in pins, f"constraints.txt does not pin {name}"


def test_ci_runs_the_command_of_the_readme():
    command = "python -m pytest"
    assert f"```sh\n{command}\n```" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").rstrip().endswith(command)
