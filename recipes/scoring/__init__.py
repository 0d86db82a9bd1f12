"""Scores of detection and grounding: functions of events alone, without state, shared by reports and rewards.

References and predictions are lists over clips (or clip and query pairs) of lists of events: objects with `onset`,
`offset` (seconds) and `event_label`. A prediction may be `None`, an answer that could not be parsed. It is never
dropped: it finds nothing, it rejects nothing, and it is counted in `parse_failure_rate`.
"""

from recipes.scoring.bootstrap import bootstrap_interval
from recipes.scoring.captions import caption_event_f1, caption_intervals, caption_meteor, matched_meteor, text_meteor
from recipes.scoring.counts import macro_scores, micro_scores, parse_failure_rate
from recipes.scoring.event_based import event_based_f1, event_counts, event_f1
from recipes.scoring.grounding import (
    IOU_THRESHOLDS,
    IOU_TOLERANCE,
    best_match_iou,
    count_accuracy,
    recall_at_iou,
    rejection_rates,
    union_iou,
)
from recipes.scoring.intervals import detection_intervals, grounding_intervals
from recipes.scoring.label_aliases import apply_aliases, read_label_aliases
from recipes.scoring.matching import match_events
from recipes.scoring.psds_curves import PSDS1, PSDS2, psds, psds_interval
from recipes.scoring.segment_based import segment_based_f1

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
