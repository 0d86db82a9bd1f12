"""Metrics of temporal grounding as an `evaluate` module; see its card, README.md."""

from recipes.metrics import event_metric
from recipes.scoring import count_accuracy, grounding_sums, recall_at_iou, rejection_rates

_DESCRIPTION = """
Temporal grounding of sounds that a query describes: R@IoU and two mean IoUs measure the overlap of predicted and
reference intervals, count accuracy their number, rejection rates the answers to absent queries.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: one list per pair of clip and query, of {"onset", "offset"}, times in seconds; [] if the query was
        rejected, None for an answer that could not be parsed. An event_label is allowed and ignored.
    references: one list per pair of {"onset", "offset"}; [] for an absent query.
    clips: clip of each pair, for the intervals; by default each pair is its own clip.
    bootstrap (False): add intervals; see also confidence (0.95), num_resamples (1000) and seed (0).
Returns:
    R@0.3, R@0.5, R@0.7, R@0.9, miou_union, miou_best_match, count_accuracy, parse_failure_rate, num_pairs over all
    pairs; true_rejection_rate over the num_absent pairs without reference, false_rejection_rate over the num_present
    others, NaN if there are none. With bootstrap NAME_low and NAME_high of all but the numbers of pairs.
Examples:
    >>> metric = evaluate.load("recipes/metrics/temporal_grounding")
    >>> reference, prediction = {"onset": 1.0, "offset": 3.0}, {"onset": 1.0, "offset": 2.0}
    >>> metric.compute(predictions=[[prediction]], references=[[reference]])["miou_union"]
    0.5
"""

_CITATION = """
@inproceedings{gao2017tall,
  title={{TALL}: Temporal Activity Localization via Language Query},
  author={Gao, Jiyang and Sun, Chen and Yang, Zhenheng and Nevatia, Ram},
  booktitle={Proceedings of the IEEE International Conference on Computer Vision},
  pages={5267--5275},
  year={2017}
}
"""


class TemporalGrounding(event_metric.EventMetric):
    """R@IoU, mean IoU, count accuracy and rejection rates."""

    labels_matter = False

    about = {
        "description": _DESCRIPTION,
        "inputs_description": _KWARGS_DESCRIPTION,
        "citation": _CITATION,
        "reference_urls": ["https://arxiv.org/abs/1705.02101"],
    }

    def _score(self, references, predictions, clips=None):
        scores = {
            **recall_at_iou(references, predictions),
            "count_accuracy": count_accuracy(references, predictions),
            **rejection_rates(references, predictions),
        }
        return scores, lambda: [grounding_sums(references, predictions, clips)]
