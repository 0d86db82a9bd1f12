"""Streamed windows hold the samples of the whole recording, whatever it is made of."""

import io
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from processing import audio_io
from processing.audio_io import load_audio, stream_audio, stream_windows
from processing.windowing import WindowPlan, plan_windows

ROOT = Path(__file__).parents[1]
PLAN = WindowPlan(3.0, 0.5, 0.5, 3.0)


def windows_of(source, plan, sampling_rate=16000, source_sampling_rate=None):
    return stream_windows(stream_audio(source, sampling_rate, source_sampling_rate)[1], plan, sampling_rate)


def noise(seconds, rate, channels=1):
    samples = 0.2 * np.random.default_rng(0).normal(size=(int(seconds * rate), channels))
    return samples.clip(-1, 1).astype(np.float32)


FORMS = ("wav", "flac", "bytes", "mp3", "array", "dict", "int16")


@pytest.mark.parametrize(
    "form, rate, channels",
    [*((form, 44100, 2) for form in FORMS), *(("wav", *shape) for shape in ((16000, 1), (8000, 1), (48000, 6)))],
)
def test_windows_are_pieces_of_the_whole_recording(tmp_path, form, rate, channels):
    samples, source = noise(9.3, rate, channels), tmp_path / "a.wav"
    if form in ("flac", "mp3"):
        source = tmp_path / f"a.{form}"
    soundfile.write(source, samples, rate)
    if form == "bytes":
        source = source.read_bytes()
    elif form == "dict":
        source = {"array": samples, "sampling_rate": rate}
    elif form in ("array", "int16"):
        source = samples if form == "array" else (samples * 32767).astype(np.int16)
    own_rate = rate if form in ("array", "int16") else None
    whole = load_audio(source, source_sampling_rate=own_rate)
    seconds, blocks = stream_audio(source, 16000, own_rate)
    assert seconds == pytest.approx(9.3, abs=0.1)
    np.testing.assert_allclose(np.concatenate(list(blocks)), whole, atol=1e-5)
    found = list(windows_of(source, PLAN, 16000, own_rate))
    assert [window for window, _ in found] == list(PLAN.split(len(whole) / 16000))
    for window, piece in found:
        assert piece.dtype == np.float32 and piece.flags.owndata
        np.testing.assert_allclose(piece, whole[round(window.start * 16000) : round(window.end * 16000)], atol=1e-5)


@given(
    st.integers(1, 9000), st.integers(1, 3000), st.integers(0, 600), st.integers(0, 600), st.integers(1, 3000),
    st.sampled_from([700, 1000, 1600]),
)  # fmt: skip
def test_any_plan_reads_every_sample_once(length, core, left, right, block, rate):
    samples = np.linspace(-1, 1, length, dtype=np.float32)
    plan = WindowPlan(*((n / 1000) for n in (core + left + right, left, right, core + left + right)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audio_io, "BLOCK_LENGTH", block)
        whole = load_audio(samples, 1000, rate)
        found = list(windows_of(samples, plan, 1000, rate))
    cores = [piece[round((w.core_start - w.start) * 1000) :][: round((w.core_end - w.core_start) * 1000)]
             for w, piece in found]  # fmt: skip
    np.testing.assert_allclose(np.concatenate(cores), whole, atol=1e-5)


def test_short_recordings_are_one_window():
    samples = noise(12.0, 16000)[:, 0]
    ((window, piece),) = windows_of(samples, plan_windows(max_time=30.0))
    assert (window.start, window.end, window.core_end) == (0.0, 12.0, 12.0)
    np.testing.assert_array_equal(piece, samples)
    assert [len(piece) for _, piece in windows_of(samples, plan_windows(12.0))] == [len(samples)]
    assert len(list(windows_of(samples, plan_windows(10.0)))) == 2


@pytest.mark.parametrize("suffix", ["mp3", "flac", "ogg"])
def test_of_a_file_that_breaks_off_is_heard_what_is_there(tmp_path, suffix, caplog):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, noise(20.0, 16000), 16000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (*_, (window, _)) = windows_of(path, PLAN)
    assert window.end == len(load_audio(path)) / 16000 == pytest.approx(10, abs=1.5)
    assert len(caplog.records) == 2 and "a." + suffix in caplog.text
    with pytest.raises(ValueError, match="give a whole file, or leave out strict"):
        list(stream_audio(path, strict=True)[1])


def test_a_file_that_changes_meanwhile_is_refused(tmp_path):
    path = tmp_path / "growing.wav"
    soundfile.write(path, noise(20.0, 16000), 16000)
    windows = windows_of(path, PLAN)
    next(windows)
    with open(path, "ab") as file:
        file.write(bytes(100))
    with pytest.raises(ValueError, match="changed while it was read"):
        list(windows)


@pytest.mark.parametrize(
    "source, options, error, message",
    [
        ("missing.wav", {}, FileNotFoundError, "does not exist"),
        (b"", {}, ValueError, "is empty"),
        (b"this is text", {}, ValueError, "is not audio"),
        (np.zeros(0, np.float32), {}, ValueError, "is empty"),
        (np.zeros((2, 999), np.float32), {}, ValueError, "more channels than samples"),
        (np.zeros((), np.float32), {}, ValueError, r"has shape \(\)"),
        (np.zeros(9, np.complex64), {}, ValueError, "has dtype complex64"),
        (np.zeros(1, np.float32), {"source_sampling_rate": 192000}, ValueError, "too short for one sample"),
        (np.zeros(9, np.float32), {"source_sampling_rate": -1}, ValueError, "source_sampling_rate is -1"),
        (b"x", {"source_sampling_rate": 16000}, ValueError, "is a file, which knows its own"),
        ({"array": np.zeros(9)}, {}, ValueError, "give sampling_rate beside array"),
        ("text", {"sampling_rate": 0}, ValueError, "sampling_rate is 0"),
    ],
)
def test_bad_sources_are_named_as_by_load_audio(source, options, error, message):
    for read in (load_audio, lambda *args, **kwargs: list(stream_audio(*args, **kwargs)[1])):
        with pytest.raises(error, match=message):
            read(source, **options)


def test_a_fault_inside_is_reported_when_it_is_reached():
    samples = noise(20.0, 16000)
    samples[-5] = np.nan
    windows = windows_of(samples, PLAN)
    assert next(windows)[0].start == 0.0
    with pytest.raises(ValueError, match="holds 1 NaN or infinite samples"):
        list(windows)
    file = io.BytesIO()
    soundfile.write(file, noise(0.0, 16000), 16000, format="WAV")
    with pytest.raises(ValueError, match=r"source \(\d+ bytes\) is empty"):
        list(windows_of(file.getvalue(), PLAN))


@pytest.mark.parametrize("suffix", ["flac", "mp3", "ogg"])
def test_few_seconds_are_held(tmp_path, suffix):
    path = tmp_path / f"long.{suffix}"
    with soundfile.SoundFile(path, "w", 16000, 1) as file:
        block = noise(30.0, 16000)
        for _ in range(8):
            file.write(block)
    tracemalloc.start()
    num_windows = sum(1 for _ in windows_of(path, plan_windows()))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # 240 s are 15 MB; a plan by default looks 30 s ahead, which are 2 MB.
    assert num_windows > 30 and peak < 9e6


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["wav", "mp3", "flac", "ogg"])
def test_ten_hours_take_the_memory_of_one_minute(tmp_path, suffix):
    """Of a process of its own, which C libraries are part of; read as `timepro detect` does, but without a model."""
    peaks, block = {}, noise(60.0, 16000)
    code = (
        "import resource, sys; from processing.audio_io import stream_audio, stream_windows\n"
        "from processing.windowing import plan_windows\n"
        "for window, samples in stream_windows(stream_audio(sys.argv[1])[1], plan_windows()): pass\n"
        "print(window.end)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    for minutes in (1, 600):
        path = tmp_path / f"{minutes}.{suffix}"
        with soundfile.SoundFile(path, "w", 16000, 1) as file:
            for _ in range(minutes):
                file.write(block)
        done = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True, check=True)
        seconds, peaks[minutes] = map(float, done.stdout.split())
        assert seconds == pytest.approx(60 * minutes, abs=0.2)
    assert peaks[600] < peaks[1] + 20, peaks
