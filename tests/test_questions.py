"""Questions about clips: true answers, absent labels, seeds, and that training, GRPO and scoring ask the same."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processing.answer_text import PROMPTS, prompt_text
from processing.events import Event
from recipes.data.clip import AnnotatedClip
from recipes.data.label_phrases import caption_of, paraphrases
from recipes.data.loading import load_clips
from recipes.data.questions import GRPO, SCORING, SFT, QuestionPolicy, labels_of, questions

LABELS = ("dog", "cat", "rain", "bell")
POLICIES = {"SFT": SFT, "GRPO": GRPO, "SCORING": SCORING}
CLIPS = [
    AnnotatedClip("a", [Event(3, 4, "dog"), Event(1, 2, "dog"), Event(0, 9, "rain")]),
    AnnotatedClip("b", [Event(0, 1, "cat")]),
    AnnotatedClip("c", []),
]


def asked(clip, policy):
    return [question.key[1:] for question in questions(clip, policy)]


def test_a_detection_clip_is_asked_for_its_events_and_for_each_label():
    policy = QuestionPolicy(num_absent=0)
    found = {question.key: question for clip in CLIPS for question in questions(clip, policy)}
    assert list(found) == [
        ("a", "detection", None),
        ("a", "grounding", "dog"),
        ("a", "grounding", "rain"),
        ("b", "detection", None),
        ("b", "grounding", "cat"),
        ("c", "detection", None),
    ]
    assert found["a", "detection", None].reference == CLIPS[0].events
    dog = found["a", "grounding", "dog"]
    assert dog.reference == (Event(3, 4, "dog"), Event(1, 2, "dog")) and dog.event_label == "dog"
    assert dog.text == prompt_text("grounding", "dog")
    assert found["c", "detection", None].reference == ()


def test_the_same_rows_give_the_same_questions_in_training_grpo_and_scoring(tmp_path):
    dog, siren = ({"onset": 1.0, "offset": 2.0, "event_label": label} for label in ("dog", "siren"))
    rows = [
        {"id": "says", "audio": "a.wav", "events": [dog], "absent": ["siren"]},
        {"id": "says nothing is absent", "audio": "a.wav", "events": [dog], "absent": []},
        {"id": "says nothing", "audio": "b.wav", "events": [siren]},
        {"id": "query", "audio": "c.wav", "query": "a dog barks", "events": [dog]},
        {"id": "captions", "audio": "c.wav", "task": "captioning", "events": [dog], "question": "What is going on?"},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    clips = load_clips(tmp_path / "rows.jsonl")
    found = {}
    for name, policy in POLICIES.items():
        policy = replace(
            policy, tasks=SCORING.tasks, num_absent=2, num_prompts=1, has_paraphrases=False, labels=labels_of(clips)
        )
        found[name] = {
            clip.id: sorted((q.task, q.query or "", q.text, q.reference) for q in questions(clip, policy))
            for clip in clips
        }
    assert found["SFT"] == found["GRPO"] == found["SCORING"]
    queries = {id: [(query, bool(events)) for _, query, _, events in made] for id, made in found["GRPO"].items()}
    assert queries == {
        "says": [("", True), ("dog", True), ("siren", False)],
        "says nothing is absent": [("", True), ("dog", True)],
        "says nothing": [("", True), ("dog", False), ("siren", True)],
        "query": [("a dog barks", True)],
        "captions": [("", True)],
    }
    assert found["SFT"]["captions"][0][2] == "What is going on?"


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_a_label_that_a_row_says_is_absent_is_asked_for(policy):
    clip = AnnotatedClip("a", [Event(1, 2, "dog")], absent=["siren"])
    policy = replace(policy, labels=("cat", "dog", "owl"))
    (absent,) = [question for question in questions(clip, policy) if not question.reference]
    assert absent.event_label == "siren" and absent.query in paraphrases("siren")


@given(
    st.lists(st.lists(st.sampled_from(LABELS), max_size=4), min_size=1, max_size=5),
    st.integers(0, 5),
    st.integers(0, 2**40),
)
def test_absent_queries_are_absent_and_have_no_events(clips, num_absent, seed):
    clips = [
        AnnotatedClip(f"clip {i}", [Event(n, n + 1, label) for n, label in enumerate(labels)])
        for i, labels in enumerate(clips)
    ]
    policy = QuestionPolicy(num_absent=num_absent, labels=labels_of(clips), seed=(seed,))
    for clip in clips:
        present, known = {event.event_label for event in clip.events}, set(labels_of(clips))
        made = [question for question in questions(clip, policy) if question.task == "grounding"]
        empty = {question.query for question in made if not question.reference}
        assert empty <= known - present and len(empty) == min(num_absent, len(known - present))
        assert {question.query for question in made} - empty == present
        assert made == [question for question in questions(clip, policy) if question.task == "grounding"]


def test_seeds_change_prompts_and_absent_labels_but_not_answers():
    made = [
        question
        for seed in range(20)
        for clip in CLIPS
        for question in questions(clip, replace(GRPO, labels=labels_of(CLIPS), seed=(seed,)))
    ]
    assert len({question.text for question in made if question.task == "detection"}) == 4
    assert {question.key for question in made if question.task == "grounding" and not question.reference} == {
        ("a", "grounding", "cat"),
        *(("b", "grounding", label) for label in ("dog", "rain")),
        *(("c", "grounding", label) for label in ("cat", "dog", "rain")),
    }


def test_a_clip_is_asked_the_same_in_any_part_of_its_data():
    policy = replace(SCORING, num_absent=1, labels=labels_of(CLIPS))
    assert asked(CLIPS[2], policy) == asked(CLIPS[2], policy)
    assert {tuple(asked(AnnotatedClip(f"clip {i}", []), policy)) for i in range(20)} == {
        (("detection", None), ("grounding", label)) for label in ("cat", "dog", "rain")
    }


def test_labels_that_a_clip_is_unsure_of_or_has_are_not_asked_for_as_absent():
    clip = AnnotatedClip("a", [Event(1, 2, "dog"), Event(3, 4, "")], absent=["dog", "cat", "rain"], unsure=["rain"])
    assert asked(clip, QuestionPolicy(num_absent=None)) == [
        ("detection", None),
        ("grounding", "dog"),
        ("grounding", "cat"),
    ]


def test_labels_are_paraphrased_at_times_and_the_answer_is_that_of_the_label():
    clip = AnnotatedClip("a", [Event(1, 2, "siren"), Event(2, 3, "own label")])
    made = [q for seed in range(120) for q in questions(clip, replace(SFT, seed=(seed,))) if q.task == "grounding"]
    said = [question.query for question in made if question.event_label == "siren"]
    assert set(said) == set(paraphrases("siren")) and 50 < said.count("siren") < 90
    assert all(
        question.reference == (Event(1, 2, question.query),) for question in made if question.event_label == "siren"
    )
    assert {question.query for question in made} - set(said) == {"own label"}


def test_captions_are_made_from_labels():
    assert caption_of("dog bark") == "a dog barks" and caption_of("dog") == "dog"
    (*_, captions) = questions(AnnotatedClip("a", [Event(1, 2, "dog bark")]), QuestionPolicy(has_captions=True))
    assert captions.reference == (Event(1, 2, "a dog barks"),)


def test_tasks_that_are_not_asked_for_are_left_out():
    clips = [*CLIPS, AnnotatedClip("d", [], task="captioning"), AnnotatedClip("e", [], query="a dog")]
    made = [question.task for clip in clips for question in questions(clip, QuestionPolicy(("captioning",)))]
    assert made == ["captioning"]


def test_what_is_drawn_comes_from_the_generator_given():
    state = np.random.default_rng(0)
    first = questions(CLIPS[0], SFT, state)
    assert first == questions(CLIPS[0], SFT, np.random.default_rng(0))
    assert any(questions(CLIPS[0], SFT, state) != first for _ in range(5))


def test_all_prompts_of_a_task_are_used():
    made = [questions(CLIPS[2], replace(GRPO, num_absent=0, seed=(seed,)))[0].text for seed in range(60)]
    assert set(made) == set(PROMPTS["detection"])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"tasks": ("counting",)}, "tasks is"),
        ({"tasks": "detection"}, "tasks is 'detection'"),
        ({"tasks": ()}, "tasks is"),
        ({"num_absent": -1}, "num_absent is -1; give an integer of 0 or more"),
        ({"num_prompts": 5}, "num_prompts is 5; give an integer from 1 to 4"),
        ({"num_prompts": 0}, "num_prompts is 0"),
        ({"num_prompts": True}, "num_prompts is True"),
        ({"seed": (0.5,)}, r"seed is \(0.5,\)"),
    ],
)
def test_policies_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        QuestionPolicy(**arguments)
