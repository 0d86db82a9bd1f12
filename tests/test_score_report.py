"""What a report holds: perfect, empty and cut answers, the order of clips, PSDS and METEOR where they can be had."""

import json
import random
from dataclasses import replace

import nltk
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processing.events import Event
from recipes.data.clip import AnnotatedClip
from recipes.data.questions import SCORING, questions
from recipes.evaluation import report as report_module
from recipes.evaluation.predictions import prepare_answers
from recipes.evaluation.report_tables import format_markdown, format_report
from recipes.evaluation.score import score_predictions
from recipes.scoring import (
    PSDS1,
    PSDS2,
    detection_intervals,
    event_based_f1,
    psds,
    psds_statistics,
    psds_sums,
    segment_based_f1,
    sum_intervals,
)
from recipes.scoring import captions as caption_scoring


def event(onset, offset, label="", **values):
    return {"onset": onset, "offset": offset, "event_label": label, **values}


# Overlapping, touching, equal and pointlike events of one label; one that passes its clip's end, by rounding.
CLIPS = [
    {"id": "b", "duration": 10.0, "events": [event(0, 4, "dog"), event(2, 3, "dog"), event(3, 5, "dog")]},
    {"id": "a", "duration": 10.0, "events": [event(1, 2, "cat"), event(1, 2, "cat"), event(9, 10.04, "dog")]},
    {"id": 3, "duration": 5.0, "events": []},
    {"id": "point", "duration": 5.0, "events": [event(5, 5, "dog"), event(1, 3.3, "cat")]},
    {"id": "query", "duration": 9.0, "query": "a dog", "events": [event(1, 2), event(3, 4.5)]},
    {"id": "silent query", "duration": 9.0, "query": "a whale", "events": []},
    {"id": "captions", "duration": 9.0, "task": "captioning",
     "events": [event(0, 4, "a dog barks and barks"), event(2, 9, "rain falls on a roof")]},
    {"id": "no captions", "duration": 9.0, "task": "captioning", "events": []},
]  # fmt: skip


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def answers_of(clip, answer):
    """Return lines of predictions; `answer` maps a clip's events to those that are answered."""
    events = clip["events"]
    if clip.get("query"):
        return [{"id": clip["id"], "task": "grounding", "query": clip["query"], "events": answer(events)}]
    if clip.get("task"):
        return [{"id": clip["id"], "task": "captioning", "query": None, "events": answer(events)}]
    labels = sorted({e["event_label"] for e in events} | {"dog"})
    by_label = {label: [e for e in events if e["event_label"] == label] for label in labels}
    return [
        {"id": clip["id"], "task": "detection", "query": None, "events": answer(events)},
        *({"id": clip["id"], "task": "grounding", "query": x, "events": answer(e)} for x, e in by_label.items()),
    ]


def score_clips(folder, answer, clips=CLIPS, order=None):
    """Score the clips in an order, the answers in the reverse one."""
    folder.mkdir(exist_ok=True)
    lines = [line for clip in clips for line in answers_of(clip, answer)]
    data = write_lines(folder / "data.jsonl", order or clips)
    return score_predictions(write_lines(folder / "predictions.jsonl", lines[::-1]), data, folder / "out")


@pytest.fixture
def wordnet(tmp_path, monkeypatch):
    """Make an empty WordNet, in its file format, the one that is found: METEOR then has words and stems alone."""
    folder = tmp_path / "wordnet"
    folder.mkdir()
    for part in ("noun", "verb", "adj", "adv"):
        for name in (f"data.{part}", f"index.{part}", f"{part}.exc"):
            (folder / name).write_text("  1 WordNet 3.0 Copyright\n" if name == "data.adj" else "")
    caption_scoring._wordnet.cache_clear()
    monkeypatch.setattr(nltk.data, "path", [])
    monkeypatch.setattr(caption_scoring, "DEBIAN_WORDNET", str(folder))
    yield folder
    caption_scoring._wordnet.cache_clear()


def test_the_reference_itself_is_perfect(tmp_path, wordnet):
    report = score_clips(tmp_path / "x", lambda events: [{**e, "score": 0.5} for e in events])
    detection, grounding, rejection = report["detection"], report["grounding"], report["rejection"]
    for part in (detection, detection["segment_1s"], detection["segment_0.1s"], report["captioning"]["time_only"]):
        for average in ("micro", "macro"):
            assert part[average] == {"f1": 1, "precision": 1, "recall": 1}
            assert not any(part[f"{average}_errors"].values())
    assert (detection["psds"]["psds1"], detection["psds"]["psds2"]) == (pytest.approx(1), pytest.approx(1))
    for name in ("R@0.3", "R@0.5", "R@0.7", "R@0.9", "miou_union", "miou_best_match", "count_accuracy"):
        assert grounding[name] == 1, name
    # Queries: dog of b; cat and dog of a; cat and dog of point; the clip's own. Absent: dog of 3, and a whale.
    assert (grounding["num_pairs"], rejection["num_absent"], rejection["num_present"]) == (6, 2, 6)
    assert (rejection["true_rejection_rate"], rejection["false_rejection_rate"]) == (1, 0)
    # 5 different words score 1 - 0.5 / 5^3 each; together 10 words in one chunk, 1 - 0.5 / 10^3; no captions, 1.
    assert report["captioning"]["meteor_matched"] == pytest.approx((0.996 + 1) / 2)
    assert report["captioning"]["meteor_text"] == pytest.approx((0.9995 + 1) / 2)
    for part in ("detection", "grounding", "rejection", "captioning"):
        assert report[part]["parse_failure_rate"] == 0
        for name, interval in report[part]["intervals"].items():
            bad = "error_rate" in name or name in ("parse_failure_rate", "false_rejection_rate")
            assert interval == pytest.approx((0, 0) if bad else (1, 1), abs=0.006), name
    assert report["clipping"] == {"num_cut_events": 0, "num_dropped_events": 0, "num_clips_of_unknown_duration": 0,
                                  "num_clips_with_later_references": 1}  # fmt: skip
    assert all(clip["f1"] == 1 for clip in report["worst_clips"])


@pytest.mark.parametrize("answer, failures", [(lambda events: [], 0), (lambda events: None, 1)])
def test_no_answers(tmp_path, answer, failures):
    report = score_clips(tmp_path / "x", answer)
    detection, grounding, rejection = report["detection"], report["grounding"], report["rejection"]
    assert detection["micro"] == detection["macro"] == {"f1": 0, "precision": 0, "recall": 0}
    # 3 + 3 + 0 + 2 events, all deleted.
    assert detection["micro_errors"] == {
        "error_rate": 1, "substitution_rate": 0, "deletion_rate": 1, "insertion_rate": 0,
        "num_substitutions": 0, "num_deletions": 8, "num_insertions": 0,
    }  # fmt: skip
    # Segments of 1 s: dog 0-4 (5), 9-10 (2), cat 1 (1), 1-3 (3); the pointlike event has none.
    assert detection["segment_1s"]["micro_errors"]["num_deletions"] == 11
    assert detection["psds"]["psds1"] == detection["psds"]["psds2"] == 0
    for name in ("R@0.3", "miou_union", "miou_best_match", "count_accuracy"):
        assert grounding[name] == 0
    assert rejection["true_rejection_rate"] == rejection["false_rejection_rate"] == 1 - failures
    captioning = report["captioning"]
    # One of two reference events' clips; nothing is right about the other one.
    assert captioning["time_only"]["micro"]["recall"] == 0 and captioning["time_only"]["num_clips"] == 2
    for part in (detection, grounding, rejection, captioning):
        assert part["parse_failure_rate"] == failures


def spoilt(generator):
    def answer(events):
        moved = [{**e, "offset": e["offset"] + generator.choice((0, 0, 1.5))} for e in events]
        return None if generator.random() < 0.1 else [e for e in moved if generator.random() < 0.8]

    return answer


@pytest.mark.parametrize("seed", range(2))
def test_the_order_of_clips_changes_no_figure(tmp_path, seed):
    generator = random.Random(seed)
    clips = [{**clip, "id": f"{clip['id']} {i}"} for i in range(4) for clip in CLIPS]
    lines = [line for clip in clips for line in answers_of(clip, spoilt(generator))]
    reports = []
    for number in range(2):
        (folder := tmp_path / str(number)).mkdir()
        data = write_lines(folder / "data.jsonl", clips)
        report = score_predictions(write_lines(folder / "predictions.jsonl", lines), data, folder / "out")
        reports.append({key: value for key, value in report.items() if key not in ("data", "predictions")})
        generator.shuffle(clips)
        generator.shuffle(lines)
    assert reports[0] == reports[1] and reports[0]["clipping"]["num_cut_events"] > 0


def test_figures_and_intervals_are_those_of_the_functions(tmp_path):
    """On figures that are not 0 or 1, through files."""
    clips = sorted((clip for clip in CLIPS if not {"query", "task"} & clip.keys()), key=lambda clip: str(clip["id"]))
    scored = {"a": 0.9, "b": 0.4, "point": 0.6, "3": 0.5}
    predicted = {
        clip["id"]: [
            event(
                e["onset"],
                max(e["onset"], min(e["offset"], clip["duration"]) - 0.3),
                "dog",
                score=scored[str(clip["id"])],
            )
            for e in clip["events"] or [event(0, 1)]
        ]
        for clip in clips
    }
    lines = [{"id": name, "task": "detection", "events": events} for name, events in predicted.items()]
    data = write_lines(tmp_path / "data.jsonl", clips)
    detection = score_predictions(write_lines(tmp_path / "p.jsonl", lines), data, tmp_path / "out")["detection"]
    clips.sort(key=lambda clip: str(clip["id"]))
    references = [[Event(**e) for e in clip["events"]] for clip in clips]
    predictions = [[Event(**e) for e in predicted[clip["id"]]] for clip in clips]
    durations = [clip["duration"] for clip in clips]
    assert detection.items() >= event_based_f1(references, predictions).items()
    assert detection["segment_0.1s"].items() >= segment_based_f1(references, predictions, 0.1).items()
    assert detection["psds"]["psds2"] == psds(references, predictions, durations, PSDS2)["psds"]
    intervals = {**detection_intervals(references, predictions)}
    statistics = psds_statistics(references, predictions, durations, PSDS2)
    intervals |= sum_intervals(psds_sums(statistics, PSDS2, "psds2"))
    assert detection["intervals"].items() >= intervals.items()
    assert 0 < detection["micro"]["f1"] < 1


def test_why_there_is_no_psds(tmp_path):
    rows = [{"id": "a", "duration": 4.0, "events": [event(0, 1, "dog"), event(2, 3, "dog")]}, {"id": "b", "events": []}]
    data = write_lines(tmp_path / "data.jsonl", rows)

    def why(*events, durations=None):
        lines = [{"id": "a", "task": "detection", "events": events}, {"id": "b", "task": "detection", "events": []}]
        path = write_lines(tmp_path / "p.jsonl", lines)
        return score_predictions(path, data, tmp_path / "out", durations=durations)

    report = why(event(0, 1, "dog", score=1), event(2, 3, "dog"))
    expected = "1 of 2 predicted events have no score; the durations of 1 of 2 clips are unknown"
    assert report["detection"]["psds"]["psds1"] is None
    assert report["detection"]["psds"]["not_computed"].startswith(expected)
    assert expected in format_report(report) and expected in format_markdown(report)
    (tmp_path / "durations.csv").write_text("filename,duration\nb,4.0\n")
    psds_scores = why(event(0, 1, "dog", score=1), durations=tmp_path / "durations.csv")["detection"]["psds"]
    # One of two dogs is found without a false alarm, at every rate: the ratio is 1/2 of one label.
    assert psds_scores["psds1"] == psds_scores["class_wise"]["psds1"]["dog"] == 0.5
    rows[0]["events"] = [event(1, 1, "dog")]
    write_lines(data, rows)
    assert "no events with a length" in why()["detection"]["psds"]["not_computed"]


def test_captions_without_wordnet(tmp_path, wordnet, monkeypatch):
    monkeypatch.setattr(caption_scoring, "DEBIAN_WORDNET", str(tmp_path / "nowhere"))
    report = score_clips(tmp_path / "x", lambda events: events)
    captioning = report["captioning"]
    assert "meteor_text" not in captioning and captioning["time_only"]["micro"]["f1"] == 1
    assert captioning["meteor_not_computed"] in format_report(report) and "not computed" in format_markdown(report)


def test_tables_name_what_was_done(tmp_path, wordnet):
    report = score_clips(tmp_path / "x", lambda events: [*events, event(2, 20, "owl"), event(11, 12, "owl")])
    # Every of the 15 answers: detection of 4 clips, grounding of 5 labels and dog in 3, 2 own queries, 2 captions;
    # all clips end before 11 s.
    num_answers = sum(len(answers_of(clip, list)) for clip in CLIPS)
    assert report["clipping"]["num_cut_events"] == report["clipping"]["num_dropped_events"] == num_answers
    for text in (format_report(report), format_markdown(report)):
        assert f"Predicted past the end of the clip: {num_answers} events were cut there, {num_answers} were" in text
        assert "The reference of 1 clip passes its duration" in text
        assert "1 absent query asked for labels of the data (2) that the clip lacks" in text
        assert "unreadable answers" in text and "METEOR of pairs" in text
    markdown = format_markdown(report)
    assert (
        "In addition, 4 events of 1 label that the reference lacks were predicted." in markdown
        and "| owl |" not in markdown
    )
    widths = [line.count(" | ") for line in markdown.splitlines() if line.startswith("|")]
    lines = [line for line in format_report(report).splitlines()[1:] if not line.startswith("note: ")]
    assert max(widths) <= 7 and max(map(len, lines)) < 120


times = st.integers(0, 40).map(lambda n: n / 4)


@given(st.lists(st.tuples(times, times, st.sampled_from("ab")), max_size=4), st.floats(0.5, 12), st.booleans())
def test_answers_are_cut_where_the_clip_or_its_reference_ends(spans, duration, is_reference):
    events = [Event(min(a, b), max(a, b), label) for a, b, label in spans]
    clip = AnnotatedClip("1", tuple(events if is_reference else ()), duration=duration)
    answers, counts = prepare_answers([clip], {("1", "detection", None): events})
    cut = answers["1", "detection", None]
    if is_reference:
        assert cut == events
        assert counts["num_clips_with_later_references"] == any(e.offset > duration for e in events)
    else:
        assert all(e.offset <= duration for e in cut)
        assert len(cut) == len(events) - counts["num_dropped_events"]
        # Duplicates count one by one.
        assert counts["num_cut_events"] == sum(e.onset < duration < e.offset for e in events)


def test_clips_of_unknown_duration_are_not_cut():
    events = [Event(5, 1000, "dog")]
    answers, counts = prepare_answers([AnnotatedClip("1", ())], {("1", "detection", None): events}, {"dog": "Dog"})
    assert answers == {("1", "detection", None): [Event(5, 1000, "Dog")]}
    assert counts["num_clips_of_unknown_duration"] == 1 and counts["num_cut_events"] == 0


def make_report(clips, answers, min_score=None):
    asked = [question for clip in clips for question in questions(clip, SCORING)]
    return report_module.make_report(clips, asked, answers, min_score)


def test_queries_about_one_recording_are_drawn_together():
    rows = [AnnotatedClip(str(i), (Event(0, 1),), audio=f"{i // 4}.wav", query="x") for i in range(40)]
    answers = {(str(i), "grounding", "x"): [Event(0, 1)] if i // 4 % 2 else [] for i in range(40)}
    # Ten recordings, all right or all wrong: as uncertain as 10 answers, not 40.
    low, high = make_report(rows, answers)["grounding"]["intervals"]["miou_union"]
    assert low == pytest.approx(0.2, abs=0.101) and high == pytest.approx(0.8, abs=0.101)
    apart = [replace(row, audio=None) for row in rows]
    closer = make_report(apart, answers)["grounding"]["intervals"]["miou_union"]
    assert low < closer[0] and closer[1] < high


def test_events_below_the_least_score_count_for_psds_alone():
    sure, unsure = Event(1, 2, "dog", 0.8), Event(5, 6, "dog", 0.1)
    rows = [AnnotatedClip("1", (Event(1, 2, "dog"),), duration=10.0)]
    answers = {("1", "detection", None): [sure, unsure]}
    every, kept = (make_report(rows, answers, min_score=least)["detection"] for least in (None, 0.3))
    # One of two predictions is right: F1 = 2 / (2 + 1); of one, it is 1.
    assert every["micro"]["f1"] == pytest.approx(2 / 3) and kept["micro"]["f1"] == 1
    assert kept["segment_1s"]["micro"]["f1"] == 1
    assert kept["psds"] == every["psds"] == {**psds_of(rows, answers), "not_computed": None, **parts_of(every)}
    # Grounding was asked for, whatever the score.
    answers = {("1", "grounding", "dog"): [unsure]}
    assert make_report(rows, answers, min_score=0.3) == make_report(rows, answers)


def psds_of(rows, answers):
    inputs = [list(row.events) for row in rows], list(answers.values()), [row.duration for row in rows]
    return {"psds1": psds(*inputs, PSDS1)["psds"], "psds2": psds(*inputs, PSDS2)["psds"]}


def parts_of(detection):
    return {name: detection["psds"][name] for name in ("class_wise", "num_other_labels")}
