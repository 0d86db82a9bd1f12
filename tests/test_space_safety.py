"""What strangers may not do to the page: read other files, learn where things lie, or have their text run."""

import json
import os

import httpx
import pytest

pytest.importorskip("gradio")

FARMYARD = "space_app/examples/farmyard.flac"
# One for all: making a client takes longer than most requests.
HTTP = httpx.Client(timeout=60)


@pytest.fixture(scope="module")
def upload(space_page):
    """Return the path that the page gives an upload."""
    with open(FARMYARD, "rb") as file:
        (path,) = HTTP.post(f"{space_page.url}/gradio_api/upload", files={"files": ("ours.flac", file)}).json()
    return path


def call(url, endpoint, *data):
    """Ask an endpoint as any program can, and return the name and the data of the last event."""
    started = HTTP.post(f"{url}/gradio_api/call/{endpoint}", json={"data": list(data)}, timeout=60)
    if started.status_code != 200:
        return str(started.status_code), started.text
    text = HTTP.get(f"{url}/gradio_api/call/{endpoint}/{started.json()['event_id']}", timeout=60).text
    events = [part.split("\n") for part in text.strip().split("\n\n")]
    return events[-1][0].removeprefix("event: "), events[-1][1].removeprefix("data: ")


def inside(space_page):
    """Return files outside the uploads that hold audio, or secrets: none may be read."""
    page = space_page.app
    return [page / "examples" / "night.flac", page / "app.py", space_page.checkpoint / "config.json", "/etc/passwd",
            "/proc/self/environ", f"/proc/{space_page.process.pid}/cmdline"]  # fmt: skip


def test_no_route_serves_a_file_of_the_machine(space_page, upload):
    up = "../" * 12
    targets = [str(path) for path in inside(space_page)]
    targets += [f"{upload}/../../..{target}" for target in targets] + [f"{up}etc/passwd", "..%2f..%2fetc%2fpasswd"]
    targets += [os.path.dirname(upload), "file:///etc/passwd", "http://127.0.0.1:1/x", f"{upload}\0.flac"[:-6] + "%00"]
    for target in targets:
        for route in ("file=", "file/", "static/", "assets/", "custom_component/x/client/y/"):
            # httpx would resolve the dots before sending them.
            address = httpx.URL(f"{space_page.url}/gradio_api/").copy_with(
                raw_path=f"/gradio_api/{route}{target}".encode()
            )
            answer = HTTP.get(address, timeout=60)
            assert answer.status_code >= 400, (route, target)
            assert b"root:" not in answer.content and b"TIMEPRO" not in answer.content
    assert HTTP.get(f"{space_page.url}/gradio_api/file={upload}").status_code == 200


@pytest.mark.parametrize("with_meta", [True, False])
def test_crafted_file_data_is_refused(space_page, upload, with_meta):
    link = space_page.folder / "link.flac"
    if not link.exists():
        link.symlink_to(space_page.app / "examples" / "night.flac")
    paths = [str(path) for path in inside(space_page)] + [
        str(link),
        "../../../../etc/passwd",
        "",
        "/",
        upload + "/../..",
    ]
    paths += [
        f"{os.path.dirname(upload)}/../../../{space_page.app.name}/examples/night.flac",
        "http://127.0.0.1:1/a.wav",
    ]
    for path in paths:
        data = {"path": path, "orig_name": "night.flac"} | ({"meta": {"_type": "gradio.FileData"}} if with_meta else {})
        extras = [{}] if path != "/etc/passwd" else [{}, {"url": f"{space_page.url}/gradio_api/file={path}"}]
        for extra in (*extras, {"is_stream": True}):
            kind, text = call(space_page.url, "detect", data | extra, None, None, None)
            assert kind in ("error", "422", "400", "500"), (path, kind, text)
            assert '"events"' not in text and "root:" not in text, (path, text)
            # Nor does it say where we are; what the client has sent itself is no secret.
            told = text.replace(path, "") if path else text
            assert str(space_page.folder) not in told and "timepro-" not in told, (path, text)
    assert HTTP.post(f"{space_page.url}/gradio_api/call/detect", json={"data": [upload]}).status_code < 500


def test_other_types_are_refused(space_page):
    for audio in (7, ["a"], "night.flac", {"path": 7}, {"path": None, "meta": {"_type": "gradio.FileData"}}):
        kind, text = call(space_page.url, "detect", audio, None, None, None)
        assert kind != "complete" and str(space_page.folder) not in text, (audio, text)


def test_what_the_page_does_itself_is_no_endpoint(space_page):
    config = HTTP.get(f"{space_page.url}/config").json()
    named = {one["api_name"] for one in config["dependencies"] if one["api_visibility"] == "public"}
    assert named == {"detect", "ground", "caption", "model"}
    night = {"path": str(space_page.app / "examples" / "night.flac"), "meta": {"_type": "gradio.FileData"}}
    # Nor do the events of the page take other files, asked for by number.
    asks = [one for one in config["dependencies"] if one["api_name"] == "ask"]
    assert len(asks) == 1
    num_inputs = len(asks[0]["inputs"])
    body = {
        "fn_index": asks[0]["id"],
        "session_hash": "stranger",
        "data": [night, "detection", *[None] * (num_inputs - 2)],
    }
    joined = HTTP.post(f"{space_page.url}/gradio_api/queue/join", json=body)
    assert joined.status_code == 200
    with HTTP.stream("GET", f"{space_page.url}/gradio_api/queue/data?session_hash=stranger", timeout=60) as stream:
        for line in stream.iter_lines():
            message = json.loads(line.removeprefix("data: ")) if line else {"msg": ""}
            if message["msg"] == "process_completed":
                break
    assert not message["success"] and str(space_page.folder) not in json.dumps(message)


def test_the_name_of_an_upload_cannot_lead_elsewhere(space_page):
    for name in ("../../../evil.wav", "/etc/evil.wav", "..\\..\\evil.wav", "a/../../evil.wav"):
        answer = HTTP.post(f"{space_page.url}/gradio_api/upload", files={"files": (name, b"x" * 50)})
        assert answer.status_code >= 400 or all(
            os.path.realpath(path).startswith(str(space_page.tmp.resolve())) for path in answer.json()
        )
    assert not list(space_page.folder.glob("*.wav")) and not list(space_page.app.rglob("*.wav"))


def test_a_name_with_markup_comes_back_as_text(space_page, tmp_path):
    # Gradio itself strips what is no part of a name; whatever is left is JSON here, and escaped on the page.
    path = tmp_path / "<img src=x onerror=alert(1)>.wav"
    path.write_bytes(b"no audio" * 400)
    with open(path, "rb") as file:
        (uploaded,) = HTTP.post(f"{space_page.url}/gradio_api/upload", files={"files": (path.name, file)}).json()
    kind, text = call(
        space_page.url, "detect", {"path": uploaded, "meta": {"_type": "gradio.FileData"}}, None, None, None
    )
    assert kind == "error" and "is not audio that can be read" in text and str(space_page.folder) not in text
