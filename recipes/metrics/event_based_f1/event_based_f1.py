"""Event-based F1 as an `evaluate` module; the card beside this file says what it means."""

from recipes.metrics import event_metric
from recipes.scoring import collar_edges, count_events, count_sums, event_based_f1

_DESCRIPTION = """
Event-based F1 of sound event detection: an event is found if one of its label was predicted with onset and offset
within collars; events are paired one to one, as many as possible. Equal to sed_eval 0.2.1.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: one list per clip of {"onset", "offset", "event_label"}, times in seconds; [] where nothing was found,
        None for an answer that could not be parsed.
    references: one list per clip of {"onset", "offset", "event_label"}; [] for a clip without events.
    t_collar: collar in seconds, 0.2.
    percentage_of_length: collar of offsets as a fraction of the reference event's length, 0.2.
    time_only: let events of different labels match, False.
    label_aliases: {"alias": "label"} or the path of such a JSON file, for the labels of predictions; None.
    bootstrap: add intervals, False; confidence 0.95, num_resamples 1000 and seed 0 say how.
Returns:
    micro_f1, micro_precision, micro_recall, the same with macro_; error_rate, substitution_rate, deletion_rate,
    insertion_rate, num_substitutions, num_deletions, num_insertions, macro_error_rate, macro_deletion_rate,
    macro_insertion_rate; parse_failure_rate, num_clips; micro_f1_with_tolerance and macro_f1_with_tolerance, where
    what lies exactly on a collar is within it, num_matches_on_collar, num_refused; num_labels_only_in_references,
    num_labels_only_in_predictions. With bootstrap NAME_low and NAME_high of the first six, error_rate and
    parse_failure_rate.
Examples:
    >>> metric = evaluate.load("recipes/metrics/event_based_f1")
    >>> dog = {"onset": 1.0, "offset": 2.0, "event_label": "dog"}
    >>> metric.compute(predictions=[[dog]], references=[[dog]])["micro_f1"]
    1.0
"""

_CITATION = event_metric.MESAROS


class EventBasedF1(event_metric.EventMetric):
    """Event-based F1 and error rate."""

    about = {
        "description": _DESCRIPTION,
        "inputs_description": _KWARGS_DESCRIPTION,
        "citation": _CITATION,
        "reference_urls": ["https://doi.org/10.3390/app6060162", "https://tut-arg.github.io/sed_eval/"],
    }

    def _score(
        self, references, predictions, t_collar=0.2, percentage_of_length=0.2, time_only=False, label_aliases=None
    ):
        predictions = event_metric.with_aliases(predictions, label_aliases)
        settings = references, predictions, t_collar, percentage_of_length, time_only
        edges = collar_edges(*settings)
        scores = event_metric.flat_count_scores(event_based_f1(*settings))
        scores |= {f"{average}_f1_with_tolerance": edges[average]["f1"] for average in ("micro", "macro")}
        scores |= {name: edges[name] for name in ("num_matches_on_collar", "num_refused")}
        if not time_only:
            scores |= event_metric.count_unmatched_labels(references, predictions)
        return scores, lambda: [count_sums({"": count_events(*settings)}, predictions)]
