"""Which recordings paths, folders and patterns stand for."""

import os

import pytest
import soundfile

from recipes.data.find_recordings import find_recordings


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a folder with recordings, by name, and other files; it is the current one."""
    for name in (
        "b.wav",
        "a.FLAC",
        "notes.txt",
        "deep/er/c.mp3",
        "deep/d.m4a",
        ".hidden.wav",
        ".cache/e.wav",
        "[1].wav",
    ):
        path = tmp_path / "sounds" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_folders_patterns_and_files(folder):
    everything = ["[1].wav", "a.FLAC", "b.wav", "deep/d.m4a", "deep/er/c.mp3"]
    everything = [f"sounds/{name}" for name in everything]
    assert find_recordings(["sounds"]) == (everything, {})
    # A trailing slash and a pattern that matches a folder say the same.
    assert find_recordings(["sounds/"]) == (everything, {})
    assert find_recordings(["soun*"]) == (everything, {})
    assert find_recordings(["sounds/*.wav"])[0] == ["sounds/[1].wav", "sounds/b.wav"]
    assert find_recordings(["sounds/**/*.m*"])[0] == ["sounds/deep/d.m4a", "sounds/deep/er/c.mp3"]
    # Whoever names a file means it, whatever it is called; brackets in a name that exists are no pattern.
    assert find_recordings(["sounds/notes.txt", "sounds/[1].wav"])[0] == ["sounds/notes.txt", "sounds/[1].wav"]


def test_each_recording_once_in_the_order_of_the_arguments(folder):
    files, errors = find_recordings(["sounds/b.wav", "sounds/deep", "sounds/b.wav", "sounds/d*"])
    assert files == ["sounds/b.wav", "sounds/deep/d.m4a", "sounds/deep/er/c.mp3"] and not errors


def test_what_stands_for_nothing_is_named(folder):
    files, errors = find_recordings(["absent.wav", "no*.wav", "empty", "sounds/b.wav"])
    assert files == ["absent.wav", "sounds/b.wav"]
    assert list(errors) == ["no*.wav", "empty"]
    assert "matches no file" in errors["no*.wav"] and "holds no recordings" in errors["empty"]


def test_names_that_no_result_can_hold(folder):
    name = os.fsdecode(b"sounds/\xff.wav")
    open(name, "w").close()
    files, errors = find_recordings(["sounds"])
    assert len(files) == 5 and "not UTF-8" in errors[name]


def test_contents_make_a_recording_and_links_are_followed_once(folder):
    (folder / "other").mkdir()
    soundfile.write(folder / "other" / "x.wav", [0.0] * 100, 16000)
    (folder / "other" / "x.wav").rename(folder / "other" / "take 1")
    (folder / "other" / "notes").write_text("no recording")
    os.symlink(folder / "other", folder / "sounds" / "deep" / "elsewhere")
    os.symlink(folder / "sounds", folder / "sounds" / "deep" / "loop")
    os.symlink(folder / "sounds" / "b.wav", folder / "sounds" / "z.wav")
    os.symlink("nowhere.wav", folder / "sounds" / "dangling.wav")
    os.mkfifo(folder / "sounds" / "pipe.wav")
    names = ["[1].wav", "a.FLAC", "b.wav", "deep/d.m4a", "deep/elsewhere/take 1", "deep/er/c.mp3"]
    assert find_recordings(["sounds"]) == ([f"sounds/{name}" for name in names], {})
    assert find_recordings(["other", "sounds"])[0][0] == "other/take 1"
    assert find_recordings(["-", "sounds/z.wav"])[0] == ["-", "sounds/z.wav"]
