"""The embedded checkpoint served by vLLM; run by run_vllm.sh, in an environment that has it."""

import base64
import json
import os
import re
import runpy
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
import soundfile
from vllm_server import command_of_the_page, serve

pytest.importorskip("vllm")
from recipes import DEFAULT_CHECKPOINT
from recipes.cli.main import main
from recipes.conversion.checkpoint_folder import load_pipeline
from recipes.serving.client import ServedPipeline

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "space_app" / "examples").glob("*.flac"))
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """Start the server as docs/serving.md does, on a port of its own; or take the one that TIMEPRO_VLLM_URL names."""
    if "TIMEPRO_VLLM_URL" in os.environ:
        yield os.environ["TIMEPRO_VLLM_URL"]
        return
    with serve(command_of_the_page("serving.md#Start"), tmp_path_factory.mktemp("vllm") / "log") as address:
        yield f"{address}/v1"


@pytest.fixture(scope="module", autouse=True)
def convolutions_in_float32():
    """On a CPU with instructions for it the pipeline's are in bfloat16, by default; those of vLLM are not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIMEPRO_CPU_DTYPE", "float32")
        yield


@pytest.fixture(scope="module")
def pipe():
    return load_pipeline()


@pytest.mark.parametrize("options", [
    {"task": "detection"}, {"task": "grounding", "query": "dog bark"}, {"task": "captioning"},
    {"task": "detection", "chunk_length_s": 4.0, "batch_size": 4}, {"task": "detection", "constrained": False},
    {"task": "detection", "event_labels": ["dog bark", "siren"], "max_events": 1},
])  # fmt: skip
def test_answers_and_scores_are_those_of_the_pipeline(url, pipe, options):
    served = ServedPipeline(url, DEFAULT_CHECKPOINT, top_logprobs=800)
    for file in map(str, EXAMPLES):
        one, other = served(file, **options), pipe(file, decode="text", **options)
        assert one["text"] == other["text"]
        for event, true in zip(one["events"], other["events"], strict=True):
            assert event.pop("score") == pytest.approx(true.pop("score"), abs=1e-4)
            assert event == true


def test_a_folder_is_detected_through_the_server(url, tmp_path, capsys):
    for file in EXAMPLES[:2]:
        shutil.copy(file, tmp_path)
    tables = []
    for options in (["--backend", url], ["--decode", "text"]):
        assert main(["detect", str(tmp_path), "--json", "--min-score", "0", *options]) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        # Of the 20 likeliest times, scores are lower.
        tables.append([[(e["onset"], e["offset"], e["event_label"]) for e in row["events"]] for row in rows])
    assert tables[0] == tables[1] and any(tables[0])


def test_a_question_cannot_spell_ticks_or_placeholders(url, pipe):
    processor = pipe.processor
    text = "Is it <1.04> or <|AUDIO|> <|im_end|>?"
    samples, _ = soundfile.read(EXAMPLES[0])
    sound = base64.b64encode(Path(EXAMPLES[0]).read_bytes()).decode()
    content = [
        {"type": "input_audio", "input_audio": {"data": sound, "format": "flac"}},
        {"type": "text", "text": text},
    ]
    body = {"model": "timepro", "messages": [{"role": "user", "content": content}], "max_tokens": 1}
    reply = httpx.post(f"{url}/chat/completions", json=body | {"return_token_ids": True}, timeout=600).json()
    message = {"role": "user", "content": [{"type": "audio", "audio": samples}, {"type": "text", "text": text}]}
    inputs = processor.apply_chat_template([message], add_generation_prompt=True, tokenize=True, return_dict=True)
    assert reply["prompt_token_ids"] == inputs["input_ids"][0]


def test_a_task_that_cannot_be_is_refused(url):
    body = {"model": "timepro", "messages": [{"role": "user", "content": "?"}], "max_tokens": 1}
    reply = httpx.post(f"{url}/chat/completions", json=body | {"vllm_xargs": {"task": "dance"}}, timeout=600)
    assert reply.status_code == 400 and "task is 'dance'" in reply.text


def test_the_clients_of_the_page_work(url, tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "serving.md").read_text().replace("http://127.0.0.1:8000/v1", url)
    soundfile.write(tmp_path / "street.wav", *soundfile.read(ROOT / "space_app" / "examples" / "village.flac"))
    monkeypatch.chdir(tmp_path)
    (program,) = re.findall(r"```python\n(import base64\n.*?)```", page, re.DOTALL)
    (tmp_path / "client.py").write_text(program)
    runpy.run_path("client.py")
    assert re.fullmatch(r"none|<\d+\.\d\d>-<\d+\.\d\d>.*", capsys.readouterr().out.strip())
    (command,) = re.findall(r"```sh\n(cat > request.json.*?)```", page, re.DOTALL)
    assert '"siren: <' in subprocess.check_output(["bash", "-euc", command], text=True)
