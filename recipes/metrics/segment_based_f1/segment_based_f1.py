"""Segment-based F1 as an `evaluate` module; see its card, README.md."""

from recipes.metrics import event_metric
from recipes.scoring import count_segments, count_sums, segment_based_f1

_DESCRIPTION = """
Segment-based F1 of sound event detection: time is cut into segments, and in each of them the labels that are active in
reference and prediction are compared. Equal to sed_eval 0.2.1 with sed_eval_rounding.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: one list per clip of {"onset", "offset", "event_label"}, times in seconds; [] if nothing was found,
        None for an answer that could not be parsed.
    references: one list per clip of {"onset", "offset", "event_label"}; [] for a clip without events.
    time_resolution (1.0): segment length in seconds.
    sed_eval_rounding (False): use float64 division without tolerance at the edges of segments, as sed_eval does.
    label_aliases (None): {"alias": "label"} or the path of such a JSON file, for the labels of predictions.
    bootstrap (False): add intervals; see also confidence (0.95), num_resamples (1000) and seed (0).
Returns:
    micro_f1, micro_precision, micro_recall, the same with macro_; error_rate, substitution_rate, deletion_rate,
    insertion_rate, num_substitutions, num_deletions, num_insertions, macro_error_rate, macro_deletion_rate,
    macro_insertion_rate; time_resolution, parse_failure_rate, num_clips, num_labels_only_in_references,
    num_labels_only_in_predictions. With bootstrap NAME_low and NAME_high of the first six, error_rate and
    parse_failure_rate.
Examples:
    >>> metric = evaluate.load("recipes/metrics/segment_based_f1")
    >>> dog = {"onset": 1.0, "offset": 2.0, "event_label": "dog"}
    >>> metric.compute(predictions=[[dog]], references=[[dog]], time_resolution=0.1)["micro_f1"]
    1.0
"""

_CITATION = event_metric.MESAROS


class SegmentBasedF1(event_metric.EventMetric):
    """Segment-based F1 and error rate."""

    about = {
        "description": _DESCRIPTION,
        "inputs_description": _KWARGS_DESCRIPTION,
        "citation": _CITATION,
        "reference_urls": ["https://doi.org/10.3390/app6060162", "https://tut-arg.github.io/sed_eval/"],
    }

    def _score(self, references, predictions, time_resolution=1.0, sed_eval_rounding=False, label_aliases=None):
        predictions = event_metric.with_aliases(predictions, label_aliases)
        settings = references, predictions, time_resolution, sed_eval_rounding
        scores = event_metric.flat_count_scores(segment_based_f1(*settings))
        scores |= event_metric.count_unmatched_labels(references, predictions)
        return scores, lambda: [count_sums({"": count_segments(*settings)}, predictions)]
