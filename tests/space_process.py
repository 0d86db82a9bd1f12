"""Start the page as a stranger has it: its folder alone, under another name, and a checkpoint; none of our packages."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from recipes import DEFAULT_CHECKPOINT

ROOT = Path(__file__).resolve().parents[1]
# The packages may be installed, or stand in the working directory: neither must help.
ALONE = """
import runpy, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name in ("modeling_timepro", "processing", "recipes", "space_app"):
            raise ModuleNotFoundError(f"no {name} here", name=name)

sys.path = [folder for folder in sys.path if folder]
app = sys.argv[1]
sys.argv = sys.argv[1:]
sys.path.insert(0, app.rpartition("/")[0])
sys.meta_path.insert(0, Refuse())
runpy.run_path(app, run_name="__main__")
"""


class Page:
    """A page in a process of its own.

    Args:
        folder: empty; holds the copy, and the page's temporary files in `tmp`.
        limits: variables of the environment.
    """

    def __init__(self, folder: Path, **limits):
        self.folder, self.tmp = folder, folder / "tmp"
        self.tmp.mkdir(parents=True)
        self.app = folder / "a page"
        shutil.copytree(ROOT / "space_app", self.app, ignore=shutil.ignore_patterns("__pycache__"))
        self.checkpoint = folder / DEFAULT_CHECKPOINT.name
        shutil.copytree(DEFAULT_CHECKPOINT, self.checkpoint)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {"TMPDIR": str(self.tmp), "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(folder / "modules")}
        environment |= {"OMP_NUM_THREADS": "1"} | {
            f"TIMEPRO_{name.upper()}": str(value) for name, value in limits.items()
        }
        command = [sys.executable, "-c", ALONE, str(self.app / "app.py"), "--model", str(self.checkpoint)]
        self.log = folder / "log.txt"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port)], cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT,
            )  # fmt: skip

    def wait(self, seconds=300):
        """Wait until the page answers."""
        end = time.monotonic() + seconds
        while True:
            try:
                with urllib.request.urlopen(self.url, timeout=10):
                    return self
            except OSError:
                if self.process.poll() is not None or time.monotonic() > end:
                    raise AssertionError(self.log.read_text()) from None
                time.sleep(0.1)

    def uploads(self) -> list[Path]:
        """Return the files that lie in the page's folder for uploads, but not its examples."""
        examples = {path.name for path in (self.app / "examples").iterdir()}
        return [path for path in self.tmp.glob("timepro-*/**/*") if path.is_file() and path.name not in examples]

    def stop(self):
        """End the process, as Ctrl-C does."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
