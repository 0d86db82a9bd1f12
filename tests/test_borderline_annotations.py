"""Annotations on the border of what can be right: one verdict for training, GRPO and scoring, as documented."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import make_tiny_checkpoint

from recipes.data.loading import load_clips
from recipes.data.questions import SCORING, questions
from recipes.evaluation.score import score_predictions
from recipes.training.grpo import GRPOArguments, load_prompts
from recipes.training.sft import SFTArguments, load_samples

DOG = {"onset": 0.5, "offset": 1.0, "event_label": "dog"}
ROW = {"id": "a", "audio": "a.wav", "duration": 2.0, "events": [DOG]}
DOCUMENT = Path(__file__).parents[1] / "docs" / "data-formats.md"
# What each is called in the documentation, the rows, and the error; None where they are right.
CASES = {
    "an empty query": ([ROW | {"query": ""}], "line 1: query is ''; give a string that is not empty"),
    "`task` is `null`": ([ROW | {"task": None}], None),
    "an empty id": ([ROW | {"id": ""}], "line 1: id is ''; give a string that is not empty"),
    "an event without a label, where no query names it": (
        [ROW | {"events": [{"onset": 0.5, "offset": 1.0}]}],
        r"line 1, events\[0\] lacks event_label; its keys are onset, offset",
    ),
    "an event without a label, where a query names it": (
        [ROW | {"query": "a dog barks", "events": [{"onset": 0.5, "offset": 1.0}]}],
        None,
    ),
    "an unknown key of an event": (
        [ROW | {"events": [DOG | {"end": 1.0}]}],
        r"line 1, events\[0\] has unknown keys \['end'\]; keep onset, offset",
    ),
    "an id that repeats": ([ROW, ROW], "the id 'a' of clip 2 is that of clip 1 too; make ids unique"),
    "an empty file": ([], "is empty|has no clips"),
    "an offset before its onset": (
        [ROW | {"events": [DOG | {"offset": 0.25}]}],
        r"line 1, events\[0\]: offset is 0.25 s, before the onset at 0.5 s",
    ),
    "an event that ends after its recording": ([ROW | {"events": [DOG | {"offset": 2.5}]}], None),
    "a label that is listed as absent and has events": ([ROW | {"absent": ["dog", "owl"]}], None),
}


@pytest.fixture(scope="module")
def processor(tokenizer_folder):
    return make_tiny_checkpoint(tokenizer_folder)[1]


def train(path, processor):
    return list(load_samples(SFTArguments(str(path), num_prompts=1), processor.grid, "digits", 1, 0))


def reinforce(path, processor):
    return list(load_prompts(GRPOArguments(str(path), num_prompts=1), processor, 0))


def score(path, _):
    """Score right answers; what they are to questions that cannot be asked does not matter."""
    try:
        asked = [question for clip in load_clips(path) for question in questions(clip, SCORING)]
    except ValueError:
        asked = []
    lines = [
        {"id": q.id, "task": q.task, "query": q.query, "events": [event.as_dict() for event in q.reference]}
        for q in asked
    ]
    (path.parent / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = score_predictions(path.parent / "answers.jsonl", path, path.parent / "out")
    assert report["grounding"]["miou_union"] == 1
    return report


@pytest.mark.parametrize("use", [train, reinforce, score])
@pytest.mark.parametrize("case", CASES)
def test_all_users_of_annotations_come_to_one_verdict(case, use, processor, tmp_path):
    rows, message = CASES[case]
    soundfile.write(tmp_path / "a.wav", np.zeros(32000), 16000)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if message is None:
        assert use(tmp_path / "rows.jsonl", processor)
    else:
        with pytest.raises(ValueError, match=message):
            use(tmp_path / "rows.jsonl", processor)


@pytest.mark.parametrize("case", CASES)
def test_every_verdict_is_documented(case):
    verdict = "taken" if CASES[case][1] is None else "refused"
    assert any(line.startswith(f"| {case} | {verdict}") for line in DOCUMENT.read_text().splitlines())


def test_what_is_right_on_the_border_is_asked_as_it_should_be(tmp_path, caplog):
    rows = [
        ROW | {"id": "null", "task": None},
        ROW | {"id": "query", "query": "a dog barks", "events": [{"onset": 0.5, "offset": 1.0}]},
        ROW | {"id": "late", "events": [DOG | {"offset": 2.5}]},
        ROW | {"id": "absent", "absent": ["dog", "owl"]},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    clips = load_clips(tmp_path / "rows.jsonl")
    assert "1 events end after the recording, such as in 'late': 2.5 > 2.0 s" in caplog.text
    asked = {clip.id: [(q.task, q.query, len(q.reference)) for q in questions(clip, SCORING)] for clip in clips}
    assert asked == {
        "null": [("detection", None, 1), ("grounding", "dog", 1)],
        "query": [("grounding", "a dog barks", 1)],
        "late": [("detection", None, 1), ("grounding", "dog", 1)],
        "absent": [("detection", None, 1), ("grounding", "dog", 1), ("grounding", "owl", 0)],
    }
