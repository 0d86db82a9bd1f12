"""Where a recording ends in a file: what follows it is heard, what is missing or left over is said."""

import functools
import io
import itertools

import numpy as np
import pytest
import soundfile
from test_recording_cases import RATE, burst, onsets, write

from processing.audio_formats import Section, find_format, tag_length
from processing.audio_io import load_audio
from processing.audio_samples import flac_head

KINDS = {
    "wav": {"subtype": "PCM_16"}, "aiff": {"subtype": "PCM_16"}, "au": {"subtype": "PCM_16"}, "flac": {},
    "ogg": {"subtype": "VORBIS"}, "opus": {"codec": "libopus"}, "mp3": {"codec": "libmp3lame"}, "aac": {"codec": "aac"},
    "m4a": {"codec": "aac"}, "webm": {"codec": "libopus"}, "wma": {"codec": "wmav2"}, "ac3": {"codec": "ac3"},
    "avi": {"codec": "libmp3lame"}, "flv": {"codec": "libmp3lame"}, "ts": {"codec": "aac"}, "wv": {"codec": "wavpack"},
}  # fmt: skip


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """Return a function of a kind and how many seconds, with a burst at 1 s."""
    folder = tmp_path_factory.mktemp("kinds")
    # Silence would need few bytes.
    noise = 0.01 * np.random.default_rng(0).normal(size=6 * 48000).clip(-3, 3)

    def encode(kind, seconds=2):
        samples = burst(seconds, 1, 48000) + noise[: seconds * 48000]
        return write(folder / f"a.{kind}", samples, 48000, **KINDS[kind])

    return functools.cache(encode)


def test_recordings_of_any_kinds_that_were_joined_are_all_heard(encoded, caplog):
    for kinds in itertools.product(KINDS, repeat=2):
        first, second = map(encoded, kinds)
        heard = load_audio(first + second)
        assert len(heard) / RATE == pytest.approx(len(onsets(heard)) * 2, abs=0.2), kinds
        assert onsets(heard)[:2] == pytest.approx([1, 3], abs=0.15), kinds
    assert not caplog.records


@pytest.mark.parametrize("kind", ["mp3", "flac", "aac", "ogg"])
def test_after_half_a_frame_another_recording_is_heard(kind, encoded, caplog):
    heard = load_audio(encoded(kind)[:-5] + encoded("wav"))
    assert onsets(heard)[-1] - 1 == pytest.approx(len(heard) / RATE - 2, abs=0.01)
    assert "breaks off" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", [0.5, 0.9, -10])
def test_what_was_cut_is_heard_as_far_as_it_goes_with_a_warning(kind, part, encoded, caplog):
    data = encoded(kind, 6)
    length = len(data) + part if part < 0 else round(part * len(data)) + 1
    seconds = 6 if part < 0 else 6 * part
    if kind == "m4a" and part > 0:
        # The index of its frames is at the end.
        with pytest.raises(ValueError, match="breaks off or is damaged"):
            load_audio(data[:length])
        return
    # What is not a whole page or block is not there.
    heard = load_audio(data[:length])
    assert seconds - 1.6 < len(heard) / RATE < 6.1
    assert len(caplog.records) == 1 and ("breaks off" in caplog.text or "promises" in caplog.text)
    with pytest.raises(ValueError, match="give a whole file, or leave out strict"):
        load_audio(data[:length], strict=True)


def test_of_a_flac_file_only_the_frame_that_was_cut_is_missing(encoded):
    assert len(load_audio(encoded("flac", 6)[:-10])) / RATE > 6 - 2 * 4096 / 48000


def test_what_belongs_to_no_frame_is_counted_and_zeros_are_not(encoded, caplog):
    junk = np.random.default_rng(0).bytes(5000)
    data = encoded("mp3")
    whole = load_audio(data)
    np.testing.assert_array_equal(load_audio(data + bytes(5000)), whole)
    assert not caplog.records
    assert len(load_audio(data + junk)) == len(whole)
    assert "has bytes (5000) that belong to no frame" in caplog.text


def test_tags_between_frames_are_no_fault(encoded, caplog):
    """As in recordings of live streams, and of players that append."""
    tag = b"ID3\x04\0\0\0\0\x00\x14" + bytes(20)
    for kind in ("mp3", "aac"):
        data = encoded(kind)
        start = find_format(io.BytesIO(data))[1]
        tail = b"TAG" + bytes(125)
        heard = load_audio(tag + data[start:] + tail + tag + data[start:] + tail)
        assert onsets(heard) == pytest.approx([1, 3], abs=0.15)
    assert not caplog.records


def test_the_tag_of_an_mp3_promises_what_is_not_there(encoded, caplog):
    data = bytearray(encoded("mp3"))
    place = next(place + 8 for place in (data.find(b"Info"), data.find(b"Xing")) if place > 0)
    count = int.from_bytes(data[place : place + 4], "big")
    data[place : place + 4] = (count + 50).to_bytes(4, "big")
    assert len(load_audio(bytes(data))) / RATE == pytest.approx(2, abs=0.06)
    assert "promises 3.2" in caplog.text and "but 2.0" in caplog.text


def test_a_header_that_was_never_filled_in_may_be_followed_by_another(encoded, caplog):
    data = encoded("wav")
    place = data.find(b"data") + 4
    endless = data[:place] + b"\xff\xff\xff\xff" + data[place + 4 :]
    assert onsets(load_audio(endless * 3)) == pytest.approx([1, 3, 5], abs=0.01)


def test_tags_have_a_length():
    assert tag_length(b"TAG" + bytes(125)) == 128
    assert tag_length(b"APETAGEX" + bytes(4) + (100).to_bytes(4, "little") + bytes(7) + b"\xa0" + bytes(8)) == 132
    assert tag_length(b"ID3\x04\0\x10\0\0\1\0") == 148 and tag_length(b"fLaC") == 0


@pytest.mark.parametrize("kind, lost", [("ogg", 1.1), ("opus", 1.1), ("flac", 0.2)])
def test_what_lies_behind_damage_keeps_its_time(kind, lost, encoded, caplog):
    data = bytearray(encoded(kind, 6))
    place = len(data) // 2
    data[place : place + 60] = np.random.default_rng(1).bytes(60)
    clean, heard = load_audio(encoded(kind, 6)), load_audio(bytes(data))
    assert len(heard) == pytest.approx(len(clean), abs=RATE // 10)
    different = np.flatnonzero(np.abs(heard[: len(clean)] - clean[: len(heard)]) > 0.02) / RATE
    assert 1.9 < different[0] and different[-1] < different[0] + lost
    assert len(caplog.records) == 1 and "damaged" in caplog.text


def test_tags_of_players_behind_an_mp3_are_no_fault(encoded, caplog):
    lyrics = b"LYRICSBEGINLYR00600" + b"la " * 200 + b"000621LYRICS200"
    ape = b"APETAGEX" + b"\xd0\x07\0\0" + (32).to_bytes(4, "little") + bytes(7) + b"\xa0" + bytes(8)
    footer = b"APETAGEX" + b"\xd0\x07\0\0" + (32).to_bytes(4, "little") + bytes(7) + b"\x80" + bytes(8)
    data = encoded("mp3")
    heard = load_audio(data + lyrics + ape + footer + b"TAG" + bytes(125))
    np.testing.assert_array_equal(heard, load_audio(data))
    assert not caplog.records


def test_packets_of_a_broadcast_may_have_times_before_or_checksums_behind(encoded, caplog):
    data = encoded("ts")
    packets = [data[place : place + 188] for place in range(0, len(data), 188)]
    # A time may have the byte with which packets begin.
    for before, behind in ((b"Gabc", b""), (b"", bytes(16))):
        heard = load_audio(b"".join(before + packet + behind for packet in packets))
        np.testing.assert_array_equal(heard, load_audio(data))
    assert not caplog.records


def test_an_empty_box_before_the_first_of_an_mp4(encoded, caplog):
    data = bytearray(encoded("m4a"))
    place = data.find(b"stco") + 8
    count = int.from_bytes(data[place : place + 4], "big")
    for start in range(place + 4, place + 4 + 4 * count, 4):
        data[start : start + 4] = (int.from_bytes(data[start : start + 4], "big") + 8).to_bytes(4, "big")
    heard = load_audio(b"\0\0\0\x08free" + data)
    np.testing.assert_array_equal(heard, load_audio(encoded("m4a")))
    assert not caplog.records


def zeroed(data):
    middle = len(data) // 2
    return data[:middle] + bytes(3000) + data[middle + 3000 :]


def flipped(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]


@pytest.mark.parametrize(
    "suffix, options, damage, said",
    [
        ("mp3", {"codec": "libmp3lame"}, lambda data: data[700:], "begins with bytes"),
        ("mp3", {"codec": "libmp3lame"}, zeroed, "belong to no frame"),
        ("webm", {"codec": "libopus"}, zeroed, "belong to no element"),
        ("avi", {"codec": "libmp3lame"}, zeroed, "belong to no chunk"),
        ("mka", {"codec": "flac"}, flipped, "is damaged after 2.00 s (CRC error"),
        ("wav", {"subtype": "IMA_ADPCM"}, lambda data: data[:-500], "bytes that its header promises are there"),
        ("wav", {"subtype": "GSM610"}, lambda data: data[:-500], "bytes that its header promises are there"),
    ],
)
def test_of_what_is_damaged_inside_or_cut_the_rest_is_heard_and_it_is_said(
    suffix, options, damage, said, tmp_path, caplog
):
    noise = 0.01 * np.random.default_rng(0).normal(size=96000).clip(-3, 3)
    data = write(tmp_path / f"a.{suffix}", burst(2, 1.8, 48000) + noise, 48000, **options)
    whole = load_audio(data)
    assert not caplog.records
    heard = load_audio(damage(data))
    # Of clusters FFmpeg goes on with the next.
    assert 1 < len(heard) / RATE <= len(whole) / RATE + 0.04
    assert len(caplog.records) == 1 and said in caplog.text


def test_rates_that_nothing_has_are_refused(tmp_path):
    data = bytearray(write(tmp_path / "a.wav", burst(2, 1), subtype="IMA_ADPCM"))
    data[24:28] = (2**31 - 1).to_bytes(4, "little")
    with pytest.raises(ValueError, match="its header says 2147483647 Hz"):
        load_audio(bytes(data))


def test_of_flac_the_frames_know_the_rate(tmp_path, caplog):
    data = bytearray(write(tmp_path / "a.flac", burst(2, 1), 16000))
    data[18:21] = (int.from_bytes(data[18:21], "big") ^ 1 << 20).to_bytes(3, "big")
    assert onsets(load_audio(bytes(data))) == pytest.approx([1], abs=0.01)
    assert "promises 0.39 s, but 2.00 s" in caplog.text


def test_frames_of_flac_that_were_copied_behind_others_are_all_heard(encoded, caplog):
    """As by `ffmpeg -stream_loop 2 -c copy`: one header, which counts the first third."""
    data = encoded("flac", 6)
    copies = data + 2 * data[flac_head(Section(io.BytesIO(data)), 0)[1] :]
    assert onsets(load_audio(copies)) == pytest.approx([1, 7, 13], abs=0.01)
    assert "promises 6.00 s, but 18.00 s" in caplog.text


@pytest.mark.parametrize("kind", ["VOC", "SVX", "AVR"])
def test_old_formats_that_count_their_bytes_are_known_to_be_cut(kind, tmp_path, caplog):
    noise = 0.1 * np.random.default_rng(0).standard_normal(16000)
    soundfile.write(tmp_path / "a", noise, 16000, format=kind, subtype="PCM_16")
    assert len(load_audio(tmp_path / "a", 16000)) == 16000 and not caplog.messages
    (tmp_path / "b").write_bytes((tmp_path / "a").read_bytes()[:-3200])
    assert len(load_audio(tmp_path / "b", 16000)) == 14400
    assert "breaks off: " in caplog.text and "bytes that its header promises are there" in caplog.text
