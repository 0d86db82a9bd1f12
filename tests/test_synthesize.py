"""A data set of soundscapes on disk: its files, what they depend on, and runs that were interrupted."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file
from transformers import WhisperFeatureExtractor

from modeling_timepro import TimeProYamnetConfig, TimeProYamnetEncoder
from processing import TimeProYamnetFeatureExtractor
from processing.audio_io import load_audio
from recipes.cli.main import main
from recipes.small import stems as stem_cache
from recipes.soundscapes import synthesize as module
from recipes.soundscapes.catalogue import event_labels
from recipes.soundscapes.sound_bank import catalogue_digest, load_bank
from recipes.soundscapes.synthesize import SPLITS, soundscape, synthesize

RATE = 16000
NUM_CLIPS = 10


def write_bank(folder, split):
    """Write a prepared bank of tones and noise, as `load_bank` stores it."""
    rng = np.random.default_rng(split == "heldout")
    time = np.arange(RATE) / RATE
    sounds = [
        ("event", "dog bark", np.exp(-time / 0.2) * rng.normal(size=RATE)),
        ("event", "siren", np.sin(2 * np.pi * (600 + 200 * time) * time)),
        ("event", "drum", np.exp(-time / 0.1) * np.sin(2 * np.pi * 90 * time)),
        ("event", "drum", np.exp(-time / 0.1) * np.sin(2 * np.pi * 140 * time)),
        ("background", "rain", rng.normal(size=12 * RATE)),
        ("background", "wind", np.convolve(rng.normal(size=3 * RATE), np.ones(40), mode="same")),
    ]
    entries, position = [], 0
    for index, (kind, label, waveform) in enumerate(sounds):
        end = position + len(waveform)
        ref = f"{split}:{label}:{index}"
        entries.append({"kind": kind, "label": label, "ref": ref, "start": position, "end": end})
        position = end
    (folder / "prepared" / split).mkdir(parents=True)
    samples = np.concatenate([0.9 * waveform / np.abs(waveform).max() for *_, waveform in sounds])
    np.save(folder / "prepared" / split / "samples.npy", samples.astype(np.float16))
    (folder / "prepared" / split / "index.json").write_text(json.dumps(entries))
    (folder / "prepared" / split / "catalogue.sha1").write_text(catalogue_digest(split))


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    for split in ("train", "heldout"):
        write_bank(folder, split)
    return folder


@pytest.fixture(scope="module")
def seed(sounds):
    """The first seed with a clip in which nothing happens."""
    return next(s for s in range(100) if not all(soundscape(i, s, "train", sounds).events for i in range(NUM_CLIPS)))


@pytest.fixture(scope="module")
def complete(sounds, seed, tmp_path_factory):
    out = tmp_path_factory.mktemp("complete")
    return out, synthesize(out, NUM_CLIPS, seed=seed, sounds=sounds)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_bank_is_read_as_it_was_prepared(sounds):
    bank = load_bank("train", sounds)
    assert {label: len(items) for label, items in bank.events.items()} == {"dog bark": 1, "siren": 1, "drum": 2}
    assert [(len(waveform), ref) for waveform, ref in bank.backgrounds] == [
        (12 * RATE, "train:rain:4"), (3 * RATE, "train:wind:5"),
    ]  # fmt: skip
    assert bank.events["drum"][1][1] == "train:drum:3"


def test_a_data_set_is_flac_tsv_and_json_lines_that_agree(complete, seed):
    out, rows = complete
    names = [f"{index:06d}.flac" for index in range(NUM_CLIPS)]
    assert sorted(contents(out)) == sorted(["train.jsonl", "train.tsv", *(f"train/{name}" for name in names)])
    assert [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()] == rows
    assert [row["audio"] for row in rows] == [f"train/{name}" for name in names]
    assert [row["id"] for row in rows] == [f"train-{seed}-{index:06d}" for index in range(NUM_CLIPS)]
    for row in rows:
        info = soundfile.info(out / row["audio"])
        assert (info.samplerate, info.channels, info.frames, info.format) == (RATE, 1, 10 * RATE, "FLAC")
        assert (row["duration"], row["task"], row["query"]) == (10.0, "detection", None)
        assert len(row["recordings"]) > 0 and all(ref.startswith("train:") for ref in row["recordings"])
    with open(out / "train.tsv", newline="") as file:
        header, *lines = csv.reader(file, delimiter="\t")
    assert header == ["filename", "onset", "offset", "event_label"]
    expected = []
    for name, row in zip(names, rows, strict=True):
        events = [[name, e["onset"], e["offset"], e["event_label"]] for e in row["events"]]
        assert events == sorted(events, key=lambda event: event[1])
        expected += events or [[name, "", "", ""]]
    assert [[name, *(float(t) if t else "" for t in times), label] for name, *times, label in lines] == expected
    assert any(line[1:] == ["", "", ""] for line in lines)


def test_the_files_hold_the_soundscapes(complete, sounds, seed):
    out, rows = complete
    for index, row in enumerate(rows[:3]):
        scene = soundscape(index, seed, "train", sounds)
        assert np.abs(load_audio(out / row["audio"]) - scene.waveform).max() < 2 / 2**15
        assert [(e.onset, e.offset, e.event_label) for e in scene.events] == [
            (e["onset"], e["offset"], e["event_label"]) for e in row["events"]
        ]


def test_absent_labels_are_all_that_are_not_heard(complete):
    for row in complete[1]:
        heard = {event["event_label"] for event in row["events"]}
        assert not heard & set(row["absent"]) and heard | set(row["absent"]) == set(event_labels())


def test_the_same_seed_gives_the_same_bytes_with_any_number_of_processes(complete, sounds, seed, tmp_path):
    rows = synthesize(tmp_path, NUM_CLIPS, seed=seed, sounds=sounds, num_workers=2)
    assert rows == complete[1] and contents(tmp_path) == contents(complete[0])


def test_fewer_clips_of_the_same_seed_are_the_first_ones_and_other_seeds_differ(complete, sounds, seed, tmp_path):
    synthesize(tmp_path / "few", 2, seed=seed, sounds=sounds)
    synthesize(tmp_path / "other", 2, seed=seed + 1, sounds=sounds)
    for name in ("train/000000.flac", "train/000001.flac"):
        assert (tmp_path / "few" / name).read_bytes() == (complete[0] / name).read_bytes()
        assert (tmp_path / "other" / name).read_bytes() != (complete[0] / name).read_bytes()


def test_splits_differ_and_only_the_unseen_test_uses_other_recordings(sounds):
    splits = [split for split, bank in SPLITS.items() if bank in ("train", "heldout")]
    scenes = {split: [soundscape(index, 0, split, sounds) for index in range(4)] for split in splits}
    waveforms = [scene.waveform for split in splits for scene in scenes[split]]
    assert len({waveform.tobytes() for waveform in waveforms}) == 4 * len(splits)
    for split, found in scenes.items():
        used = {ref.split(":")[0] for scene in found for ref in scene.recordings}
        assert used == {"heldout" if split == "test_unseen" else "train"}


def interrupt(monkeypatch, out, sounds, seed):
    """Start to write a data set and stop in the middle of its fifth clip."""

    def stopping(index, *arguments):
        if index == 4:
            (out / "train" / "000004.flac").write_bytes(b"fLaC, cut short")
            raise KeyboardInterrupt
        return soundscape(index, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, "soundscape", stopping)
        with pytest.raises(KeyboardInterrupt):
            synthesize(out, NUM_CLIPS, seed=seed, sounds=sounds)
    assert not (out / "train.jsonl").exists()


def test_an_interrupted_run_goes_on_and_ends_like_any_other(complete, sounds, seed, tmp_path, monkeypatch):
    interrupt(monkeypatch, tmp_path, sounds, seed)
    written = {path: path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*.flac"))[:4]}
    assert synthesize(tmp_path, NUM_CLIPS, seed=seed, sounds=sounds) == complete[1]
    assert contents(tmp_path) == contents(complete[0])
    assert {path: path.stat().st_mtime_ns for path in written} == written  # not made twice


def test_an_interrupted_run_leaves_no_trace_in_a_run_of_another_seed(complete, sounds, seed, tmp_path, monkeypatch):
    interrupt(monkeypatch, tmp_path, sounds, seed + 1)
    assert synthesize(tmp_path, NUM_CLIPS, seed=seed, sounds=sounds) == complete[1]
    assert contents(tmp_path) == contents(complete[0])


def test_a_row_that_was_cut_short_is_made_again(complete, sounds, seed, tmp_path, monkeypatch):
    interrupt(monkeypatch, tmp_path, sounds, seed)
    row = tmp_path / "train" / "000003.json"
    row.write_text(row.read_text()[:50])
    assert synthesize(tmp_path, NUM_CLIPS, seed=seed, sounds=sounds) == complete[1]
    assert contents(tmp_path) == contents(complete[0])


def test_unusable_arguments_are_refused(sounds, tmp_path):
    with pytest.raises(ValueError, match="num_clips is 0; give 1 or more"):
        synthesize(tmp_path, 0, sounds=sounds)
    with pytest.raises(ValueError, match="split is 'exam'; choose one of .*'train', 'validation'"):
        synthesize(tmp_path, 1, split="exam", sounds=sounds)
    with pytest.raises(ValueError, match="split is 'exam'"):
        soundscape(0, 0, "exam", sounds)
    assert not list(tmp_path.iterdir())


def test_the_command_writes_the_same_data_set(complete, sounds, seed, tmp_path):
    options = ["--out", str(tmp_path), "--num-clips", str(NUM_CLIPS), "--seed", str(seed), "--sounds", str(sounds)]
    command = [sys.executable, "-m", "recipes.cli.main", "synthesize", *options, "--num-workers", "2"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert contents(tmp_path) == contents(complete[0])


def test_the_command_says_how_to_get_missing_recordings(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    arguments = ["--out", str(tmp_path / "out"), "--num-clips", "1", "--seed", "0", "--sounds", str(tmp_path / "s")]
    assert main(["synthesize", *arguments]) == 1
    error = capsys.readouterr().err
    assert "timepro: packages with recordings cannot be fetched" in error and "apt-get download asterisk-core" in error
    assert not (tmp_path / "out").exists()


@pytest.fixture
def yamnet(tmp_path):
    """A random trunk in the layout of the pretrained one, and the encoder that it belongs to."""
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    encoder = TimeProYamnetEncoder(TimeProYamnetConfig(num_hidden_layers=0)).eval()
    state = {f"trunk.{name}": tensor.contiguous() for name, tensor in encoder.trunk.state_dict().items()}
    save_file({**state, "head.bias": torch.zeros(521)}, tmp_path / "yamnet.safetensors")
    yield encoder, tmp_path / "yamnet.safetensors"
    torch.set_num_threads(threads)  # whoever fills the cache computes on one thread


def test_stored_stems_are_those_of_the_files_that_synthesize_writes(sounds, yamnet, tmp_path):
    encoder, weights = yamnet
    options = ["--num-clips", "3", "--seed", "5", "--split", "validation", "--sounds", str(sounds)]
    stem_cache.main(["--weights", str(weights), "--out", str(tmp_path / "stems"), *options])
    rows = synthesize(tmp_path / "clips", 3, seed=5, split="validation", sounds=sounds)
    lines = (tmp_path / "stems" / "validation.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{**row, "stem_index": index} for index, row in enumerate(rows)]
    stems = np.load(tmp_path / "stems" / "validation_stem.npy", allow_pickle=False)
    assert stems.shape == (3, 125, 2304) and stems.dtype == np.float16
    extractor = TimeProYamnetFeatureExtractor()

    def stem(waveform):
        features = extractor(waveform, sampling_rate=RATE, return_tensors="pt")["input_features"]
        with torch.no_grad():
            return encoder.stem(features)[0].numpy()

    for index, row in enumerate(rows):
        expected = stem(soundscape(index, 5, "validation", sounds).waveform)
        assert np.allclose(stems[index], expected, rtol=2e-3, atol=2e-3)
        # The file holds 16 bits a sample, which shows in what is soft.
        assert np.abs(stems[index] - stem(load_audio(tmp_path / "clips" / row["audio"]))).mean() < 0.02
        assert np.abs(stems[index] - stems[index - 1]).mean() > 0.1


def test_stored_mel_features_are_those_of_the_soundscapes(sounds, tmp_path):
    stem_cache.write_stem_cache(tmp_path, 2, seed=5, split="test_unseen", sounds=sounds, features="mel")
    mel = np.load(tmp_path / "test_unseen_mel.npy", allow_pickle=False)
    assert mel.shape == (2, 1000, 128) and mel.dtype == np.float16
    extractor = WhisperFeatureExtractor(feature_size=128)
    for index in range(2):
        waveform = soundscape(index, 5, "test_unseen", sounds).waveform
        expected = extractor(waveform, sampling_rate=RATE, padding="do_not_pad")["input_features"][0].T
        assert np.allclose(mel[index], expected, rtol=2e-3, atol=2e-3)
    with pytest.raises(ValueError, match="features is 'stem' and weights None"):
        stem_cache.write_stem_cache(tmp_path, 1, sounds=sounds)
    with pytest.raises(ValueError, match="features is 'sound'"):
        stem_cache.write_stem_cache(tmp_path, 1, sounds=sounds, features="sound")
    with pytest.raises(ValueError, match="split is 'test'; choose one of train, validation, test_seen, test_unseen"):
        stem_cache.write_stem_cache(tmp_path, 1, sounds=sounds, split="test", features="mel")
    with pytest.raises(ValueError, match="num_clips is 0; give 1 or more"):
        stem_cache.write_stem_cache(tmp_path, 0, sounds=sounds, features="mel")
