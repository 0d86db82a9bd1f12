"""What is written is read back equal; what a format cannot hold is an error."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from processing.events import Event, normalize_label
from recipes.data.clip import AnnotatedClip
from recipes.data.loading import load_clips
from recipes.data.writers import write_json_clips, write_label_files

# Milliseconds, as annotations have them, and any other time.
seconds = st.one_of(st.integers(0, 100_000).map(lambda ms: ms / 1000), st.floats(0, 1e5))
names = st.text(st.characters(codec="utf-8", exclude_characters="/\0\r\n"), max_size=12).map(str.strip).filter(bool)
durations = st.none() | st.floats(1e-3, 1e5)
FIXTURES = Path(__file__).parent / "fixtures"
DOG = Event(0, 1, "dog")


def events_of(labels):
    pairs = st.tuples(seconds, seconds, labels)
    return st.lists(pairs.map(lambda v: Event(min(v[:2]), max(v[:2]), v[2])), max_size=4)


def detection_clips(labels, names=names.map("{}.wav".format)):
    clip = st.builds(
        lambda name, events, duration: AnnotatedClip(name, events, name, duration, source="test"),
        names,
        events_of(labels),
        durations,
    )
    return st.lists(clip, min_size=1, max_size=4, unique_by=lambda clip: clip.id)


def any_clips():
    """Return clips of two tasks, several of one recording, with unique ids and all that they may know."""
    grounding = st.builds(
        lambda query, events, duration, words: AnnotatedClip(
            "x", events, "a.wav", duration, query=query, source="test", question=words, unsure=["rain"], stem_index=3
        ),
        names,
        events_of(st.text(max_size=5)),
        durations,
        names | st.none(),
    )
    parts = st.tuples(detection_clips(st.text(max_size=12)), st.lists(grounding, max_size=2))
    return parts.map(lambda parts: [replace(c, id=f"{i} {c.id}", absent=["owl"]) for i, c in enumerate(sum(parts, []))])


def contents(clips):
    return [(Path(clip.audio).name, clip.duration, clip.events) for clip in clips]


track_labels = st.text(st.characters(codec="utf-8"), max_size=12).map(normalize_label)
table_labels = track_labels.filter(lambda text: text.lower() not in ("", "nan"))


@given(any_clips())
def test_json_lines_are_read_back_equal(clips):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clips.jsonl"
        here = [replace(clip, audio=f"{folder}/{clip.audio}") for clip in clips]
        write_json_clips(here, path, audio_dir=folder)
        assert load_clips(path, "jsonl") == here
        write_json_clips(clips, Path(folder) / "again.jsonl")
        assert (Path(folder) / "again.jsonl").read_bytes() == path.read_bytes()


@given(detection_clips(table_labels), st.sampled_from([("desed", "tsv"), ("csv", "csv")]))
def test_tables_are_read_back_equal(clips, kind):
    data_format, written = kind
    with tempfile.TemporaryDirectory() as folder:
        path, lengths = Path(folder) / "events.tsv", Path(folder) / "durations"
        write_label_files(clips, path, written, durations=lengths)
        knows_all = all(clip.duration is not None for clip in clips)
        read = load_clips(path, data_format, durations=lengths if knows_all else None)
        assert contents(read) == contents(clips if knows_all else [replace(clip, duration=None) for clip in clips])
        assert [clip.id for clip in read] == [clip.audio for clip in clips]


@given(detection_clips(track_labels, st.integers(0, 10**6).map("clip {}".format)))
def test_label_tracks_are_read_back_equal(clips):
    with tempfile.TemporaryDirectory() as folder:
        write_label_files(clips, folder, "audacity")
        read = {clip.id: clip.events for clip in load_clips(folder, "audacity")}
        assert read == {clip.audio: clip.events for clip in clips}


@pytest.mark.parametrize(
    "name, written", [("desed_validation.tsv", "tsv"), ("events.csv", "csv"), ("soundscapes.jsonl", None)]
)
def test_a_data_set_comes_back_whole_from_its_own_format(name, written, tmp_path):
    clips = load_clips(FIXTURES / name)
    if written is None:
        write_json_clips(clips, tmp_path / name, audio_dir=FIXTURES)
    else:
        write_label_files(clips, tmp_path / name, written, audio_dir=FIXTURES)
    assert load_clips(tmp_path / name, audio_dir=FIXTURES) == clips


def test_a_label_track_is_named_as_its_recording(tmp_path):
    clips = load_clips(FIXTURES / "living_room.txt")
    (path,) = write_label_files(clips, tmp_path / "tracks", "audacity")
    assert path.name == "living_room.txt" and load_clips(path, audio_dir=FIXTURES) == clips


def test_file_names_are_relative_to_the_folder_of_the_recordings(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(16000), 16000)
    clip = AnnotatedClip("x", [], str(tmp_path / "a.wav"), 1.0)
    write_label_files([clip], tmp_path / "a.tsv", "tsv", durations=tmp_path / "lengths.tsv", audio_dir=tmp_path)
    assert (tmp_path / "a.tsv").read_bytes() == b"filename\tonset\toffset\tevent_label\na.wav\t\t\t\n"
    assert (tmp_path / "lengths.tsv").read_bytes() == b"filename\tduration\na.wav\t1.000\n"
    assert contents(load_clips(tmp_path / "a.tsv", needs_duration=True)) == contents([clip])
    with pytest.raises(ValueError, match="is not in audio_dir"):
        write_label_files([clip], tmp_path / "b.tsv", "tsv", audio_dir=tmp_path / "elsewhere")


def test_times_have_three_decimals_or_all_they_need(tmp_path):
    events = [Event(0.5, 1.25, "dog bark"), Event(1 / 3, 1, 'a "b"')]
    write_label_files([AnnotatedClip("a", events, "a.wav")], tmp_path / "a.tsv", "tsv")
    assert (tmp_path / "a.tsv").read_bytes() == (
        b"filename\tonset\toffset\tevent_label\n"
        b"a.wav\t0.500\t1.250\tdog bark\n"
        b'a.wav\t0.3333333333333333\t1.000\t"a ""b"""\n'
    )


@pytest.mark.parametrize("format", ["tsv", "csv", "rttm", "vtt"])
def test_what_a_format_cannot_hold_is_refused_before_anything_is_written(format, tmp_path):
    clip, asked = AnnotatedClip("a", [DOG], "a.wav"), AnnotatedClip("b", [], "b.wav", query="dog")
    for other, message in (
        (asked, "clip 'b' has the task 'grounding'"),
        (AnnotatedClip("c", []), "clip 'c' has the task 'detection' and the audio None"),
        (replace(clip, id="c"), "'a.wav' has several clips"),
        (AnnotatedClip("d", [Event(0, 1, " ")], "d.wav"), "'d.wav' has"),
    ):
        with pytest.raises(ValueError, match=message):
            write_label_files([clip, other], tmp_path / "out", format)
    assert list(tmp_path.iterdir()) == []


def test_labels_and_names_that_would_be_read_otherwise_are_refused(tmp_path):
    for label in ("", " ", "nan", "NaN"):
        with pytest.raises(ValueError, match="which reads as none"):
            write_label_files([AnnotatedClip("a", [Event(0, 1, label)], "a.wav")], tmp_path / "a.tsv", "tsv")
    clips = [AnnotatedClip(name, [], name) for name in ("x/a.wav", "x/a.flac")]
    with pytest.raises(ValueError, match="a second recording would be written to '.*a.txt'"):
        write_label_files(clips, tmp_path, "audacity")


def test_keys_that_say_nothing_are_left_out_of_json_lines(tmp_path):
    clip = AnnotatedClip("a", [Event(0, 1, "dog", 0.5)], "a.wav", absent=[], question="When?")
    write_json_clips([clip, AnnotatedClip("b", [])], tmp_path / "a.jsonl")
    first, second = (tmp_path / "a.jsonl").read_text().splitlines()
    assert first.endswith('"score": 0.5}], "source": null, "absent": [], "question": "When?"}')
    assert second.endswith('"query": null, "events": [], "source": null}')
