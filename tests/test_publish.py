"""Publishing over real HTTP: what arrives on the Hub, what strangers get from there, and what a flaky server breaks."""

import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from loopback_hub import TOKEN, LoopbackHub, Repo

from recipes import DEFAULT_CHECKPOINT
from recipes.cli.main import main
from recipes.conversion.checkpoint_folder import load_pipeline
from recipes.publishing.isolated_load import DISTRIBUTIONS

ROOT = Path(__file__).parents[1]
ALONE = ROOT / "recipes" / "publishing" / "isolated_load.py"
RECORDING = ROOT / "space_app" / "examples" / "living_room.flac"
GITATTRIBUTES = {".gitattributes"}
needs_default_checkpoint = pytest.mark.skipif(
    not DEFAULT_CHECKPOINT.exists(), reason="the embedded checkpoint is not in this copy"
)

# Uploads a folder for each line that it reads, as `timepro publish` does, and tells what was said.
UPLOADER = """
import contextlib, io, json, os, sys, traceback
from pathlib import Path
from recipes.publishing.publish import upload
for line in sys.stdin:
    folder, private, waits, os.environ["HF_TOKEN"] = json.loads(line)
    files = {path.name: path for path in Path(folder).iterdir()}
    files["README.md"] = files["README.md"].read_bytes()
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            print(upload(files, "tester/flaky", private, waits))
        except Exception:
            traceback.print_exc()
    assert "torch" not in sys.modules
    print(json.dumps([out.getvalue(), errors.getvalue()]), flush=True)
"""

PUSH = """
import sys
from transformers import pipeline
source, revision = sys.argv[1:]
pipe = pipeline("temporal-audio-grounding", model=source, revision=revision, trust_remote_code=True)
pipe.model.push_to_hub("tester/parts")
pipe.processor.push_to_hub("tester/parts")
pipe.push_to_hub("tester/whole", private=True)
"""


def run(hub, *command, home, python=sys.executable):
    """Run Python with the Hub on loopback and an empty cache, and return the finished process."""
    environment = {name: value for name, value in os.environ.items() if name not in ("HF_MODULES_CACHE", "PYTHONPATH")}
    environment |= hub.environment() | {"HF_HOME": str(home), "OMP_NUM_THREADS": "1"}
    return subprocess.run([python, *map(str, command)], cwd=ROOT, env=environment, capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=300)  # fmt: skip


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def hub():
    with LoopbackHub() as server:
        yield server


@pytest.fixture(scope="module")
def published(hub, tmp_path_factory):
    """Return what `timepro publish` of the embedded checkpoint printed, and the sha of the commit."""
    home = tmp_path_factory.mktemp("publisher")
    result = run(hub, "-m", "recipes.cli.main", "publish", DEFAULT_CHECKPOINT, "tester/small", home=home)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout, hub.repos["tester/small"].refs["main"]


def make_environment(folder):
    """Make a virtual environment that holds transformers, torch, soundfile and what they require, nothing else.

    They are linked from where they are installed, file for file as their wheels list them.
    """
    from packaging.requirements import Requirement

    venv.create(folder, symlinks=True, with_pip=False)
    site = next((folder / "lib").glob("python*/site-packages"))
    done, todo = set(), list(DISTRIBUTIONS)
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name in done:
            continue
        done.add(name)
        distribution = importlib.metadata.distribution(name)
        for entry in {path.parts[0] for path in distribution.files} - {"..", "__pycache__"}:
            if not (site / entry).exists():
                (site / entry).symlink_to(distribution.locate_file(entry))
        wanted = map(Requirement, distribution.requires or [])
        todo += [item.name for item in wanted if not item.marker or item.marker.evaluate({"extra": ""})]
    return folder / "bin" / "python", {path.name for path in site.iterdir()}


@needs_default_checkpoint
def test_what_was_checked_arrives_in_one_commit(hub, published):
    output, sha = published
    commits = hub.repos["tester/small"].commits
    assert [set(files) for _, files in commits] == [GITATTRIBUTES, GITATTRIBUTES | set(contents(DEFAULT_CHECKPOINT))]
    files, expected = hub.files("tester/small"), contents(DEFAULT_CHECKPOINT)
    # The card knows where it stands.
    card = expected.pop("README.md").decode().replace("OWNER/timepro-small", "tester/small")
    assert files["README.md"].decode() == card and card.count("tester/small") > 5
    assert {name: files[name] for name in expected} == expected
    assert output.splitlines()[-1] == f"published: {hub.url}/tester/small/commit/{sha}"
    for line in (
        f"{len(list(DEFAULT_CHECKPOINT.glob('*.py')))} code files, equal to those",
        "18 figures of the card agree",
        "it loads and answers in a fresh proc",
    ):
        assert f"checked: {line}" in output
    # 27 MB in parts of 8 MB.
    assert len([path for method, path in hub.requests if method == "PUT"]) == 4
    assert commits[-1][1]["model.safetensors"][1] and not commits[-1][1]["config.json"][1]


@pytest.mark.slow
@needs_default_checkpoint
def test_strangers_ground_a_recording_from_the_hub(hub, published, tmp_path):
    python, installed = make_environment(tmp_path / "environment")
    assert not {"scipy", "soxr", "librosa", "accelerate", "recipes", "pip"} & installed
    name = f"tester/small@{published[1]}"
    result = run(hub, "-I", ALONE, name, RECORDING, "a person speaks", home=tmp_path / "home", python=python)
    assert result.returncode == 0, result.stderr[-3000:]
    report = json.loads(result.stdout.splitlines()[-1])
    answer = load_pipeline(DEFAULT_CHECKPOINT)(str(RECORDING), task="grounding", query="a person speaks")
    assert report["result"]["events"][0].pop("score") == pytest.approx(answer["events"][0].pop("score"), abs=1e-3)
    assert report["result"]["events"] == answer["events"] and report["result"]["text"] == answer["text"] != "none"
    assert report["unpickled"] == []
    # The card says what the code needs.
    imported = ["numpy", "soundfile", "torch", "tqdm", "transformers"]
    assert report["modules"] == imported
    card = " ".join((DEFAULT_CHECKPOINT / "README.md").read_text(encoding="utf-8").split())
    assert f"imports {', '.join(imported[:-1])} and {imported[-1]}" in card
    assert "pip install 'transformers>=5.20,<5.25' torch soundfile" in card


@pytest.mark.slow
def test_what_strangers_push_is_whole(hub, scripted_checkpoint, tmp_path):
    source = contents(scripted_checkpoint("dog bark"))
    hub.repos["tester/tiny"] = Repo()
    sha = hub.repos["tester/tiny"].add({name: (content, len(content) > 100_000) for name, content in source.items()})
    hub.objects |= {hashlib.sha256(content).hexdigest(): content for content in source.values()}
    result = run(hub, "-c", PUSH, "tester/tiny", sha, home=tmp_path / "one")
    assert result.returncode == 0, result.stderr[-3000:]
    parts, whole = hub.files("tester/parts"), hub.files("tester/whole")
    loaded = {*source, "README.md"}
    assert set(parts) == set(whole) == GITATTRIBUTES | loaded
    assert {name for name in loaded if parts[name] != whole[name]} <= {"README.md"}
    for name in loaded:
        if name.endswith(".py"):
            assert whole[name] == source[name], name
    # Nothing points to where it came from, nor to this machine.
    for name in ("config.json", "processor_config.json", "tokenizer_config.json"):
        assert b"tester/tiny" not in whole[name] and b"local_files_only" not in whole[name]
    assert hub.repos["tester/whole"].private and not hub.repos["tester/parts"].private
    del hub.repos["tester/tiny"]
    name = f"tester/whole@{hub.repos['tester/whole'].refs['main']}"
    result = run(hub, "-I", ALONE, name, home=tmp_path / "two")
    assert result.returncode == 0, result.stderr[-3000:]
    assert json.loads(result.stdout.splitlines()[-1])["classes"][0] == "TemporalAudioGroundingPipeline"


@needs_default_checkpoint
def test_a_dry_run_checks_and_uploads_nothing(capsys, monkeypatch):
    # It would be seen: the suite is offline.
    module = "recipes.publishing.publish"
    monkeypatch.setattr(f"{module}.check_loading", lambda folder: ([], ["loading is tested elsewhere"]))
    assert main(["publish", str(DEFAULT_CHECKPOINT), "me/small", "--dry-run", "--private"]) == 0
    lines = capsys.readouterr().out.splitlines()
    count = len(contents(DEFAULT_CHECKPOINT))
    assert (
        lines[-1] == f"dry run: these {count} files would be uploaded to me/small, private if it is new; nothing was."
    )
    listed = {line.split()[1]: int(line.split()[0].replace(",", "")) for line in lines if line.startswith(" ")}
    sizes = {name: len(content) for name, content in contents(DEFAULT_CHECKPOINT).items()}
    # The name in the card is longer than this one.
    assert listed.pop("README.md") < sizes.pop("README.md") and listed == sizes


def test_all_failures_are_listed_and_nothing_is_uploaded(scripted_checkpoint, tmp_path, capsys):
    folder = Path(shutil.copytree(scripted_checkpoint("dog bark"), tmp_path / "checkpoint"))
    (folder / "events.py").unlink()
    (folder / "weights.bin").write_bytes(b"")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    capsys.readouterr()
    # It would be seen: the suite is offline.
    assert main(["publish", str(folder), "tester/broken"]) == 1
    output, errors = capsys.readouterr()
    lines = errors.splitlines()
    # Two files, and six of seven metadata.
    assert lines[0].endswith("was not published, 8 checks failed:") and len(lines) == 9
    assert "checked: loading was not tried." in output
    for repo, message in (("small", "REPO_ID is 'small'; give OWNER/NAME"), ("a/b/c", "'a/b/c'")):
        assert main(["publish", str(folder), repo]) == 1
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_code_that_does_not_load_is_found(scripted_checkpoint, tmp_path):
    from recipes.publishing.publish import check_loading

    folder = Path(shutil.copytree(scripted_checkpoint("dog bark"), tmp_path / "checkpoint"))
    with (folder / "events.py").open("a") as file:
        file.write("import scipy\n")
    problems, _ = check_loading(folder)
    (problem,) = problems
    assert problem.startswith("it does not load with transformers, torch and soundfile alone: ")
    assert problem.endswith("No module named 'scipy'")


@pytest.fixture
def small_folder(tmp_path):
    """Return a folder of files that a checkpoint might have, the weights larger than a part."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 80)
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# A card\n")
    return folder


@pytest.fixture(scope="module")
def uploader(tmp_path_factory):
    """Return a function that uploads a folder to a Hub of small parts, in another process, and that Hub."""
    with LoopbackHub(part_size=8000) as hub:
        environment = os.environ | hub.environment() | {"HF_HOME": str(tmp_path_factory.mktemp("home"))}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen([sys.executable, "-c", UPLOADER], cwd=ROOT, env=environment, **pipes) as process:

            def upload(folder, *waits, private=False, token=TOKEN):
                print(json.dumps([str(folder), private, waits, token]), file=process.stdin, flush=True)
                return json.loads(process.stdout.readline())

            yield upload, hub
            process.stdin.close()


@pytest.fixture
def flaky(uploader):
    """Return both, the Hub empty."""
    for state in (uploader[1].repos, uploader[1].objects, uploader[1].requests, uploader[1].faults):
        state.clear()
    return uploader


def visible(hub):
    """Return the sets of files that were ever to be seen, in order."""
    return [set(files) for _, files in hub.repos["tester/flaky"].commits]


def test_a_flaky_server_is_asked_again(flaky, small_folder):
    upload, hub = flaky
    faults = [
        hub.fail("GET", "whoami", 503), hub.fail("POST", "validate-yaml", 502),
        hub.fail("POST", "repos/create", 429), hub.fail("POST", "repos/create", "cut"),
        hub.fail("GET", "/api/models/tester/flaky$", "cut"), hub.fail("PUT", "/lfs/.*/2", "cut"),
        hub.fail("POST", "/commit/", 500), hub.fail("POST", "/commit/", "cut"),
        # The commit is made, and nobody hears of it.
        hub.fail("POST", "/commit/", "lost"),
    ]  # fmt: skip
    output, errors = upload(small_folder, *[0.05] * 8)
    assert all(fault.seen == fault.times for fault in faults), errors
    assert visible(hub) == [GITATTRIBUTES, GITATTRIBUTES | set(contents(small_folder))]
    files = hub.files("tester/flaky")
    assert {name: files[name] for name in contents(small_folder)} == contents(small_folder)
    assert output.strip().endswith(hub.repos["tester/flaky"].refs["main"])
    assert errors.count("trying again in 0.05 s") == 8


def test_nothing_half_written_is_visible_and_a_second_run_completes(flaky, small_folder):
    upload, hub = flaky
    fault = hub.fail("POST", "/commit/", 500, times=99)
    output, errors = upload(small_folder, 0.05)
    assert not output and "500" in errors and fault.seen == 2
    # The weights have arrived; nobody sees them.
    assert len(hub.objects) == 1 and visible(hub) == [GITATTRIBUTES]
    fault.times, before = 0, len(hub.requests)
    assert upload(small_folder)[0]
    assert visible(hub) == [GITATTRIBUTES, GITATTRIBUTES | set(contents(small_folder))]
    assert "PUT" not in {method for method, _ in hub.requests[before:]}
    # Nothing to do makes no commit; what a loader would read of an earlier version goes with the next.
    (small_folder / "notes.txt").write_text("kept")
    (small_folder / "old.py").write_text("")
    assert upload(small_folder)[0]
    (small_folder / "old.py").unlink()
    (small_folder / "notes.txt").unlink()
    assert "deleted there, from an earlier version: old.py" in upload(small_folder)[0]
    assert visible(hub)[-1] == GITATTRIBUTES | set(contents(small_folder)) | {"notes.txt"} and len(visible(hub)) == 4
    _, refused = upload(small_folder, private=True)
    assert "exists and is public; make it private in its settings" in refused


def test_a_refusal_is_not_repeated(flaky, small_folder):
    upload, hub = flaky
    output, errors = upload(small_folder, 5, 5, 5, token=f"not-{TOKEN}")
    assert not output and "401" in errors and hub.repos == {}
    assert [path for _, path in hub.requests] == ["/api/whoami-v2"]
