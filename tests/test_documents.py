"""Every command and example of README, model card and docs, run as it stands, and every link.

A block of `sh` or `python` that cannot run here has a comment right above it: `<!-- not run: REASON -->`, or
`<!-- slow: REASON -->` if only the slow tests run it. The blocks of a page run in order, those of Python in one
namespace, in a folder that holds the files below.
"""

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from recipes import DEFAULT_CHECKPOINT
from recipes.cli.main import main
from recipes.data.formats import READERS

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "space_app" / "examples"
PAGES = [ROOT / "README.md", ROOT / "MODEL_CARD.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
IDS = [str(path.relative_to(ROOT)) for path in PAGES]
FENCE = re.compile(
    r"(?:^<!-- (?P<mark>not run|slow): (?P<reason>.+?) -->\n)?"
    r"^(?P<indent> *)```(?P<language>\w+)\n(?P<text>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)
pytestmark = pytest.mark.skipif(not DEFAULT_CHECKPOINT.exists(), reason="the embedded checkpoint is not in this copy")


def blocks_of(path):
    """Return `(mark, language, text)` of the blocks of a page that are commands or programs."""
    text = path.read_text(encoding="utf-8")
    found = [match for match in FENCE.finditer(text) if match["language"] in ("sh", "python")]
    return [(match["mark"], match["language"], match["text"]) for match in found]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Return a folder of the files that pages name: the shipped recordings, and their annotations."""
    folder = tmp_path_factory.mktemp("inputs")
    names = {"street.wav": "village", "yard.flac": "farmyard", "night.flac": "night", "a.wav": "living_room",
             "b.wav": "night", "recordings/door.flac": "living_room", "more/2026/yard.mp3": "farmyard"}  # fmt: skip
    for name, example in names.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, *soundfile.read(EXAMPLES / f"{example}.flac"))
    (folder / "audio").mkdir()
    tables = [(EXAMPLES / f"{name}.tsv").read_text() for name in ("farmyard", "living_room")]
    (folder / "validation.tsv").write_text(tables[0] + tables[1].partition("\n")[2])
    for name in ("farmyard", "living_room"):
        shutil.copy(EXAMPLES / f"{name}.flac", folder / "audio")
    (folder / "durations.tsv").write_text("filename\tduration\nfarmyard.flac\t10.0\nliving_room.flac\t10.0\n")
    (folder / "aliases.json").write_text('{"barking": "dog bark"}')
    dog = {"onset": 3.557, "offset": 3.647, "event_label": "dog bark"}
    rows = [{"id": name, "audio": name, "duration": 10.0, "task": "detection", "query": None, "events": events}
            for name, events in (("yard.flac", [dog]), ("a.wav", []))]  # fmt: skip
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "theirs.jsonl").write_text("".join(json.dumps(row | {"audio": None}) + "\n" for row in rows))
    return folder


@pytest.fixture
def desk(inputs, tmp_path, monkeypatch):
    """Return a working directory with these files, in which the sources are found, and `timepro` is this copy's."""
    folder = tmp_path / "desk"
    shutil.copytree(inputs, folder)
    for name in ("modeling_timepro", "processing", "recipes", "space_app", "tests"):
        (folder / name).symlink_to(ROOT / name)
    commands = tmp_path / "commands"
    commands.mkdir()
    (commands / "timepro").write_text(f'#!/bin/sh\nexec {sys.executable} -m recipes.cli.main "$@"\n')
    (commands / "timepro").chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ["PATH"]]))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    # A page adds one of its own.
    monkeypatch.setitem(READERS, "minutes", None)
    del READERS["minutes"]
    monkeypatch.chdir(folder)
    return folder


def run_shell(text):
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], capture_output=True, text=True)
    assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def run_commands(text):
    """Run a block of the shell; where all its lines are `timepro`, in this process, which has loaded everything."""
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    commands = [shlex.split(line, comments=True) for line in lines]
    if any(command[0] != "timepro" or set("|;&$`<>") & set("".join(command)) for command in commands):
        run_shell(text)
        return
    for command in commands:
        assert main(command[1:]) == 0, command


def run_page(path, folder, with_slow=False):
    namespace = {}
    for index, (mark, language, text) in enumerate(blocks_of(path)):
        if mark == "not run" or (mark == "slow" and not with_slow):
            continue
        if language == "sh":
            run_commands(text)
            continue
        program = folder / f"block_{index}.py"
        program.write_text(text, encoding="utf-8")
        namespace = runpy.run_path(str(program), init_globals=namespace)


@pytest.mark.parametrize("path", PAGES, ids=IDS)
def test_the_blocks_of_a_page_run(path, desk):
    run_page(path, desk)


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", [path for path in PAGES if "slow" in {mark for mark, _, _ in blocks_of(path)}], ids=lambda path: path.name
)
def test_the_long_blocks_of_a_page_run(path, desk):
    run_page(path, desk, with_slow=True)


@pytest.mark.slow
def test_a_command_of_the_readme_in_a_process_of_its_own(desk):
    (command,) = re.findall(r"^timepro ground street\.wav .*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert "dog bark" in run_shell(command)
    assert (desk / "events.png").stat().st_size > 10_000


@pytest.mark.parametrize("path", PAGES, ids=IDS)
def test_every_block_is_found_and_every_mark_belongs_to_one(path):
    text = path.read_text(encoding="utf-8")
    languages = {match["language"] for match in FENCE.finditer(text)}
    assert not languages & {"bash", "shell", "console", "py", "pycon"}, "commands are `sh`, programs `python`"
    assert not any(match["indent"] for match in FENCE.finditer(text)), "an indented block is not run"
    assert len(re.findall(r"^ *```", text, re.MULTILINE)) % 2 == 0
    marks = re.findall(r"^<!-- (?:not run|slow)", text, re.MULTILINE)
    assert len(marks) == sum(mark is not None for mark, _, _ in blocks_of(path)), "a mark stands right above its block"


@pytest.mark.parametrize("path", PAGES, ids=IDS)
def test_links_lead_somewhere(path):
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http", "#")):
            file = path.parent / target.partition("#")[0]
            assert file.exists(), f"{path.name} links to {target}"


def test_the_index_names_every_page():
    text = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for path in (ROOT / "docs").glob("*.md"):
        assert path.name == "README.md" or f"]({path.name})" in text, path.name


SOURCES = [path for name in ("modeling_timepro", "processing", "recipes", "space_app", "tests")
           for path in sorted((ROOT / name).rglob("*.py")) if "checkpoints" not in path.parts]  # fmt: skip
FOLDERS = ("modeling_timepro/", "processing/", "recipes/", "space_app/", "tests/", "docs/", "findings/")


def test_files_named_in_pages_and_docstrings_exist():
    """Between backticks: paths from the root, and names of Python files. `NAME` in one stands for any."""
    names = {path.name for path in (*SOURCES, *ROOT.glob("*.py"))}
    missing = []
    others = [*ROOT.glob("*.md"), *(ROOT / "recipes" / "metrics").rglob("*.md"), ROOT / "space_app" / "README.md"]
    for page in dict.fromkeys([*PAGES, *others, *SOURCES]):
        text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for word in re.findall(r"[\w./*-]+", " ".join(re.findall(r"`([^`\n]+)`", text))):
            word = word.rstrip(".")
            if word.startswith(FOLDERS) and "NAME" not in word:
                is_there = bool(list(ROOT.glob(word.rstrip("/"))))
            elif re.fullmatch(r"[\w/]+\.py", word) and not word.startswith("/"):
                is_there = any(str(path).endswith(f"/{word}") for path in SOURCES) if "/" in word else word in names
            else:
                continue
            if not is_there and "NAME" not in word:
                missing.append(f"{page.relative_to(ROOT)}: {word}")
    assert not missing, "\n".join(missing)
