"""Scores of detection and grounding: functions of events alone, without state, shared by reports and rewards.

References and predictions are lists over clips (or clip and query pairs) of lists of events: objects with `onset`,
`offset` (seconds) and `event_label`. A prediction may be `None`, an answer that could not be parsed. It is never
dropped: it finds nothing, it rejects nothing, and it is counted in `parse_failure_rate`.
"""

from recipes.bootstrap import bootstrap_interval
from recipes.caption_scoring import caption_event_f1, caption_intervals, caption_meteor, matched_meteor, text_meteor
from recipes.event_matching import match_events
from recipes.event_scoring import event_based_f1, event_counts, event_f1
from recipes.interval_scoring import (
    IOU_THRESHOLDS,
    IOU_TOLERANCE,
    best_match_iou,
    count_accuracy,
    recall_at_iou,
    rejection_rates,
    union_iou,
)
from recipes.label_aliases import apply_aliases, read_label_aliases
from recipes.psds_scoring import PSDS1, PSDS2, psds, psds_interval
from recipes.report_intervals import detection_intervals, grounding_intervals
from recipes.score_counts import macro_scores, micro_scores, parse_failure_rate
from recipes.segment_scoring import segment_based_f1

__all__ = [
    "IOU_THRESHOLDS",
    "IOU_TOLERANCE",
    "PSDS1",
    "PSDS2",
    "apply_aliases",
    "best_match_iou",
    "bootstrap_interval",
    "caption_event_f1",
    "caption_intervals",
    "caption_meteor",
    "count_accuracy",
    "detection_intervals",
    "event_based_f1",
    "event_counts",
    "event_f1",
    "grounding_intervals",
    "macro_scores",
    "match_events",
    "matched_meteor",
    "micro_scores",
    "parse_failure_rate",
    "psds",
    "psds_interval",
    "read_label_aliases",
    "recall_at_iou",
    "rejection_rates",
    "segment_based_f1",
    "text_meteor",
    "union_iou",
]
