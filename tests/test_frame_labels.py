"""The frame-level loss: what frames are asked for, and that it teaches tower and projector the words."""

import json

import numpy as np
import pytest
import torch

from recipes.conversion.checkpoint import load_checkpoint
from recipes.small import linear_probe
from recipes.small.frame_labels import FrameHead, blank, frame_f1, frame_targets, label_directions, train_frames
from recipes.small.grounder import QUERY_THRESHOLDS

LABELS = ["dog bark", "siren"]


def test_targets_are_the_share_of_a_frame_and_boundaries_lie_after_the_nearest_tick():
    rows = [{"events": [{"onset": 0.12, "offset": 0.40, "event_label": "siren"}]}]
    sounding, boundaries = frame_targets(rows, LABELS, num_frames=6, frame_rate=12.5)
    assert sounding.shape == (1, 6, 2) and boundaries.shape == (1, 6, 4)
    assert sounding[0, :, 1].tolist() == pytest.approx([0, 0.5, 1, 1, 1, 0])
    assert sounding[0, :, 0].sum() == 0
    # 0.12 s lies between ticks 1 (0.08) and 2 (0.16); Python rounds the half to the even 2.
    assert boundaries[0].nonzero().tolist() == [[2, 1], [5, 3]]


def test_directions_are_unit_vectors_that_tell_labels_apart(scripted_checkpoint):
    model, processor = load_checkpoint(scripted_checkpoint("dog bark"))
    torch.nn.init.normal_(model.get_input_embeddings().weight)
    directions, scale = label_directions(model.get_input_embeddings(), processor.tokenizer, LABELS)
    assert directions.norm(dim=-1).tolist() == pytest.approx([1, 1])
    assert directions[0] @ directions[1] == pytest.approx(-1)  # two labels, centred
    assert scale > 0


def test_labels_starts_and_ends_have_directions_of_their_own():
    directions = torch.nn.functional.normalize(torch.randn(3, 64, generator=torch.Generator().manual_seed(1)), dim=-1)
    head = FrameHead(directions, scale=2.0)
    # A frame that looks like the first label, and in which the second starts and the third ends.
    frame = 2.0 * (directions[0] + head.boundary_directions[1] + head.boundary_directions[3 + 2])
    sounding, boundary, length = head(frame[None])
    assert sounding[0].argmax() == 0
    assert boundary[0].topk(2).indices.sort().values.tolist() == [1, 5]
    assert length == pytest.approx(3, rel=0.5)
    assert head.boundary_directions.equal(FrameHead(directions, scale=2.0).boundary_directions)


def test_blanking_is_seeded_and_hides_channels_and_spans():
    features = torch.ones(8, 50, 200)
    once, again = (blank(features.clone(), np.random.default_rng(1)) for _ in range(2))
    assert once.equal(again)
    hidden = (once == 0).all(1).float().mean().item()
    assert 0.05 < hidden < 0.3
    assert 0 < (once == 0).all(2).any(1).sum() < 8


def write_stems(folder, stem_size, splits):
    """Write stems in which one of two patterns, each of a label, sounds for 0.64 s over noise."""
    rng = np.random.default_rng(0)
    patterns = rng.normal(size=(2, stem_size)).astype(np.float16)
    for split, num_clips in splits.items():
        stems = rng.normal(size=(num_clips, 25, stem_size)).astype(np.float16) * np.float16(0.3)
        with open(folder / f"{split}.jsonl", "w") as file:
            for index in range(num_clips):
                start, label = int(rng.integers(0, 15)), int(rng.integers(2))
                stems[index, start : start + 8] += patterns[label]
                event = {"onset": start * 0.08, "offset": (start + 8) * 0.08, "event_label": LABELS[label]}
                file.write(json.dumps({"events": [event], "absent": [LABELS[1 - label]]}) + "\n")
        np.save(folder / f"{split}_stem.npy", stems)


def test_training_teaches_frames_to_name_what_sounds(scripted_checkpoint, tmp_path):
    model, processor = load_checkpoint(scripted_checkpoint("dog bark"))
    torch.manual_seed(0)
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=0.1)
    write_stems(tmp_path, model.model.audio_tower.stem_projection.in_features, {"train": 24, "validation": 6})
    embeddings = model.get_input_embeddings().weight.clone()
    trunk = [buffer.clone() for buffer in model.model.audio_tower.trunk.buffers()]
    head, labels = train_frames(model, processor.tokenizer, tmp_path, num_steps=80, batch_size=16, learning_rate=5e-3)
    assert labels == LABELS
    assert frame_f1(model, head, labels, tmp_path)[0] > 0.8
    assert model.get_input_embeddings().weight.equal(embeddings)
    assert all(a.equal(b) for a, b in zip(trunk, model.model.audio_tower.trunk.buffers(), strict=True))


def test_a_linear_probe_reports_what_stems_hold(tmp_path):
    write_stems(tmp_path, 64, {"train_field": 24, "validation_field": 6, "test_field": 6})
    linear_probe.main(["--stems", str(tmp_path), "--out", str(tmp_path / "report.json"), "--num-steps", "150"])
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["test_field"]["R@0.5"] > 0.8
    assert report["test_field"]["rejected"] > 0.8
    assert report["query_threshold"] in QUERY_THRESHOLDS
