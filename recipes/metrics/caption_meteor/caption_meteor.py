"""METEOR of dense captions as an `evaluate` module; see its card, README.md."""

from recipes.metrics import event_metric
from recipes.scoring import mean_meteor, meteor_by_clip, meteor_sums

_DESCRIPTION = """
Dense audio captioning: METEOR between all reference captions and all predicted captions of a clip, and METEOR of
captions that are paired one to one by their times.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: one list per clip of {"onset", "offset", "event_label"}, times in seconds, labels are captions; [] if
        nothing was found, None for an answer that could not be parsed.
    references: one list per clip of {"onset", "offset", "event_label"}; [] for a clip without events.
    iou_threshold (0.5): minimum IoU of paired events.
    synonyms (True): also align WordNet synonyms. Without them it is a different metric, which needs no data.
    wordnet_folder: folder with the files of WordNet 3.0; None searches NLTK's paths, then /usr/share/wordnet.
    bootstrap (False): add intervals; see also confidence (0.95), num_resamples (1000) and seed (0).
Returns:
    meteor_text; meteor_matched (the F-measure), meteor_matched_precision, meteor_matched_recall; parse_failure_rate,
    num_clips, wordnet_synonyms (1.0 or 0.0). With bootstrap NAME_low and NAME_high of the first five.
Examples:
    >>> metric = evaluate.load("recipes/metrics/caption_meteor")
    >>> bark = {"onset": 1.0, "offset": 2.0, "event_label": "a dog barks at night"}
    >>> metric.compute(predictions=[[bark]], references=[[bark]], synonyms=False)["meteor_text"]
    0.996
"""

_CITATION = """
@inproceedings{lavie2007meteor,
  title={{METEOR}: An Automatic Metric for {MT} Evaluation with High Levels of Correlation with Human Judgments},
  author={Lavie, Alon and Agarwal, Abhaya},
  booktitle={Proceedings of the Second Workshop on Statistical Machine Translation},
  pages={228--231},
  year={2007}
}
"""


class CaptionMeteor(event_metric.EventMetric):
    """METEOR of whole texts and of captions paired by their times."""

    about = {
        "description": _DESCRIPTION,
        "inputs_description": _KWARGS_DESCRIPTION,
        "citation": _CITATION,
        "reference_urls": [
            "https://aclanthology.org/W07-0734/",
            "https://arxiv.org/abs/1705.00754",
            "https://www.nltk.org/api/nltk.translate.meteor_score.html",
        ],
    }

    def _score(self, references, predictions, iou_threshold=0.5, synonyms=True, wordnet_folder=None):
        values = meteor_by_clip(references, predictions, iou_threshold, synonyms, wordnet_folder)
        scores = mean_meteor(values, predictions, synonyms)
        return scores, lambda: [meteor_sums(values, predictions)]
