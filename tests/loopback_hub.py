"""A Hub on loopback: what huggingface_hub asks of the Hub, over real HTTP, with faults on demand.

    with LoopbackHub() as hub:
        run(command, env=os.environ | hub.environment())

Repositories with branches and commits, private ones too; files as Git stores them or, if large, by LFS in one part or
several; downloads with ranges, of LFS files by a redirect to another host, as the Hub sends them to its storage. It
holds everything in memory, and is for models alone. Written after huggingface_hub 2.4, without Xet.
"""

import base64
import hashlib
import json
import re
import socket
import struct
import threading
import urllib.parse
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

TOKEN = "hf_loopback"
LFS_SUFFIXES = (".safetensors", ".bin", ".flac", ".wav", ".png")
REPO = r"/api/models/(?P<repo>[^/]+/[^/]+)"


@dataclass
class Fault:
    """What goes wrong with the next `times` requests whose method and path match.

    Attributes:
        kind: a status, such as 500 or 429; `"cut"`, the connection is reset in the middle of the request; `"lost"`, the
            request is obeyed and the answer never sent.
    """

    method: str
    path: str
    kind: int | str
    times: int = 1
    seen: int = 0


@dataclass
class Repo:
    """One model: `commits` are `(sha, {path: (content, is_lfs)})`, the newest last, `refs` name their shas."""

    private: bool = False
    commits: list = field(default_factory=list)
    refs: dict = field(default_factory=dict)

    def add(self, files: dict, branch="main") -> str:
        sha = hashlib.sha1(repr((len(self.commits), sorted((p, _blob(c)) for p, (c, _) in files.items()))).encode())
        self.commits.append((sha.hexdigest(), files))
        self.refs[branch] = sha.hexdigest()
        return sha.hexdigest()

    def find(self, revision: str):
        """Return the commit of a branch, tag or sha; `None` if there is none."""
        sha = self.refs.get(revision.removeprefix("refs/heads/"), revision)
        return next((commit for commit in self.commits if commit[0] == sha), None)


class LoopbackHub:
    """The server. `repos` and `objects` are its state, `requests` what it was asked, `faults` what goes wrong."""

    def __init__(self, user="tester", part_size=8_000_000):
        self.user, self.part_size = user, part_size
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.faults: list[Fault] = []
        self.lock = threading.RLock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def environment(self, token=TOKEN) -> dict[str, str]:
        """Return the variables that make huggingface_hub ask this server."""
        settings = {"HF_ENDPOINT": self.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "HF_TOKEN": token}
        return settings | {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "*"}

    def files(self, repo: str, revision="main") -> dict[str, bytes]:
        """Return what anybody sees at a revision; nothing before the first commit."""
        return {path: content for path, (content, _) in self.repos[repo].find(revision)[1].items()}

    def fail(self, method: str, path: str, kind: int | str, times=1) -> Fault:
        """Let the next requests go wrong, see [`Fault`]."""
        self.faults.append(Fault(method, path, kind, times))
        return self.faults[-1]


def _blob(content: bytes) -> str:
    """Return Git's name of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entry(path, file) -> dict:
    content, is_lfs = file
    entry = {"type": "file", "path": path, "size": len(content), "oid": _blob(content)}
    if is_lfs:
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return entry


class _Answer(Exception):
    """Ends a request with an error."""

    def __init__(self, status: int, message: str, code=""):
        super().__init__(message)
        self.status, self.code = status, code


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body are sent apart; the second would wait for the first to be acknowledged.
    disable_nagle_algorithm = True
    hub: LoopbackHub

    def log_message(self, *_):
        pass

    def _handle(self):
        url = urllib.parse.urlsplit(self.path)
        path, self.query = urllib.parse.unquote(url.path), dict(urllib.parse.parse_qsl(url.query))
        with self.hub.lock:
            self.hub.requests.append((self.command, path))
            fault = next((f for f in self.hub.faults if f.seen < f.times and f.method == self.command
                          and re.search(f.path, path)), None)  # fmt: skip
            if fault:
                fault.seen += 1
        if fault and fault.kind == "cut":
            return self._cut()
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if fault and fault.kind != "lost":
            return self._send(fault.kind, {"error": "injected"}, {"Retry-After": "0"} if fault.kind == 429 else {})
        for method, pattern, function in ROUTES:
            if match := method == self.command and re.fullmatch(pattern, path):
                try:
                    with self.hub.lock:
                        answer = function(self, **match.groupdict())
                except _Answer as error:
                    headers = {"X-Error-Code": error.code, "X-Error-Message": str(error)}
                    answer = (error.status, {"error": str(error)}, headers)
                return self._reset() if fault else self._send(*answer)
        return self._send(404, {"error": f"{self.command} {path} is not served."}, {})

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle

    def _send(self, status, body, headers):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": len(content), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _cut(self):
        """Read half of what was sent, and reset the connection."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0) // 2)
        self._reset()

    def _reset(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        # The files over the socket hold it open.
        self.rfile.close()
        self.connection.close()

    def _require_token(self):
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise _Answer(401, "Invalid username or password.")

    def _repo(self, repo) -> Repo:
        found = self.hub.repos.get(repo)
        if found and found.private:
            self._require_token()
        if found is None:
            raise _Answer(404, "Repository not found", "RepoNotFound")
        return found

    def _commit(self, repo, revision):
        commit = self._repo(repo).find(revision)
        if commit is None:
            raise _Answer(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def who_am_i(self):
        self._require_token()
        token = {"type": "access_token", "accessToken": {"displayName": "test", "role": "write"}}
        return 200, {"type": "user", "name": self.hub.user, "orgs": [], "auth": token}, {}

    def check_card(self):
        content = json.loads(self.body)["content"]
        match = re.match(r"---\s*\n(.*?)\n---\s*\n", content, re.DOTALL)
        try:
            metadata = yaml.safe_load(match[1]) if match else {}
            errors = [] if isinstance(metadata, dict) else [{"message": "the metadata is no mapping"}]
        except yaml.YAMLError as error:
            errors = [{"message": str(error)}]
        return (400 if errors else 200), {"errors": errors, "warnings": []}, {}

    def create_repo(self):
        self._require_token()
        payload = json.loads(self.body)
        name = f"{payload.get('organization') or self.hub.user}/{payload['name']}"
        url = {"url": f"{self.hub.url}/{name}", "name": name, "id": name}
        if name in self.hub.repos:
            return 409, {"error": "You already created this model repo", **url}, {}
        private = payload.get("visibility") == "private" or bool(payload.get("private"))
        self.hub.repos[name] = Repo(private)
        self.hub.repos[name].add({".gitattributes": (b"*.safetensors filter=lfs\n", False)})
        return 200, url, {}

    def delete_repo(self):
        self._require_token()
        payload = json.loads(self.body)
        self.hub.repos.pop(f"{payload.get('organization') or self.hub.user}/{payload['name']}")
        return 200, {}, {}

    def create_branch(self, repo, branch):
        self._require_token()
        if branch in self._repo(repo).refs:
            raise _Answer(409, "Reference already exists")
        self._repo(repo).refs[branch] = self._commit(repo, json.loads(self.body).get("startingPoint", "main"))[0]
        return 200, {}, {}

    def list_refs(self, repo):
        refs = self._repo(repo).refs.items()
        branches = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha} for name, sha in refs]
        return 200, {"branches": branches, "tags": [], "converts": []}, {}

    def prepare_upload(self, repo, revision):
        self._require_token()
        sha, files = self._commit(repo, revision)
        answers = []
        for item in json.loads(self.body)["files"]:
            content, was_lfs = files.get(item["path"], (None, False))
            is_lfs = item["path"].endswith(LFS_SUFFIXES) or item["size"] > 10_000_000
            oid = None if content is None else hashlib.sha256(content).hexdigest() if was_lfs else _blob(content)
            mode = "lfs" if is_lfs else "regular"
            answers.append({"path": item["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return 200, {"commitOid": sha, "files": answers}, {}

    def prepare_lfs(self, repo):
        self._require_token()
        self._repo(repo)
        objects, size = [], self.hub.part_size
        for item in json.loads(self.body)["objects"]:
            answer = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.hub.objects:
                upload = {"href": f"{self.hub.url}/lfs/{item['oid']}", "header": {}}
                if item["size"] > size:
                    numbers = range(1, -(-item["size"] // size) + 1)
                    upload["header"] = {f"{n:05}": f"{upload['href']}/{n}" for n in numbers} | {"chunk_size": str(size)}
                answer["actions"] = {"upload": upload}
            objects.append(answer)
        kind = "multipart" if any(o["size"] > size for o in objects) else "basic"
        return 200, {"transfer": kind, "objects": objects}, {"Content-Type": "application/vnd.git-lfs+json"}

    def _store(self, oid, content):
        if hashlib.sha256(content).hexdigest() != oid:
            raise _Answer(400, f"the content of {oid} has another sha256")
        self.hub.objects[oid] = content
        return 200, {}, {}

    def put_object(self, oid):
        return self._store(oid, self.body)

    def put_part(self, oid, number):
        self.hub.parts[oid, int(number)] = self.body
        return 200, {}, {"ETag": hashlib.md5(self.body).hexdigest()}

    def complete_object(self, oid):
        numbers = sorted(part["partNumber"] for part in json.loads(self.body)["parts"])
        return self._store(oid, b"".join(self.hub.parts.pop((oid, number)) for number in numbers))

    def commit(self, repo, revision):
        self._require_token()
        sha, files = self._commit(repo, revision)
        files = dict(files)
        for line in self.body.splitlines():
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "header" and value.get("parentCommit", sha) != sha:
                raise _Answer(412, "A commit has happened since. Please refresh and try again.")
            if key == "file":
                files[value["path"]] = (base64.b64decode(value["content"]), False)
            elif key == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    raise _Answer(400, f"{value['path']} was not uploaded")
                files[value["path"]] = (self.hub.objects[value["oid"]], True)
            elif key == "deletedFile":
                files.pop(value["path"])
        # All files of a commit appear at once.
        new = self._repo(repo).add(files, revision)
        return 200, {"success": True, "commitOid": new, "commitUrl": f"{self.hub.url}/{repo}/commit/{new}"}, {}

    def describe(self, repo, revision="main"):
        sha, files = self._commit(repo, revision)
        card = re.match(r"---\n(.*?)\n---\n", files.get("README.md", (b"", 0))[0].decode(), re.DOTALL)
        metadata = yaml.safe_load(card[1]) if card else {}
        siblings = []
        for entry in (_entry(path, file) for path, file in sorted(files.items())):
            lfs = {"lfs": entry["lfs"] | {"sha256": entry["lfs"]["oid"]}} if "lfs" in entry else {}
            siblings.append({"rfilename": entry["path"], "size": entry["size"], "blobId": entry["oid"], **lfs})
        names = ("library_name", "pipeline_tag", "tags")
        known = {name: metadata[name] for name in names if name in metadata}
        return 200, {
            "_id": "1", "id": repo, "modelId": repo, "sha": sha, "private": self._repo(repo).private, "gated": False,
            "tags": [], "downloads": 0, "likes": 0, "cardData": metadata, "siblings": siblings, **known,
        }, {}  # fmt: skip

    def list_tree(self, repo, revision, folder=None):
        files = self._commit(repo, revision)[1]
        if folder and not any(path.startswith(f"{folder}/") for path in files):
            raise _Answer(404, f"{folder} does not exist", "EntryNotFound")
        found = sorted(path for path in files if not folder or path.startswith(f"{folder}/"))
        return 200, [_entry(path, files[path]) for path in found], {}

    def find_paths(self, repo, revision):
        files = self._commit(repo, revision)[1]
        asked = urllib.parse.parse_qs(self.body.decode())["paths"] if b"paths=" in self.body else None
        asked = json.loads(self.body)["paths"] if asked is None else asked
        return 200, [_entry(path, files[path]) for path in asked if path in files], {}

    def download(self, repo, revision, path):
        sha, files = self._commit(repo, revision)
        if path not in files:
            raise _Answer(404, "Entry not found", "EntryNotFound")
        content, is_lfs = files[path]
        oid = hashlib.sha256(content).hexdigest() if is_lfs else _blob(content)
        if is_lfs:
            headers = {"X-Repo-Commit": sha, "X-Linked-Etag": f'"{oid}"', "X-Linked-Size": len(content)}
            # Storage has another host name, as the Hub's has, else the redirect would be followed for the metadata too.
            storage = self.hub.url.replace("127.0.0.1", "localhost")
            return 302, b"", {**headers, "Location": f"{storage}/storage/{oid}"}
        return self._send_range(content, {"X-Repo-Commit": sha, "ETag": f'"{oid}"'})

    def download_object(self, oid):
        return self._send_range(self.hub.objects[oid], {"ETag": f'"{oid}"'})

    def _send_range(self, content, headers):
        headers |= {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        asked = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            return 200, content, headers
        first, last = int(asked[1]), min(int(asked[2] or len(content) - 1), len(content) - 1)
        return 206, content[first : last + 1], {**headers, "Content-Range": f"bytes {first}-{last}/{len(content)}"}


_DOWNLOAD = r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)"
ROUTES = (
    ("GET", "/api/whoami-v2", _Handler.who_am_i),
    ("POST", "/api/validate-yaml", _Handler.check_card),
    ("POST", "/api/repos/create", _Handler.create_repo),
    ("DELETE", "/api/repos/delete", _Handler.delete_repo),
    ("GET", REPO, _Handler.describe),
    ("GET", REPO + "/revision/(?P<revision>[^/]+)", _Handler.describe),
    ("POST", REPO + "/branch/(?P<branch>[^/]+)", _Handler.create_branch),
    ("GET", REPO + "/refs", _Handler.list_refs),
    ("GET", REPO + "/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", _Handler.list_tree),
    ("POST", REPO + "/paths-info/(?P<revision>[^/]+)", _Handler.find_paths),
    ("POST", REPO + "/preupload/(?P<revision>[^/]+)", _Handler.prepare_upload),
    ("POST", r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", _Handler.prepare_lfs),
    ("PUT", "/lfs/(?P<oid>[0-9a-f]{64})", _Handler.put_object),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})/(?P<number>\d+)", _Handler.put_part),
    ("POST", "/lfs/(?P<oid>[0-9a-f]{64})", _Handler.complete_object),
    ("POST", REPO + "/commit/(?P<revision>[^/]+)", _Handler.commit),
    ("GET", _DOWNLOAD, _Handler.download),
    ("HEAD", _DOWNLOAD, _Handler.download),
    ("GET", "/storage/(?P<oid>[0-9a-f]{64})", _Handler.download_object),
    ("HEAD", "/storage/(?P<oid>[0-9a-f]{64})", _Handler.download_object),
)
