"""The `evaluate` modules as files: offline from anywhere, shipped, and with cards and documentation that run."""

import ast
import doctest
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import evaluate
import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "recipes" / "metrics"
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/README.md"))
EVENT = {"onset": 1.0, "offset": 2.0, "event_label": "dog"}


@pytest.mark.slow
def test_offline_in_a_fresh_process_elsewhere(tmp_path):
    code = """
import socket
def refuse(*args, **kwargs):
    raise AssertionError("a connection was tried")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import sys, evaluate
event = {"onset": 1.0, "offset": 2.0, "event_label": "a dog barks", "score": 0.5}
for name in sys.argv[2:]:
    for options in ({}, {"cache_dir": "mine"}):
        metric = evaluate.load(f"{sys.argv[1]}/{name}", **options)
        more = {"durations": [9.0]} if name == "psds" else {}
        metric.add_batch(predictions=[[event]], references=[[event]], **more)
        print(name, metric.compute(**({"synonyms": False} if name == "caption_meteor" else {})))
"""
    work, home = tmp_path / "work", tmp_path / "home"
    work.mkdir()
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_"))}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "HOME": str(home), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-B", "-c", code, str(FOLDER), *NAMES]
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == [name for name in NAMES for _ in range(2)]
    # Files are where they were asked for, and gone but for empty locks.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "home", "work"]
    assert [path.name for path in work.iterdir()] == ["mine"] and not list(home.iterdir())
    assert sorted(path.name for path in (work / "mine").iterdir()) == sorted(NAMES)
    assert all(not path.stat().st_size for path in (work / "mine").rglob("*") if path.is_file())


@pytest.mark.parametrize("name", NAMES)
def test_cards(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    card = (FOLDER / name / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\ntitle: ") and "- evaluate\n- metric\n" in card
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", card, flags=re.DOTALL), re.MULTILINE)
    assert headings[0].startswith("Metric Card for ")
    assert headings[1:] == ["Metric Description", "Definition", "How to Use", "Inputs", "Output Values", "Examples",
                            "Limitations and Bias", "Citation", "Further References"]  # fmt: skip
    failures, tests = doctest.testfile(str(FOLDER / name / "README.md"), module_relative=False)
    assert tests >= 7 and not failures


@pytest.mark.parametrize("name", NAMES)
def test_cards_name_everything(name, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    metric = evaluate.load(str(FOLDER / name), cache_dir=str(tmp_path))
    assert metric.name == name and metric.citation.strip() in (FOLDER / name / "README.md").read_text(encoding="utf-8")
    inputs = {"references": [[EVENT]], "predictions": [[{**EVENT, "score": 0.5}]]}
    inputs |= {"durations": [10.0]} if name == "psds" else {}
    results = metric.compute(**inputs, **({"synonyms": False} if name == "caption_meteor" else {}))
    code = next(node for node in ast.walk(ast.parse((FOLDER / name / f"{name}.py").read_text(encoding="utf-8")))
                if isinstance(node, ast.FunctionDef) and node.name == "_score")  # fmt: skip
    options = {"bootstrap", "confidence", "num_resamples", "seed"}
    arguments = {argument.arg for argument in code.args.args} - {"self"} | options
    card = (FOLDER / name / "README.md").read_text(encoding="utf-8")
    for word in {*arguments, *results}:
        assert f"`{word}`" in card or f"**{word}**" in card, word
        is_of_macro = word.startswith("macro_") and "the same with macro_" in metric.inputs_description
        assert is_of_macro or word in re.split(r"[^\w@.]+|\.\s", metric.inputs_description), word
    runner = doctest.DocTestRunner()
    example = doctest.DocTestParser().get_doctest(metric.inputs_description, {"evaluate": evaluate}, name, None, 0)
    runner.run(example)
    assert runner.tries >= 3 and not runner.failures


def test_files_of_the_modules():
    for name in NAMES:
        assert {path.name for path in (FOLDER / name).iterdir() if path.is_file()} == {f"{name}.py", "README.md"}
        tree = ast.parse((FOLDER / name / f"{name}.py").read_text(encoding="utf-8"))
        # evaluate copies the file away before it imports it, and takes the first metric among its names.
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        assert not any(node.level for node in imports)
        assert "EventMetric" not in {alias.name for node in imports for alias in node.names}


def test_files_are_shipped():
    code = """
import json
from setuptools import Distribution
distribution = Distribution()
distribution.parse_config_files(["setup.cfg"])
command = distribution.get_command_obj("build_py")
command.ensure_finalized()
print(json.dumps([f"{folder}/{name}" for _, folder, _, names in command.data_files for name in names]))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shipped = {line.rsplit("recipes/", 1)[-1] for line in json.loads(done.stdout.splitlines()[-1])}
    assert {f"metrics/{name}/{file}" for name in NAMES for file in (f"{name}.py", "README.md")} <= shipped
