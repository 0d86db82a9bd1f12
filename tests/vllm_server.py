"""A server of vLLM in a process of its own."""

import os
import re
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[1]
OPTIONS = "--enforce-eager --host 127.0.0.1 --max-num-seqs 8"


def command_of_the_page(heading):
    """Return what docs/serving.md or docs/grpo.md starts the server with, the first such command in `heading`."""
    page, _, name = heading.partition("#")
    text = (ROOT / "docs" / page).read_text().partition(f"\n## {name}\n")[2]
    return re.search(r"python -m (vllm\S*\n?.*?)\n```", text, re.DOTALL)[1].replace("\\\n", " ")


@contextmanager
def serve(arguments, log, **environment):
    """Serve by `python -m ARGUMENTS`, on a free port of loopback, until the end; give the server's address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = f"exec {sys.executable} -m {arguments} {OPTIONS} --port {port}"
    with open(log, "w+") as file:
        server = subprocess.Popen(
            ["bash", "-c", command], cwd=ROOT, env=os.environ | environment, stdout=file, stderr=file
        )
        try:
            address, healthy = f"http://127.0.0.1:{port}", False
            while not healthy:
                assert server.poll() is None, Path(log).read_text()[-4000:]
                try:
                    healthy = httpx.get(f"{address}/health", timeout=5).status_code == 200
                except httpx.TransportError:
                    time.sleep(1)
            yield address
        finally:
            server.terminate()
            server.wait()
