"""A Hub on loopback that hands out one repository, as `huggingface_hub` asks for it."""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


@contextmanager
def serve_repository(name, folder):
    """Serve the files of a folder as repository `name`; yield the address and the list of files that were fetched."""
    commit, fetched = hashlib.sha1(name.encode()).hexdigest(), []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments):
            pass

        def answer(self, status, body, headers=()):
            self.send_response(status)
            for key, value in {"Content-Length": len(body), **dict(headers)}.items():
                self.send_header(key, str(value))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_GET(self):
            path = unquote(self.path.partition("?")[0])
            if path.startswith(f"/api/models/{name}/tree/"):
                files = [
                    {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": commit}
                    for file in sorted(folder.iterdir())
                ]
                return self.answer(200, json.dumps(files).encode(), {"Content-Type": "application/json"})
            if path.startswith(f"/api/models/{name}"):
                files = [{"rfilename": file.name} for file in sorted(folder.iterdir())]
                body = json.dumps({"id": name, "modelId": name, "sha": commit, "siblings": files}).encode()
                return self.answer(200, body, {"Content-Type": "application/json"})
            file = folder / path.rpartition("/")[2]
            if not path.startswith(f"/{name}/resolve/") or not file.is_file():
                return self.answer(404, b"", {"X-Error-Code": "EntryNotFound" if name in path else "RepoNotFound"})
            body = file.read_bytes()
            if self.command == "GET":
                fetched.append(file.name)
            etag = hashlib.sha256(body).hexdigest()
            return self.answer(200, body, {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "none"})

        do_HEAD = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", fetched
    finally:
        server.shutdown()
        server.server_close()
