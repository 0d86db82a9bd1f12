"""Metrics of detection, grounding and captioning as pure functions of events, for reports and rewards.

References and predictions are lists over clips (or pairs of clip and query) of lists of [`~processing.events.Event`]s.
A prediction may be `None`, an answer that could not be parsed. It is never dropped: it finds nothing, rejects nothing,
and counts in `parse_failure_rate`.

Code outside this folder imports everything from here.
"""
# ruff: noqa: F401

from recipes.scoring.bootstrap import ClipSums, bootstrap_interval, paired_bootstrap, sum_intervals
from recipes.scoring.by_number import count_accuracy_by_number, false_alarms_by_number
from recipes.scoring.captions import (
    METEOR_NAMES,
    caption_meteor,
    matched_meteor,
    mean_meteor,
    meteor,
    meteor_by_clip,
    meteor_sums,
    open_wordnet,
    text_meteor,
)
from recipes.scoring.counts import ClipCounts, check_lengths, f_scores, parse_failure_rate, score_counts
from recipes.scoring.event_based import collar_edges, count_events, event_based_f1, event_f1
from recipes.scoring.grounding import (
    IOU_THRESHOLDS,
    IOU_TOLERANCE,
    best_match_iou,
    count_accuracy,
    has_right_count,
    label_iou,
    recall_at_iou,
    rejection_rates,
    union_iou,
)
from recipes.scoring.intervals import (
    count_sums,
    detection_intervals,
    detection_sums,
    grounding_sums,
)
from recipes.scoring.labels import apply_aliases, check_aliases, read_label_aliases, unmatched_labels
from recipes.scoring.matching import TIME_TOLERANCE, count_matched_spans, match_events
from recipes.scoring.psds_curves import (
    PSDS1,
    PSDS2,
    PsdsScenario,
    psds,
    psds_statistics,
    psds_sums,
)
from recipes.scoring.segment_based import count_segments, segment_based_f1
