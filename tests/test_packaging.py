"""What is installed and how it behaves: the wheel, types, lazy imports, licences, versions of dependencies."""

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("modeling_timepro", "processing", "recipes", "recipes/data", "space_app")
NOT_SHIPPED = shutil.ignore_patterns(
    ".git", ".venv", "runs", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis"
)


def test_importing_processing_loads_the_standard_library_alone():
    code = (
        "import sys; before = set(sys.modules); import processing; "
        "print(sorted({name.split('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names))"
    )
    loaded = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)
    assert loaded.strip() == "['processing']"


@pytest.mark.slow
def test_public_modules_are_typed(tmp_path):
    for package in PACKAGES:
        assert (ROOT / package / "py.typed").is_file(), package
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_names_of_processing_are_told_to_type_checkers():
    import processing

    assert sorted(processing.__all__) == sorted(processing._MODULE_OF)
    text = (ROOT / "processing" / "__init__.py").read_text(encoding="utf-8")
    block = text.split("if TYPE_CHECKING:")[1].split("\n\n")[0]
    found = re.findall(r"from \.(\w+) import (.*)", block)
    told = {name: module for module, names in found for name in names.split(", ")}
    assert told == processing._MODULE_OF


def test_ruff_has_nothing_to_say():
    command = [sys.executable, "-m", "ruff", "check", "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr


def test_licences_of_all_assets_are_listed():
    text = (ROOT / "LICENSES.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?`) \| ([\w. -]+) \| (.+) \|$", text, re.MULTILINE)
    patterns = [pattern for files, _, _ in rows for pattern in re.findall(r"`(.*?)`", files)]
    assets = []
    for folder in (*PACKAGES[:3], "space_app", "docs", "tests"):
        for path in (ROOT / folder).rglob("*"):
            is_written = "__pycache__" in path.parts or path.suffix in (".pyc", ".typed")
            if path.is_file() and not is_written and (b"\0" in path.read_bytes() or "fixtures" in path.parts):
                assets.append(str(path.relative_to(ROOT)))
    # Text, but no program and no prose of ours.
    assets += ["recipes/checkpoints/timepro-small/tokenizer.json", "recipes/soundscapes/sounds.json"]
    assets += [f"space_app/examples/{path.name}" for path in (ROOT / "space_app" / "examples").glob("*.tsv")]
    assert len(assets) > 20
    for asset in assets:
        assert any(fnmatch.fnmatch(asset, pattern) for pattern in patterns), f"LICENSES.md does not list {asset}"
    for pattern in patterns:
        assert fnmatch.filter(assets, pattern), f"LICENSES.md lists {pattern}, which does not exist"
    for path in (ROOT / "space_app" / "examples").glob("*.flac"):
        assert "CC-BY-SA-4.0" in path.with_suffix(".txt").read_text(encoding="utf-8"), path


def test_the_matrix_is_what_is_declared_and_pinned():
    text = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    found = re.search(r'^OLDEST, PINNED, NEWEST = "(.*?)", "(.*?)", "(.*?)"$', text, re.MULTILINE)
    oldest, pinned, newest = found.groups()
    major, minor, _ = newest.split(".")
    assert f"transformers=={pinned}\n" in (ROOT / "constraints.txt").read_text(encoding="utf-8")
    allowed = f"transformers>={oldest.removesuffix('.0')},<{major}.{int(minor) + 1}\n"
    assert allowed in (ROOT / "setup.cfg").read_text(encoding="utf-8")
    assert f"(transformers='{oldest}')" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build sdist and, from that, the wheel, as `python -m build` does; return the wheel's path."""
    folder = tmp_path_factory.mktemp("build")
    shutil.copytree(ROOT, folder / "clone", ignore=NOT_SHIPPED)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(folder / "clone")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert len(list((folder / "dist").glob("timepro-*.tar.gz"))) == 1
    (path,) = (folder / "dist").glob("timepro-*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_holds_every_file(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        metadata = file.read(next(name for name in names if name.endswith(".dist-info/METADATA"))).decode()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {package for package in PACKAGES if "/" not in package}
    for package in tops:
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert str(path.relative_to(ROOT)) in names
    assert not [name for name in names if name.endswith((".pyc", ".bin", ".pt", ".pkl"))]
    assert {"License-File: LICENSE", "License-File: LICENSES.md"} <= set(metadata.splitlines())
    for extra in ("train", "space", "dev"):
        assert f"Provides-Extra: {extra}" in metadata
    assert re.search(r"Requires-Dist: pytest.*extra == .dev.", metadata), "dev holds what tests need"


@pytest.mark.slow
def test_the_wheel_works_from_an_empty_directory(wheel, tmp_path):
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False)
    (packages,) = environment.glob("lib/python*/site-packages")
    # What is installed here is seen, but not followed: an editable install of this project stays out.
    (packages / "present.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python"), "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", "--ignore-installed", str(wheel)], check=True)
    (tmp_path / "empty").mkdir()
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    variables |= {"HF_HOME": str(tmp_path / "cache"), "HF_MODULES_CACHE": str(tmp_path / "cache" / "modules")}

    def run(*arguments):
        done = subprocess.run(
            [str(environment / "bin" / "timepro"), *arguments], cwd=tmp_path / "empty", env=variables,
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    recording = ROOT / "space_app" / "examples" / "living_room.flac"
    (answer,) = run("detect", str(recording), "--json", "--plot", "events.png").splitlines()
    labels = {event["event_label"] for event in json.loads(answer)["events"]}
    assert {"laughter", "guitar"} <= labels
    assert (tmp_path / "empty" / "events.png").stat().st_size > 10_000
    assert run("info").splitlines()[0] == str(packages / "recipes" / "checkpoints" / "timepro-small")
    assert run("--version").strip() == "timepro 0.1.0"
