"""Training clips of other lengths: windows and joined clips keep sound and annotation together."""

import numpy as np
import pytest
import soundfile

from processing import TimeGrid
from recipes.data.augmentation import curriculum, draw_clip, edge_window, group_by_length, join, whole, window
from recipes.training.collator import TimeProCollator

GRID = TimeGrid(frame_rate=12.5, time_step=0.08)


def row(index=0, events=((1.0, 2.5, "dog bark"), (6.0, 9.9, "siren"))):
    return {
        "id": str(index),
        "audio": f"{index}.wav",
        "stem_index": index,
        "duration": 10.0,
        "events": [{"onset": on, "offset": off, "event_label": label} for on, off, label in events],
        "absent": [label for label in ("dog bark", "siren", "drum") if label not in {e[2] for e in events}],
    }


def triples(clip):
    return [(e["onset"], e["offset"], e["event_label"]) for e in clip["events"]]


def test_a_window_shifts_and_cuts_events_and_knows_what_it_cut_away():
    clip = window(row(), 2.0, 5.0)
    assert triples(clip) == [(0.0, 0.5, "dog bark"), (4.0, 5.0, "siren")]
    assert clip["duration"] == 5.0 and clip["absent"] == ["drum"]
    clip = window(row(), 2.48, 3.0)
    assert triples(clip) == [] and sorted(clip["absent"]) == ["dog bark", "drum", "siren"]


def test_a_short_event_inside_the_window_is_kept():
    assert triples(window(row(events=[(1.0, 1.05, "drum")]), 0.5, 3.0)) == [(0.5, 0.55, "drum")]


def test_joined_clips_follow_one_another_and_a_sound_across_the_seam_is_one_event():
    first, second = row(0, [(9.0, 10.0, "siren")]), row(1, [(0.05, 1.0, "siren"), (2.0, 3.0, "drum")])
    clip = join([whole(first), whole(second)])
    assert triples(clip) == [(9.0, 11.0, "siren"), (12.0, 13.0, "drum")]
    assert clip["duration"] == 20.0 and clip["absent"] == ["dog bark"]
    assert [piece["stem_index"] for piece in clip["pieces"]] == [0, 1]


def test_drawn_clips_are_seeded_stay_on_the_grid_and_within_its_range():
    rows = [row(index) for index in range(5)]

    def draw():
        rng = np.random.default_rng(3)
        return [draw_clip(rows, i % 5, rng, GRID, window_share=0.4, join_share=0.3) for i in range(200)]

    clips = draw()
    assert clips == draw()
    lengths = [clip["duration"] for clip in clips]
    assert sum(length < 10 for length in lengths) == pytest.approx(80, abs=25)
    assert sum(length > 10 for length in lengths) == pytest.approx(60, abs=25)
    assert max(lengths) == 30.0 and min(lengths) >= 1.9
    for clip in clips:
        assert all(0 <= on <= off <= clip["duration"] for on, off, _ in triples(clip))
        heard = {label for *_, label in triples(clip)}
        assert not heard & set(clip["absent"])
        for piece in clip["pieces"]:
            assert piece["start"] / GRID.time_step == pytest.approx(round(piece["start"] / GRID.time_step))


def test_the_curriculum_begins_with_short_windows_and_visits_every_row_equally():
    rows = [row(index) for index in range(40)]
    clips = list(curriculum(rows, 3, np.random.default_rng(0), GRID, curriculum_share=0.5))
    assert sorted(piece["stem_index"] for clip in clips for piece in clip["pieces"]) == sorted([*range(40)] * 3)
    lengths = [clip["duration"] for clip in clips]
    assert max(lengths[:6]) <= 1.4 and lengths[:60] == sorted(lengths[:60])
    assert set(lengths[60:]) == {10.0}


def test_windows_of_the_curriculum_hold_an_edge_of_an_event():
    rng = np.random.default_rng(0)
    for length in (1.2, 4.0, 10.0):
        clips = [edge_window(row(), rng, GRID, length) for _ in range(100)]
        assert all(clip["duration"] == pytest.approx(length, abs=GRID.time_step) for clip in clips)
        # Less than 0.1 s of an event is left out, even if that is its edge.
        inside = [any(0 < time < length for event in triples(clip) for time in event[:2]) for clip in clips]
        assert np.mean(inside) > 0.9
    assert triples(edge_window(row(events=[]), rng, GRID, 2.0)) == []


def test_grouping_keeps_every_sample_and_fills_batches_with_like_lengths():
    rng = np.random.default_rng(0)
    samples = [{"duration": float(d), "id": i} for i, d in enumerate(rng.uniform(2, 30, 203))]
    ordered = group_by_length(samples, 8, np.random.default_rng(1), num_batches=10)
    assert sorted(s["id"] for s in ordered) == list(range(203))
    assert {s["id"] for s in ordered[:80]} == set(range(80))
    spread = [np.ptp([s["duration"] for s in ordered[i : i + 8]]) for i in range(0, 80, 8)]
    assert np.mean(spread) < 6 and ordered == group_by_length(samples, 8, np.random.default_rng(1), num_batches=10)


def test_the_collator_cuts_the_same_window_out_of_audio_and_stored_stems(scripted_checkpoint, tmp_path):
    from recipes.conversion.checkpoint import load_checkpoint

    model, processor = load_checkpoint(scripted_checkpoint("dog bark"))
    rng = np.random.default_rng(0)
    waveform = rng.normal(size=160000).astype(np.float32) * 0.1
    soundfile.write(tmp_path / "0.wav", waveform, 16000, subtype="FLOAT")
    pieces = [{"audio": str(tmp_path / "0.wav"), "stem_index": 0, "start": 2.0, "duration": 4.0}]
    sample = {"pieces": pieces * 2, "turns": [{"question": "When?", "answer": "none"}]}
    heard = TimeProCollator(processor)([sample])
    features, _ = processor.encode_audio([waveform])
    stems = model.model.audio_tower.stem(*(np_to_torch(features[k]) for k in ("input_features", "input_features_mask")))
    stored = TimeProCollator(processor, stems.numpy().astype(np.float16))([sample])
    assert stored["input_ids"].equal(heard["input_ids"])
    assert stored["input_features_mask"].equal(heard["input_features_mask"])
    assert heard["input_features"].shape[-1] == 800 and stored["stem_features"].shape[:2] == (1, 100)
    expected, _ = processor.encode_audio([np.concatenate([waveform[32000:96000]] * 2)])
    assert np.allclose(heard["input_features"], expected["input_features"])
    assert np.allclose(stored["stem_features"][0, :50], stems[0, 25:75], atol=1e-2)


def np_to_torch(values):
    import torch

    return torch.as_tensor(values)
