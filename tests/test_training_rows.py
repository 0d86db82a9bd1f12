"""What fine-tuning makes of rows of every task: the right question, its answer, and no other."""

import json

import numpy as np
import pytest
import soundfile

from processing.answer_text import prompt_text
from processing.time_grid import TimeGrid
from recipes.data.training_rows import read_training_rows
from recipes.training import sft

GRID = TimeGrid(12.5, 0.08, 30.0)
DOG = {"onset": 0.4, "offset": 0.8, "event_label": "dog"}
SIREN = {"onset": 1.2, "offset": 1.6, "event_label": "siren"}
ROWS = [
    {"id": "a", "audio": "a.wav", "duration": 2.0, "events": [DOG, SIREN], "absent": ["drum"]},
    {"id": "b1", "audio": "b.wav", "duration": 2.0, "task": "grounding", "query": "a dog barks", "events": [DOG]},
    {"id": "b2", "audio": "b.wav", "duration": 2.0, "query": "a man speaks", "events": []},
    {"id": "b3", "audio": "b.wav", "duration": 2.0, "task": "captioning",
     "events": [DOG | {"event_label": "A dog barks twice."}, SIREN | {"event_label": "A siren: far away"}]},
    {"id": "c", "audio": "c.wav", "duration": None, "query": "rain", "events": [SIREN], "question": "Where is rain?"},
]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    for name in "abc":
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(32000), 16000)
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


def samples(folder, **settings):
    arguments = sft.SFTArguments(data=str(folder), wordings=1, **settings)
    return list(sft.load_samples(arguments, GRID, "digits", batch_size=1, seed=0))


def turns_of(samples, name):
    return [
        (turn["question"], turn["answer"])
        for sample in samples
        if sample["pieces"][0]["audio"].endswith(name)
        for turn in sample["turns"]
    ]


def test_every_row_is_asked_for_what_it_answers(folder):
    found = samples(folder)
    assert sorted(turns_of(found, "b.wav")) == sorted(
        [
            (prompt_text("grounding", "a dog barks"), "0.40-0.80"),
            (prompt_text("grounding", "a man speaks"), "none"),
            (prompt_text("captioning"), "0.40-0.80: A dog barks twice.; 1.20-1.60: A siren\\: far away"),
        ]
    )
    assert turns_of(found, "c.wav") == [("Where is rain?", "1.20-1.60")]
    # Of a row of detection all labels are asked for too, and one that is absent.
    whole = dict(turns_of(found, "a.wav"))
    assert whole[prompt_text("detection")] == "dog: 0.40-0.80; siren: 1.20-1.60"
    assert len(whole) == 4 and sorted(whole.values())[-1] == "none"


def test_questions_about_one_recording_share_its_prompt(folder):
    assert sorted(len(sample["turns"]) for sample in samples(folder)) == [1, 3, 4]
    assert sorted(len(sample["turns"]) for sample in samples(folder, questions_per_sequence=2)) == [1, 1, 2, 2, 2]
    # Every variant has a prompt of its own.
    assert sorted(len(sample["turns"]) for sample in samples(folder, num_variants=2)) == [1, 1, 3, 3, 4, 4]


def test_windows_cut_answers_and_only_lists_of_all_events_are_joined(folder):
    for seed in range(10):
        arguments = sft.SFTArguments(data=str(folder), wordings=1, join_share=1.0)
        for sample in sft.load_samples(arguments, GRID, "digits", 1, seed):
            names = {piece["audio"][-5:] for piece in sample["pieces"]}
            assert len(sample["pieces"]) == 1 or names == {"a.wav"}
    arguments = sft.SFTArguments(data=str(folder), wordings=1, curriculum_share=1.0, num_absent=0)
    answers = {"none"}
    for seed in range(10):
        for sample in sft.load_samples(arguments, GRID, "digits", 1, seed):
            if sample["pieces"][0]["audio"].endswith("c.wav"):
                start = sample["pieces"][0]["start"]
                onset, offset = sample["turns"][0]["answer"].split("-")
                answers.add(sample["turns"][0]["answer"])
                # 1.2 s to 1.6 s, seen from the window's start, cut at its ends.
                assert float(onset) == pytest.approx(max(1.2 - start, 0), abs=0.011)
                assert float(offset) == pytest.approx(min(1.6 - start, sample["duration"]), abs=0.011)
    assert len(answers) > 2


def test_a_row_without_a_duration_lasts_as_long_as_its_recording(folder):
    rows = read_training_rows(folder / "train.jsonl")
    assert [row["duration"] for row in rows] == [2.0] * 5
    assert read_training_rows(folder / "train.jsonl", limit=2) == rows[:2]
    with pytest.raises(ValueError, match="has 1 rows without a duration, 'c' first; add it"):
        read_training_rows(folder / "train.jsonl", has_audio=False)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"task": "naming"}, "line 1: task is 'naming'; choose one of"),
        ({"task": "grounding"}, "line 1.*query"),
        ({"absent": "drum"}, "line 1: absent is 'drum'; give a list of labels"),
        ({"question": " "}, "line 1: question is ' '; give the words to ask in"),
        ({"events": [DOG | {"onset": -1}]}, "line 1, events"),
        ({"duration": 0}, "line 1"),
    ],
)
def test_rows_that_cannot_be_trained_on_are_refused(folder, change, message):
    (folder / "train.jsonl").write_text(json.dumps(ROWS[0] | change) + "\n")
    with pytest.raises(ValueError, match=message):
        samples(folder)
