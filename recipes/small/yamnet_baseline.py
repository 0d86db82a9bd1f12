"""Baseline: YAMNet's own AudioSet scores at 25 Hz, mapped to the labels.

It is not trained. Window, smoothing and thresholds of every label are tuned on the validation split.

    python -m recipes.small.yamnet_baseline --data DIR --weights DIR --out report.json
"""

import itertools
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from scipy.ndimage import median_filter, uniform_filter1d
from tqdm import tqdm

from modeling_timepro.yamnet_encoder import YamnetTrunk
from processing.audio_io import load_audio
from processing.events import Event
from processing.yamnet_features import TimeProYamnetFeatureExtractor
from recipes.arguments import script_parser
from recipes.data.clip import AnnotatedClip
from recipes.data.loading import load_clips
from recipes.data.questions import SCORING, labels_of, questions
from recipes.evaluation.report import make_report
from recipes.scoring import count_matched_spans
from recipes.small.audioset_labels import AUDIOSET_NAMES
from recipes.small.yamnet_weights import load_trunk

logger = logging.getLogger(__name__)

FRAME_SECONDS = 0.04
LAST_LAYER = 12
# Search space for each label; windows and filters in frames of 40 ms (23 frames are YAMNet's own 0.96 s).
WINDOWS = (1, 3, 7, 13, 23)
MEDIANS = (1, 5, 11, 21)
CLASS_THRESHOLDS = (0.005, 0.01, 0.02, 0.04, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75)
# Additional threshold as a fraction of the clip's highest score.
RELATIVE_THRESHOLDS = (0.0, 0.15, 0.3, 0.5, 0.7)


@dataclass(frozen=True)
class Decoder:
    """How to convert one label's scores to events."""

    window: int = 13
    median: int = 5
    threshold: float = 0.3
    relative: float = 0.0


@dataclass
class LabelCounts:
    """Reference events, predicted events and matches of one label."""

    num_reference: int = 0
    num_predicted: int = 0
    num_matched: int = 0

    @property
    def f1(self) -> float:
        """Return 2 TP / (predicted + reference), 0 if both are 0."""
        total = self.num_reference + self.num_predicted
        return 2 * self.num_matched / total if total else 0.0


@dataclass
class ScoredClip:
    """AudioSet logits of one clip, and its reference events."""

    logits: np.ndarray
    events: Sequence[Event]
    clip_id: str = ""


class YamnetBaseline:
    """Detect labelled events with YAMNet alone.

    Args:
        weights: folder with `yamnet.safetensors` and `yamnet_classes.json`, see `recipes/small/yamnet_weights.py`.
        labels: event labels to detect; each must be in `AUDIOSET_NAMES`.

    Raises:
        ValueError: labels that are not in the table.
    """

    def __init__(self, weights: Path | str, labels: Sequence[str]):
        unknown = sorted(set(labels) - set(AUDIOSET_NAMES))
        if unknown:
            raise ValueError(f"labels={unknown}: no AudioSet names are known for these; add them to AUDIOSET_NAMES.")
        state = load_file(Path(weights) / "yamnet.safetensors")
        names = json.loads((Path(weights) / "yamnet_classes.json").read_text(encoding="utf-8"))
        self.labels = list(labels)
        self.extractor = TimeProYamnetFeatureExtractor(mel_per_frame=4)
        self.trunk = YamnetTrunk().eval()
        load_trunk(self.trunk, state)
        used = sorted({names.index(name) for label in self.labels for name in AUDIOSET_NAMES[label]})
        self.columns = {
            label: [used.index(names.index(name)) for name in AUDIOSET_NAMES[label]] for label in self.labels
        }
        self.weight, self.bias = state["head.weight"][used].T, state["head.bias"][used]
        self.decoders: dict[str, Decoder | None] = dict.fromkeys(self.labels, Decoder())

    @torch.no_grad()
    def frame_logits(self, waveform: np.ndarray) -> np.ndarray:
        """Return logits (num_frames, AudioSet classes in use) at 25 Hz of a 16 kHz waveform, before averaging.

        The classifier is linear, so averaging logits over a window equals averaging its input features.
        """
        features = self.extractor(waveform, sampling_rate=self.extractor.sampling_rate, return_tensors="pt")
        (frames,) = self.trunk(features["input_features"], None, [LAST_LAYER])
        return (frames[0] @ self.weight + self.bias).numpy()

    def label_scores(self, logits: np.ndarray, label: str, window: int) -> np.ndarray:
        """Average logits over `window` frames; return the highest probability (num_frames,) of the label's names."""
        averaged = uniform_filter1d(logits[:, self.columns[label]], window, axis=0, mode="nearest")
        return 1.0 / (1.0 + np.exp(-averaged.max(1)))

    def decode(self, logits: np.ndarray) -> list[Event]:
        """Convert logits to sorted events with the tuned decoders; the score is the mean over the event's frames."""
        events = []
        for label, decoder in self.decoders.items():
            if decoder is None:
                continue
            scores = self.label_scores(logits, label, decoder.window)
            smooth = smooth_scores(scores[None], decoder.median)
            for _, start, end in active_runs(smooth, decoder.threshold, decoder.relative):
                mean = float(scores[start:end].mean())
                events.append(Event(start * FRAME_SECONDS, end * FRAME_SECONDS, label, mean))
        return sorted(events)

    def tune(self, validation: Sequence[ScoredClip]) -> dict[str, LabelCounts]:
        """Choose every label's decoder by exhaustive search for the highest micro Eb-F1; return the counts per label.

        Labels that would only add false alarms get no decoder; those without validation events keep the default.

        Raises:
            ValueError: no clips.
        """
        if not validation:
            raise ValueError("validation is empty: tuning needs clips with reference events.")
        known = sorted({event.event_label for clip in validation for event in clip.events} & set(self.labels))
        tried = {label: self._try_decoders(validation, label) for label in tqdm(known, desc="tuning")}
        chosen = best_for_all(tried)
        self.decoders |= {label: decoder for label, (decoder, _) in chosen.items()}
        return {label: counts for label, (_, counts) in chosen.items()}

    def _try_decoders(self, clips: Sequence[ScoredClip], label: str) -> list[tuple[Decoder | None, LabelCounts]]:
        references = [[(e.onset, e.offset) for e in clip.events if e.event_label == label] for clip in clips]
        num_reference = sum(map(len, references))
        options: list[tuple[Decoder | None, LabelCounts]] = [(None, LabelCounts(num_reference))]
        longest = max(len(clip.logits) for clip in clips)
        for window, median in itertools.product(WINDOWS, MEDIANS):
            scores = np.zeros((len(clips), longest))
            for row, clip in enumerate(clips):
                scores[row, : len(clip.logits)] = self.label_scores(clip.logits, label, window)
            scores = smooth_scores(scores, median)
            for threshold, relative in itertools.product(CLASS_THRESHOLDS, RELATIVE_THRESHOLDS):
                runs = active_runs(scores, threshold, relative)
                # Too many false alarms, and slow to match.
                if len(runs) > 20 * num_reference + 20:
                    continue
                counts = LabelCounts(num_reference, len(runs))
                bounds = np.searchsorted(runs[:, 0], np.arange(len(clips) + 1))
                for row, reference in enumerate(references):
                    if len(reference):
                        found = runs[bounds[row] : bounds[row + 1], 1:] * FRAME_SECONDS
                        counts.num_matched += count_matched_spans(reference, found.tolist())
                options.append((Decoder(window, median, threshold, relative), counts))
        return options


def smooth_scores(scores: np.ndarray, median: int) -> np.ndarray:
    """Median-filter scores (num_clips, num_frames) over time."""
    return scores if median == 1 else median_filter(scores, size=(1, median), mode="nearest")


def active_runs(scores: np.ndarray, threshold: float, relative: float) -> np.ndarray:
    """Return (row, first frame, frame after the last) of all runs that reach the thresholds, sorted by row and time."""
    limits = np.maximum(threshold, relative * scores.max(1, keepdims=True))
    active = np.zeros((scores.shape[0], scores.shape[1] + 2), dtype=np.int8)
    active[:, 1:-1] = scores >= limits
    changes = np.diff(active, axis=1)
    rows, starts = np.nonzero(changes == 1)
    _, ends = np.nonzero(changes == -1)
    return np.stack([rows, starts, ends], axis=1)


def best_for_all(
    tried: dict[str, list[tuple[Decoder | None, LabelCounts]]],
) -> dict[str, tuple[Decoder | None, LabelCounts]]:
    """Choose one option per label to maximise F1 over all labels.

    F = 2 TP / (P + R) is a ratio of sums: for a given F, each label's best option maximises 2 TP - F P independently,
    and repeating this with the resulting F converges to the optimum (Dinkelbach 1967).
    """
    reached = 0.0
    while True:
        chosen = {
            label: max(options, key=lambda option: 2 * option[1].num_matched - reached * option[1].num_predicted)
            for label, options in tried.items()
        }
        f1 = total_counts([counts for _, counts in chosen.values()]).f1
        if f1 <= reached + 1e-12:
            return chosen
        reached = f1


def total_counts(counts: Sequence[LabelCounts]) -> LabelCounts:
    """Add up counts."""
    return LabelCounts(*map(sum, zip(*((c.num_reference, c.num_predicted, c.num_matched) for c in counts))))


def score_clips(baseline: YamnetBaseline, clips: Sequence[AnnotatedClip]) -> list[ScoredClip]:
    """Run YAMNet over the recordings of clips."""
    rate = baseline.extractor.sampling_rate
    return [
        ScoredClip(baseline.frame_logits(load_audio(clip.audio, rate)), clip.events, clip.id)
        for clip in tqdm(clips, desc="clips")
    ]


def report_of(baseline: YamnetBaseline, clips: Sequence[AnnotatedClip], scored: list[ScoredClip]) -> dict:
    """Return the same report that a checkpoint gets on these clips, see `recipes/evaluation/report.py`.

    A query is answered with the events detected for its label.
    """
    found = {clip.clip_id: baseline.decode(clip.logits) for clip in scored}
    policy = replace(SCORING, labels=labels_of(clips))
    asked = [question for clip in clips for question in questions(clip, policy)]
    answers = {q.key: [e for e in found[q.id] if q.query is None or e.event_label == q.query] for q in asked}
    return {"num_clips": len(clips), **make_report(clips, asked, answers)}


def main(argv: list[str] | None = None):
    parser = script_parser("Tune and score YAMNet's own detections.")
    parser.add_argument("--data", required=True, help="folder written by `timepro synthesize`")
    parser.add_argument("--weights", required=True, help="folder written by recipes/small/yamnet_weights.py")
    parser.add_argument("--out", required=True, help="report to write, JSON")
    parser.add_argument("--tune-split", default="validation")
    parser.add_argument("--test-splits", nargs="+", default=["test_seen", "test_unseen"])
    arguments = parser.parse_args(argv)
    splits = [arguments.tune_split, *arguments.test_splits]
    by_split = {split: load_clips(arguments.data, split=split, needs_audio=True) for split in splits}
    baseline = YamnetBaseline(arguments.weights, labels_of(clip for clips in by_split.values() for clip in clips))
    tuned = baseline.tune(score_clips(baseline, by_split[arguments.tune_split]))
    report = {
        "decoders": {label: decoder and asdict(decoder) for label, decoder in baseline.decoders.items()},
        arguments.tune_split: {"eb_f1_micro": total_counts(list(tuned.values())).f1},
    }
    for split in arguments.test_splits:
        report[split] = report_of(baseline, by_split[split], score_clips(baseline, by_split[split]))
        detection = report[split]["detection"]
        logger.info("%s: Eb-F1 micro %.4f, macro %.4f", split, *(detection[a]["f1"] for a in ("micro", "macro")))
    Path(arguments.out).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
