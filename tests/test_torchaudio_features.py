"""torchaudio gives what the CPU path does; `tests/run_torchaudio.sh` runs this where it does not load as it is."""

import ast
from pathlib import Path

import numpy as np
import pytest
import soxr
import torch

from processing.torchaudio_features import import_torchaudio, log_mel_batch, resample_batch
from processing.yamnet_features import TimeProYamnetFeatureExtractor

ROOT = Path(__file__).parents[1]
HAS_TORCHAUDIO = import_torchaudio() is not None
needs_torchaudio = pytest.mark.skipif(not HAS_TORCHAUDIO, reason="torchaudio does not import beside this torch")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def clips():
    rng = np.random.default_rng(0)
    noise = [(0.1 * rng.standard_normal(length)).astype(np.float32) for length in (16000, 1120, 40123)]
    return [*noise, np.zeros(8000, dtype=np.float32)]


def chord(rate, frequencies, phases):
    """Return one second of tones, (rate,)."""
    seconds = np.arange(rate) / rate
    return 0.02 * sum(np.sin(2 * np.pi * f * seconds + phase) for f, phase in zip(frequencies, phases))


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
@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000, 192000])
def test_resampling_is_that_of_soxr_at_high_quality(device, rate):
    # Tones up to 90% of the lower Nyquist frequency; above, the two low-pass filters differ in their slopes.
    limit = 0.9 * min(rate, 16000) / 2
    rng = np.random.default_rng(0)
    tones = rng.uniform(20, limit, 40), rng.uniform(0, 2 * np.pi, 40)
    waveform, exact = chord(rate, *tones), chord(16000, *tones)
    expected = soxr.resample(waveform, rate, 16000, quality="HQ")
    batch = torch.tensor(np.stack([waveform, -waveform]), dtype=torch.float32, device=device)
    found = resample_batch(batch, rate, 16000).cpu().numpy()
    assert abs(found.shape[1] - len(expected)) <= 1
    assert np.array_equal(found[0], -found[1])
    # The filters ring at the ends.
    found, expected, exact = (samples[800:15200] for samples in (found[0], expected, exact))
    assert level_db(found - exact, exact) < -90
    # From 44.1 kHz and its parts soxr is about -72 dB off the tones, and so cannot be met closer than that.
    assert level_db(found - expected, exact) < max(-80, level_db(expected - exact, exact) + 1)


@pytest.mark.skipif(HAS_TORCHAUDIO, reason="torchaudio imports")
def test_without_torchaudio_numpy_does_it():
    extractor = TimeProYamnetFeatureExtractor()
    expected = extractor(clips(), sampling_rate=16000, return_tensors="pt")
    found = extractor(clips(), sampling_rate=16000, return_tensors="pt", device="cpu")
    assert torch.equal(found["input_features"], expected["input_features"])
    assert log_mel_batch(clips(), extractor.window, extractor.mel_filters, 160, 1e-3, "cpu") is None
    with pytest.raises(ImportError, match="torchaudio does not import beside this torch; use load_audio"):
        resample_batch(torch.zeros(10), 8000, 16000)


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
    assert importing == {"torchaudio_features.py"}
