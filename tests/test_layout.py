"""The layout that everything else rests on: layers, remote code, names, and what no file may do."""

import ast
import configparser
import importlib.metadata
import re
import subprocess
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
    "__init__", "events", "time_grid", "answer_text", "lenient_parser", "windowing", "annotation_text",
    "annotation_tables", "annotation_captions", "annotation_praat", "annotation_rttm", "annotation_io",
    "answer_grammar", "token_masks", "event_scores", "label_characters", "open_labels", "token_bytes", "token_trie",
)
THIRD_PARTY = {
    "modeling_timepro": {"torch", "transformers"},
    "processing": {"jams", "numpy", "soundfile", "soxr", "torch", "torchaudio", "tqdm", "transformers"},
    "space_app": {"numpy", "matplotlib", "gradio", "gradio_client", "plotly", "scipy", "starlette", "torch",
                  "transformers"},
}
OURS = {
    "modeling_timepro": set(),
    "processing": set(),
    "recipes": {"modeling_timepro", "processing", "recipes", "space_app"},
    "space_app": {"space_app"},
}
INSTALL_NAMES = {"PyYAML": "yaml", "pyyaml": "yaml", "pyannote-core": "pyannote", "webvtt-py": "webvtt"}
INSTALL_NAMES |= {"pillow": "pil"}


def files_of(package):
    return [path for path in FILES if path.relative_to(ROOT).parts[0] == package]


def imports_of(path):
    """Return `(level, module, names)` of every import of a file, those inside functions too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(0, alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module, tuple(alias.name for alias in node.names)))
    return found


def third_party_of(path):
    roots = {module.split(".")[0] for level, module, _ in imports_of(path) if level == 0}
    return roots - set(sys.stdlib_module_names) - set(PACKAGES)


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


def test_only_the_command_draws():
    for path in files_of("recipes"):
        if path.name not in ("cli.py", "cli_answers.py", "attention_picture.py"):
            assert not any((module or "").startswith("space_app") for _, module, _ in imports_of(path)), path


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
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
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


def test_importing_processing_is_light():
    code = "import processing, sys; print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).strip() == "[]"


def test_basenames_are_unique_in_a_checkpoint():
    names = [path.name for package in FLAT for path in files_of(package) if path.name != "__init__.py"]
    assert len(names) == len(set(names))


def test_no_module_shadows_a_package():
    # `accelerate launch recipes/sft.py` puts recipes/ first on the path.
    installed = set(importlib.metadata.packages_distributions()) | set(sys.stdlib_module_names)
    for package in ("recipes", "space_app"):
        mine = {path.stem for path in (ROOT / package).glob("*.py")} - {"__init__"}
        assert not mine & installed, f"{package}: {mine & installed}"
        assert not mine & {"datasets", "evaluate", "peft", "trl", "accelerate", "gradio", "transformers"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_short_safe_and_well_named(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    assert path.stem not in ("utils", "helpers", "common", "misc")
    calls = [ast.unparse(node.func) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    unsafe = {"torch.load", "pickle.load", "pickle.loads", "eval", "exec", "joblib.load", "dill.load"}
    assert not unsafe & set(calls), f"{path} calls {unsafe & set(calls)}"
    assert not {"pickle", "dill", "joblib"} & {module for level, module, _ in imports_of(path)}


def test_every_module_says_what_it_is():
    for path in (path for package in PACKAGES for path in files_of(package)):
        tree = ast.parse(path.read_text(encoding="utf-8"))
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
