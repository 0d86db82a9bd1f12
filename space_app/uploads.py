"""`Uploads`: uploaded files, deleted as soon as nobody needs them any more.

Gradio names an upload by its content, so two clients who upload the same file share one. It goes when as many have
released it as have uploaded it, and never while an upload is coming in, which might be of the same content. The later
upload is put in the place of the earlier one; who reads that holds it by a link of its own.
"""

import json
import logging
import os
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)


class Uploads:
    """Count who needs which upload.

    Args:
        folder: where uploads lie; nothing else is ever deleted.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder).resolve()
        self._lock = threading.Lock()
        self._owners = Counter()
        self._num_incoming = 0
        self._unneeded = set()

    def checked(self, path: str) -> str:
        """Return the path of an upload.

        Raises:
            ValueError: no file there, or not in the folder of uploads, which Gradio should have refused.
        """
        if self.folder not in Path(os.path.realpath(path)).parents or not os.path.isfile(path):
            raise ValueError("There is no such upload; upload the file again.")
        return path

    @contextmanager
    def held(self, path: str) -> Iterator[str]:
        """Give the path by which an upload stays what it is, whatever happens to `path`, until this is left."""
        with tempfile.TemporaryDirectory(prefix="held-", dir=self.folder) as folder:
            held = os.path.join(folder, os.path.basename(path))
            try:
                os.link(os.path.realpath(path), held)
            except FileNotFoundError:
                raise ValueError("There is no such upload; upload the file again.") from None
            except OSError:
                # Not every file system has links.
                shutil.copyfile(path, held)
            yield held

    def release(self, path: str | None):
        """Say that one who uploaded a file needs it no more; files that nobody uploaded are left alone."""
        if not path:
            return
        path = os.path.realpath(path)
        with self._lock:
            if path in self._owners:
                self._owners[path] -= 1
                if self._owners[path] <= 0:
                    del self._owners[path]
                    self._unneeded.add(path)
            self._sweep()

    def middleware(self, app):
        """Return an ASGI application that counts the files which Gradio's route for uploads takes in."""

        async def counted(scope, receive, send):
            if (
                scope["type"] != "http"
                or scope["method"] != "POST"
                or not scope["path"].rstrip("/").endswith("/upload")
            ):
                return await app(scope, receive, send)
            body = b""

            async def listen(message):
                nonlocal body
                body += message.get("body", b"") if message["type"] == "http.response.body" else b""
                if message["type"] == "http.response.body" and not message.get("more_body"):
                    # Before the client can ask about them.
                    self._add(body)
                await send(message)

            with self._lock:
                self._num_incoming += 1
            try:
                await app(scope, receive, listen)
            finally:
                with self._lock:
                    self._num_incoming -= 1
                    self._sweep()

        return counted

    def _add(self, body):
        try:
            paths = json.loads(body)
        except ValueError:
            return  # a refusal, in plain text
        with self._lock:
            for path in paths if isinstance(paths, list) else ():
                path = os.path.realpath(path)
                self._owners[path] += 1
                self._unneeded.discard(path)

    def _sweep(self):
        """Delete what nobody needs; the caller holds the lock."""
        if self._num_incoming:
            return
        for path in map(Path, self._unneeded):
            if self.folder not in path.parents:
                continue
            try:
                path.unlink(missing_ok=True)
                if path.parent != self.folder and not any(path.parent.iterdir()):
                    path.parent.rmdir()
            except OSError as error:
                logger.warning("an upload could not be deleted: %s", error)
        self._unneeded.clear()
