"""torchaudio gives what the CPU path does; `tests/run_torchaudio.sh` runs this where it does not load as it is."""

import ast
import itertools
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch

from processing import audio_mixing, pipeline_timepro, prefix_cache
from processing.answer_text import prompt_text
from processing.audio_io import load_audio
from processing.audio_mixing import import_torchaudio, resample_on_device
from processing.pipeline_timepro import TemporalAudioGroundingPipeline
from processing.yamnet_features import TimeProYamnetFeatureExtractor
from recipes import DEFAULT_CHECKPOINT
from recipes.conversion.checkpoint import load_checkpoint

ROOT = Path(__file__).parents[1]
HAS_TORCHAUDIO = import_torchaudio() is not None
needs_torchaudio = pytest.mark.skipif(not HAS_TORCHAUDIO, reason="torchaudio does not import beside this torch")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def clips():
    rng = np.random.default_rng(0)
    noise = [(0.1 * rng.standard_normal(length)).astype(np.float32) for length in (16000, 1120, 40123)]
    return [*noise, np.zeros(8000, dtype=np.float32)]


def level_db(difference, reference):
    return 10 * np.log10(np.square(difference).mean() / np.square(reference).mean())


@needs_torchaudio
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("options", [{}, {"padding": "max_length"}, {"pad_to_multiple_of": 64}])
def test_log_mel_features_are_those_of_numpy(device, options):
    extractor = TimeProYamnetFeatureExtractor()
    expected = extractor(clips(), sampling_rate=16000, return_tensors="pt", **options)
    found = extractor(clips(), sampling_rate=16000, return_tensors="pt", device=device, **options)
    assert found["input_features"].device.type == found["input_features_mask"].device.type == device
    assert found["input_features"].dtype == torch.float32
    torch.testing.assert_close(found["input_features"].cpu(), expected["input_features"], atol=1e-4, rtol=0)
    assert torch.equal(found["input_features_mask"].cpu(), expected["input_features_mask"])


@needs_torchaudio
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rate", [8000, 11025, 12000, 22050, 32000, 44100, 48000, 96000, 176400, 192000])
def test_resampling_is_near_that_of_soxr_at_high_quality(device, rate):
    # Noise holds all frequencies, those of the slope of the filter too.
    waveform = (0.1 * np.random.default_rng(0).standard_normal(rate + 17)).astype(np.float32)
    expected = soxr.resample(waveform.astype(np.float64), rate, 16000, quality="HQ")
    # In blocks of any length, the last sample alone.
    edges = [0, 5, 700, 5000, len(waveform) - 1, len(waveform)]
    blocks = [waveform[start:end] for start, end in itertools.pairwise(edges)]
    found = np.concatenate(list(resample_on_device(iter(blocks), rate, 16000, device)))
    assert found.shape == expected.shape and found.dtype == np.float32
    # The filters fall off differently; below 0.85 of the lower Nyquist frequency they agree, but for the ends.
    assert level_db(found - expected, expected) < -30
    inner = slice(500, -500)
    spectra = [np.fft.rfft(side[inner] * np.hanning(len(side[inner]))) for side in (found, expected)]
    frequencies = np.fft.rfftfreq(len(found[inner]), 1 / 16000)
    kept = frequencies < 0.85 * min(rate, 16000) / 2
    assert level_db(np.abs(spectra[0] - spectra[1])[kept], np.abs(spectra[1])[kept]) < -75
    np.testing.assert_allclose(load_audio(waveform, 16000, rate, device=device), found, atol=1e-6, rtol=0)
    for length in (1, 2, 40, 333):
        short = load_audio(waveform[: length * rate // 8000], 16000, rate)
        assert load_audio(waveform[: length * rate // 8000], 16000, rate, device=device).shape == short.shape


@needs_torchaudio
def test_rates_without_a_small_ratio_are_left_to_soxr():
    waveform = clips()[0]
    for rate in (44101, 12345.5):
        assert resample_on_device(iter([waveform]), rate, 16000, "cpu") is None
        assert np.array_equal(load_audio(waveform, 16000, rate, device="cpu"), load_audio(waveform, 16000, rate))


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    samples, rate = soundfile.read(ROOT / "space_app" / "examples" / "living_room.flac")
    for new_rate in (22050, 48000):
        soundfile.write(folder / f"{new_rate}.wav", soxr.resample(samples, rate, new_rate), new_rate)
    soundfile.write(folder / "long.wav", np.tile(soxr.resample(samples, rate, 44100), 3), 44100)
    return [str(folder / f"{name}.wav") for name in ("22050", "48000", "long")]


@needs_torchaudio
@pytest.mark.parametrize("device", DEVICES)
def test_the_processor_computes_on_the_device_that_is_asked_for(device, recordings, monkeypatch):
    model, processor = load_checkpoint(DEFAULT_CHECKPOINT)
    model.eval().to(device)
    used = count_calls(monkeypatch)
    content = [{"type": "audio"}, {"type": "text", "text": prompt_text("detection")}]
    text = [processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)] * 2
    options = {"text": text, "audio": recordings[:2], "return_tensors": "pt", "padding": True}
    expected = processor(**options)
    assert used == {"resample_on_device": 0, "_log_mel_batch": 0}
    found = processor(**options, device=device)
    assert used == {"resample_on_device": 2, "_log_mel_batch": 1}
    assert found["input_features"].device.type == device
    # The highest mel bins hear the slope of the filters.
    difference = (found["input_features"].cpu() - expected["input_features"]).abs()
    assert difference.max() < 0.1 and difference.mean() < 1e-3
    assert all(torch.equal(found[name].cpu(), expected[name]) for name in ("input_ids", "input_features_mask"))
    answers = [model.generate(**inputs.to(device), max_new_tokens=60) for inputs in (expected, found)]
    assert torch.equal(*answers)


@needs_torchaudio
@pytest.mark.parametrize("device", DEVICES)
def test_the_pipeline_finds_the_same_events_through_torchaudio(device, recordings, monkeypatch):
    model, processor = load_checkpoint(DEFAULT_CHECKPOINT)
    pipe = TemporalAudioGroundingPipeline(model=model, processor=processor)
    used = count_calls(monkeypatch)
    expected = pipe(recordings, batch_size=2)
    assert used == {"resample_on_device": 0, "_log_mel_batch": 0}
    if device == "cpu":
        # As if this were no CPU.
        for module in (pipeline_timepro, prefix_cache):
            monkeypatch.setattr(module, "accelerator", lambda device: device)
    else:
        pipe = TemporalAudioGroundingPipeline(model=model, processor=processor, device=device)
    found = pipe(recordings, batch_size=2)
    # 10 s, 10 s, and 30 s in 5 windows (0, 6.64, 13.28, 19.92 and 20.00 s, for the last is as long): 7 in twos.
    assert used["resample_on_device"] == 3 and used["_log_mel_batch"] >= 4
    assert sum(len(result["events"]) for result in expected) > 4
    # Of the long one a window across the joint of two copies has another answer.
    for one, other in zip(expected[:2], found[:2], strict=True):
        assert one["text"] == other["text"] and one["duration"] == other["duration"]
        for first, second in zip(one["events"], other["events"], strict=True):
            assert second == {**first, "score": pytest.approx(first["score"], abs=0.01)}


def count_calls(monkeypatch):
    """Return how often each function of torchaudio was used, to be looked at later."""
    counts = {"resample_on_device": 0, "_log_mel_batch": 0}

    def counted(owner, name):
        function = getattr(owner, name)

        def call(*args):
            result = function(*args)
            counts[name] += result is not None
            return result

        return call

    for owner, name in zip((audio_mixing, TimeProYamnetFeatureExtractor), counts):
        monkeypatch.setattr(owner, name, counted(owner, name))
    return counts


@pytest.mark.skipif(HAS_TORCHAUDIO, reason="torchaudio imports")
def test_without_torchaudio_numpy_does_it():
    extractor = TimeProYamnetFeatureExtractor()
    expected = extractor(clips(), sampling_rate=16000, return_tensors="pt")
    found = extractor(clips(), sampling_rate=16000, return_tensors="pt", device="cpu")
    assert torch.equal(found["input_features"], expected["input_features"])
    assert resample_on_device(iter(clips()), 8000, 16000, "cpu") is None
    samples = clips()[0]
    assert np.array_equal(load_audio(samples, 16000, 8000, device="cpu"), load_audio(samples, 16000, 8000))


def test_torchaudio_is_imported_in_one_place():
    importing = set()
    for path in (
        path for package in ("modeling_timepro", "processing", "recipes") for path in (ROOT / package).rglob("*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "torchaudio" for name in names):
                importing.add(path.name)
    assert importing == {"audio_mixing.py"}
