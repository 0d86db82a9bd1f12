"""The page's interface for programs, asked by its own client over loopback; the page has nothing but its own folder."""

import base64
import io
import json
import socket
import time

import httpx
import numpy as np
import psutil
import pytest
import soundfile
from space_process import Page

from recipes import DEFAULT_CHECKPOINT
from recipes.conversion.checkpoint_folder import load_pipeline
from space_app.answers import answer_steps
from space_app.jobs import Job, OutOfTime, Stopped
from space_app.limits import Limits

gradio_client = pytest.importorskip("gradio_client")

FARMYARD = "space_app/examples/farmyard.flac"
NIGHT = "space_app/examples/night.flac"


@pytest.fixture(scope="module")
def client(space_page):
    return gradio_client.Client(space_page.url, verbose=False)


@pytest.fixture(scope="module")
def pipe():
    return load_pipeline(DEFAULT_CHECKPOINT)


@pytest.fixture(scope="module")
def long_recording(tmp_path_factory):
    """Return the path of 80 s."""
    path = tmp_path_factory.mktemp("long") / "long.flac"
    samples = np.concatenate([soundfile.read(file, dtype="float32")[0] for file in (FARMYARD, NIGHT)])
    soundfile.write(path, np.resize(samples, 80 * 16000), 16000)
    return str(path)


def ask(client, path, endpoint="/detect", **arguments):
    return client.predict(gradio_client.handle_file(str(path)), api_name=endpoint, **arguments)


def rounded(events):
    """Scores differ in their last digits from one process to the next."""
    return [event | {"score": round(event["score"], 4)} for event in events]


def test_detection_answers_as_the_pipeline(client, pipe):
    expected = pipe(FARMYARD)
    result = ask(client, FARMYARD)
    assert rounded(result["events"]) == rounded(expected["events"]) != []
    assert result["duration"] == result["heard"] == 10.0 and result["is_whole"] and result["threshold"] == 0.25
    everything = ask(client, FARMYARD, threshold=0)["events"]
    assert rounded(everything) == rounded(pipe(FARMYARD, min_score=0)["events"])
    assert len(everything) > len(result["events"])
    some = ask(client, FARMYARD, threshold=0.3)["events"]
    assert some == [event for event in everything if event["score"] >= 0.3]


def test_grounding_takes_a_query_a_line(client, pipe):
    queries = ["rooster", "sheep bleat", "<script>alert(1)</script>"]
    expected = pipe(FARMYARD, task="grounding", query=queries)
    result = ask(client, FARMYARD, "/ground", queries="\n".join([*queries, "", " rooster "]))
    events = sorted(
        (event for one in expected for event in one["events"]), key=lambda event: (event["onset"], event["offset"])
    )
    assert rounded(result["events"]) == rounded(events)
    assert {event["event_label"] for event in events} >= {"rooster"}


def test_long_recordings_are_answered_piece_by_piece(client, pipe, long_recording):
    job = client.submit(
        gradio_client.handle_file(long_recording), window=10, overlap=0, threshold=0, api_name="/caption"
    )
    results = list(job)
    heard = [result["heard"] for result in results]
    # 8 windows of 10 s, four at a time.
    assert list(dict.fromkeys(heard)) == [40.0, 80.0]
    assert [result["is_whole"] for result in results] == [seconds == 80.0 for seconds in heard]
    expected = pipe(long_recording, task="captioning", chunk_length_s=10, stride_length_s=0, min_score=0, batch_size=4)
    assert rounded(results[-1]["events"]) == rounded(expected["events"])


def test_the_model_tells_what_it_is(client):
    facts = client.predict(api_name="/model")
    config = json.loads((DEFAULT_CHECKPOINT / "config.json").read_text())
    scores = json.loads((DEFAULT_CHECKPOINT / "scores.json").read_text())
    assert facts["labels"] == config["frame_grounder"]["labels"] and set(config["event_labels"]) < set(facts["labels"])
    assert facts["name"] == "timepro-small"
    assert facts["num_parameters"] == pytest.approx(13.5e6, rel=0.01)
    assert (facts["max_megabytes"], facts["max_seconds"]) == (3, 90)
    row = facts["figures"][0]
    assert row["name"] == "timepro-small, field"
    assert row["Eb-F1 micro"].startswith(f"{scores['timepro-small, field']['detection']['micro']['f1']:.3f} [")
    assert all(row["name"].startswith("timepro-small") for row in facts["figures"])


def test_endpoints_are_named_and_documented(client, space_page):
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(endpoints) == {"/detect", "/ground", "/caption", "/model"}
    names = {name: [p["parameter_name"] for p in one["parameters"]] for name, one in endpoints.items()}
    shared = ["threshold", "window", "overlap"]
    assert names == {"/detect": ["audio", *shared], "/ground": ["audio", "queries", *shared],
                     "/caption": ["audio", *shared], "/model": []}  # fmt: skip
    tools = mcp(space_page.url, "tools/list")["tools"]
    assert sorted(tool["name"].rpartition("_")[2] for tool in tools) == ["caption", "detect", "ground", "model"]
    ground = next(tool for tool in tools if tool["name"].endswith("ground"))
    assert "match descriptions" in ground["description"]
    assert "one description a line" in ground["inputSchema"]["properties"]["queries"]["description"]


def mcp(url, method, **parameters):
    """Ask the MCP server as its clients do, by JSON-RPC over HTTP."""
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}
    headers = {"Accept": "application/json, text/event-stream"}
    answer = httpx.post(f"{url}/gradio_api/mcp/", json=body, headers=headers, timeout=60).text
    lines = [line.removeprefix("data: ") for line in answer.splitlines() if line.startswith(("data: ", "{"))]
    return json.loads(lines[-1])["result"]


def test_tools_of_mcp_answer(space_page):
    tools = mcp(space_page.url, "tools/list")["tools"]
    name = next(tool["name"] for tool in tools if tool["name"].endswith("model"))
    result = mcp(space_page.url, "tools/call", name=name, arguments={})
    assert "bird chirp" in result["content"][0]["text"]
    # A recording as the description of the tool asks for it.
    detect = next(tool for tool in tools if tool["name"].endswith("detect"))
    description = detect["inputSchema"]["properties"]["audio"]["description"]
    assert "data:audio/wav;base64" in description and "web addresses are refused" in description
    assert description.endswith("deleted once it was answered."), "Gradio takes one line alone"
    samples, rate = soundfile.read(FARMYARD)
    soundfile.write(buffer := io.BytesIO(), samples, rate, format="WAV")
    audio = f"data:audio/wav;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    result = mcp(space_page.url, "tools/call", name=detect["name"], arguments={"audio": audio})
    assert "'event_label': 'rooster'" in result["content"][0]["text"]
    refused = mcp(space_page.url, "tools/call", name=detect["name"], arguments={"audio": "http://127.0.0.1/a.wav"})
    assert "Give the file itself, not its address" in json.dumps(refused)
    large = httpx.post(f"{space_page.url}/gradio_api/mcp/", content=b" " * 5_000_000)
    assert large.status_code == 413 and large.text == "The recording is too large."
    assert not [path for path in space_page.uploads() if path.name.startswith("file.")]


def test_what_is_broken_off_leaves_no_file(space_page):
    host, port = space_page.url.removeprefix("http://").split(":")
    before = set(space_page.uploads())
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000000\r\n"
        head += "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        part = '--x\r\nContent-Disposition: form-data; name="files"; filename="a.wav"\r\n\r\n'
        connection.sendall((head + part).encode() + bytes(100000))
        time.sleep(0.5)
    other = httpx.post(f"{space_page.url}/gradio_api/upload", files={"other": ("b.wav", b"x" * 100000)})
    assert other.status_code == 200 and other.json() == []
    for _ in range(50):
        if not set(space_page.uploads()) - before:
            break
        time.sleep(0.1)
    assert not set(space_page.uploads()) - before


@pytest.mark.parametrize(
    "endpoint, arguments, message",
    [
        ("/detect", {"threshold": 2}, "threshold is 2; give a score from 0 to 1"),
        ("/detect", {"window": 99}, "chunk_length_s is 99; give seconds, more than 0 and at most"),
        ("/detect", {"window": 2, "overlap": 0.9}, "advance by less than 0.5 s"),
        ("/ground", {"queries": " \n"}, "There is no query"),
        ("/ground", {"queries": "x" * 201}, "A query has 201 characters; give 200 at most"),
        ("/ground", {"queries": "\n".join(map(str, range(13)))}, "There are 13 queries; give 12 at most"),
    ],
)
def test_impossible_questions_are_refused(client, endpoint, arguments, message):
    with pytest.raises(gradio_client.exceptions.AppError, match=message):
        ask(client, FARMYARD, endpoint, **arguments)


def test_bad_files_are_refused_by_name_alone_and_the_page_goes_on(client, space_page, tmp_path):
    (tmp_path / "noise.wav").write_bytes(b"RIFF" + bytes(range(256)) * 20)
    (tmp_path / "empty.wav").write_bytes(b"")
    soundfile.write(tmp_path / "cut.wav", np.zeros(16000 * 4), 16000)
    (tmp_path / "cut.wav").write_bytes((tmp_path / "cut.wav").read_bytes()[:50000])
    soundfile.write(tmp_path / "long.flac", np.zeros(16000 * 91), 16000)
    expected = {
        "noise.wav": "noise.wav' is not audio that can be read", "empty.wav": "empty.wav' is empty",
        "long.flac": "long.flac lasts more than 90 s; give no more than that",
    }  # fmt: skip
    for name, message in expected.items():
        with pytest.raises(gradio_client.exceptions.AppError) as raised:
            ask(client, tmp_path / name)
        text = str(raised.value)
        assert message in text and "timepro-" not in text and "/tmp" not in text and str(space_page.folder) not in text
    # What is there is answered.
    assert ask(client, tmp_path / "cut.wav")["duration"] == pytest.approx(1.56, abs=0.01)
    soundfile.write(tmp_path / "large.wav", np.zeros(16000 * 95), 16000)  # 3.04 MB
    with open(tmp_path / "large.wav", "rb") as file:
        assert httpx.post(f"{space_page.url}/gradio_api/upload", files={"files": file}).status_code == 413
    assert ask(client, FARMYARD)["events"]


def test_uploads_are_deleted_once_they_are_answered(client, space_page, tmp_path):
    soundfile.write(tmp_path / "twice.wav", np.zeros(16000), 16000)
    # Two uploads of one content are one file for Gradio: the first answer must not take it from the second.
    first, second = (client.submit(gradio_client.handle_file(str(tmp_path / "twice.wav")), api_name="/detect")
                     for _ in range(2))  # fmt: skip
    assert first.result()["duration"] == second.result()["duration"] == 1.0
    with pytest.raises(gradio_client.exceptions.AppError):
        (tmp_path / "bad.wav").write_bytes(b"no audio")
        ask(client, tmp_path / "bad.wav")
    assert not [path for path in space_page.uploads() if path.name in ("twice.wav", "bad.wav")]


def busy_seconds(page):
    times = psutil.Process(page.process.pid).cpu_times()
    return times.user + times.system


def test_cancelled_work_stops(client, space_page, long_recording):
    arguments = {
        "queries": "\n".join(f"query {i}" for i in range(12)),
        "window": 2,
        "overlap": 0,
        "api_name": "/ground",
    }
    job = client.submit(gradio_client.handle_file(long_recording), **arguments)
    while not job.outputs():
        time.sleep(0.05)
    # However busy the machine is: so long as the page takes for 0.3 s of the processor, it then takes nearly none.
    busy, start = busy_seconds(space_page), time.monotonic()
    while busy_seconds(space_page) < busy + 0.3:
        time.sleep(0.05)
    seconds = time.monotonic() - start
    job.cancel()
    time.sleep(1)
    idle = busy_seconds(space_page)
    time.sleep(seconds)
    assert busy_seconds(space_page) - idle < 0.1
    assert not [path for path in space_page.uploads() if path.name == "long.flac"]
    assert ask(client, FARMYARD)["events"]


def test_an_answer_ends_in_the_middle_of_a_window(pipe):
    class Impatient(Job):
        num_checks = 0

        def check(self):
            self.num_checks += 1
            if self.num_checks == 12:
                self.cancel()
            super().check()

    job = Impatient(60)
    steps = answer_steps(pipe, FARMYARD, "detection", None, Limits(), job)
    assert next(steps).num_done == 0
    # A check for every token: the whole answer has more than are left here.
    with pytest.raises(Stopped):
        next(steps)
    assert job.num_checks == 12
    with pytest.raises(OutOfTime, match="took longer than 0.02 s; ask about a shorter recording"):
        list(answer_steps(pipe, FARMYARD, "detection", None, Limits(), Job(0.02), chunk_length_s=1, stride_length_s=0))


@pytest.mark.slow
def test_a_request_has_its_time_and_no_more(long_recording, tmp_path):
    page = Page(tmp_path / "page", timeout=4).wait()
    try:
        client = gradio_client.Client(page.url, verbose=False)
        # Loads what is loaded on first use; ten seconds of sound take less than four.
        assert ask(client, FARMYARD)["events"]
        queries = "\n".join(f"query {i}" for i in range(12))
        with pytest.raises(gradio_client.exceptions.AppError, match="longer than 4 s; ask about a shorter recording"):
            ask(client, long_recording, "/ground", queries=queries, window=1, overlap=0)
        time.sleep(1)
        busy = busy_seconds(page)
        time.sleep(2)
        assert busy_seconds(page) - busy < 0.1
        assert not page.uploads()
        assert ask(client, FARMYARD)["events"]
    finally:
        page.stop()
