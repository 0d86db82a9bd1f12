"""Questions made from annotations: true answers, absent queries, seeds."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processing.answer_text import PROMPTS, prompt_text
from recipes.data.event_dataset import build_dataset
from recipes.data.event_loaders import load_events
from recipes.data.event_rows import make_row
from recipes.data.task_rows import make_task_rows
from recipes.data.writers import write_event_lines

FIXTURES = Path(__file__).parent / "fixtures"
LABELS = ("dog", "cat", "rain", "bell")


def event(onset, offset, label):
    return {"onset": float(onset), "offset": float(offset), "event_label": label}


DATA = build_dataset(
    [
        make_row("a", "a.wav", "detection", [event(3, 4, "dog"), event(1, 2, "dog"), event(0, 9, "rain")], "s", 10.0),
        make_row("b", "b.wav", "detection", [event(0, 1, "cat")], "s", 10.0),
        make_row("c", "c.wav", "detection", [], "s", None),
    ]
)


def test_detection_and_grounding_of_every_label():
    rows = {row["id"]: row for row in make_task_rows(DATA, num_absent=0)}
    assert list(rows) == [
        "a/detection",
        "a/grounding/dog",
        "a/grounding/rain",
        "b/detection",
        "b/grounding/cat",
        "c/detection",
    ]
    assert rows["a/detection"]["events"] == DATA[0]["events"] and rows["a/detection"]["query"] is None
    dog = rows["a/grounding/dog"]
    assert dog["events"] == [event(3, 4, "dog"), event(1, 2, "dog")]
    assert (dog["query"], dog["task"], dog["audio"], dog["duration"], dog["source"]) == (
        "dog",
        "grounding",
        "a.wav",
        10.0,
        "s",
    )
    assert dog["question"] in [prompt_text("grounding", "dog", wording) for wording in range(4)]
    assert rows["c/detection"]["events"] == []


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(LABELS), max_size=4), min_size=1, max_size=5),
    st.integers(0, 5),
    st.integers(0, 2**40),
)
def test_absent_queries_are_absent_and_have_no_events(clips, num_absent, seed):
    data = build_dataset(
        make_row(f"clip {i}", "a.wav", "detection", [event(n, n + 1, label) for n, label in enumerate(labels)], None)
        for i, labels in enumerate(clips)
    )
    rows = make_task_rows(data, num_absent=num_absent, seed=seed).to_list()
    known = {label for labels in clips for label in labels}
    for i, labels in enumerate(clips):
        mine = [row for row in rows if row["id"].startswith(f"clip {i}/grounding")]
        empty = {row["query"] for row in mine if not row["events"]}
        assert empty <= known - set(labels)
        assert len(empty) == min(num_absent, len(known - set(labels)))
        assert {row["query"] for row in mine} - empty == set(labels)
    assert rows == make_task_rows(data, num_absent=num_absent, seed=seed).to_list()


def test_seeds_change_wordings_and_absent_labels_but_not_answers():
    draws = [make_task_rows(DATA, seed=seed).to_list() for seed in range(20)]
    assert len({row["question"] for rows in draws for row in rows if row["task"] == "detection"}) == 4
    absent = {row["id"] for rows in draws for row in rows if row["task"] == "grounding" and not row["events"]}
    # Labels of the set that the row lacks: a has no cat; b no dog and no rain; c none of the three.
    assert absent == {
        "a/grounding/cat",
        *(f"b/grounding/{label}" for label in ("dog", "rain")),
        *(f"c/grounding/{label}" for label in ("cat", "dog", "rain")),
    }


def test_a_row_is_asked_the_same_whatever_stands_around_it():
    part = DATA.select([0, 1])
    assert make_task_rows(part, seed=3).to_list() == [
        row for row in make_task_rows(DATA, seed=3) if not row["id"].startswith("c/")
    ]


def test_one_wording_is_the_first():
    rows = make_task_rows(DATA, wordings=1)
    assert {row["question"] for row in rows if row["task"] == "detection"} == {PROMPTS["detection"][0]}


def test_questions_and_captions_that_a_data_set_has_are_kept():
    rows = make_task_rows(load_events(FIXTURES / "clotho_moment.jsonl")).to_list()
    # Free text: no absent queries are drawn.
    assert [(row["id"], row["query"], len(row["events"])) for row in rows] == [
        ("32694/grounding", "A toilet flushes.", 1),
        ("32695/grounding", "A whale sings.", 0),
    ]
    captions = load_events(FIXTURES / "ftar_captions.json")
    rows = make_task_rows(captions).to_list()
    assert [row["task"] for row in rows] == ["captioning"] * 2
    assert [row["events"] for row in rows] == captions["events"][:]
    assert all(row["question"] in PROMPTS["captioning"] for row in rows)
    with pytest.raises(ValueError, match="the data set has captioning rows, which answer none of them"):
        make_task_rows(captions, tasks=("detection",))


def test_task_rows_are_json_lines(tmp_path):
    rows = make_task_rows(DATA)
    write_event_lines(rows, tmp_path / "rows.jsonl")
    assert load_events(tmp_path / "rows.jsonl").to_list() == rows.remove_columns("question").to_list()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"tasks": ("counting",)}, "tasks is"),
        ({"tasks": "detection"}, "tasks is 'detection'"),
        ({"tasks": ()}, "tasks is"),
        ({"num_absent": -1}, "num_absent is -1; give an integer of 0 or more"),
        ({"wordings": 5}, "wordings is 5; give an integer from 1 to 4"),
        ({"wordings": 0}, "wordings is 0"),
        ({"seed": 0.5}, "seed is 0.5"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_task_rows(DATA, **arguments)
