"""The baseline: matching, exhaustive tuning, and detections from YAMNet's scores."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from modeling_timepro.yamnet_encoder import YamnetTrunk
from processing.events import Event
from recipes.scoring import event_based_f1, match_events
from recipes.small.audioset_labels import AUDIOSET_NAMES
from recipes.small.yamnet_baseline import (
    Decoder,
    LabelCounts,
    ScoredClip,
    YamnetBaseline,
    active_runs,
    best_for_all,
    count_matched_spans,
    main,
    total_counts,
)

LABELS = ["dog bark", "helicopter", "snore"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    trunk = YamnetTrunk()
    for name, buffer in trunk.named_buffers():
        if name.endswith("weight"):
            torch.nn.init.kaiming_normal_(buffer, nonlinearity="relu")
    names = sorted({name for names in AUDIOSET_NAMES.values() for name in names})
    state = {f"trunk.{name}": tensor.clone() for name, tensor in trunk.state_dict().items()}
    save_file(
        state | {"head.weight": torch.randn(len(names), 1024), "head.bias": torch.zeros(len(names))},
        folder / "yamnet.safetensors",
    )
    (folder / "yamnet_classes.json").write_text(json.dumps(names))
    return folder


def clip_with(baseline, label, spans, num_frames=250, other_labels=()):
    """Make logits that are high in `spans` (in frames) for the first name of each label."""
    logits = np.full((num_frames, len(baseline.bias)), -6.0, dtype=np.float32)
    events = []
    for name in (label, *other_labels):
        for start, end in spans:
            logits[start:end, baseline.columns[name][0]] = 2.0
    events = [Event(start * 0.04, end * 0.04, label) for start, end in spans]
    return ScoredClip(logits, events)


def test_matching_is_one_to_one_and_optimal():
    references = np.array([[0.0, 1.0], [0.15, 1.15]])
    # A greedy choice of the first reference for the first prediction would strand the second.
    predictions = np.array([[0.1, 1.1], [-0.1, 0.9]])
    assert count_matched_spans(references, predictions) == 2
    assert count_matched_spans(references, predictions[:1]) == 1
    assert count_matched_spans(references, np.zeros((0, 2))) == 0


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [((1.2, 2.0), 1), ((1.21, 2.0), 0), ((0.8, 1.8), 1), ((1.0, 2.21), 0), ((0.79, 2.0), 0)],
)
def test_collars_are_inclusive(prediction, expected):
    assert count_matched_spans(np.array([[1.0, 2.0]]), np.array([prediction])) == expected


def test_matching_agrees_with_the_scorer():
    rng = np.random.default_rng(0)
    for _ in range(200):
        times = [np.sort(np.round(rng.uniform(0, 3, (int(rng.integers(0, 6)), 2)), 1), axis=1) for _ in range(2)]
        events = [[Event(float(on), float(off), "snore") for on, off in side] for side in times]
        assert count_matched_spans(*times) == len(match_events(*events))


def test_long_events_allow_more_at_the_offset():
    assert count_matched_spans(np.array([[0.0, 5.0]]), np.array([[0.0, 6.0]])) == 1
    assert count_matched_spans(np.array([[0.0, 5.0]]), np.array([[0.0, 6.1]])) == 0
    assert count_matched_spans(np.array([[0.0, 5.0]]), np.array([[0.5, 5.0]])) == 0


def test_runs_above_the_thresholds():
    scores = np.array([[0.9, 0.1, 0.5, 0.5], [0.0, 0.0, 0.0, 0.0], [0.2, 0.2, 0.1, 0.2]])
    assert active_runs(scores, 0.15, 0.0).tolist() == [[0, 0, 1], [0, 2, 4], [2, 0, 2], [2, 3, 4]]
    assert active_runs(scores, 0.15, 0.8).tolist() == [[0, 0, 1], [2, 0, 2], [2, 3, 4]]


def test_micro_tuning_is_the_optimum_of_all_choices():
    rng = np.random.default_rng(0)
    for _ in range(20):
        tried = {}
        for label in "abc":
            reference = int(rng.integers(1, 12))
            options = [(None, LabelCounts(reference))]
            for _ in range(4):
                predicted = int(rng.integers(1, 30))
                matched = int(rng.integers(0, min(reference, predicted) + 1))
                options.append((Decoder(), LabelCounts(reference, predicted, matched)))
            tried[label] = options
        best = max(total_counts([c for _, c in choice]).f1 for choice in itertools.product(*tried.values()))
        assert total_counts([c for _, c in best_for_all(tried).values()]).f1 == pytest.approx(best)


def test_tuning_finds_clear_events_and_silences_useless_labels(weights):
    baseline = YamnetBaseline(weights, LABELS)
    clips = [clip_with(baseline, "dog bark", [(20, 45), (100, 140)]) for _ in range(3)]
    clips += [clip_with(baseline, "helicopter", [(50, 200)], other_labels=["snore"]) for _ in range(3)]
    baseline.tune(clips)
    assert baseline.decoders["snore"] == Decoder()  # no event to tune it on
    # One that cannot be heard, beside three false alarms.
    clips.append(replace(clips[0], events=[*clips[0].events, Event(9.0, 9.5, "snore")]))
    counts = baseline.tune(clips)
    assert counts["dog bark"].f1 == counts["helicopter"].f1 == 1.0
    assert baseline.decoders["snore"] is None
    clips = clips[:-1]
    scores = event_based_f1([clip.events for clip in clips], [baseline.decode(clip.logits) for clip in clips])
    assert scores["micro"]["f1"] == 1.0 and scores["num_clips"] == 6
    found = baseline.decode(clips[0].logits)
    assert [(e.event_label, e.score > 0.5) for e in found] == [("dog bark", True)] * 2
    assert abs(found[0].onset - 0.8) <= 0.2 and abs(found[1].offset - 5.6) <= 0.32


def test_scores_of_a_waveform(weights):
    baseline = YamnetBaseline(weights, LABELS)
    waveform = np.random.default_rng(0).normal(size=32000).astype(np.float32) * 0.1
    # One prediction of a 0.96 s window is what averaging the features, then classifying, gives.
    logits = baseline.frame_logits(waveform)
    assert logits.shape == (50, len(baseline.bias))
    features = baseline.extractor(waveform, sampling_rate=16000, return_tensors="pt")["input_features"]
    with torch.no_grad():
        frames = baseline.trunk(features, None, [12])[0][0]
        expected = (frames[10:33].mean(0) @ baseline.weight + baseline.bias)[baseline.columns["snore"]].max().sigmoid()
    assert baseline.label_scores(logits, "snore", 23)[21] == pytest.approx(float(expected), abs=1e-4)
    assert all(event.offset <= 2.0 for event in baseline.decode(logits))


def test_unknown_labels_and_empty_validation_are_refused(weights):
    with pytest.raises(ValueError, match="hoverboard"):
        YamnetBaseline(weights, ["hoverboard"])
    baseline = YamnetBaseline(weights, LABELS)
    with pytest.raises(ValueError, match="empty"):
        baseline.tune([])


def test_command_line_writes_a_report(weights, tmp_path):
    soundfile = pytest.importorskip("soundfile")
    rng = np.random.default_rng(0)
    for split in ("validation", "test_seen"):
        (tmp_path / split).mkdir()
        rows = []
        for index in range(2):
            soundfile.write(tmp_path / split / f"{index}.flac", rng.normal(size=16000) * 0.1, 16000)
            event = {"onset": 0.2, "offset": 0.6, "event_label": LABELS[index]}
            rows.append({"id": f"{split}-{index}", "audio": f"{split}/{index}.flac", "events": [event]})
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "report.json"
    arguments = ["--data", str(tmp_path), "--weights", str(weights), "--out", str(out), "--test-splits", "test_seen"]
    main(arguments)
    report = json.loads(out.read_text())
    scores = report["test_seen"]
    assert scores["num_clips"] == 2
    assert 0 <= scores["detection"]["micro"]["f1"] <= 1
    assert 0 <= scores["grounding"]["R@0.5"] <= 1
    assert set(report["decoders"]) == {"dog bark", "helicopter"}
