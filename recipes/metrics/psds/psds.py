"""PSDS as an `evaluate` module; see its card, README.md."""

from recipes.metrics import event_metric
from recipes.scoring import PSDS1, PSDS2, psds, psds_statistics, psds_sums

_DESCRIPTION = """
Polyphonic sound detection score of events with scores: the area under the curve of detected events against false alarms
per hour over all thresholds, in the two scenarios of DESED.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: one list per clip of {"onset", "offset", "event_label", "score"}, times in seconds, higher scores mean
        higher confidence; [] if nothing was found, None for an answer that could not be parsed.
    references: one list per clip of {"onset", "offset", "event_label"}; [] for a clip without events.
    durations: length of each clip in seconds.
    labels (None): the classes to average over; None takes those of the references.
    label_aliases (None): {"alias": "label"} or the path of such a JSON file, for the labels of predictions.
    bootstrap (False): add intervals; see also confidence (0.95), num_resamples (1000) and seed (0).
Returns:
    psds1, psds2, num_other_labels, parse_failure_rate, num_clips, num_labels_only_in_references,
    num_labels_only_in_predictions. With bootstrap psds1_low, psds1_high, psds2_low, psds2_high.
Examples:
    >>> metric = evaluate.load("recipes/metrics/psds")
    >>> dog = {"onset": 1.0, "offset": 2.0, "event_label": "dog"}
    >>> metric.compute(predictions=[[{**dog, "score": 0.9}]], references=[[dog]], durations=[10.0])["psds1"]
    1.0
"""

_CITATION = """
@inproceedings{bilen2020psds,
  title={A Framework for the Robust Evaluation of Sound Event Detection},
  author={Bilen, {\\c{C}}a{\\u{g}}da{\\c{s}} and Ferroni, Giacomo and Tuveri, Francesco and Azcarreta, Juan and
          Krstulovi{\\'c}, Sacha},
  booktitle={ICASSP 2020 - IEEE International Conference on Acoustics, Speech and Signal Processing},
  pages={61--65},
  year={2020}
}
"""


class Psds(event_metric.EventMetric):
    """PSDS 1 and PSDS 2."""

    more_inputs = ("score", "durations")
    about = {
        "description": _DESCRIPTION,
        "inputs_description": _KWARGS_DESCRIPTION,
        "citation": _CITATION,
        "reference_urls": ["https://arxiv.org/abs/1910.08440", "https://github.com/audioanalytic/psds_eval"],
    }

    def _score(self, references, predictions, durations, labels=None, label_aliases=None):
        predictions = event_metric.with_aliases(predictions, label_aliases)
        scores, sums = {}, []
        for name, scenario in (("psds1", PSDS1), ("psds2", PSDS2)):
            inputs = references, predictions, durations, scenario, labels
            statistics = psds_statistics(*inputs)
            report = psds(*inputs, statistics=statistics)
            scores[name] = report["psds"]
            sums.append(psds_sums(statistics, scenario, name))
        scores |= {name: report[name] for name in ("num_other_labels", "parse_failure_rate", "num_clips")}
        return scores | event_metric.count_unmatched_labels(references, predictions), lambda: sums
