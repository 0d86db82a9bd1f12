"""Which clips are worst, and the picture of them: lanes, bars where the events are, titles with scores."""

import pytest

from processing.events import Event
from recipes.data.clip import AnnotatedClip
from recipes.data.questions import SCORING, questions
from recipes.evaluation import worst_clips as module
from recipes.evaluation.worst_clips import plot_worst_clips

DOG, CAT = Event(1.0, 2.0, "dog"), Event(3.0, 5.0, "cat")


def clip_row(name, *events, **values):
    return AnnotatedClip(name, events, duration=10.0, **values)


def worst_clips(clips, answers, limit=12):
    asked = [question for clip in clips for question in questions(clip, SCORING)]
    return module.worst_clips(clips, asked, answers, limit)


def panels(figure):
    return {axis.get_label(): axis for axis in figure.axes}


def bars(axis, kind):
    """Return (onset, offset, lane) of the bars of one kind."""
    boxes = [path.get_extents() for part in axis.collections if part.get_label() == kind for path in part.get_paths()]
    return sorted((round(box.x0, 6), round(box.x1, 6), round((box.y0 + box.y1) / 2)) for box in boxes)


def test_order_is_f1_then_errors_then_id():
    rows = [clip_row(name, DOG, CAT) for name in ("right", "half", "b", "a", "worse", "unanswered")]
    answers = {
        ("right", "detection", None): [DOG, CAT],
        ("half", "detection", None): [DOG],
        ("b", "detection", None): [],
        ("a", "detection", None): None,
        ("worse", "detection", None): [Event(7.0, 8.0, "dog")],
    }
    found = worst_clips(rows, answers)
    # F1 0 with 2 missed and 1 false, then F1 0 with 2 missed in the order of the ids, then 2 / (2 + 1), then 1.
    assert [clip["id"] for clip in found] == ["worse", "a", "b", "half", "right"]
    assert [clip["f1"] for clip in found] == pytest.approx([0, 0, 0, 2 / 3, 1])
    assert [(clip["num_missed"], clip["num_false_alarms"]) for clip in found] == [
        (2, 1),
        (2, 0),
        (2, 0),
        (1, 0),
        (0, 0),
    ]
    assert [clip["num_unparseable"] for clip in found] == [0, 1, 0, 0, 0]
    assert [clip["id"] for clip in worst_clips(rows, answers, limit=2)] == ["worse", "a"]
    assert [clip["id"] for clip in worst_clips(rows[::-1], answers)] == [clip["id"] for clip in found]


def test_false_alarms_in_a_clip_without_events_are_the_worst_there_is():
    found = worst_clips([clip_row("quiet"), clip_row("still")], {("quiet", "detection", None): [DOG],
                                                                 ("still", "detection", None): []})  # fmt: skip
    assert [(clip["id"], clip["f1"], clip["num_false_alarms"]) for clip in found] == [("quiet", 0, 1), ("still", 1, 0)]


def test_grounding_answers_judge_a_clip_that_was_not_asked_for_all_events():
    rows = [clip_row("own", Event(1.0, 2.0), query="a dog barks"), clip_row("labels", DOG, CAT)]
    answers = {
        ("own", "grounding", "a dog barks"): [Event(1.1, 2.1, "a dog barks")],
        ("labels", "grounding", "dog"): [Event(1.0, 2.0, "whatever")],
        ("labels", "grounding", "cat"): None,
    }
    # Two references, one of them found: 2 / (2 + 1).
    labels, own = worst_clips(rows, answers)
    assert (labels["id"], labels["f1"], labels["num_unparseable"]) == ("labels", pytest.approx(2 / 3), 1)
    assert labels["prediction"] == [DOG]
    assert (own["id"], own["f1"]) == ("own", 1)


def test_bars_lie_where_the_events_are(tmp_path):
    rows = [clip_row("a", DOG, CAT), clip_row("b", CAT), clip_row("c")]
    answers = {
        ("a", "detection", None): [DOG, Event(6.0, 6.0, "owl")],
        ("b", "detection", None): None,
        ("c", "detection", None): [],
    }
    path = tmp_path / "worst.png"
    axes = panels(plot_worst_clips(worst_clips(rows, answers), 7, path))
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000
    assert list(axes) == ["b", "a", "c"]
    assert [text.get_text() for text in axes["a"].get_yticklabels()] == ["dog", "cat", "owl"]
    assert bars(axes["a"], "reference") == [(1.0, 2.0, 0), (3.0, 5.0, 1)]
    assert bars(axes["a"], "prediction") == [(1.0, 2.0, 0), (6.0, 6.0, 2)]
    assert all(axis.get_xlim() == (0, 10) for axis in axes.values())
    # One match of two references and two predictions: 2 / 4.
    assert axes["a"].get_title(loc="left") == "a   Eb-F1 0.50   1 missed, 1 false"
    assert axes["b"].get_title(loc="left") == "b   Eb-F1 0.00   1 missed, 0 false, unreadable"
    assert [text.get_text() for text in axes["c"].texts] == ["no events"]


def test_the_reference_lies_above_the_prediction_and_the_legend_says_so():
    figure = plot_worst_clips(worst_clips([clip_row("a", DOG)], {("a", "detection", None): [DOG]}), 1)
    (axis,) = figure.axes
    middle = {part.get_label(): part.get_paths()[0].get_extents().intervaly.mean() for part in axis.collections}
    lower_end, upper_end = axis.get_ylim()
    assert abs(middle["reference"] - upper_end) < abs(middle["prediction"] - upper_end)
    assert lower_end > upper_end
    entries = [text.get_text() for text in figure.legends[0].get_texts()]
    assert entries == ["upper bar: reference", "lower bar: prediction", "dog"]
    assert "The worst 1 of 1 clips by event-based F1" in [text.get_text() for text in figure.texts]


@pytest.mark.parametrize("num_clips, num_labels", [(1, 1), (12, 2), (4, 40)])
def test_nothing_overlaps_or_leaves_the_picture(num_clips, num_labels):
    rows, answers = [], {}
    for i in range(num_clips):
        name = f"a recording with a long name, number {i:02d}"
        events = [Event(j / 9, j / 9 + 1, f"$label_{{{i} {j}}} of some length") for j in range(num_labels)]
        rows.append(clip_row(name, *events))
        answers[name, "detection", None] = None
    figure = plot_worst_clips(worst_clips(rows, answers), num_clips)
    figure.canvas.draw()
    texts = [*figure.texts, *figure.legends[0].get_texts()]
    for axis in figure.axes:
        assert len(axis.get_yticks()) == min(num_labels, 12)
        texts += [axis._left_title, *axis.get_yticklabels()]
        assert ("+28 labels" in axis.get_title(loc="left")) == (num_labels == 40)
    boxes = [text.get_window_extent() for text in texts]
    width, height = figure.bbox.size
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height for box in boxes)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_no_clips():
    assert worst_clips([clip_row("a", DOG)], {}) == []
    with pytest.raises(ValueError, match="clips is empty"):
        plot_worst_clips([], 0)
