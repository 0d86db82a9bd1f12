import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processing.events import Event, clip_events, normalize_label, shift_events

seconds = st.floats(0, 1e6)
events = st.tuples(seconds, seconds, st.text()).map(lambda v: Event(min(v[:2]), max(v[:2]), v[2]))


def test_events_sort_by_time_then_label_and_ignore_scores():
    late, early, also_early = Event(2, 3, "a", 0.9), Event(1, 3, "b", 0.1), Event(1, 3, "a")
    assert sorted([late, early, also_early]) == [also_early, early, late]
    assert Event(1, 2, "a", 0.5) == Event(1, 2, "a")
    assert len({Event(1, 2, "a", 0.5), Event(1, 2, "a")}) == 1


def test_events_cannot_be_changed():
    with pytest.raises(AttributeError):
        Event(1, 2).onset = 0


@given(events)
def test_dict_round_trip_through_json(event):
    scored = Event(event.onset, event.offset, event.event_label, 0.25)
    again = Event.from_dict(json.loads(json.dumps(scored.as_dict())))
    assert again == scored
    assert again.score == 0.25


def test_numpy_times_become_floats():
    event = Event(np.float32(0.5), np.int64(2), score=np.float32(0.5))
    assert [type(value) for value in (event.onset, event.offset, event.score)] == [float] * 3
    assert event.duration == 1.5


def test_negative_zero_becomes_zero():
    assert math.copysign(1, Event(-0.0, 1).onset) == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((-1, 2), "onset is -1.0 s"),
        ((3, 2), "offset is 2.0 s, before the onset at 3.0 s"),
        ((math.nan, 2), "onset is nan"),
        ((1, math.inf), "offset is inf"),
        ((1, 10**400), "offset is inf"),
        (("1", 2), "onset is '1'"),
        ((1, None), "offset is None"),
        ((True, 2), "onset is True"),
        ((1, 2, None), "event_label is None"),
        ((1, 2, "a", math.nan), "score is nan"),
        ((1, 2, "a", "high"), "score is 'high'"),
    ],
)
def test_wrong_values_are_named(arguments, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        Event(*arguments)


def test_from_dict_names_missing_and_unknown_keys():
    with pytest.raises(ValueError, match=r"missing \['offset'\], unknown \['end'\]"):
        Event.from_dict({"onset": 1, "end": 2})


@given(st.lists(events), st.floats(0, 1e6))
def test_clipped_events_end_within_the_recording(values, duration):
    clipped = clip_events(values, duration)
    assert all(event.onset < duration and event.offset <= duration for event in clipped)
    assert len(clipped) == sum(event.onset < duration for event in values)


def test_clip_keeps_labels_and_scores():
    assert [e.as_dict() for e in clip_events([Event(1, 5, "dog", 0.5), Event(4, 5)], 4)] == [
        {"onset": 1.0, "offset": 4.0, "event_label": "dog", "score": 0.5}
    ]
    with pytest.raises(ValueError, match="duration is -1.0 s"):
        clip_events([], -1)


def test_shift_moves_both_times_and_refuses_to_leave_the_recording():
    assert shift_events([Event(1, 2, "dog", 0.5)], 10) == [Event(11, 12, "dog")]
    assert shift_events([Event(1, 2)], -1) == [Event(0, 1)]
    assert shift_events([], -5) == []
    with pytest.raises(ValueError, match="seconds is -2.0, which would move an onset at 1.0 s before 0"):
        shift_events([Event(1, 2)], -2)


@pytest.mark.parametrize("label", ["cafe\u0301", "caf\u00e9", " caf\u00e9\u00a0", "\ufeffcaf\u00e9\u200b"])
def test_labels_that_look_equal_are_one_label(label):
    assert normalize_label(label) == "caf\u00e9"
    assert normalize_label(f"dog\t {label}") == "dog caf\u00e9" and normalize_label("Dog") != normalize_label("dog")
