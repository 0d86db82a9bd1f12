"""A server in place of the model: its answers are the pipeline's, and what goes wrong there loses nothing."""

import base64
import io
import json
import time
from contextlib import contextmanager

import loopback_vllm
import numpy as np
import pytest
import soundfile

from recipes.cli.main import main
from recipes.conversion.checkpoint_folder import load_pipeline
from recipes.evaluation.runner import Unavailable
from recipes.serving import asking
from recipes.serving.client import ServedPipeline


@pytest.fixture(scope="module")
def pipe(scripted_checkpoint):
    return load_pipeline(scripted_checkpoint("dog: <1.20>-<3.44>"))


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(asking, "FIRST_PAUSE", 0.01)


def completion_of(pipe, body):
    """Return what vLLM answers to a request, in its form, by the model itself."""
    audio, text = body["messages"][0]["content"]
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(audio["input_audio"]["data"])), dtype="float32")
    assert rate == 16000 and body["temperature"] == 0 and body["return_tokens_as_token_ids"] is True
    asked = body["vllm_xargs"]
    row = {"task": asked["task"], "query": None, "duration": asked["duration"]}
    outputs = pipe._forward({"waveforms": [samples], "questions": [[text["text"]]], "rows": [row]})
    first, steps = pipe.model.config.time_token_ids.start, []
    for token, own, times in zip(outputs["answers"][0], outputs["own"][0], outputs["times"][0], strict=True):
        top = times.topk(min(body["top_logprobs"], len(times)))
        entries = [{"token": f"token_id:{first + int(index)}", "logprob": float(value)} for value, index in zip(*top)]
        steps.append({"token": f"token_id:{int(token)}", "logprob": float(own), "top_logprobs": entries})
    reason = "stop" if outputs["is_whole"][0] else "length"
    return {"choices": [{"message": {"content": "..."}, "finish_reason": reason, "logprobs": {"content": steps}}]}


@contextmanager
def serve(answer):
    """Serve questions; `answer(number, body)` is what `loopback_vllm.serve` sends. Give the URL, and what was asked."""
    requests = []

    def reply(path, body):
        if body is None:
            return {"data": [{"id": "timepro"}]}
        requests.append(body)
        return answer(len(requests), body)

    with loopback_vllm.serve(reply) as url:
        yield f"{url}/v1", requests


def write_clips(folder, seconds=(4.0, 5.0, 6.0)):
    folder.mkdir()
    for index, length in enumerate(seconds):
        noise = np.random.default_rng(index).standard_normal(int(16000 * length))
        soundfile.write(folder / f"{index}.wav", 0.1 * noise, 16000)
    return folder


def test_results_are_those_of_the_pipeline_in_windows_too(pipe, tmp_path):
    clips = write_clips(tmp_path / "sounds", (4.0, 35.0))
    files = [str(path) for path in sorted(clips.iterdir())]
    with serve(lambda number, body: completion_of(pipe, body)) as (url, requests):
        served = ServedPipeline(url, pipe.model.name_or_path, top_logprobs=376)
        found, expected = (each(files, batch_size=4) for each in (served, pipe))
        assert len(requests) == 1 + len(expected[1]["windows"]) > 4
        for one, other in zip(found, expected, strict=True):
            assert one["text"] == other["text"] and one["duration"] == other["duration"]
            for event, true in zip(one["events"], other["events"], strict=True):
                assert event.pop("score") == pytest.approx(true.pop("score"), abs=1e-5)
                assert event == true
        # Of a few times the scores are lower, if anything.
        few = ServedPipeline(url, pipe.model.name_or_path)(files[0])
        assert 0 < few["events"][0]["score"] <= pipe(files[0])["events"][0]["score"] + 1e-6
        with pytest.raises(ValueError, match="num_beams cannot be sent to a server"):
            served(files[0], num_beams=2)


def test_what_passes_is_tried_again(pipe, tmp_path):
    clips = write_clips(tmp_path / "sounds", (4.0,))

    def answer(number, body):
        return (None, (503, "busy"), (429, "later"), completion_of(pipe, body))[number - 1]

    with serve(answer) as (url, requests):
        result = ServedPipeline(url, pipe.model.name_or_path)(str(clips / "0.wav"))
    assert result["events"] and len(requests) == 4


def test_a_server_that_goes_down_ends_the_run_which_goes_on_later_without_asking_twice(pipe, tmp_path, capsys):
    clips, out = write_clips(tmp_path / "sounds"), tmp_path / "events.jsonl"

    def answer(number, body):
        return completion_of(pipe, body) if number == 1 else (500, "out of memory")

    def detect(url):
        options = ["--batch-size", "1", "--model", pipe.model.name_or_path]
        return main(["detect", str(clips), "--out", str(out), "--backend", url, *options])

    with serve(answer) as (url, _):
        assert detect(url) == 1
    told = capsys.readouterr().err
    assert "tried 5 times: status 500: out of memory" in told and "run the same command to continue" in told
    # Nobody listens there any more.
    assert detect(url) == 1
    assert "does not answer, tried 5 times: ConnectError" in capsys.readouterr().err
    with serve(lambda number, body: completion_of(pipe, body)) as (url, requests):
        assert detect(url) == 0
    assert len(requests) == 2 and len(out.read_text().splitlines()) == 3


def test_a_question_that_is_refused_costs_no_other_recording_its_answer(pipe, tmp_path, capsys):
    clips = write_clips(tmp_path / "sounds")

    def answer(number, body):
        return (400, "too long") if body["vllm_xargs"]["duration"] == 5.0 else completion_of(pipe, body)

    with serve(answer) as (url, _):
        arguments = ["--json", "--backend", url, "--model", pipe.model.name_or_path]
        assert main(["detect", str(clips), *arguments]) == 1
    captured = capsys.readouterr()
    assert [json.loads(line)["duration"] for line in captured.out.splitlines()] == [4.0, 6.0]
    assert "1.wav: the server refused the question, status 400: too long" in captured.err


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((200, "<html>a proxy</html>"), "'<html>a proxy</html>', which is no JSON"),
        ({"choices": []}, "no chat completion of vLLM"),
        ({"choices": [{"message": {"content": "dog"}, "finish_reason": "stop"}]}, "with log-probabilities"),
        ((401, "no key"), "status 401: no key; check the URL"),
    ],
)
def test_nonsense_is_named_and_ends_the_run(reply, message, pipe, tmp_path):
    clips = write_clips(tmp_path / "sounds", (4.0,))
    with serve(lambda number, body: reply) as (url, _):
        with pytest.raises(Unavailable, match=message):
            ServedPipeline(url, pipe.model.name_or_path)(str(clips / "0.wav"))


def test_a_server_that_is_slow_is_given_up_after_the_time_that_is_said(pipe, tmp_path):
    clips = write_clips(tmp_path / "sounds", (4.0,))
    with serve(lambda number, body: time.sleep(1)) as (url, _):
        served = ServedPipeline(url, pipe.model.name_or_path, timeout=0.2, num_tries=2)
        with pytest.raises(Unavailable, match="tried 2 times: no answer in 0.2 s"):
            served(str(clips / "0.wav"))


def test_a_backend_that_is_no_url_is_refused(tmp_path, capsys):
    assert main(["detect", str(write_clips(tmp_path / "sounds")), "--backend", "localhost:8000"]) == 1
    assert "give the URL of a server" in capsys.readouterr().err
