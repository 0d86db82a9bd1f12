"""Recordings as people have them: valid, or damaged as they come, and what a listener hears in each."""

import logging
import re
from pathlib import Path

import numpy as np
import pytest

from processing.audio_io import audio_duration, load_audio, stream_audio

FOLDER = Path(__file__).parent / "fixtures" / "recordings"
RATE = 16000
# Seconds of sound, and what a warning says.
CASES = {
    "vbr_no_xing.mp3": (8.05, None),
    "bursts_vbr.mp3": (7.00, None),
    "joined_two_mp3.mp3": (8.10, None),
    "joined_two_opus.opus": (8.00, None),
    "chained.ogg": (4.00, None),
    "mp3_info_tag_counts_too_few.mp3": (4.00, "promises 0.73 s, but 4.00 s of sound are there"),
    "mp3_info_tag_counts_zero.mp3": (4.02, None),
    "mp3_no_info_tag_behind_picture.mp3": (4.05, None),
    "mp3_in_wav.wav": (3.03, None),
    "aac_named.mp3": (4.03, None),
    # 4.03 s of sound, which the edit list of the film puts 1.98 s behind its first picture.
    "mp4_video_named.mp3": (6.01, "has sound from 1.98 s on only; before it is silence"),
    "hls_segment_id3_before_adts.aac": (4.03, None),
    "wav_data_size_0.wav": (2.00, "promises 0.00 s, but 2.00 s of sound are there"),
    "wav_sizes_wrapped.wav": (2.00, "promises 1.00 s, but 2.00 s of sound are there"),
    "webm_recorder_stopped.webm": (1.61, r"breaks off or is damaged after 1.61 s \(File ended prematurely\)"),
    "two_tracks_default_is_second.mkv": (4.03, r"2 sound tracks; number 2 \(aac, default\) is heard, not 1 \(aac\)"),
    "opus.webm": (3.00, None),
    "wmav2.wma": (3.02, None),
    "aac.mkv": (3.04, None),
    "bark_mono.flac": (2.20, None),
    "bark_opposite_phase.flac": (2.20, "channels that cancel each other out"),
}


@pytest.mark.parametrize("name", CASES)
def test_all_of_it_is_heard_and_what_is_wrong_is_said_once(name, caplog):
    seconds, warning = CASES[name]
    path = FOLDER / name
    samples = load_audio(path)
    assert len(samples) / RATE == pytest.approx(seconds, abs=0.01)
    assert len(caplog.records) == (warning is not None)
    if warning:
        assert re.search(warning, caplog.text) and name in caplog.text
    assert audio_duration(path) == pytest.approx(len(samples) / RATE, abs=1e-3)
    # Contents decide: bytes have no name.
    logging.disable()
    try:
        np.testing.assert_array_equal(load_audio(path.read_bytes()), samples)
    finally:
        logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", ["bursts_vbr.mp3", "chained.ogg", "opus.webm", "joined_two_mp3.mp3", "aac_named.mp3"])
def test_blocks_are_those_of_the_whole_recording(name):
    blocks = list(stream_audio(FOLDER / name)[1])
    assert len(blocks) > 1
    np.testing.assert_allclose(np.concatenate(blocks), load_audio(FOLDER / name), atol=1e-6)


def test_bursts_are_where_they_were_written():
    """As in a decode of the whole; libsndfile puts some up to 25 ms late where it reads in blocks."""
    loud = np.flatnonzero(np.abs(load_audio(FOLDER / "bursts_vbr.mp3")) > 0.1) / RATE
    onsets = [loud[0], *loud[1:][np.diff(loud) > 0.5]]
    np.testing.assert_allclose(onsets, [1.5, 2.99, 4.475, 5.96], atol=0.001)


@pytest.mark.parametrize("name", ["opus.webm", "wmav2.wma"])
def test_time_zero_is_that_of_the_container(name):
    """The click was at 0.5 s, before the delay of the encoder was added, which the file lets its reader take off."""
    samples = np.abs(load_audio(FOLDER / name)[: RATE * 7 // 10])
    assert samples.argmax() / RATE == pytest.approx(0.5, abs=0.003)


def test_a_delay_that_nobody_states_stays():
    """AAC in Matroska: 1024 samples at 44.1 kHz, as FFmpeg decodes it."""
    samples = np.abs(load_audio(FOLDER / "aac.mkv")[: RATE * 7 // 10])
    assert samples.argmax() / RATE == pytest.approx(0.5 + 1024 / 44100, abs=0.003)


@pytest.mark.parametrize("name", [name for name, (_, warning) in CASES.items() if warning and "promises" in warning])
def test_strict_makes_an_error_of_what_is_damaged(name):
    with pytest.raises(ValueError, match=f"{name}' .*; give a whole file, or leave out strict"):
        load_audio(FOLDER / name, strict=True)


def test_strict_hears_what_is_whole_and_the_default_track():
    for name in ("bark_opposite_phase.flac", "two_tracks_default_is_second.mkv", "joined_two_mp3.mp3"):
        assert len(load_audio(FOLDER / name, strict=True))
    with pytest.raises(ValueError, match="breaks off"):
        load_audio(FOLDER / "webm_recorder_stopped.webm", strict=True)


def test_the_default_track_is_not_the_silent_one():
    assert np.abs(load_audio(FOLDER / "two_tracks_default_is_second.mkv")).max() > 0.1


def test_a_film_without_sound_says_so():
    for function in (load_audio, audio_duration):
        with pytest.raises(
            ValueError, match="video_without_audio.mp4' has no sound track; give a recording with sound"
        ):
            function(FOLDER / "video_without_audio.mp4")


def test_the_bark_in_opposite_phase_is_heard_in_one_channel():
    mono = load_audio(FOLDER / "bark_mono.flac")
    heard = load_audio(FOLDER / "bark_opposite_phase.flac", channel="loudest")
    assert abs(np.corrcoef(mono, heard)[0, 1]) > 0.999
