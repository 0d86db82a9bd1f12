"""Checkpoints as strangers use them: a folder, `trust_remote_code=True`, and no package of ours anywhere."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import GenerationConfig, pipeline

from modeling_timepro import TimeProAudioForCausalLM
from recipes import DEFAULT_CHECKPOINT
from recipes.conversion.checkpoint import load_checkpoint, save_checkpoint
from recipes.conversion.checkpoint_folder import load_pipeline
from recipes.small.link_code import code_sources

ROOT = Path(__file__).parents[1]
TASK = "temporal-audio-grounding"
DATA = {"chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "processor_config.json",
        "tokenizer.json", "tokenizer_config.json"}  # fmt: skip
SOURCES = code_sources()
DOG = {"onset": 1.2, "offset": 3.44, "event_label": "dog", "score": None}

# The packages may be installed, or stand in the working directory: neither must help.
STRANGER = """
import importlib, json, sys
import numpy as np

OURS = ("modeling_timepro", "processing", "recipes", "space_app")

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in OURS:
            raise ModuleNotFoundError(f"no {name} here", name=name)

sys.meta_path.insert(0, Refuse())
for name in OURS:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{name} can be imported")

import torch
from transformers import (AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForCausalLM, AutoModelForMultimodalLM,
                          AutoProcessor, AutoTokenizer, pipeline)

TASK = "temporal-audio-grounding"
TRUST = {"trust_remote_code": True}

def listen(model, processor, path):
    block = {"type": "audio", "path": path}
    conversation = [{"role": "user", "content": [block, {"type": "text", "text": "What can you hear?"}]}]
    inputs = processor.apply_chat_template(
        conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
    with torch.no_grad():
        return model.eval()(**inputs)

def finish(report):
    assert not set(OURS) & set(sys.modules), "our packages were imported"
    with open(f"{sys.argv[-1]}/report.json", "w") as file:
        json.dump(report, file)
"""

FIRST_VISIT = """
random, scripted, wav, out = sys.argv[1:]
refusals = {}
for loader in (AutoConfig, AutoModel, AutoModelForCausalLM, AutoProcessor):
    try:
        loader.from_pretrained(random)
    except Exception as error:
        refusals[loader.__name__] = f"{type(error).__name__}: {error}"
try:
    pipeline(TASK, model=random)
except Exception as error:
    refusals["pipeline"] = f"{type(error).__name__}: {error}"
loaders = (AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMultimodalLM, AutoProcessor, AutoFeatureExtractor,
           AutoTokenizer)
loaded = {loader.__name__: loader.from_pretrained(random, **TRUST) for loader in loaders}
processor, model = loaded["AutoProcessor"], loaded["AutoModelForCausalLM"]
logits = listen(model, processor, wav).logits
np.save(f"{out}/logits.npy", logits.numpy(), allow_pickle=False)
assert torch.equal(listen(loaded["AutoModelForMultimodalLM"], processor, wav).logits, logits)
states = listen(loaded["AutoModel"], processor, wav).last_hidden_state
assert torch.equal(model.lm_head(states), logits)
pipe = pipeline(TASK, model=scripted, **TRUST)
answer = pipe(wav)
model.save_pretrained(f"{out}/parts")
processor.save_pretrained(f"{out}/parts")
pipe.save_pretrained(f"{out}/pipeline")
finish({
    "refusals": refusals,
    "classes": {name: [type(item).__name__, type(item).__module__] for name, item in loaded.items()},
    "answer": answer,
    "pipeline": [type(pipe).__name__, type(pipe.model).__name__, type(pipe.processor).__name__],
})
"""

SECOND_VISIT = """
parts, piped, wav, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(parts, **TRUST)
logits = listen(model, AutoProcessor.from_pretrained(parts, **TRUST), wav).logits
np.save(f"{out}/logits.npy", logits.numpy(), allow_pickle=False)
pipe = pipeline(TASK, model=piped, **TRUST)
finish({"answer": pipe(wav), "again": pipeline(TASK, model=parts, **TRUST)(wav, max_new_tokens=4)["duration"]})
"""


def result_of(event, duration):
    """Return the result for a recording of one window whose answer is the scripted one."""
    text = "dog: <1.20>-<3.44>"
    window = {"start": 0.0, "end": duration, "text": text, "truncated": False, "events": [event]}
    return {"events": [event], "duration": duration, "text": text, "truncated": False, "windows": [window]}


def visit(script, *arguments, folder):
    """Run a script in a fresh process that has never seen our code, and return what it reports."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(folder / "cache"), "HF_MODULES_CACHE": str(folder / "modules")}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    folder.mkdir()
    result = subprocess.run(
        [sys.executable, "-c", STRANGER + script, *map(str, arguments), str(folder)], cwd=folder, env=environment,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads((folder / "report.json").read_text())


def assert_complete(folder):
    """Assert that a folder holds a checkpoint and nothing else, its code byte for byte ours."""
    assert {path.name for path in folder.iterdir()} == DATA | set(SOURCES)
    for name, source in SOURCES.items():
        assert (folder / name).read_bytes() == source.read_bytes(), name


@pytest.fixture(scope="module")
def scripted(scripted_checkpoint):
    """Return the folder of a checkpoint that always hears one dog."""
    return scripted_checkpoint("dog: <1.20>-<3.44>")


@pytest.fixture(scope="module")
def wav(tmp_path_factory):
    """Return the path of 4 s in stereo at 44.1 kHz: noise, and a tone over its second half."""
    path = tmp_path_factory.mktemp("recording") / "clip ü.wav"
    samples = 0.05 * np.random.default_rng(0).normal(size=(4 * 44100, 2))
    samples[2 * 44100 :] += 0.3 * np.sin(2 * np.pi * 440 * np.arange(2 * 44100) / 44100)[:, None]
    soundfile.write(path, samples, 44100)
    return path


@pytest.fixture(scope="module")
def random_checkpoint(scripted, tmp_path_factory):
    """Return folder, model and processor of a checkpoint whose random weights hear differences."""
    model, processor = load_checkpoint(scripted)
    torch.manual_seed(0)
    settings = model.generation_config
    model = TimeProAudioForCausalLM(model.config).eval()
    model.generation_config = settings
    with torch.no_grad():
        model.model.multi_modal_projector.linear.weight.mul_(30)
        model.get_output_embeddings().weight.mul_(30)
    folder = tmp_path_factory.mktemp("random")
    save_checkpoint(model, processor, folder)
    return folder, model, processor


@pytest.fixture(scope="module")
def first_visit(random_checkpoint, scripted, wav, tmp_path_factory):
    folder = tmp_path_factory.mktemp("strangers") / "first"
    return folder, visit(FIRST_VISIT, random_checkpoint[0], scripted, wav, folder=folder)


def test_a_checkpoint_holds_these_files(random_checkpoint):
    assert_complete(random_checkpoint[0])


def test_strangers_load_every_class(first_visit):
    classes = first_visit[1]["classes"]
    expected = {
        "AutoConfig": "configuration_timepro.TimeProAudioConfig",
        "AutoModel": "modeling_timepro.TimeProAudioModel",
        "AutoModelForCausalLM": "modeling_timepro.TimeProAudioForCausalLM",
        "AutoModelForMultimodalLM": "modeling_timepro.TimeProAudioForCausalLM",
        "AutoProcessor": "processing_timepro.TimeProAudioProcessor",
        "AutoFeatureExtractor": "yamnet_features.TimeProYamnetFeatureExtractor",
    }
    for loader, name in expected.items():
        module, _, class_name = name.partition(".")
        found_class, found_module = classes[loader]
        assert found_class == class_name
        assert found_module.startswith("transformers_modules.") and found_module.endswith(f".{module}")
    assert classes["AutoTokenizer"][0] == "Qwen2Tokenizer"
    names = ["TemporalAudioGroundingPipeline", "TimeProAudioForCausalLM", "TimeProAudioProcessor"]
    assert first_visit[1]["pipeline"] == names


def test_strangers_get_our_logits(first_visit, random_checkpoint, wav):
    _, model, processor = random_checkpoint
    block = {"type": "audio", "path": str(wav)}
    conversation = [{"role": "user", "content": [block, {"type": "text", "text": "What can you hear?"}]}]
    inputs = processor.apply_chat_template(
        conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    with torch.no_grad():
        expected = model(**inputs).logits.numpy()
    logits = np.load(first_visit[0] / "logits.npy", allow_pickle=False)
    assert logits.std() > 0.1
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_strangers_get_events(first_visit):
    answer = first_visit[1]["answer"]
    score = answer["events"][0]["score"]
    assert 0 < score < 1 and answer == result_of(DOG | {"score": score}, pytest.approx(4.0))


def test_without_trust_there_is_a_refusal(first_visit):
    refusals = first_visit[1]["refusals"]
    assert set(refusals) == {"AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoProcessor", "pipeline"}
    for loader, message in refusals.items():
        assert message.startswith("ValueError") and "`trust_remote_code=True`" in message, (loader, message)


def test_what_strangers_save_is_complete(first_visit):
    for name in ("parts", "pipeline"):
        assert_complete(first_visit[0] / name)


@pytest.mark.slow
def test_strangers_save_what_other_strangers_load(first_visit, wav):
    folder, report = first_visit
    again = folder.parent / "second"
    second = visit(SECOND_VISIT, folder / "parts", folder / "pipeline", wav, folder=again)
    assert second["answer"] == report["answer"] and second["again"] == pytest.approx(4.0)
    np.testing.assert_array_equal(*(np.load(f / "logits.npy", allow_pickle=False) for f in (folder, again)))


def test_our_own_pipeline_saves_a_whole_checkpoint(scripted, wav, tmp_path):
    pipe = load_pipeline(scripted)
    pipe.save_pretrained(tmp_path / "saved")
    assert_complete(tmp_path / "saved")
    assert load_pipeline(tmp_path / "saved")(str(wav)) == pipe(str(wav))


def test_generation_has_no_time_limit(random_checkpoint, tmp_path):
    # `max_time` is also the name of a setting of generation: seconds of computing after which an answer is cut.
    folder, model, processor = random_checkpoint
    assert TimeProAudioForCausalLM(model.config).generation_config.max_time is None
    assert "max_time" not in json.loads((folder / "generation_config.json").read_text())
    save_checkpoint(model, processor, tmp_path)
    # Without the file, transformers reads the model's configuration; older checkpoints have it in the file.
    for stored, expected in ((None, None), (30.0, None), (5.0, 5.0)):
        (tmp_path / "generation_config.json").unlink(missing_ok=True)
        if stored is not None:
            GenerationConfig(max_time=stored).save_pretrained(tmp_path)
        assert load_checkpoint(tmp_path)[0].generation_config.max_time == expected


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Return the paths of three clips that differ in kind and length, and their lengths in seconds."""
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    waveforms = [0.3 * rng.normal(size=32000), np.sin(np.arange(48000) / 8), np.zeros(8000)]
    paths = [str(folder / f"{index}.wav") for index in range(3)]
    for path, waveform in zip(paths, waveforms, strict=True):
        soundfile.write(path, 0.9 * waveform.clip(-1, 1), 16000)
    return paths, [2.0, 3.0, 0.5]


def test_batches_answer_as_single_recordings_do(random_checkpoint, clips):
    paths, seconds = clips
    pipe = load_pipeline(random_checkpoint[0])
    queries = ["dog", "a long query about birds that sing", "cat"]
    # Scores differ in their last digits.
    options = {"task": "grounding", "query": queries, "max_new_tokens": 12, "return_scores": False}
    single = pipe(paths, **options)
    assert [answer["duration"] for answer in single] == seconds
    assert len({answer["text"] for answer in single}) == 3, "the recordings must not all sound alike"
    for batch_size in (2, 3, 8):
        assert pipe(paths, **options, batch_size=batch_size) == single
    assert single[1] == pipe(paths[1], **options | {"query": options["query"][1]})


def test_every_kind_of_recording(scripted, clips):
    # What it says knows nothing of where recordings end.
    pipe = pipeline(TASK, model=str(scripted), trust_remote_code=True, constrained=False, return_scores=False)
    (path, *_), _ = clips
    waveform, rate = soundfile.read(path, dtype="float32")
    # Events end with the recording.
    expected = result_of(DOG | {"offset": 2.0}, 2.0)
    sources = [path, Path(path), Path(path).read_bytes(), waveform, {"array": waveform, "sampling_rate": rate},
               {"path": path}, {"array": np.repeat(waveform, 3), "sampling_rate": 3 * rate}]  # fmt: skip
    for source in sources:
        assert pipe(source) == expected
    assert pipe(sources, batch_size=2) == [expected] * len(sources)
    assert pipe([]) == []


def test_settings_of_the_pipeline_hold_in_every_call(scripted, clips):
    options = {"max_new_tokens": 2, "batch_size": 2, "constrained": False}
    pipe = pipeline(TASK, model=str(scripted), trust_remote_code=True, **options)
    assert pipe(clips[0][0], max_new_tokens=9)["text"].startswith("dog: <1.20>")
    short = pipe(clips[0])
    assert [answer["text"] for answer in short] == ["dog:"] * 3
    with pytest.raises(ValueError, match="query is 'dog' .* give them with each recording instead"):
        pipeline(TASK, model=str(scripted), trust_remote_code=True, query="dog")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"task": "transcription"}, "task is 'transcription'; choose one of"),
        ({"task": "grounding"}, "query is None for task 'grounding'; grounding needs a query"),
        ({"task": "detection", "query": "dog"}, "query is 'dog' for task 'detection'; .* no other task takes one"),
        ({"task": "grounding", "query": []}, "query is an empty list; give one text or more"),
        ({"task": "grounding", "query": " "}, "query is ' '"),
        ({"batch_size": 0}, "batch_size is 0; give 1 or more"),
        ({"wording": 9}, "wording is 9; give an integer from 0 to 3"),
    ],
)
def test_wrong_questions_are_named(scripted, clips, arguments, message):
    with pytest.raises(ValueError, match=message):
        load_pipeline(scripted)(clips[0][0], **arguments)


@pytest.mark.skipif(not DEFAULT_CHECKPOINT.exists(), reason="the embedded checkpoint is not in this copy")
def test_the_embedded_checkpoint_is_current_and_small():
    advice = "run python -m recipes.small.link_code"
    assert {path.name for path in DEFAULT_CHECKPOINT.glob("*.py")} == set(SOURCES), advice
    for name, source in SOURCES.items():
        assert (DEFAULT_CHECKPOINT / name).read_bytes() == source.read_bytes(), advice
    assert sum(path.stat().st_size for path in DEFAULT_CHECKPOINT.rglob("*")) <= 30_000_000
