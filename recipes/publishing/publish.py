"""`timepro publish`: check a checkpoint folder, and upload it to the Hub in one commit."""

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from recipes.publishing.card_checks import check_card
from recipes.publishing.file_checks import PICKLE_SUFFIXES, check_files
from recipes.publishing.model_card import PLACEHOLDER

# Seconds before each further attempt; a server that asks for more time gets it, up to a minute.
WAITS = (1, 2, 4, 8, 16)
TRANSIENT = (408, 429, 500, 502, 503, 504)
# What a loader might read in place of what was uploaded, if it stayed from an earlier version.
LOADED_SUFFIXES = (".py", ".json", ".jinja", ".safetensors", *PICKLE_SUFFIXES)


def publish(folder, repo_id: str, private: bool = False, dry_run: bool = False, waits=WAITS) -> str | None:
    """Check a checkpoint folder and upload it to the Hub; say on stdout what was checked and uploaded.

    The Hub is that of `HF_ENDPOINT`, the token that of `HF_TOKEN` or of `hf auth login`. All files appear there in one
    commit, or none does. Failing requests are repeated.

    Args:
        folder: of the checkpoint, with its card `README.md`, in which `OWNER/timepro-small` is replaced by `repo_id`.
        repo_id: `OWNER/NAME`; it is made if it does not exist.
        private: make it visible to its owner alone.
        dry_run: upload nothing, and ask the Hub nothing.
        waits: seconds before each further attempt.

    Returns:
        The address of the commit; `None` for a dry run.

    Raises:
        ValueError: what is wrong with the folder, all of it; nothing was uploaded then.
        OSError: the Hub refused, or was out of reach for all attempts.
    """
    from huggingface_hub.utils import validate_repo_id

    validate_repo_id(repo_id)
    if "/" not in repo_id:
        raise ValueError(f"REPO_ID is {repo_id!r}; give OWNER/NAME.")
    problems, notes = check_all(folder)
    print("".join(f"checked: {note}\n" for note in notes), end="")
    if problems:
        lines = "".join(f"\n  - {problem}" for problem in problems)
        raise ValueError(f"{folder} was not published, {len(problems)} checks failed:{lines}")
    files = planned_files(folder, repo_id)
    for name, content in files.items():
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        print(f"{size:>14,}  {name}")
    kind = "private" if private else "public"
    if dry_run:
        print(f"dry run: these {len(files)} files would be uploaded to {repo_id}, {kind} if it is new; nothing was.")
        return None
    url = upload(files, repo_id, private, waits)
    print(f"published: {url}")
    return url


def check_all(folder) -> tuple[list[str], list[str]]:
    """Return what is wrong with a checkpoint folder, and what was found out about it, from all checks."""
    results = [check_files(folder), check_card(folder)]
    # What is missing or a pickle must not be loaded.
    results += [([], ["loading was not tried."])] if results[0][0] else [check_loading(folder)]
    return [line for problems, _ in results for line in problems], [line for _, notes in results for line in notes]


def check_loading(folder) -> tuple[list[str], list[str]]:
    """Load a checkpoint in a separate process, without network and without our packages, and run it on a recording."""
    script = Path(__file__).with_name("isolated_load.py")
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as home:
        environment = os.environ | {"HF_HOME": home, "HF_MODULES_CACHE": f"{home}/modules", "HF_HUB_OFFLINE": "1"}
        # Code of others has no business with it.
        environment.pop("HF_TOKEN", None)
        command = [sys.executable, "-I", str(script), str(Path(folder).resolve())]
        result = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True)
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1]
        return [f"it does not load with transformers, torch and soundfile alone: {reason}"], []
    report = json.loads(result.stdout.splitlines()[-1])
    if report["unpickled"]:
        return [f"loading it reads pickles, of {', '.join(report['unpickled'])}; store these files in another way."], []
    seconds, code = time.monotonic() - start, ", ".join(report["modules"])
    return [], [f"it loads and answers in a fresh process, in {seconds:.0f} s; its code imports {code}."]


def planned_files(folder, repo_id: str) -> dict[str, Path | bytes]:
    """Return the files to upload by their names, large ones as paths; the card with the id that it will have."""
    folder = Path(folder)
    names = sorted(path.name for path in folder.iterdir())
    card = (folder / "README.md").read_text(encoding="utf-8").replace(PLACEHOLDER, repo_id)
    return {name: card.encode() if name == "README.md" else folder / name for name in names}


def upload(files: dict[str, Path | bytes], repo_id: str, private: bool = False, waits=WAITS) -> str:
    """Upload files in one commit, and delete what a loader might read instead; return the address of the commit.

    Raises:
        ValueError: the repository is public, but `private` was given; or the Hub refuses the card.
        OSError: as [`publish`].
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard

    api = HfApi()
    patiently(api.whoami, waits)
    if "README.md" in files:
        patiently(ModelCard(files["README.md"].decode()).validate, waits)
    patiently(lambda: api.create_repo(repo_id, private=private or None, exist_ok=True), waits)

    def commit():
        # Again in each attempt: the commit may have been made and its response lost. Then there is nothing left to do.
        info = api.model_info(repo_id)
        if private and not info.private:
            raise ValueError(
                f"{repo_id} exists and is public; make it private in its settings, or leave out --private."
            )
        present = {item.rfilename for item in info.siblings}
        stale = sorted(name for name in present - set(files) if name.endswith(LOADED_SUFFIXES) and "/" not in name)
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        operations += [CommitOperationDelete(name) for name in stale]
        if stale:
            print(f"deleted there, from an earlier version: {', '.join(stale)}")
        return api.create_commit(repo_id, operations, commit_message="Publish checkpoint", parent_commit=info.sha)

    return patiently(commit, waits).commit_url


def patiently(action, waits=WAITS):
    """Return what an action returns, trying again after failures that may pass.

    huggingface_hub itself repeats the uploads of files, but neither the making of a repository nor the commit.
    """
    for wait in (*waits, None):
        try:
            return action()
        except Exception as error:
            pause = _pause(error)
            if pause is None or wait is None:
                raise
            pause = min(max(pause, wait), 60)
            print(f"timepro: {_first_line(error)}; trying again in {pause:g} s.", file=sys.stderr)
        time.sleep(pause)


def _pause(error: BaseException | None) -> float | None:
    """Return how many seconds a server asks to wait for; `None` if the error, or what caused it, will not pass."""
    from huggingface_hub import get_session

    # httpx or httpx2, which depends on the version of huggingface_hub.
    transport = importlib.import_module(type(get_session()).__module__.split(".")[0]).TransportError
    while error is not None:
        if isinstance(error, transport):
            return 0.0
        response = getattr(error, "response", None)
        if response is not None:
            asked = response.headers.get("Retry-After", "")
            return (float(asked) if asked.isdigit() else 0.0) if response.status_code in TRANSIENT else None
        error = error.__cause__
    return None


def _first_line(error) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]
