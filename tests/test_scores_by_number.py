"""Count accuracy and false alarms by the number of events in the reference."""

from processing.events import Event
from recipes.scoring import count_accuracy_by_number, false_alarms_by_number


def events(*onsets, label="dog"):
    return [Event(onset, onset + 1.0, label) for onset in onsets]


def test_count_accuracy_is_told_for_each_number_of_occurrences():
    references = [events(0), events(0, 2), events(0, 2), events(0, 2, 4), events(0, 2, 4, 6)]
    predictions = [events(5), events(0), events(1, 3), None, events(0, 2, 4, 6)]
    assert count_accuracy_by_number(references, predictions) == {
        "1": {"num_pairs": 1, "count_accuracy": 1.0},
        "2": {"num_pairs": 2, "count_accuracy": 0.5},
        "3+": {"num_pairs": 2, "count_accuracy": 0.5},
    }


def test_false_alarms_are_told_for_silence_apart():
    references = [[], [], events(0), events(0, 2, 4)]
    predictions = [events(1, 4), [], [*events(0), *events(0, label="cat")], None]
    assert false_alarms_by_number(references, predictions) == {
        "0": {"num_clips": 2, "false_alarms_per_clip": 1.0},
        "1": {"num_clips": 1, "false_alarms_per_clip": 1.0},
        "3+": {"num_clips": 1, "false_alarms_per_clip": 0.0},
    }
