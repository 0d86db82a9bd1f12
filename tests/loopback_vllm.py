"""A server on loopback, for what vLLM would answer."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def serve(answer):
    """Serve; `answer(path, body)` returns a reply to be sent as JSON, `(status, text)`, or `None` to hang up."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.reply(answer(self.path, None))

        def do_POST(self):
            content = self.rfile.read(int(self.headers.get("content-length") or 0))
            self.reply(answer(self.path, json.loads(content) if content else None))

        def reply(self, content):
            if content is None:
                self.connection.close()
                return
            status, text = content if isinstance(content, tuple) else (200, json.dumps(content))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
