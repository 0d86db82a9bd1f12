"""Scores by the number of reference events: many models stop after one occurrence, or hallucinate in silence."""

from recipes.scoring.event_based import count_events
from recipes.scoring.grounding import has_right_count

# The last one includes all higher numbers.
COUNTS = (0, 1, 2, 3)


def count_accuracy_by_number(references, predictions) -> dict[str, dict]:
    """Return the fraction of queries with the correct number of events, by the number of reference events.

    Returns:
        `{"1": {"num_pairs", "count_accuracy"}, "2": ..., "3+": ...}`, without numbers that do not occur.
    """
    right: dict[str, list[bool]] = {}
    for reference, prediction in zip(references, predictions, strict=True):
        right.setdefault(_name(len(reference)), []).append(has_right_count(reference, prediction))
    return {
        name: {"num_pairs": len(found), "count_accuracy": sum(found) / len(found)} for name, found in _sorted(right)
    }


def false_alarms_by_number(references, predictions, **collars) -> dict[str, dict]:
    """Return the number of unmatched predictions per clip, by the number of reference events.

    Args:
        collars: `t_collar` in seconds and `percentage_of_length`, as for `event_based_f1`.

    Returns:
        `{"0": {"num_clips", "false_alarms_per_clip"}, "1": ..., "2": ..., "3+": ...}`.
    """
    false: dict[str, list[int]] = {}
    for num_matched, num_reference, num_predicted, *_ in count_events(references, predictions, **collars)[0].tolist():
        false.setdefault(_name(num_reference), []).append(num_predicted - num_matched)
    return {
        name: {"num_clips": len(found), "false_alarms_per_clip": sum(found) / len(found)}
        for name, found in _sorted(false)
    }


def _name(number):
    return str(number) if number < COUNTS[-1] else f"{COUNTS[-1]}+"


def _sorted(groups):
    return sorted(groups.items())
