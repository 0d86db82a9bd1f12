"""Decoded columns of `datasets` as recordings; `tests/run_torchaudio.sh` runs this with torchcodec."""

import numpy as np
import pytest
import soundfile

from processing.audio_io import load_audio
from recipes.conversion.checkpoint_folder import load_pipeline


def has_torchcodec():
    # It fails otherwise too, where the libraries of ffmpeg are missing.
    try:
        import torchcodec  # noqa: F401
    except (ImportError, OSError, RuntimeError):
        return False
    return True


needs_torchcodec = pytest.mark.skipif(not has_torchcodec(), reason="torchcodec does not import")


@pytest.fixture(scope="module")
def detector(scripted_checkpoint):
    return load_pipeline(scripted_checkpoint("dog: <1.20>-<3.44>"))


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Return the paths of a stereo recording of 3 s at 44.1 kHz and a mono one of 4 s at 16 kHz."""
    folder, rng = tmp_path_factory.mktemp("column"), np.random.default_rng(0)
    soundfile.write(folder / "stereo.wav", 0.1 * rng.normal(size=(3 * 44100, 2)), 44100, subtype="FLOAT")
    soundfile.write(folder / "mono.flac", 0.1 * rng.normal(size=4 * 16000), 16000)
    return [str(folder / "stereo.wav"), str(folder / "mono.flac")]


def make_column(paths, **options):
    from datasets import Audio, Dataset

    return Dataset.from_dict({"audio": paths}).cast_column("audio", Audio(**options))["audio"]


def said(results):
    return [(result["text"], result["duration"]) for result in results]


@needs_torchcodec
def test_decoded_columns(detector, paths):
    column, expected = make_column(paths), detector(paths)
    assert hasattr(column[0], "get_all_samples")
    for path, decoder in zip(paths, column):
        np.testing.assert_allclose(load_audio(decoder), load_audio(path), atol=1e-6)
    for found in (list(detector(column)), detector(list(column)), [detector(decoder) for decoder in column]):
        assert said(found) == said(expected)
    # The processor takes them too, and `datasets` may resample.
    features = [
        detector.processor(text=["<|AUDIO|>"] * 2, audio=list(audio), padding=True)["input_features_mask"].sum(-1)
        for audio in (column, make_column(paths, sampling_rate=8000, num_channels=1))
    ]
    assert [list(lengths) for lengths in features] == [[300, 400], [300, 400]]


@needs_torchcodec
def test_what_cannot_be_decoded_is_an_error(tmp_path, paths):
    from torchcodec.decoders import AudioDecoder

    whole = open(paths[1], "rb").read()
    (tmp_path / "cut.flac").write_bytes(whole[:40000] + b"\0" * 5000)
    decoder = AudioDecoder(str(tmp_path / "cut.flac"))
    with pytest.raises(ValueError, match="AudioDecoder that cannot decode|breaks off"):
        load_audio(decoder)


@pytest.mark.skipif(has_torchcodec(), reason="torchcodec imports")
def test_without_torchcodec_the_error_says_what_to_install(detector, paths):
    with pytest.raises(ImportError, match="install 'torchcodec'"):
        list(detector(make_column(paths)))
