"""Events lie where they were, whatever encoder and container a recording went through."""

import numpy as np
import pytest
from click_trains import ENCODINGS, HAS_PROGRAMS, PAGE, RATE, click_train, decode_by_ffmpeg, encode, main, shift

from processing.audio_io import load_audio, stream_audio

# Codec, container and rate of files that PyAV writes here, and how late clicks may be in them (ms).
WRITTEN = {
    "aac.m4a": ("aac", 44100, 3), "opus.webm": ("libopus", 48000, 3), "opus.ogg": ("libopus", 48000, 3),
    "mp3.mp3": ("libmp3lame", 44100, 3), "flac.mkv": ("flac", 44100, 3), "alac.mov": ("alac", 44100, 3),
    "wma.wma": ("wmav2", 44100, 3), "amr.amr": ("libopencore_amrnb", 8000, 10), "aac.aac": ("aac", 44100, 26),
    "ac3.ac3": ("ac3", 48000, 8),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_clicks_come_back_from_what_pyav_writes(name, tmp_path):
    import av

    codec, rate, limit = WRITTEN[name]
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    samples = click_train(rate).astype(np.float32)
    with av.open(tmp_path / name, "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        stream.bit_rate = 64000 if codec != "libopencore_amrnb" else 12200
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        resampler = av.AudioResampler(
            stream.codec_context.format, "mono", rate, stream.codec_context.frame_size or 1024
        )
        for part in [*resampler.resample(frame), *resampler.resample(None), None]:
            for packet in stream.encode(part):
                container.mux(packet)
    heard = load_audio(tmp_path / name)
    assert abs(shift(heard, RATE)) < limit / 1000 and abs(len(heard) / RATE - 6) < 0.1
    np.testing.assert_allclose(np.concatenate(list(stream_audio(tmp_path / name)[1])), heard, atol=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_PROGRAMS, reason="ffmpeg, lame, sox, opusenc and oggenc are not all installed")
@pytest.mark.parametrize("name", ENCODINGS)
def test_clicks_come_back(name, tmp_path):
    path = encode(name, tmp_path)
    heard = load_audio(path)
    late = shift(heard, RATE)
    if ENCODINGS[name][1]:
        assert abs(late) < 0.003
    else:
        assert abs(late - shift(*decode_by_ffmpeg(path))) < 0.001
    np.testing.assert_allclose(np.concatenate(list(stream_audio(path)[1])), heard, atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_PROGRAMS, reason="ffmpeg, lame, sox, opusenc and oggenc are not all installed")
@pytest.mark.parametrize(
    "name", [name for name in ENCODINGS if name.endswith((".mp3", ".m4a", ".webm", ".mkv", ".aac"))]
)
def test_samples_are_those_of_ffmpeg(name, tmp_path):
    """At 48 kHz, whole, of every kind of mp3: constant, variable and average rate, with a tag and without."""
    path = encode(name, tmp_path)
    heard, (expected, rate) = load_audio(path, 48000), decode_by_ffmpeg(path)
    assert abs(len(heard) - len(expected)) <= 2
    length = min(len(heard), len(expected))
    # ffmpeg's resampler is another.
    difference = np.square(heard[:length] - expected[:length]).mean() / np.square(expected).mean()
    assert rate == 48000 and 10 * np.log10(difference + 1e-20) < -45


@pytest.mark.slow
@pytest.mark.skipif(not HAS_PROGRAMS, reason="ffmpeg, lame, sox, opusenc and oggenc are not all installed")
def test_the_page_has_the_table(monkeypatch):
    monkeypatch.setattr("sys.argv", ["click_trains.py", "--check"])
    assert main() == 0, f"python tests/click_trains.py writes {PAGE}"
