"""`Uploads`: uploaded files, deleted as soon as they are no longer needed.

Gradio names an upload by its content, so two clients who upload the same file share one. It goes when as many have
released it as have uploaded it, and never while an upload is coming in, which might be of the same content. The later
upload is put in the place of the earlier one; who reads that holds it by a link of its own.

What never becomes an upload goes too: of clients that break off, or stop sending, and of the MCP server, which writes
what it is given as a `data:` URL to a file before it uploads that.
"""

import asyncio
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

import gradio as gr
from gradio_client.utils import is_http_url_like

logger = logging.getLogger(__name__)

# Seconds without a byte after which a client has stopped sending.
_PATIENCE = 60


class Uploads:
    """Count who needs which upload.

    Args:
        folder: of uploads; nothing else is ever deleted.
        max_bytes: size of an upload, for those within messages to the MCP server; Gradio sees to the others.
    """

    def __init__(self, folder: str | os.PathLike, max_bytes: float = float("inf")):
        self.folder, self.max_bytes = Path(folder).resolve(), max_bytes
        self._num_messages = 0
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
        """Release an upload; other files are left alone."""
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
            is_post = scope["type"] == "http" and scope["method"] == "POST"
            path = scope["path"].rstrip("/") if is_post else ""
            if "/mcp" in path:
                return await self._message(app, scope, receive, send)
            if not path.endswith("/upload"):
                return await app(scope, receive, send)
            body = b""

            async def timely():
                try:
                    return await asyncio.wait_for(receive(), _PATIENCE)
                except TimeoutError:
                    return {"type": "http.disconnect"}

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
                await app(scope, timely, listen)
            finally:
                with self._lock:
                    self._num_incoming -= 1
                    self._sweep()

        return counted

    async def _message(self, app, scope, receive, send):
        """Pass a message to the MCP server, unless what it may hold is too large; delete what it was written to."""
        length = dict(scope.get("headers") or ()).get(b"content-length", b"")
        # Base64 makes four bytes of three; the rest of a message is small.
        if not length.isdigit() or int(length) > self.max_bytes * 4 / 3 + 1e5:
            body = b"The recording is too large." if length.isdigit() else b"Say the Content-Length."
            headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 413 if length.isdigit() else 411, "headers": headers})
            return await send({"type": "http.response.body", "body": body})
        with self._lock:
            self._num_messages += 1
        try:
            await app(scope, receive, send)
        finally:
            with self._lock:
                self._num_messages -= 1
                if not self._num_messages:
                    # Gradio names all of them alike.
                    strays = (path for path in self.folder.glob("*/file.*") if str(path) not in self._owners)
                    self._unneeded.update(map(str, strays))
                    self._sweep()

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
        """Delete what is no longer needed; the caller holds the lock."""
        if self._num_incoming:
            return
        # Complete uploads are in folders; files outside them were interrupted.
        self._unneeded.update(str(path) for path in self.folder.iterdir() if path.is_file())
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


def uploads_only(component):
    """Return a component that refuses addresses in place of uploads: Gradio would fetch those, however large."""
    move = component.async_move_resource_to_block_cache

    async def move_upload(path):
        if path is not None and is_http_url_like(str(path)):
            raise gr.Error("Give the file itself, not its address.", print_exception=False)
        return await move(path)

    # Not by a subclass: for each of those Gradio writes a file beside the code.
    component.async_move_resource_to_block_cache = move_upload
    return component
