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

# Seconds before each retry; a server may ask for more, up to a minute.
WAITS = (1, 2, 4, 8, 16)
TRANSIENT = (408, 429, 500, 502, 503, 504)
# Files of an earlier version that a loader might read instead of the uploaded ones.
LOADED_SUFFIXES = (".py", ".json", ".jinja", ".safetensors", *PICKLE_SUFFIXES)


def publish(folder, repo_id: str, private: bool = False, dry_run: bool = False, waits=WAITS) -> str | None:
    """Check a checkpoint folder and upload it to the Hub, printing what was checked and uploaded.

    The Hub is `HF_ENDPOINT`, the token that of `HF_TOKEN` or `hf auth login`. All files are uploaded in one commit, or
    none. Failed requests are retried.

    Args:
        folder: checkpoint with its card `README.md`, in which `OWNER/timepro-small` is replaced by `repo_id`.
        repo_id: `OWNER/NAME`; created if it does not exist.
        private: create it as a private repository.
        dry_run: do not contact the Hub.
        waits: seconds before each retry.

    Returns:
        The URL of the commit; `None` for a dry run.

    Raises:
        ValueError: all problems of the folder; nothing was uploaded.
        OSError: the Hub refused, or could not be reached in any attempt.
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
    """Return the problems and notes of all checks of a checkpoint folder."""
    results = [check_files(folder), check_card(folder)]
    # Do not load incomplete checkpoints or pickles.
    results += [([], ["loading was not tried."])] if results[0][0] else [check_loading(folder)]
    return [line for problems, _ in results for line in problems], [line for _, notes in results for line in notes]


def check_loading(folder) -> tuple[list[str], list[str]]:
    """Load and run a checkpoint in a separate process without network and without our packages."""
    script = Path(__file__).with_name("isolated_load.py")
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as home:
        environment = os.environ | {"HF_HOME": home, "HF_MODULES_CACHE": f"{home}/modules", "HF_HUB_OFFLINE": "1"}
        # The checkpoint's code must not see the token.
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
    """Return the files to upload by name, with `repo_id` filled into the card."""
    folder = Path(folder)
    names = sorted(path.name for path in folder.iterdir())
    card = (folder / "README.md").read_text(encoding="utf-8").replace(PLACEHOLDER, repo_id)
    return {name: card.encode() if name == "README.md" else folder / name for name in names}


def upload(files: dict[str, Path | bytes], repo_id: str, private: bool = False, waits=WAITS) -> str:
    """Upload files in one commit that also deletes files a loader might read instead; return the URL of the commit.

    Raises:
        ValueError: the repository is public but `private` was given, or the Hub refuses the card.
        OSError: as [`publish`].
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard

    api = HfApi()
    patiently(api.whoami, waits)
    if "README.md" in files:
        patiently(ModelCard(files["README.md"].decode()).validate, waits)
    patiently(lambda: api.create_repo(repo_id, private=private or None, exist_ok=True), waits)

    def commit():
        # In each attempt, because an earlier commit may have succeeded and its response been lost.
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
    """Return the result of an action, retrying after transient failures.

    huggingface_hub itself retries uploads of files, but neither the creation of a repository nor the commit.
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
    """Return the seconds that a server asks to wait; `None` if the error and its causes are not transient."""
    from huggingface_hub import get_session

    # httpx or httpx2, depending on the version of huggingface_hub.
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
