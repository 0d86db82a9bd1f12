"""Files as users have them: rates, channels, depths, containers, and what is wrong with some."""

import os
import shutil
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from click_trains import HAS_PROGRAMS

from processing.audio_io import audio_duration, load_audio

ROOT = Path(__file__).parents[1]
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")


def tone(duration, rate, frequency=440):
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(round(duration * rate)) / rate)


def level_db(difference, reference):
    power = np.mean(np.square(difference)) / np.mean(np.square(reference))
    return 10 * np.log10(power) if power else -np.inf


@pytest.mark.parametrize("rate", [8000, 11025, 12000, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 192000])
def test_resampling_is_that_of_soxr_at_high_quality(rate, tmp_path):
    noise = 0.1 * np.random.default_rng(0).standard_normal((rate // 2, 2))
    soundfile.write(tmp_path / "a.wav", noise, rate, subtype="DOUBLE")
    expected = soxr.resample(noise.mean(axis=1), rate, 16000, quality="HQ")
    samples = load_audio(tmp_path / "a.wav")
    assert len(samples) == len(expected)
    assert level_db(samples - expected, expected) < -80


@pytest.mark.parametrize(
    "suffix, subtype, tolerance",
    [
        # Half a step of the depth, and the whole step that 8 bits of libsndfile may miss.
        ("wav", "PCM_U8", 2**-7), ("wav", "PCM_16", 2**-15), ("wav", "PCM_24", 2**-23), ("wav", "PCM_32", 1e-7),
        ("wav", "FLOAT", 1e-7), ("wav", "DOUBLE", 1e-7), ("wav", "ULAW", 0.02), ("wav", "ALAW", 0.02),
        ("flac", "PCM_S8", 2**-7), ("flac", "PCM_16", 2**-15), ("flac", "PCM_24", 2**-23),
        ("aiff", "PCM_16", 2**-15), ("caf", "PCM_16", 2**-15), ("w64", "PCM_16", 2**-15),
    ],
)  # fmt: skip
@pytest.mark.parametrize("channels", [1, 2, 8])
def test_depths_and_channels(suffix, subtype, tolerance, channels, tmp_path):
    path = tmp_path / f"a.{suffix}"
    expected = tone(0.25, 16000)
    soundfile.write(path, np.tile(expected[:, None], (1, channels)), 16000, subtype=subtype)
    assert np.abs(load_audio(path) - expected).max() <= tolerance
    assert audio_duration(path) == 0.25


@pytest.mark.parametrize("rate", [8000, 16000, 48000])
@pytest.mark.parametrize("suffix, subtype, channels", [("ogg", "VORBIS", 8), ("ogg", "OPUS", 2), ("mp3", None, 2)])
def test_lossy_files_start_where_the_sound_does(suffix, subtype, channels, rate, tmp_path):
    # Silence, then a tone from 0.5 s on: a decoder that does not drop its delay would be late.
    samples = np.concatenate([np.zeros(rate // 2), tone(0.5, rate)])
    soundfile.write(tmp_path / f"a.{suffix}", np.tile(samples[:, None], (1, channels)), rate, subtype=subtype)
    found = load_audio(tmp_path / f"a.{suffix}")
    assert abs(len(found) - 16000) <= 1600
    assert abs(np.flatnonzero(np.abs(found) > 0.1)[0] / 16000 - 0.5) < 0.03


@needs_ffmpeg
@pytest.mark.parametrize("suffix", ["m4a", "mp4", "aac", "webm", "mkv", "wma", "mp3", "ac3", "spx", "ts"])
def test_what_libsndfile_cannot_read_is_read_by_ffmpeg(suffix, tmp_path):
    samples = np.concatenate([np.zeros(24000), tone(0.5, 48000)])
    soundfile.write(tmp_path / "a.wav", np.stack([samples, samples], axis=1), 48000)
    # A name like an option must not be taken for one.
    path = tmp_path / f"-a.{suffix}"
    subprocess.run(["ffmpeg", "-v", "error", "-i", tmp_path / "a.wav", f"file:{path}"], check=True)
    for source in (path, path.read_bytes()):
        found = load_audio(source)
        assert abs(len(found) - 16000) < 1600 and audio_duration(source) == pytest.approx(len(found) / 16000, abs=1e-3)
        # Some have no place for the delay of their encoders.
        assert abs(np.flatnonzero(np.abs(found) > 0.1)[0] / 16000 - 0.5) < 0.03


@needs_ffmpeg
def test_times_of_a_container_are_kept(tmp_path):
    """A recorder that paused, or whose sound starts after the picture: what is missing is silence, not nothing."""
    noise = 0.2 * np.random.default_rng(0).standard_normal(48000 * 6)
    soundfile.write(tmp_path / "a.wav", noise, 48000)
    late = ["-itsoffset", "1.5", "-i", tmp_path / "a.wav", "-f", "lavfi", "-i", "color=size=16x16:duration=6:rate=5"]
    late += ["-map", "1:v", "-map", "0:a", "-c:a", "pcm_s16le"]
    gap = ["-i", tmp_path / "a.wav", "-af", "aselect='not(between(t,2,3.5))'", "-c:a", "pcm_s16le"]
    silences = {"late": (0.1, 1.4), "gap": (2.1, 3.4)}
    for name, options in (("late", late), ("gap", gap)):
        path = tmp_path / f"{name}.mkv"
        subprocess.run(["ffmpeg", "-v", "error", *options, path], check=True)
        heard = load_audio(path)
        start, end = (round(16000 * seconds) for seconds in silences[name])
        assert np.abs(heard[start:end]).max() < 1e-4, name
        assert np.abs(heard[end + 3200 : end + 16000]).mean() > 0.05, name
        assert len(heard) / 16000 == pytest.approx(7.5 if name == "late" else 6.0, abs=0.05)


@needs_ffmpeg
def test_flac_that_was_written_to_a_pipe_does_not_say_its_length(tmp_path):
    noise = 0.2 * np.random.default_rng(0).standard_normal(32000)
    soundfile.write(tmp_path / "a.flac", noise, 16000)
    piped = subprocess.run(
        ["ffmpeg", "-v", "error", "-i", tmp_path / "a.flac", "-f", "flac", "-"], capture_output=True, check=True
    )
    (tmp_path / "piped.flac").write_bytes(piped.stdout)
    expected = load_audio(tmp_path / "a.flac")
    for source in (tmp_path / "piped.flac", piped.stdout):
        assert audio_duration(source) == 2.0
        np.testing.assert_allclose(load_audio(source), expected, atol=1e-6)


def test_without_pyav_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "av", None)
    for data, kind in ((b"\0\0\0\x20ftypM4A " + bytes(100), "mp4"), (b"\xff\xfb\x90\0" + bytes(500), "mp3")):
        with pytest.raises(
            ImportError, match=f"is {kind}, which is read by PyAV, which is missing; run `pip install av`"
        ):
            load_audio(data)
    with pytest.raises(ImportError, match="is no wav, flac or ogg; other sound is read by PyAV"):
        load_audio(b"This is text." * 50)
    for suffix in ("wav", "flac", "ogg", "aiff"):
        assert len(load_audio(encoded(suffix, tmp_path))) == 48000


def encoded(suffix, tmp_path, subtype=None):
    noise = 0.1 * np.random.default_rng(0).standard_normal(48000)
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, noise, 16000, subtype=subtype)
    return path


@pytest.mark.parametrize("suffix, subtype", [("wav", None), ("aiff", None), ("au", None), ("flac", None), ("ogg", None),
                                             ("ogg", "OPUS"), ("mp3", None)])  # fmt: skip
def test_of_files_that_break_off_is_heard_what_is_there(suffix, subtype, tmp_path, caplog):
    path = encoded(suffix, tmp_path, subtype)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])
    for source in (path, path.read_bytes()):
        caplog.clear()
        assert 16000 < len(load_audio(source)) < 40000
        assert len(caplog.records) == 1
        assert "breaks off" in caplog.text or "promises 3.00 s" in caplog.text
        with pytest.raises(ValueError, match="give a whole file"):
            load_audio(source, strict=True)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF])
def test_wav_from_a_pipe_has_no_length(size, tmp_path):
    path = encoded("wav", tmp_path)
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = struct.pack("<I", size)
    assert len(load_audio(bytes(data))) == 48000


def test_a_wav_with_something_behind_it_is_whole(tmp_path):
    path = encoded("wav", tmp_path)
    assert len(load_audio(path.read_bytes() + b"LIST\xff\xff\xff\x7fabc")) == 48000


def test_a_header_with_an_impossible_rate(tmp_path):
    data = bytearray(encoded("wav", tmp_path).read_bytes())
    for rate in (1, 2_000_000_000):
        data[24:28] = struct.pack("<I", rate)
        with pytest.raises(ValueError, match=f"is damaged .*says {rate} Hz"):
            load_audio(bytes(data))
    data[24:28] = struct.pack("<I", 4_294_967_168)
    with pytest.raises(ValueError, match="source .* bytes"):
        load_audio(bytes(data))


def test_pipes_and_paths_that_cannot_be(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(ValueError, match="pipe.wav' is a pipe or device; open it, and pass the file object"):
        load_audio(tmp_path / "pipe.wav")
    path = encoded("wav", tmp_path)
    for absent in (path / "inner.wav", "a\0.wav"):
        with pytest.raises(FileNotFoundError, match="does not exist; give the path"):
            load_audio(absent)


def test_a_file_that_changes_while_it_is_read(tmp_path):
    path = tmp_path / "growing.wav"
    soundfile.write(path, np.zeros(4_000_000), 16000)
    stop = threading.Event()

    def grow():
        with open(path, "ab") as file:
            while not stop.wait(0.001):
                file.write(b"\0\0")
                file.flush()

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        with pytest.raises(ValueError, match="growing.wav' changed while it was read; wait until it is written"):
            for _ in range(100):
                load_audio(path)
    finally:
        stop.set()
        writer.join()
    assert len(load_audio(path)) >= 4_000_000


def fuzz(suffix, count, seed, limit):
    if suffix == "programs" and not HAS_PROGRAMS:
        pytest.skip("ffmpeg, lame, sox, opusenc and oggenc are not all installed")
    command = [sys.executable, str(ROOT / "tests" / "audio_fuzz_worker.py"), suffix, str(count), str(seed)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=limit, check=False, errors="replace"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    decoded, refused = map(int, done.stdout.split())
    assert decoded + refused == count and refused


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_a_hundred_damaged_files(suffix):
    fuzz(suffix, 100, 0, 60)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "programs"])
def test_two_thousand_damaged_files(suffix):
    fuzz(suffix, 2000, 1, 1200)
