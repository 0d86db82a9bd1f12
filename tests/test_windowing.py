"""Windows tile a recording, and perfect answers about windows of any length and overlap merge to the true events."""

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from processing.events import Event
from processing.windowing import EventMerger, Window, WindowPlan, merge_windows, plan_windows


def heard(events, window):
    """Return what a perfect model reports: the events that sound within a window, cut at its edges."""
    return [
        Event(max(event.onset, window.start), min(event.offset, window.end), event.event_label)
        for event in events
        if (event.onset < window.end and event.offset > window.start)
        or window.start <= event.onset == event.offset <= window.end
    ]


def snapped(events, step):
    return [
        Event(round(event.onset / step) * step, round(event.offset / step) * step, event.event_label)
        for event in events
    ]


def can_be_told_apart(events, windows, tolerance=0.0):
    """Tell whether no two events of one label last through a whole overlap, as the module says."""
    for before, after in zip(windows, windows[1:]):
        through = [
            event.event_label
            for event in events
            if event.onset <= after.start + tolerance and event.offset >= before.end - tolerance
        ]
        if len(through) != len(set(through)):
            return False
    return True


# Multiples of a small step meet edges exactly; any floats do not.
times = st.integers(0, 80).map(lambda n: n * 0.25) | st.floats(0, 20)
labels = st.sampled_from("ab")
any_events = st.lists(
    st.tuples(times, times, labels).map(lambda v: Event(min(v[:2]), max(v[:2]), v[2])), max_size=8, unique=True
)


@st.composite
def separate_events(draw, gap):
    """Return events of two labels; those of one label keep `gap` seconds between them."""
    events = []
    for label in "ab":
        end = -gap
        for _ in range(draw(st.integers(0, 6))):
            onset = end + gap + draw(st.integers(0, 12).map(lambda n: n * 0.25) | st.floats(0, 3))
            end = onset + draw(st.sampled_from([0.25, 0.5, 1.0, 8.0]) | st.floats(0.01, 12))
            events.append(Event(onset, end, label))
    return events


@st.composite
def plans(draw, step=0.25):
    """Return plans of windows with strides that may differ or be none."""
    core = draw(st.integers(1, 20)) * step
    left, right = (draw(st.integers(0, 24)) * step for _ in range(2))
    length = core + left + right
    return WindowPlan(
        length, left, right, draw(st.sampled_from([length, 2 * length])), draw(st.sampled_from([0, step]))
    )


@given(plans(), st.floats(0.01, 60) | st.integers(1, 240).map(lambda n: n / 4))
def test_cores_tile_the_recording(plan, duration):
    windows = list(plan.split(duration))
    assert windows[0].start == windows[0].core_start == 0
    assert windows[-1].end == windows[-1].core_end == duration
    assert [window.is_last for window in windows] == [False] * (len(windows) - 1) + [True]
    for window in windows:
        assert window.start <= window.core_start < window.core_end <= window.end
        assert window.end - window.start <= max(plan.chunk_length_s, min(plan.whole_length_s, duration)) + 1e-6
        if plan.time_step:
            assert window.start % plan.time_step == 0
    for before, after in zip(windows, windows[1:]):
        assert before.core_end == after.core_start
        assert before.start < after.start <= before.end < after.end
        # Each stride is heard by both.
        assert before.end - before.core_end == pytest.approx(plan.stride_right)
        assert after.core_start - after.start >= plan.stride_left - 1e-6
    if len(windows) > 1:
        # No scrap of a window at the end.
        assert windows[-1].end - windows[-1].start > plan.chunk_length_s - max(plan.time_step, 1e-6)


@given(any_events, plans(), times)
@example([Event(0, 20, "a")], WindowPlan(1.0, 0.0, 0.0, 1.0), 20.0)
@example([Event(0, 1, "a"), Event(2, 3, "a")], WindowPlan(1.0, 0.0, 0.0, 1.0), 3.0)
# A hair before and after the edge at 10 s, and touching in the overlap from 8 s to 10 s.
@example([Event(1, 9.999, "a"), Event(10.001, 15, "a")], WindowPlan(10.0, 0.0, 0.0, 10.0), 20.0)
@example([Event(1, 9, "a"), Event(9, 15, "a")], WindowPlan(10.0, 1.0, 1.0, 10.0), 20.0)
@example([Event(1, 8, "a"), Event(8, 10, "a"), Event(10, 15, "a")], WindowPlan(10.0, 1.0, 1.0, 10.0), 20.0)
def test_perfect_answers_merge_to_the_true_events(events, plan, more):
    duration = max([event.offset for event in events], default=0.0) + more
    assume(duration > 0)
    windows = list(plan.split(duration))
    assume(can_be_told_apart(events, windows))
    merged = merge_windows((window, heard(events, window)) for window in windows)
    assert sorted(merged) == sorted(events)


@given(separate_events(gap=0.3), plans(), st.floats(0, 5))
def test_with_a_tolerance_too(events, plan, more):
    # Two events both within 0.1 s of an edge of windows that do not overlap count as one that it has cut, so the gap is
    # longer than that on both sides.
    duration = max([event.offset for event in events], default=1.0) + more
    windows = list(plan.split(duration))
    merged = merge_windows(((window, heard(events, window)) for window in windows), tolerance=0.1)
    assert sorted(merged) == sorted(events)


@given(separate_events(gap=0.6), plans(), st.floats(0, 5))
def test_times_on_a_grid_stay_within_it(events, plan, more):
    # Times of each window are rounded to a grid that starts with the window. Events shorter than a step may vanish.
    step = 0.125
    events = [event for event in events if event.duration > 2 * step]
    duration = max([event.offset for event in events], default=1.0) + more
    answers = []
    for window in plan.split(duration):
        local = [Event(e.onset - window.start, e.offset - window.start, e.event_label) for e in heard(events, window)]
        answers.append(
            (
                window,
                [Event(e.onset + window.start, e.offset + window.start, e.event_label) for e in snapped(local, step)],
            )
        )
    merged = sorted(merge_windows(answers, tolerance=step), key=lambda e: (e.event_label, e.onset))
    expected = sorted(events, key=lambda e: (e.event_label, e.onset))
    assert [event.event_label for event in merged] == [event.event_label for event in expected]
    for found, true in zip(merged, expected):
        assert found.onset == pytest.approx(true.onset, abs=step) and found.offset == pytest.approx(
            true.offset, abs=step
        )


def test_only_open_events_are_kept():
    merger = EventMerger()
    for index in range(1000):
        start = float(10 * index)
        window = Window(start, start + 10, start, start + 10)
        finished = merger.add(window, [Event(start + 1, start + 2, "a"), Event(start, start + 10, "long")])
        assert finished == ([Event(start - 9, start - 8, "a")] if index else [])
        assert len(merger._open) == 2
    assert sorted(merger.finish()) == [Event(0, 10000, "long"), Event(9991, 9992, "a")]
    assert merger.finish() == []


@pytest.mark.parametrize(
    "stride, events, others",
    [
        # An edge at 10 s, and nobody heard both sides of it.
        (0.0, [Event(1, 15, "a")], [Event(1, 10, "a"), Event(10, 15, "a")]),
        # Both last through the overlap from 8 s to 10 s: which onset goes with which offset?
        (1.0, [Event(1, 15, "a"), Event(2, 12, "a")], [Event(1, 12, "a"), Event(2, 15, "a")]),
    ],
)
def test_what_is_excluded_cannot_be_told_apart(stride, events, others):
    windows = list(WindowPlan(10.0, stride, stride, 10.0).split(20.0 - 2 * stride))
    for window in windows:
        assert set(heard(events, window)) == set(heard(others, window))
    assert not can_be_told_apart(others, windows)


# Windows from 0 s to 10 s and from 6 s to 16 s, trusted up to and from 8 s.
EARLIER, LATER = Window(0, 10, 0, 8), Window(6, 16, 8, 16)


def merge(earlier, later, tolerance=0.1):
    spans = [[Event(*span, "a") for span in part] for part in (earlier, later)]
    merged = merge_windows(zip((EARLIER, LATER), spans), tolerance)
    return [(event.onset, event.offset) for event in sorted(merged)]


@pytest.mark.parametrize(
    "earlier, later, expected",
    [
        # Both heard the event; the earlier window is trusted with its onset, the later with its offset.
        ([(5.0, 9.0)], [(6.5, 8.5)], [(5.0, 8.5)]),
        # The one is off before the border, the other thinks it sounds a while after it.
        ([(5.0, 7.0)], [(6.0, 9.0)], [(5.0, 9.0)]),
        ([(5.0, 9.0)], [(6.0, 7.0)], [(5.0, 8.0)]),
        ([(8.5, 9.5)], [(7.0, 9.0)], [(8.0, 9.0)]),
        # Only one of them has it: that one if it is its own, else nobody.
        ([(6.5, 7.5)], [], [(6.5, 7.5)]),
        ([(8.2, 9.0)], [], []),
        ([], [(8.2, 9.0)], [(8.2, 9.0)]),
        ([], [(6.5, 7.5)], []),
        # Cut by the edge, and nothing goes on there: as far as the window is trusted.
        ([(3.0, 9.95)], [], [(3.0, 8.0)]),
        ([], [(6.05, 15.0)], [(8.0, 15.0)]),
        # Not cut: as the window says.
        ([(3.0, 9.5)], [], [(3.0, 9.5)]),
        # The pairs that agree best: [6.2, 7.0] with [6.3, 7.1], not with the long one.
        ([(6.2, 7.0), (7.2, 9.9)], [(6.0, 6.1), (6.3, 7.1), (7.0, 14.0)], [(6.2, 7.0), (7.2, 14.0)]),
    ],
)
def test_windows_that_disagree(earlier, later, expected):
    assert merge(earlier, later) == expected


def test_labels_are_kept_apart_and_the_surest_score_stays():
    dog, cat = Event(5, 10, "dog", 0.3), Event(5.5, 10, "cat")
    merged = sorted(merge_windows([(EARLIER, [dog, cat]), (LATER, [Event(6, 12, "dog", 0.9)])]))
    assert merged == [Event(5, 12, "dog"), Event(5.5, 8, "cat")]
    assert [event.score for event in merged] == [0.9, None]


def test_a_window_without_an_answer_is_left_to_its_neighbours():
    windows = [EARLIER, LATER, Window(12, 22, 14, 22)]
    # The second did not answer: the first keeps what it heard past its core, and so does the third.
    answers = [[Event(8.5, 9.5, "a"), Event(1, 10, "b")], None, [Event(12.5, 13.5, "a"), Event(12, 20, "b")]]
    merged = sorted(merge_windows(zip(windows, answers)))
    assert merged == sorted([*answers[0], *answers[2]])
    # Windows that overlap beside the silent one meet in the middle of that, here at 9 s, and join there.
    windows = [Window(0, 10, 0, 6), Window(4, 14, 6, 10), Window(8, 18, 10, 18)]
    answers = [[Event(1, 10, "b"), Event(8.2, 8.8, "c"), Event(9.2, 9.8, "d")], None, [Event(8, 12, "b")]]
    assert sorted(merge_windows(zip(windows, answers))) == [Event(1, 12, "b"), Event(8.2, 8.8, "c")]
    assert list(merge_windows([(EARLIER, None), (LATER, None)])) == []


def test_defaults_are_those_of_speech_recognition():
    plan = plan_windows(12.0)
    assert plan == WindowPlan(12.0, 2.0, 2.0, 12.0)
    # A window hears its strides too, so that each is 12 - 2 - 2 = 8 s after the one before.
    assert [window.start for window in plan.split(30.0)] == [0.0, 8.0, 16.0, 18.0]
    assert plan_windows(12.0, (1.0, 3.0)) == WindowPlan(12.0, 1.0, 3.0, 12.0)
    # By default whole up to max_time, then windows of 10 s. On a grid of 0.08 s: 10 / 6 = 1.667 is near 21 steps, 1.68.
    plan = plan_windows(max_time=30.0, time_step=0.08)
    assert plan == WindowPlan(10.0, 1.68, 1.68, 30.0, 0.08)
    assert list(plan.split(30.0)) == [Window(0.0, 30.0, 0.0, 30.0, is_last=True)]
    # 10 - 2 * 1.68 = 6.64; the last starts at the first multiple of 0.08 from 30.1 - 10 on, 20.16.
    assert [window.start for window in plan.split(30.1)] == [0.0, 6.64, 13.28, 19.92, 20.16]
    assert plan_windows(max_time=4.0).chunk_length_s == 4.0


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"chunk_length_s": 31.0}, "chunk_length_s is 31; give seconds, more than 0 and at most max_time, 30"),
        ({"chunk_length_s": 0}, "chunk_length_s is 0"),
        ({"chunk_length_s": "10"}, "chunk_length_s is '10'; give a number of seconds"),
        ({"chunk_length_s": float("nan")}, "chunk_length_s is nan; give a number"),
        ({"stride_length_s": 5}, r"stride_length_s is \(5, 5\) but chunk_length_s is 10; give strides"),
        ({"stride_length_s": (-1, 2)}, "stride_length_s is"),
        ({"stride_length_s": [1, 2, 3]}, r"stride_length_s is \[1, 2, 3\]; give seconds, or the pair"),
        ({"chunk_length_s": 0.01, "time_step": 0.08}, "leave something of the window"),
    ],
)
def test_impossible_windows_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        plan_windows(**arguments)
