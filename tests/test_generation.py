"""How the pipeline generates: greedily unless the caller samples, within its room, with or without a cache."""

import copy
import json
import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_tiny_checkpoint
from transformers import GenerationConfig
from transformers.pipelines.pt_utils import KeyDataset

from processing import TemporalAudioGroundingPipeline
from recipes import DEFAULT_CHECKPOINT
from recipes.conversion.checkpoint_folder import load_pipeline

EXAMPLES = sorted((DEFAULT_CHECKPOINT.parents[2] / "space_app" / "examples").glob("*.flac"))
# How instruct backbones come.
SAMPLING = {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.5, "repetition_penalty": 1.5,
            "no_repeat_ngram_size": 2}  # fmt: skip
LONG_QUERY = "a dog that barks behind a wall, far away and twice, " * 8


@pytest.fixture(scope="module", params=["ticks", pytest.param("digits", marks=pytest.mark.slow)])
def lively(request, tokenizer_folder):
    """Return the pipeline of a tiny random model whose answers vary, in both ways of writing times."""
    model, processor = make_tiny_checkpoint(tokenizer_folder, request.param)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.25 * torch.randn(parameter.shape, generator=generator))
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    return TemporalAudioGroundingPipeline(model=model.eval(), processor=processor)


@pytest.fixture(scope="module")
def clips():
    rng = np.random.default_rng(3)
    return [(0.1 * rng.normal(size=size)).astype(np.float32) for size in (16000, 40000, 60000)]


def as_set(events):
    return {(event["onset"], event["offset"], event["event_label"]) for event in events}


@pytest.mark.parametrize(
    "task, query", [("detection", None), ("captioning", None), ("grounding", "dog"), ("grounding", LONG_QUERY)]
)
def test_an_answer_with_less_room_is_a_beginning_of_the_one_with_more(lively, clips, task, query):
    options = {"task": task, "query": query, "batch_size": 3}
    whole = lively(clips, max_new_tokens=64, **options)
    num_truncated = 0
    for room in (1, 9, 30):
        for found, full in zip(lively(clips, max_new_tokens=room, **options), whole, strict=True):
            assert full["text"].startswith(found["text"].rstrip("\ufffd"))
            assert as_set(found["events"]) <= as_set(full["events"])
            if not found["truncated"]:
                assert found["text"] == full["text"] and found["events"] == full["events"]
            num_truncated += found["truncated"]
            # Every time is in the text, unless it was cut at the end of the recording; every label is.
            for event in found["events"]:
                assert f"{event['onset']:.2f}" in found["text"]
                assert f"{event['offset']:.2f}" in found["text"] or event["offset"] == found["duration"]
                assert task == "grounding" or event["event_label"] in found["text"].replace("\\", "")
    assert num_truncated >= 3


def test_the_examples_lose_what_has_no_room_and_gain_nothing(caplog):
    pipe = load_pipeline()
    paths = [str(path) for path in EXAMPLES[:2]]
    whole = pipe(paths, batch_size=8, min_score=0)
    assert not any(result["truncated"] for result in whole)
    for room in (9, 24):
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            found = pipe(paths, batch_size=8, min_score=0, max_new_tokens=room)
        cut = [result for result in found if result["truncated"]]
        assert len([record for record in caplog.records if "ran out of room" in record.getMessage()]) == len(cut)
        for result, full in zip(found, whole, strict=True):
            for window, other in zip(result["windows"], full["windows"], strict=True):
                assert other["text"].startswith(window["text"])
                assert window["truncated"] or other["text"] == window["text"]
                kept = as_set(window["events"])
                assert kept <= as_set(other["events"]) and len(window["events"]) == len(kept)
    assert cut


def test_an_unconstrained_answer_that_is_cut_keeps_what_it_says_whole(lively, clips):
    found = lively(clips[0], max_new_tokens=3, constrained=False)
    assert found["truncated"] is True and not found["events"]


def test_a_checkpoint_that_would_sample_is_answered_greedily(tmp_path):
    folder = Path(shutil.copytree(DEFAULT_CHECKPOINT, tmp_path / "checkpoint"))
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(settings | SAMPLING))
    recording = str(EXAMPLES[0])
    expected = load_pipeline()(recording)
    pipe = load_pipeline(folder)
    assert [pipe(recording) for _ in range(2)] == [expected] * 2
    # What the caller asks for counts.
    torch.manual_seed(0)
    sampled = [pipe(recording, do_sample=True, temperature=3.0, max_new_tokens=8)["text"] for _ in range(3)]
    assert len(set(sampled)) > 1
    assert pipe(recording, repetition_penalty=9.0, max_new_tokens=30)["text"] != expected["text"]
    assert pipe(recording) == expected


@pytest.mark.slow
def test_two_runs_of_a_command_are_equal(tmp_path):
    folder = Path(shutil.copytree(DEFAULT_CHECKPOINT, tmp_path / "checkpoint"))
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(settings | SAMPLING))
    query = ["--query", "dog bark"]
    for command in (["detect"], ["ground", *query], ["caption"]):
        arguments = [*command, *map(str, EXAMPLES[:2]), "--model", str(folder), "--json"]
        runs = [subprocess.check_output([sys.executable, "-m", "recipes.cli.main", *arguments]) for _ in range(2)]
        assert runs[0] and runs[0] == runs[1]


@pytest.mark.parametrize("options", [{"use_cache": False}, {"cache_implementation": "static"}])
def test_answers_are_the_same_without_the_shared_cache(lively, clips, options):
    asked = {"task": "grounding", "query": [["dog", LONG_QUERY], ["cat"], ["siren", "drum"]], "max_new_tokens": 20}
    expected = lively(clips, batch_size=4, **asked)
    found = lively(clips, batch_size=4, **asked, **options)
    assert [[one["text"] for one in each] for each in found] == [[one["text"] for one in each] for each in expected]
    beams = [lively(clips[0], max_new_tokens=20, num_beams=2, **more)["text"] for more in ({}, options)]
    assert beams[0] == beams[1]


def test_a_checkpoint_saved_without_a_cache_answers(lively, clips, monkeypatch):
    # Training with gradient checkpointing leaves it so.
    expected = lively(clips[0], max_new_tokens=20)["text"]
    settings = copy.deepcopy(lively.model.generation_config)
    settings.use_cache = False
    monkeypatch.setattr(lively.model, "generation_config", settings)
    assert lively(clips[0], max_new_tokens=20)["text"] == expected


class Clips(torch.utils.data.Dataset):
    """A data set that knows its length, and does not say where it ends otherwise."""

    def __init__(self, clips):
        self.clips = clips

    def __len__(self):
        return len(self.clips)

    def __getitem__(self, index):
        return {"audio": self.clips[index % len(self.clips)], "id": index}


def test_inputs_of_every_kind_are_answered_as_other_pipelines_do(lively, clips):
    options = {"max_new_tokens": 12, "batch_size": 16}
    expected = lively(clips, **options)
    assert isinstance(expected, list) and len(expected) == 3
    for inputs in ((clip for clip in clips), KeyDataset(Clips(clips), "audio"), iter(clips)):
        results = lively(inputs, **options)
        assert not isinstance(results, list) and list(results) == expected
    assert lively(tuple(clips), **options) == expected
    assert lively(clips, generate_kwargs={"max_new_tokens": 12}, batch_size=16) == expected
    assert lively(clips, generation_config=GenerationConfig(max_new_tokens=12), batch_size=16) == expected
    assert lively(clips, num_workers=2, **options) == expected
    assert [lively(clip, return_dict_in_generate=True, **options)["text"] for clip in clips] == [
        result["text"] for result in expected
    ]
    for inputs in ([], (clip for clip in ())):
        assert list(lively(inputs, **options)) == []


def test_generate_kwargs_may_be_given_for_all_calls(lively, clips):
    pipe = TemporalAudioGroundingPipeline(
        model=lively.model, processor=lively.processor, generate_kwargs={"max_new_tokens": 3}, batch_size=4
    )
    assert pipe(clips) == lively(clips, max_new_tokens=3, batch_size=4)
    assert pipe(clips, max_new_tokens=9) == lively(clips, max_new_tokens=9, batch_size=4)


def test_max_length_counts_the_prompt(lively, clips):
    with pytest.raises(ValueError, match="max_length is 5, but the prompt is [0-9]+; use max_new_tokens") as error:
        lively(clips[0], max_length=5)
    width = int(re.search("prompt is ([0-9]+)", str(error.value))[1])
    assert lively(clips[0], max_length=width + 7) == lively(clips[0], max_new_tokens=7)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 3, "generate_kwargs": {"max_new_tokens": 4}}, "generate_kwargs holds max_new_tokens"),
        ({"num_return_sequences": 2, "do_sample": True}, "num_return_sequences is 2"),
        ({"generate_kwargs": {"nonsense": 4}}, "nonsense"),
    ],
)
def test_wrong_settings_of_generation_are_named(lively, clips, options, message):
    with pytest.raises(ValueError, match=message):
        lively(clips[0], **options)
