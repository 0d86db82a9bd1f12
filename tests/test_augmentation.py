"""Training clips of other lengths: windows and joined clips keep sound and annotation together."""

import numpy as np
import pytest
import soundfile
import torch

from processing import TimeGrid
from processing.events import Event
from recipes.conversion.checkpoint import load_checkpoint
from recipes.data.augmentation import curriculum, draw_cut, edge_window, group_by_length, join_cuts, whole, window
from recipes.data.clip import AnnotatedClip
from recipes.training.collator import TimeProCollator

GRID = TimeGrid(frame_rate=12.5, time_step=0.08)


def clip(index=0, events=((1.0, 2.5, "dog bark"), (6.0, 9.9, "siren")), **values):
    absent = [label for label in ("dog bark", "siren", "drum") if label not in {e[2] for e in events}]
    values = {"duration": 10.0, "absent": absent, "stem_index": index} | values
    return AnnotatedClip(str(index), [Event(*event) for event in events], f"{index}.wav", **values)


def triples(cut):
    return [(e.onset, e.offset, e.event_label) for e in cut[0].events]


def test_a_window_shifts_and_cuts_events_and_knows_what_it_cut_away():
    cut = window(clip(), 2.0, 5.0)
    assert triples(cut) == [(0.0, 0.5, "dog bark"), (4.0, 5.0, "siren")]
    assert cut[0].duration == 5.0 and cut[0].absent == ("drum",)
    assert cut[1] == [{"audio": "0.wav", "stem_index": 0, "start": 2.0, "duration": 5.0}]
    cut = window(clip(), 2.48, 3.0)
    assert triples(cut) == [] and sorted(cut[0].absent) == ["dog bark", "drum", "siren"]
    # Where nobody has listed what is absent, it stays unknown.
    assert window(clip(absent=None), 2.48, 3.0)[0].absent is None


def test_a_short_event_inside_the_window_is_kept():
    assert triples(window(clip(events=[(1.0, 1.05, "drum")]), 0.5, 3.0)) == [(0.5, 0.55, "drum")]


def test_joined_clips_follow_one_another_and_a_sound_across_the_seam_is_one_event():
    first, second = clip(0, [(9.0, 10.0, "siren")]), clip(1, [(0.05, 1.0, "siren"), (2.0, 3.0, "drum")])
    cut = join_cuts([whole(first), whole(second)])
    assert triples(cut) == [(9.0, 11.0, "siren"), (12.0, 13.0, "drum")]
    assert cut[0].duration == 20.0 and cut[0].absent == ("dog bark",)
    assert [(piece["stem_index"], piece["duration"]) for piece in cut[1]] == [(0, None), (1, None)]


def test_absent_from_joined_clips_is_what_each_of_them_says_is_absent():
    def absent(*lists):
        return join_cuts([whole(clip(i, [], absent=labels)) for i, labels in enumerate(lists)])[0].absent

    assert absent(["owl", "hen"], ["hen", "cow"]) == ("hen",)
    assert absent(["owl", "hen"], None) == ("owl", "hen")
    assert absent(None, None) is None


def test_drawn_clips_are_seeded_stay_on_the_grid_and_within_its_range():
    clips = [clip(index) for index in range(5)]

    def draw():
        rng = np.random.default_rng(3)
        return [draw_cut(clips, i % 5, rng, GRID, window_fraction=0.4, join_fraction=0.3) for i in range(200)]

    cuts = draw()
    assert cuts == draw()
    lengths = [cut.duration for cut, _ in cuts]
    assert sum(length < 10 for length in lengths) == pytest.approx(80, abs=25)
    assert sum(length > 10 for length in lengths) == pytest.approx(60, abs=25)
    assert max(lengths) == 30.0 and min(lengths) >= 1.9
    for cut, pieces in cuts:
        assert all(0 <= event.onset <= event.offset <= cut.duration for event in cut.events)
        assert not {event.event_label for event in cut.events} & set(cut.absent)
        for piece in pieces:
            assert piece["start"] / GRID.time_step == pytest.approx(round(piece["start"] / GRID.time_step))


def test_the_curriculum_begins_with_short_windows_and_visits_every_clip_equally():
    clips = [clip(index) for index in range(40)]
    cuts = list(curriculum(clips, 3, np.random.default_rng(0), GRID, curriculum_fraction=0.5))
    assert sorted(piece["stem_index"] for _, pieces in cuts for piece in pieces) == sorted([*range(40)] * 3)
    lengths = [cut.duration for cut, _ in cuts]
    assert max(lengths[:6]) <= 1.4 and lengths[:60] == sorted(lengths[:60])
    assert set(lengths[60:]) == {10.0}


def test_windows_of_the_curriculum_hold_an_edge_of_an_event():
    rng = np.random.default_rng(0)
    for length in (1.2, 4.0, 10.0):
        cuts = [edge_window(clip(), rng, GRID, length) for _ in range(100)]
        assert all(cut.duration == pytest.approx(length, abs=GRID.time_step) for cut, _ in cuts)
        # Less than 0.1 s of an event is left out, even if that is its edge.
        inside = [any(0 < time < length for event in triples(cut) for time in event[:2]) for cut in cuts]
        assert np.mean(inside) > 0.9
    assert triples(edge_window(clip(events=[]), rng, GRID, 2.0)) == []


def test_grouping_keeps_every_sample_and_fills_batches_with_like_lengths():
    rng = np.random.default_rng(0)
    samples = [{"duration": float(d), "id": i} for i, d in enumerate(rng.uniform(2, 30, 203))]
    ordered = group_by_length(samples, 8, np.random.default_rng(1), num_batches=10)
    assert sorted(s["id"] for s in ordered) == list(range(203))
    assert {s["id"] for s in ordered[:80]} == set(range(80))
    spread = [np.ptp([s["duration"] for s in ordered[i : i + 8]]) for i in range(0, 80, 8)]
    assert np.mean(spread) < 6 and ordered == group_by_length(samples, 8, np.random.default_rng(1), num_batches=10)


def test_the_collator_cuts_the_same_window_out_of_audio_and_stored_stems(scripted_checkpoint, tmp_path):
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
    return torch.as_tensor(values)


def test_the_collator_blanks_channels_of_stored_stems_anew_in_every_batch(scripted_checkpoint):
    _, processor = load_checkpoint(scripted_checkpoint("dog bark"))
    stems = np.ones((1, 25, 400), dtype=np.float16)
    turns = [{"question": "What events?", "answer": "none"}]
    sample = {"pieces": [{"stem_index": 0, "start": 0.0, "duration": None}], "turns": turns}
    collator = TimeProCollator(processor, stems, blank_fraction=0.6)
    once, again = (collator([sample])["stem_features"][0] for _ in range(2))
    assert not once.equal(again)
    silent = (once == 0).all(0)
    # A channel is zero all along, or scaled so that the mean stays.
    assert once[:, ~silent].allclose(torch.tensor(2.5)) and 0.5 < silent.float().mean() < 0.7
