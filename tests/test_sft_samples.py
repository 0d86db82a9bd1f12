"""What fine-tuning makes of clips of every task and format: the right question, its answer, and no other."""

import json

import numpy as np
import pytest
import soundfile

from processing.answer_text import prompt_text
from processing.events import TimeGrid
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
    arguments = sft.SFTArguments(data=str(folder), num_prompts=1, **settings)
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
        arguments = sft.SFTArguments(data=str(folder), num_prompts=1, join_fraction=1.0)
        for sample in sft.load_samples(arguments, GRID, "digits", 1, seed):
            names = {piece["audio"][-5:] for piece in sample["pieces"]}
            assert len(sample["pieces"]) == 1 or names == {"a.wav"}
    arguments = sft.SFTArguments(data=str(folder), num_prompts=1, curriculum_fraction=1.0, num_absent=0)
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


def test_clips_without_a_duration_last_as_long_as_their_recordings(folder):
    assert {sample["duration"] for sample in samples(folder)} == {2.0}
    (folder / "c.wav").unlink()
    with pytest.raises(FileNotFoundError, match="1 of 3 recordings are missing(.|\\n)*c.wav"):
        samples(folder)
    with pytest.raises(FileNotFoundError, match="1 of 1 recordings are missing"):
        samples(folder, stems=True)


def test_clips_longer_than_the_ticks_are_refused_before_training(folder):
    arguments = sft.SFTArguments(data=str(folder))
    with pytest.raises(
        ValueError, match=r"5 clips are longer than the 1.6 s of the checkpoint's ticks, 'a' \(2 s\) first"
    ):
        sft.load_samples(arguments, TimeGrid(12.5, 0.08, 1.6), "digits", 1, 0)


@pytest.mark.parametrize("name", ["events.tsv", "events.csv", "tracks", "moments.jsonl", "clips.parquet"])
def test_any_format_that_is_scored_is_trained_on(folder, tmp_path, name):
    """Two dogs and a siren, known from five kinds of files."""
    events = [(0.4, 0.8, "dog"), (1.2, 1.6, "siren")]
    path, options = tmp_path / name, {}
    if name == "tracks":
        path.mkdir()
        (path / "a.txt").write_text("".join(f"{on}\t{off}\t{label}\n" for on, off, label in events))
        options = {"data_format": "audacity", "audio_dir": str(folder)}
    elif name == "moments.jsonl":
        line = {"qid": 1, "query": "dog", "duration": 2.0, "vid": "a", "relevant_windows": [[0.4, 0.8]]}
        path.write_text(json.dumps(line))
    elif name == "clips.parquet":
        import pandas

        found = [{"onset": on, "offset": off, "event_label": label, "score": 0.9} for on, off, label in events]
        found.append({"onset": 0.0, "offset": 2.0, "event_label": "dog", "score": 0.1})
        pandas.DataFrame([{"id": "a", "audio": "a.wav", "events": found}]).to_parquet(path)
        options = {"min_score": 0.5}
    else:
        tab = "\t" if name.endswith("tsv") else ","
        lines = [("filename", "onset", "offset", "event_label"), *(("a.wav", *event) for event in events)]
        path.write_text("".join(tab.join(map(str, line)) + "\n" for line in lines))
    arguments = sft.SFTArguments(data=str(path), num_prompts=1, **options)
    (sample,) = sft.load_samples(arguments, GRID, "digits", 1, seed=0)
    assert sample["duration"] == 2.0 and sample["pieces"][0]["audio"] == str(folder / "a.wav")
    found = {turn["event_label"]: turn["answer"] for turn in sample["turns"]}
    assert found["dog"] == "0.40-0.80" and found.get(None) in (None, "dog: 0.40-0.80; siren: 1.20-1.60")


def test_labels_of_other_clips_are_absent_where_a_clip_does_not_say(folder):
    rows = [row | {"absent": None} for row in (ROWS[0], ROWS[0] | {"id": "b", "audio": "b.wav", "events": [SIREN]})]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert (prompt_text("grounding", "dog"), "none") in turns_of(samples(folder), "b.wav")
    assert "none" not in dict(turns_of(samples(folder, num_absent=0), "b.wav")).values()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"task": "naming"}, "line 1: task is 'naming'; choose one of"),
        ({"task": "grounding"}, "line 1.*query"),
        ({"absent": "drum"}, "line 1: absent is 'drum'; give a list of labels"),
        ({"question": " "}, "line 1: question is ' '; give a string"),
        ({"events": [DOG | {"onset": -1}]}, "line 1, events"),
        ({"duration": 0}, "line 1"),
    ],
)
def test_rows_that_cannot_be_trained_on_are_refused(folder, change, message):
    (folder / "train.jsonl").write_text(json.dumps(ROWS[0] | change) + "\n")
    with pytest.raises(ValueError, match=message):
        samples(folder)
