"""Event-based F1 as an `evaluate` module; see its card, README.md."""

from recipes.metrics import event_metric
from recipes.scoring import collar_edges, count_events, count_sums, event_based_f1

_DESCRIPTION = """
Event-based F1 of sound event detection: an event is found if an event with its label is predicted with onset and offset
within collars; the one-to-one matching is maximal. Equal to sed_eval 0.2.1.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: one list per clip of {"onset", "offset", "event_label"}, times in seconds; [] if nothing was found,
        None for an answer that could not be parsed.
    references: one list per clip of {"onset", "offset", "event_label"}; [] for a clip without events.
    t_collar (0.2): collar in seconds.
    percentage_of_length (0.2): collar of offsets as a fraction of the reference event's length.
    time_only (False): let events with different labels match.
    label_aliases (None): {"alias": "label"} or the path of such a JSON file, for the labels of predictions.
    bootstrap (False): add intervals; see also confidence (0.95), num_resamples (1000) and seed (0).
Returns:
    micro_f1, micro_precision, micro_recall, the same with macro_; error_rate, substitution_rate, deletion_rate,
    insertion_rate, num_substitutions, num_deletions, num_insertions, macro_error_rate, macro_deletion_rate,
    macro_insertion_rate; parse_failure_rate, num_clips; micro_f1_with_tolerance and macro_f1_with_tolerance, which
    accept events exactly on a collar, num_matches_on_collar, num_refused; num_labels_only_in_references,
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
