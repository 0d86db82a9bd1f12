import errno
import io
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import soundfile
import torch

from processing.audio_io import audio_duration, load_audio

ROOT = pathlib.Path(__file__).parents[1]


def tone(frequency, duration, rate):
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(round(duration * rate)) / rate)


@pytest.mark.parametrize("suffix, tolerance", [("wav", 1e-4), ("flac", 1e-4), ("ogg", 0.05)])
def test_files_are_decoded_from_path_bytes_and_dict(tmp_path, suffix, tolerance):
    path = tmp_path / f"tone.{suffix}"
    expected = tone(440, 1, 16000)
    soundfile.write(path, expected, 16000)
    data = path.read_bytes()
    for source in (
        path,
        str(path),
        data,
        {"path": str(path)},
        {"bytes": data, "path": None},
        {"bytes": None, "path": path},
    ):
        samples = load_audio(source)
        assert samples.dtype == np.float32
        assert samples.shape == (16000,)
        assert np.abs(samples - expected).max() < tolerance
    assert audio_duration(path) == audio_duration(data) == 1.0


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 48000])
def test_other_rates_are_resampled(tmp_path, rate):
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone(440, 1, rate), rate, subtype="FLOAT")
    samples = load_audio(path, sampling_rate=16000)
    assert abs(len(samples) - 16000) <= 1
    middle = slice(1000, 15000)  # the filter rings at the ends
    assert np.abs(samples[middle] - tone(440, 1, 16000)[middle]).max() < 1e-3
    assert audio_duration(path) == pytest.approx(1.0)


def test_resampling_removes_what_would_fold_back():
    samples = load_audio(tone(15000, 1, 48000), source_sampling_rate=48000)
    assert np.abs(samples[1000:15000]).max() < 1e-3


def test_channels_are_mixed_to_their_mean(tmp_path):
    stereo = np.stack([np.full(1000, 0.5), np.full(1000, -0.1)], axis=1)
    path = tmp_path / "stereo.wav"
    soundfile.write(path, stereo, 16000, subtype="FLOAT")
    np.testing.assert_allclose(load_audio(path), 0.2, atol=1e-6)
    np.testing.assert_allclose(load_audio(stereo), 0.2, atol=1e-6)
    np.testing.assert_allclose(load_audio({"array": stereo.tolist(), "sampling_rate": 16000}), 0.2, atol=1e-6)
    # As other pipelines of transformers call it.
    np.testing.assert_allclose(load_audio({"raw": stereo, "sampling_rate": 16000}), 0.2, atol=1e-6)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "uint8", "uint16"])
def test_integers_are_scaled_by_the_range_of_their_type(dtype):
    limits = np.iinfo(dtype)
    middle = (limits.max + limits.min + 1) // 2
    samples = load_audio(np.array([limits.min, middle, limits.max], dtype=dtype))
    np.testing.assert_allclose(samples, [-1, 0, 1], atol=2.0 ** (2 - limits.bits))
    assert samples[1] == 0


def test_floats_pass_unchanged_and_uncut():
    values = np.array([0.0, 0.25, -1.5])
    for dtype in ("float16", "float32", "float64"):
        np.testing.assert_array_equal(load_audio(values.astype(dtype)), values)


def test_a_stereo_file_of_one_sample_is_no_transposed_array(tmp_path):
    soundfile.write(tmp_path / "one.wav", np.array([[0.5, 0.25]]), 16000, subtype="FLOAT")
    np.testing.assert_allclose(load_audio(tmp_path / "one.wav"), [0.375])


def test_missing_files_and_directories(tmp_path):
    for function in (load_audio, audio_duration):
        with pytest.raises(FileNotFoundError, match="absent.wav' does not exist; give the path"):
            function(tmp_path / "absent.wav")
        with pytest.raises(IsADirectoryError, match="is a directory; give the path of one audio file"):
            function(tmp_path)


@pytest.mark.parametrize("closed", ["file", "folder"])
def test_unreadable_files(closed):
    # Not in tmp_path, which other users may not enter anyway.
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = os.path.join(folder, "inner", "secret.wav")
        os.mkdir(os.path.dirname(path))
        soundfile.write(path, np.zeros(10), 16000)
        os.chmod(path if closed == "file" else os.path.dirname(path), 0)
        # Permissions do not bind root.
        code = (
            "import os, sys, soundfile; from processing.audio_io import load_audio;"
            "os.geteuid() == 0 and os.setuid(65534)\n"
            "try: load_audio(sys.argv[1])\n"
            "except PermissionError as error: print(error)"
        )
        done = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True, check=True)
        os.chmod(os.path.dirname(path), 0o755)
    assert "Permission denied" in done.stdout and "secret.wav" in done.stdout


@pytest.mark.parametrize("name", ["text.wav", "text.flac", "text.mp3", "text.raw", "text"])
def test_text_is_not_audio(tmp_path, name):
    path = tmp_path / name
    path.write_text("This is no recording.\n" * 20)
    for source in (path, path.read_bytes()):
        with pytest.raises(
            ValueError, match=r"source .* is not audio that can be read .*; give wav, flac, ogg, mp3, m4a or webm"
        ):
            load_audio(source)
    with pytest.raises(ValueError, match="is not audio"):
        audio_duration(path)


def test_empty_audio(tmp_path):
    (tmp_path / "nothing.wav").touch()
    with pytest.raises(ValueError, match=r"nothing.wav' is empty \(0 bytes\)"):
        load_audio(tmp_path / "nothing.wav")
    with pytest.raises(ValueError, match=r"source \(0 bytes\) is empty"):
        load_audio(b"")
    soundfile.write(tmp_path / "silent.wav", np.zeros(0), 16000)
    with pytest.raises(ValueError, match=r"silent.wav' is empty; give at least one sample"):
        load_audio(tmp_path / "silent.wav")
    assert audio_duration(tmp_path / "silent.wav") == 0
    for shape in ((0,), (0, 2)):
        with pytest.raises(ValueError, match="source is empty"):
            load_audio(np.zeros(shape))
    with pytest.raises(ValueError, match="too short for one sample at 100 Hz"):
        load_audio(np.zeros(1), sampling_rate=100, source_sampling_rate=192000)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite(tmp_path, value):
    samples = np.zeros(100, dtype=np.float32)
    samples[[3, 7]] = value
    soundfile.write(tmp_path / "bad.wav", samples, 16000, subtype="FLOAT")
    for source in (samples, tmp_path / "bad.wav"):
        with pytest.raises(ValueError, match="holds 2 NaN or infinite samples"):
            load_audio(source)


@pytest.mark.parametrize("dtype, peak", [("float32", 12345), ("float64", 1e300)])
def test_integers_as_floats_are_refused_by_their_peak(dtype, peak):
    samples = np.zeros(1000, dtype=dtype)
    samples[500] = -peak
    for source in (samples, {"array": samples, "sampling_rate": 16000}):
        with pytest.raises(ValueError, match=rf"has a peak of {peak:.6g}".replace("+", r"\+") + ".*Divide them by"):
            load_audio(source)


def test_floats_beyond_full_scale_and_silence_are_said_once(caplog):
    assert load_audio(np.full(100, 3.5)).max() == 3.5
    load_audio(np.zeros((100, 2)))
    load_audio(np.full(100, 1.5))
    assert [record.message for record in caplog.records] == [
        "source has a peak of 3.5, where full scale is 1 (is it scaled right?).", "source is silent."
    ]  # fmt: skip


def test_channels_in_opposite_phase_are_named_and_can_be_chosen(caplog):
    sound = tone(700, 1, 16000)
    stereo = np.stack([sound, -sound, 0.1 * sound], axis=1)[:, :2]
    assert np.abs(load_audio(stereo)).max() == 0
    assert "channels that cancel each other out in 1.00 s" in caplog.text and "channel='loudest'" in caplog.text
    caplog.clear()
    np.testing.assert_allclose(load_audio(stereo, channel=1), -sound, atol=1e-6)
    quiet = np.stack([0.1 * sound, sound, np.zeros(16000)], axis=1)
    np.testing.assert_allclose(load_audio(quiet, channel="loudest"), sound, atol=1e-6)
    assert [record.message for record in caplog.records] == ["source has channel 1 as its loudest, which is heard."]
    with pytest.raises(ValueError, match="channel is 3, but source has 3, from 0 on"):
        load_audio(quiet, channel=3)
    for wrong in (-1, True, "left"):
        with pytest.raises(ValueError, match=f"channel is {wrong!r}; give the number of a channel"):
            load_audio(quiet, channel=wrong)


def test_wind_in_two_microphones_does_not_cancel_out(caplog):
    wind = np.cumsum(np.random.default_rng(0).normal(size=(16000 * 20, 2)), axis=0)
    load_audio(wind / np.abs(wind).max())
    assert not caplog.records


def test_tensors_have_channels_first():
    stereo = torch.stack([torch.full((1000,), 0.5), torch.full((1000,), -0.1)])
    for tensor in (stereo, stereo.double(), stereo.bfloat16(), stereo.half(), stereo.requires_grad_()):
        np.testing.assert_allclose(load_audio(tensor), 0.2, atol=1e-3)
    np.testing.assert_array_equal(load_audio(torch.tensor([-32768, 0], dtype=torch.int16)), [-1, 0])
    np.testing.assert_allclose(load_audio({"array": stereo[0], "sampling_rate": 8000}, 8000), 0.5)


def test_file_objects_are_read_from_where_they_stand(tmp_path):
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone(440, 1, 16000), 16000)
    expected, data = load_audio(path), path.read_bytes()
    behind = io.BytesIO(b"header" + data)
    behind.seek(6)
    for source in (io.BytesIO(data), behind, memoryview(data), bytearray(data)):
        for channel in (None, "loudest"):
            np.testing.assert_array_equal(load_audio(source, channel=channel), expected)
    with open(path, "rb") as file:
        assert audio_duration(file) == 1.0
        np.testing.assert_array_equal(load_audio(file), expected)
        assert not file.closed
    with subprocess.Popen(["cat", path], stdout=subprocess.PIPE) as pipe:
        np.testing.assert_array_equal(load_audio(pipe.stdout, channel="loudest"), expected)
    with open(path, encoding="latin-1") as file, pytest.raises(ValueError, match="opened as text; open it with mode"):
        load_audio(file)


def test_a_full_temporary_folder_is_named(monkeypatch):
    def fill(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with subprocess.Popen(["cat", "/dev/null"], stdout=subprocess.PIPE) as pipe:
        monkeypatch.setattr(shutil, "copyfileobj", fill)
        with pytest.raises(OSError, match=f"temporary folder '{tempfile.gettempdir()}'.*set TMPDIR"):
            load_audio(pipe.stdout)


@pytest.mark.parametrize(
    "array, message",
    [
        (np.zeros((2, 3, 4)), r"shape \(2, 3, 4\); give \(num_samples,\) or \(num_samples, num_channels\)"),
        (np.array(0.5), r"shape \(\)"),
        (np.zeros((2, 16000)), r"shape \(2, 16000\), more channels than samples; transpose"),
        (np.zeros(4, dtype=np.int64), r"dtype int64; give floats in \[-1, 1\] or integers of 8, 16 or 32 bits"),
        (np.zeros(4, dtype=bool), "dtype bool"),
        (np.zeros(4, dtype=complex), "dtype complex128"),
        (np.array(["a"]), "dtype <U1"),
        (np.array([None, 1.0], dtype=object), "dtype object"),
    ],
)
def test_wrong_arrays_are_named(array, message):
    with pytest.raises(ValueError, match=message):
        load_audio(array)


@pytest.mark.parametrize("rate", [0, -16000, float("nan"), "16000", True])
def test_wrong_rates_are_named(rate):
    with pytest.raises(ValueError, match=f"^sampling_rate is {rate!r}; give samples per second"):
        load_audio(np.zeros(4), sampling_rate=rate)
    for call in (
        {"source": np.zeros(4), "source_sampling_rate": rate},
        {"source": {"array": [0.0], "sampling_rate": rate}},
    ):
        with pytest.raises(ValueError, match=f"source_sampling_rate is {rate!r}; give samples per second"):
            load_audio(**call)


def test_wrong_sources_are_named(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(10), 16000)
    with pytest.raises(ValueError, match="source_sampling_rate is 8000 but source is a file"):
        load_audio(tmp_path / "a.wav", source_sampling_rate=8000)
    with pytest.raises(ValueError, match="source is of type list; give a path, bytes, a binary file object"):
        load_audio([0.0, 0.1])
    with pytest.raises(ValueError, match="source is of type NoneType"):
        load_audio(None)
    with pytest.raises(ValueError, match=r"source has keys \['array'\]; give sampling_rate beside array"):
        load_audio({"array": [0.0]})
    with pytest.raises(ValueError, match=r"source has keys \['bytes', 'path'\]; give array and sampling_rate"):
        load_audio({"bytes": None, "path": None})


def run_fresh(code):
    """Run code in a fresh interpreter at the repository root."""
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_importing_the_package_loads_nothing_heavy():
    heavy = "{'torch', 'transformers', 'numpy', 'soundfile', 'soxr', 'scipy'}"
    code = (
        "import sys, processing; print(sorted(" + heavy + " & set(sys.modules)));"
        "from processing import Event, TimeGrid, format_events, parse_events, prompt_text;"
        "print(sorted(" + heavy + " & set(sys.modules)));"
        "from processing import load_audio; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert run_fresh(code).splitlines() == ["[]", "[]", "[]"]


def test_the_package_lists_its_names_and_refuses_others():
    import processing

    assert {"Event", "TimeGrid", "TimeProAudioProcessor", "format_events", "parse_events"} <= set(dir(processing))
    assert processing.Event is processing.events.Event
    with pytest.raises(AttributeError, match="has no attribute 'Evnt'"):
        processing.Evnt  # noqa: B018
