"""Scores by the number of reference events: many models stop after one occurrence, or hallucinate in silence."""

from recipes.scoring.event_based import count_events
from recipes.scoring.grounding import has_right_count

# Includes all higher numbers.
LAST = 3


def count_accuracy_by_number(references, predictions) -> dict[str, dict]:
    """Return the fraction of queries with the correct number of events, by the number of reference events.

    Returns:
        `{"1": {"num_pairs", "count_accuracy"}, "2": ..., "3+": ...}`, without numbers that do not occur.
    """
    pairs = list(zip(references, predictions, strict=True))
    return _means([len(reference) for reference, _ in pairs], [has_right_count(*pair) for pair in pairs],
                  "num_pairs", "count_accuracy")  # fmt: skip


def false_alarms_by_number(references, predictions, **collars) -> dict[str, dict]:
    """Return the number of unmatched predictions per clip, by the number of reference events.

    Args:
        collars: `t_collar` in seconds and `percentage_of_length`, as for `event_based_f1`.

    Returns:
        `{"0": {"num_clips", "false_alarms_per_clip"}, "1": ..., "2": ..., "3+": ...}`.
    """
    num_matches, num_references, num_predicted, *_ = count_events(references, predictions, **collars)[0].T
    false = (num_predicted - num_matches).tolist()
    return _means(num_references.tolist(), false, "num_clips", "false_alarms_per_clip")


def _means(numbers, values, count_name, mean_name) -> dict[str, dict]:
    groups: dict[str, list] = {}
    for number, value in zip(numbers, values, strict=True):
        groups.setdefault(str(number) if number < LAST else f"{LAST}+", []).append(value)
    return {name: {count_name: len(v), mean_name: sum(v) / len(v)} for name, v in sorted(groups.items())}
