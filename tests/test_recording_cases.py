"""Recordings as people have them: valid, or damaged as they come, and what a listener hears in each."""

import logging
import re
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

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
    "webm_recorder_stopped.webm": (1.61, "breaks off after 1.61 s, within its last element"),
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


def write(path, samples, rate=16000, codec=None, **options):
    """Write a recording by libsndfile, or by PyAV in a codec; return its bytes."""
    if codec is None:
        soundfile.write(path, samples, rate, **options)
        return path.read_bytes()
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        stream.bit_rate = 64000
        frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        resampler = av.AudioResampler(
            stream.codec_context.format, "mono", rate, stream.codec_context.frame_size or 1024
        )
        for part in [*resampler.resample(frame), *resampler.resample(None), None]:
            for packet in stream.encode(part):
                container.mux(packet)
    return path.read_bytes()


def burst(seconds, at, rate=16000):
    samples = np.zeros(round(seconds * rate))
    samples[round(at * rate) :][: rate // 5] = 0.5 * np.sin(2 * np.pi * 700 * np.arange(rate // 5) / rate)
    return samples


def onsets(samples):
    loud = np.flatnonzero(np.abs(samples) > 0.25) / RATE
    return [float(time) for time, gap in zip(loud, np.diff(loud, prepend=-1)) if gap > 0.2]


@pytest.mark.parametrize(
    "name, codec",
    [("a.wav", None), ("a.flac", None), ("a.aiff", None), ("a.au", None), ("a.ogg", None), ("a.m4a", "aac"),
     ("a.aac", "aac"), ("a.mp3", "libmp3lame"), ("a.flv", "libmp3lame"), ("a.wma", "wmav2"), ("a.opus", "libopus"),
     ("a.ts", "aac"), ("a.ac3", "ac3"), ("a.mkv", "flac"), ("a.avi", "libmp3lame"), ("a.oga", "flac"),
     ("a.webm", "libopus"), ("a.wv", "wavpack"), ("a.nut", "flac")],
)  # fmt: skip
def test_joined_recordings_are_heard_one_after_another(name, codec, tmp_path):
    rates = (48000, 48000, 48000) if codec else (16000, 8000, 16000)
    parts = [write(tmp_path / f"{n}{name}", burst(2, 1, rate), rate, codec) for n, rate in enumerate(rates)]
    (tmp_path / name).write_bytes(b"".join(parts))
    heard = load_audio(tmp_path / name)
    assert len(heard) / RATE == pytest.approx(6, abs=0.2)
    assert onsets(heard) == pytest.approx([1, 3, 5], abs=0.15)


def test_codecs_that_ffmpeg_takes_for_others_are_heard(tmp_path):
    heard = load_audio(write(tmp_path / "a", burst(2, 1, 8000), 8000, format="WAV", subtype="NMS_ADPCM_16"))
    assert onsets(heard) == pytest.approx([1], abs=0.02) and len(heard) / RATE == pytest.approx(2, abs=0.03)


@pytest.mark.parametrize(
    "format, subtype",
    [("WAV", "MS_ADPCM"), ("WAV", "IMA_ADPCM"), ("WAV", "GSM610"), ("VOC", "PCM_16"), ("NIST", "PCM_16")],
)
def test_joined_recordings_that_ffmpeg_would_read_the_first_of(format, subtype, tmp_path, caplog):
    data = write(tmp_path / "a", burst(2, 1, 8000), 8000, format=format, subtype=subtype)
    heard = load_audio(data * 2)
    assert len(heard) / RATE == pytest.approx(4, abs=0.2) and not caplog.records
    assert onsets(heard) == pytest.approx([1, 3], abs=0.15)


def test_links_of_a_chain_may_have_other_codecs(tmp_path, caplog):
    parts = [write(tmp_path / f"{codec}.ogg", burst(2, 1, 48000), 48000, codec) for codec in ("flac", "libopus")]
    heard = load_audio(parts[0] + parts[1] + parts[0])
    assert onsets(heard) == pytest.approx([1, 3, 5], abs=0.02) and not caplog.records
    load_audio(parts[0][: len(parts[0]) * 3 // 4])
    assert "breaks off: its last page is missing" in caplog.text


@pytest.mark.parametrize(
    "name, codec", [("a.m4a", "aac"), ("a.webm", "libopus"), ("a.wma", "wmav2"), ("a.wv", "wavpack"), ("a.mp3", "mp3")]
)
def test_tags_may_stand_before_any_recording(name, codec, tmp_path):
    data = write(tmp_path / name, burst(2, 1, 48000), 48000, codec)
    np.testing.assert_array_equal(load_audio(b"ID3\x03\0\0\0\0\x08\0" + bytes(1024) + data), load_audio(data))


def test_a_second_chunk_of_samples_is_not_lost(tmp_path, caplog):
    data = write(tmp_path / "a.wav", burst(2, 1))
    assert onsets(load_audio(data + data[36:]))[::2] == pytest.approx([1, 3], abs=0.01)
    assert "promises 2.00 s, but 4.00 s of sound are there" in caplog.text


def test_a_size_that_counts_the_padding_is_no_fault(tmp_path, caplog):
    data = write(tmp_path / "a.wav", burst(2, 1))
    assert len(load_audio(data[:40] + (64001).to_bytes(4, "little") + data[44:])) == 32000 and not caplog.records


def test_what_breaks_off_in_the_description_of_its_tracks_is_damaged(tmp_path):
    data = write(tmp_path / "a.m4a", burst(2, 1, 48000), 48000, "aac")
    with pytest.raises(ValueError, match="breaks off or is damaged"):
        load_audio(data[: data.find(b"hdlr")])


@pytest.mark.parametrize("format", ["WAV", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC"])
@pytest.mark.parametrize("counted", [0, 1, 2**62])
def test_what_headers_count_is_checked(format, counted, tmp_path, caplog):
    """None, half, or far more than there is."""
    data = bytearray(write(tmp_path / "a", burst(2, 1.5), format=format, subtype="PCM_16"))
    where, size, order, overhead = {
        "WAV": (data.find(b"data") + 4, 4, "little", 0), "RF64": (data.find(b"ds64") + 16, 8, "little", 0),
        "W64": (data.find(b"data") + 16, 8, "little", 24), "AIFF": (data.find(b"SSND") + 4, 4, "big", 8),
        "AU": (8, 4, "big", 0), "CAF": (data.find(b"data") + 4, 8, "big", 4), "FLAC": (22, 4, "big", 0),
    }[format]  # fmt: skip
    number = 16000 if format == "FLAC" else 32000 + overhead
    number = min(counted and (number if counted == 1 else counted), 2 ** (8 * size) - 1)
    data[where : where + size] = number.to_bytes(size, order)
    heard = load_audio(bytes(data))
    assert len(heard) == 32000 and onsets(heard) == pytest.approx([1.5], abs=0.002)
    assert len(caplog.records) == 1 or counted != 1


def test_vorbis_that_was_cut_without_decoding_is_read_to_its_end(tmp_path, caplog):
    write(tmp_path / "a.ogg", burst(3, 2.7, 44100), 44100, subtype="VORBIS")
    with av.open(tmp_path / "a.ogg") as source, av.open(tmp_path / "b.ogg", "w") as target:
        stream = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - 22050, packet.dts - 22050, stream
                target.mux(packet)
    heard = load_audio(tmp_path / "b.ogg")
    assert len(heard) / RATE == pytest.approx(3, abs=0.01) and onsets(heard) == pytest.approx([2.7], abs=0.002)
    assert "promises 2.50 s, but 3.00 s of sound are there" in caplog.text
