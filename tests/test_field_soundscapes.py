"""Soundscapes of the field: sounds without a name, repeats, codecs, and banks that share no package."""

import io
import zipfile
from collections import Counter

import numpy as np
import pytest
import soundfile

from recipes.cli.main import main
from recipes.soundscapes.catalogue import SoundFile, bank_files, event_labels, load_catalogue
from recipes.soundscapes.field_mixing import CODECS, crop, mix_field, through_codec
from recipes.soundscapes.packages import read_sound_file
from recipes.soundscapes.sound_bank import SoundBank
from recipes.soundscapes.synthesize import SPLITS

RATE = 16000


@pytest.fixture(scope="module")
def bank():
    """A bank of bursts of noise: one label with a single recording beside one with a series of nine."""
    rng = np.random.default_rng(0)

    def bursts(name, count):
        return [(rng.normal(size=RATE).astype(np.float32), f"{name}:{index}") for index in range(count)]

    many, few, other, noise = bursts("many", 9), bursts("few", 1), bursts("other", 1), bursts("noise", 2)
    rain = [(rng.normal(size=12 * RATE).astype(np.float32), "rain")]
    return SoundBank(
        {"dog bark": many + few, "siren": other},
        rain,
        {"gong": noise},
        {"dog bark": [many, few], "siren": [other], "gong": [noise], "rain": [rain]},
    )


def scenes(bank, count, **options):
    return [mix_field(bank, np.random.default_rng([7, index]), **options) for index in range(count)]


def test_a_scene_depends_on_its_seed_alone(bank):
    for first, second in zip(scenes(bank, 4), scenes(bank, 4)):
        assert np.array_equal(first.waveform, second.waveform) and first.events == second.events
        assert first.waveform.shape == (10 * RATE,) and np.abs(first.waveform).max() <= 1.0


def test_sounds_without_a_name_are_heard_and_not_labelled(bank):
    made = scenes(bank, 40)
    heard = [ref.split(":")[0] for scene in made for ref in scene.recordings]
    assert "noise" in heard and {event.event_label for scene in made for event in scene.events} == {"dog bark", "siren"}
    assert any(not scene.events for scene in made) and any(len(scene.events) > 3 for scene in made)


def test_each_series_is_heard_as_often_however_many_recordings_it_has(bank):
    heard = Counter(ref.split(":")[0] for scene in scenes(bank, 80, is_varied=False) for ref in scene.recordings)
    assert 0.6 < heard["many"] / heard["few"] < 1.6


def test_without_variation_sounds_are_as_they_were_recorded(bank):
    piece = crop(bank.events["siren"][0][0], np.random.default_rng(0))
    np.testing.assert_array_equal(piece[200:-200], bank.events["siren"][0][0][200:-200])
    long = np.arange(8 * RATE, dtype=np.float32)
    assert len(crop(long, np.random.default_rng(0))) == 4 * RATE


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_a_codec_moves_nothing_in_time(codec):
    rng = np.random.default_rng(0)
    waveform = np.zeros(2 * RATE, dtype=np.float32)
    waveform[RATE : RATE + 800] = 0.3 * rng.normal(size=800)
    decoded = through_codec(waveform, codec, rng)
    assert len(decoded) == len(waveform)
    lags = range(-400, 401, 10)
    fit = [np.dot(np.roll(decoded, -lag), waveform) for lag in lags]
    assert abs(lags[int(np.argmax(fit))]) <= 10


def test_recordings_are_read_out_of_zip_archives_by_any_name(tmp_path):
    content = io.BytesIO()
    soundfile.write(content, np.zeros(160), RATE, format="WAV")
    folder = tmp_path / "deb" / "some-game" / "usr"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "0snd.pk3", "w") as archive:
        archive.writestr("sound/a.wav", content.getvalue())
    file = SoundFile("door", "event", "deb:some-game=1.0-1:/usr/0snd.pk3!sound/a.wav", "CC0", "a")
    assert read_sound_file(file, tmp_path) == content.getvalue()
    gone = SoundFile("door", "event", "deb:some-game=1.0-1:/usr/0snd.pk3!sound/b.wav", "CC0", "a")
    with pytest.raises(FileNotFoundError, match=r"sound/b\.wav"):
        read_sound_file(gone, tmp_path)


def test_the_command_line_writes_every_split(capsys):
    with pytest.raises(SystemExit):
        main(["synthesize", "--out", "x", "--num-clips", "1", "--split", "no such split"])
    message = capsys.readouterr().err
    assert all(repr(split) in message for split in SPLITS)


def test_the_mixture_of_all_recordings_leaves_out_every_package_that_validates_or_tests():
    kept_out = {file.package for file in load_catalogue() if file.field in ("validation", "test")}
    both = {*bank_files("train"), *bank_files("field_train")}
    assert set(bank_files("all_train")) == {file for file in both if file.package not in kept_out}
    assert not set(bank_files("all_train")) & set(bank_files("heldout"))
    assert event_labels("all_train") == event_labels("field_train")
