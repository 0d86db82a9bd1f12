"""Every format from a file in its public layout, and what becomes of files that are not quite right."""

import json
from pathlib import Path

import numpy as np
import pandas
import pytest
import soundfile

from processing.events import Event
from recipes.data.clip import AnnotatedClip
from recipes.data.loading import check_audio, load_clips, measure_durations

FIXTURES = Path(__file__).parent / "fixtures"
PUBLIC_FILES = [
    ("desed_validation.tsv", "desed"),
    ("events.csv", "csv"),
    ("audioset_strong.tsv", "audioset_strong"),
    ("ftar_grounding.json", "ftar"),
    ("ftar_captions.json", "ftar"),
    ("audiogrounding.json", "audiogrounding"),
    ("castella.jsonl", "lighthouse"),
    ("clotho_moment.jsonl", "lighthouse"),
    ("audiotime_timestamp.json", "audiotime"),
    ("living_room.txt", "audacity"),
    ("soundscapes.jsonl", "jsonl"),
]
# Samples that are named after their formats.
PUBLIC_FILES += [(f"formats/{path.name}", path.stem) for path in sorted((FIXTURES / "formats").iterdir())]
HEADER = "filename\tonset\toffset\tevent_label\n"


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def error_of(path, error=ValueError, **arguments):
    with pytest.raises(error) as caught:
        load_clips(path, **arguments)
    return str(caught.value)


@pytest.mark.parametrize("file, format", PUBLIC_FILES)
def test_the_format_is_told_from_the_contents(file, format, tmp_path):
    clips = load_clips(FIXTURES / file, format)
    assert load_clips(FIXTURES / file) == clips
    # Neither a byte order mark nor Windows line ends change anything.
    text = (FIXTURES / file).read_bytes().replace(b"\n", b"\r\n")
    path = write(tmp_path / Path(file).name, b"\xef\xbb\xbf" + text)
    assert load_clips(path, audio_dir=(FIXTURES / file).parent) == clips


def test_desed_gives_one_clip_per_recording_and_keeps_those_without_events():
    water, silent, dogs = load_clips(
        FIXTURES / "desed_validation.tsv", durations=FIXTURES / "desed_durations.tsv", audio_dir=FIXTURES
    )
    assert water == AnnotatedClip(
        id="Y0bjUq9XMMmQ_30.000_40.000.wav",
        audio=str(FIXTURES / "Y0bjUq9XMMmQ_30.000_40.000.wav"),
        duration=10.0,
        task="detection",
        query=None,
        events=(Event(2.112, 3.584, "Running_water"), Event(0.0, 10.0, "Frying")),
        source="desed:desed_validation",
    )
    assert silent.events == () and silent.duration == 9.984
    # Overlapping events of one label are two events.
    assert dogs.events == (Event(1.25, 4.5, "Dog"), Event(2.0, 3.0, "Dog"))


def test_columns_are_read_by_name_and_nan_is_no_event(tmp_path):
    table = "event_label\tfilename\toffset\tonset\nDog\tb.wav\t2\t1\nNaN\ta.wav\tnan\tNaN\n\nCat\tb.wav\t4e0\t.5\n"
    clips = load_clips(write(tmp_path / "a.tsv", table))
    assert [(clip.id, clip.events) for clip in clips] == [
        ("b.wav", (Event(1, 2, "Dog"), Event(0.5, 4, "Cat"))),
        ("a.wav", ()),
    ]


def test_csv_labels_may_hold_commas():
    clips = load_clips(FIXTURES / "events.csv")
    assert clips[0].events == (Event(0.5, 1.75, "Water tap, faucet"), Event(3, 3.25, "Dishes"))
    assert clips[1].id == "silence.wav" and clips[1].events == ()


def test_durations_are_the_list_of_recordings(caplog):
    clips = load_clips(FIXTURES / "events.csv", durations={"kitchen.wav": 4, "silence.wav": 2, "more.wav": 3})
    assert [(clip.id, clip.duration, len(clip.events)) for clip in clips] == [
        ("kitchen.wav", 4.0, 2),
        ("silence.wav", 2.0, 0),
        ("more.wav", 3.0, 0),
    ]
    assert "1 recordings are in durations alone" in caplog.text
    message = error_of(FIXTURES / "desed_validation.tsv", durations={"Ytwo_dogs_60.000_70.000.wav": 10})
    assert "durations lacks 2 recordings" in message and "Y-made_up_0.000_10.000.wav" in message


@pytest.mark.parametrize(
    "table, message",
    [
        ("filename\tduration\nkitchen.wav\t0\n", "line 2: duration is 0.0"),
        ("filename\tduration\nkitchen.wav\tnan\n", "line 2: duration is 'nan'"),
        ("filename\tlength\nkitchen.wav\t1\n", "line 1: the header lacks 'duration' and has unknown 'length'"),
        ("filename,duration\na.wav,1\na.wav,2\n", "line 3: 'a.wav' lasts 2.0 s, but 1.0 s further up"),
    ],
)
def test_malformed_durations(table, message, tmp_path):
    path = write(tmp_path / "durations", table)
    assert error_of(FIXTURES / "events.csv", durations=path).startswith(f"{path}, {message}")
    assert "duration is -1" in error_of(FIXTURES / "events.csv", durations={"kitchen.wav": -1})


def test_mids_become_names_only_by_a_mapping(tmp_path, caplog):
    path = FIXTURES / "audioset_strong.tsv"
    assert load_clips(path)[1].events == (Event(2.627, 7.237, "/m/05zppz"),)
    assert "the labels are MIDs" in caplog.text
    named = load_clips(path, label_names=FIXTURES / "mid_to_display_name.tsv")
    assert named[0].events == (Event(0, 10, "Wind"), Event(4.753, 5.72, "Male speech, man speaking"))
    indices = 'index,mid,display_name\n0,/m/05zppz,"Male speech, man speaking"\n1,/m/03m9d0z,Wind\n'
    assert load_clips(path, label_names=write(tmp_path / "indices.csv", indices)) == named
    message = error_of(path, label_names={"/m/03m9d0z": "Wind"})
    assert "label_names lacks 1 of the labels" in message and f"/m/05zppz ({path}, line 3)" in message
    assert "only audioset_strong takes it" in error_of(FIXTURES / "events.csv", label_names={})


def test_framed_labels_of_audioset_are_no_events(tmp_path):
    table = "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\tpresent\na_0\t0\t1\t/m/04rlf\tNOT_PRESENT\n"
    path = write(tmp_path / "posneg.tsv", table)
    assert f"{path}, line 1: the header has unknown 'present'" in error_of(path)


def test_ftar_grounding_and_captions():
    dogs, voice = load_clips(FIXTURES / "ftar_grounding.json")
    assert (dogs.id, dogs.task, dogs.query) == ("Y2o1p83UjJFA-0", "grounding", "dogs barking")
    assert dogs.events == (Event(1.2, 3.4, "dogs barking"), Event(5.0, 6.1, "dogs barking"))
    assert voice.query == "a man's voice" and voice.events == (Event(0, 10, "a man's voice"),)
    after, before = load_clips(FIXTURES / "ftar_captions.json")
    assert after.task == "captioning" and after.query is None and after.duration == 11.3
    assert after.events == (Event(0, 2.1, "2-3 dogs bark"), Event(4.5, 9.8, "a car passes by"))
    assert before.events == (Event(0, 40.5, "A letter is read aloud"), Event(40.5, 81.7, "She answers it"))


@pytest.mark.parametrize(
    "question, answer, message",
    [
        ("What are the start and end times of audio matching 'x'?", "-1.2 - 3.4", "[0].answer is '-1.2 - 3.4'"),
        ("What are the start and end times of audio matching 'x'?", "3.4 - 1.2", "offset is 1.2 s, before the onset"),
        ("What are the start and end times of audio matching 'x'?", "1.2 - 3.4 or so", "give spans of seconds"),
        ("What are the start and end times of audio matching 'x'?", "00:12 - 00:22", "give spans of seconds"),
        ("What is the total count of the impact sounds?", "3", "which asks for no times"),
        ("List the events with times.", "0.0 - 1.0 a dog; 2.0 - 3.0", "every span needs one description"),
        ("List the events with times.", "a dog 0.0 - 1.0, 2.0 - 3.0", "every span needs one description"),
        ("List the events with times.", "a dog", "without spans"),
    ],
)
def test_ftar_answers_that_cannot_be_read(question, answer, message, tmp_path):
    item = {"id": "a", "audio": "a.wav", "question": question, "answer": answer, "duration": 10}
    assert message in error_of(write(tmp_path / "a.json", json.dumps([item])))


def test_audiogrounding_skips_padding():
    clips = load_clips(FIXTURES / "audiogrounding.json")
    assert [(clip.id, clip.query, clip.events) for clip in clips] == [
        ("91139-0", "a dog barks", (Event(0.4, 1.2, "a dog barks"), Event(2, 2.3, "a dog barks"))),
        ("91139-1", "wind blows", (Event(0, 10, "wind blows"),)),
        ("91140-0", "birds sing", ()),
    ]


def test_lighthouse_keeps_windows_that_pass_the_end_and_says_so(caplog):
    clips = load_clips(FIXTURES / "castella.jsonl")
    assert clips[1].events == (Event(116, 300, "Something is fried in oil"),) and clips[1].duration == 299
    assert "1 events end after the recording" in caplog.text
    toilet, whale = load_clips(FIXTURES / "clotho_moment.jsonl")
    assert toilet.id == "32694" and toilet.audio == str(FIXTURES / "Singapore_0.0_60.0.wav")
    assert whale.query == "A whale sings." and whale.events == ()


def test_audiotime_intervals_and_its_files_without():
    clips = load_clips(FIXTURES / "audiotime_timestamp.json")
    assert clips[0].events == (
        Event(1.056, 5.158, "Electric shaver, electric razor"),
        Event(7.66, 10, "Jackhammer"),
    )
    assert "have no intervals" in error_of(FIXTURES / "audiotime_frequency.json")


def test_label_tracks_of_a_file_and_of_a_folder(tmp_path):
    (clip,) = load_clips(FIXTURES / "living_room.txt")
    # The line of frequencies is no label; a point and an empty label are.
    assert clip.events == (Event(0.5, 1.75, "door"), Event(3, 3, "click"), Event(4.1, 6, ""))
    write(tmp_path / "b.txt", "1\t2\tdog\n")
    write(tmp_path / "a.txt", "")
    clips = load_clips(tmp_path, "audacity")
    assert [(clip.audio, clip.events) for clip in clips] == [
        (str(tmp_path / "a.wav"), ()),
        (str(tmp_path / "b.wav"), (Event(1, 2, "dog"),)),
    ]
    assert "is a folder, which may be 'parquet' or 'audacity' or " in error_of(tmp_path)


def test_our_own_rows():
    scene, absent = load_clips(FIXTURES / "soundscapes.jsonl")
    assert scene.events == (Event(0.41, 1.59, "laughter"), Event(8.11, 9.71, "guitar"))
    assert scene.source == "soundscape:train" and scene.absent == ("siren",)
    assert (absent.task, absent.query, absent.events, absent.absent) == ("grounding", "dog bark", (), None)


def test_unknown_formats_and_paths(tmp_path):
    assert "data_format is 'tsv'; choose one of desed, csv" in error_of(FIXTURES / "events.csv", data_format="tsv")
    assert "does not exist" in error_of(tmp_path / "none", error=FileNotFoundError)
    assert "a folder" in error_of(tmp_path, error=IsADirectoryError, data_format="desed")
    assert "train.jsonl does not exist" in error_of(tmp_path, error=FileNotFoundError, split="train")
    assert "limit is 0; give the number of clips" in error_of(FIXTURES / "events.csv", limit=0)
    assert "not a folder" in error_of(FIXTURES / "events.csv", error=NotADirectoryError, audio_dir=tmp_path / "none")


def test_missing_recordings_are_listed_all_at_once(tmp_path):
    soundfile.write(tmp_path / "kitchen.wav", np.zeros(8000), 16000)
    clips = load_clips(FIXTURES / "desed_validation.tsv")
    with pytest.raises(FileNotFoundError, match="3 of 3 recordings are missing") as caught:
        check_audio(clips)
    assert all(clip.audio in str(caught.value) for clip in clips)
    options = {"audio_dir": tmp_path, "needs_duration": True}
    found = error_of(FIXTURES / "events.csv", error=FileNotFoundError, **options)
    assert "1 of 2 recordings are missing" in found and str(tmp_path / "silence.wav") in found
    # With durations no recording is looked at, unless all are needed.
    options["durations"] = {"kitchen.wav": 4, "silence.wav": 2}
    assert [clip.duration for clip in load_clips(FIXTURES / "events.csv", **options)] == [4, 2]
    assert "1 of 2" in error_of(FIXTURES / "events.csv", error=FileNotFoundError, needs_audio=True, **options)


def test_durations_come_from_recordings_and_names_without_suffix_are_looked_up(tmp_path):
    soundfile.write(tmp_path / "Singapore_0.0_60.0.flac", np.zeros(16000), 16000)
    soundfile.write(tmp_path / "living_room.wav", np.zeros(8000), 16000)
    (clip,) = load_clips(FIXTURES / "living_room.txt", audio_dir=tmp_path, needs_duration=True)
    assert clip.audio == str(tmp_path / "living_room.wav") and clip.duration == 0.5
    (clip,) = measure_durations(load_clips(FIXTURES / "living_room.txt", audio_dir=tmp_path))
    assert clip.duration == 0.5
    clips = load_clips(FIXTURES / "clotho_moment.jsonl", audio_dir=tmp_path)
    assert {clip.audio for clip in clips} == {str(tmp_path / "Singapore_0.0_60.0.flac")}
    assert {clip.duration for clip in clips} == {60.0}
    check_audio(clips)
    soundfile.write(tmp_path / "living_room.flac", np.zeros(8000), 16000)
    assert "living_room.flac, living_room.wav" in error_of(FIXTURES / "living_room.txt", audio_dir=tmp_path)


@pytest.mark.parametrize("num_events", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_many_events_of_one_recording(tmp_path, num_events):
    lines = "".join(f"a.wav\t{i / 10}\t{i / 10 + 0.25}\tDog\n" for i in range(num_events))
    (clip,) = load_clips(write(tmp_path / "a.tsv", HEADER + lines))
    last = (num_events - 1) / 10
    assert len(clip.events) == num_events and clip.events[-1] == Event(last, last + 0.25, "Dog")


def test_names_of_recordings_are_looked_up_in_folders_of_their_own_too(tmp_path):
    (tmp_path / "evening").mkdir()
    for name in ("evening/a.flac", "evening/b.xyz"):
        soundfile.write(tmp_path / name, np.zeros(8000), 16000, format="FLAC")
    rows = [{"id": name, "audio": f"evening/{name}", "events": []} for name in ("a", "b.xyz", "c")]
    clips = load_clips(write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows)))
    assert [clip.audio for clip in clips] == [str(tmp_path / "evening" / name) for name in ("a.flac", "b.xyz", "c.wav")]


def test_aliases_replace_labels_of_detection_and_no_queries_or_captions(tmp_path):
    dog = {"onset": 0, "offset": 1, "event_label": "barking"}
    rows = [
        {"id": "a", "events": [dog], "absent": ["meowing", "rain"]},
        {"id": "b", "events": [dog], "query": "barking"},
        {"id": "c", "events": [dog], "task": "captioning"},
    ]
    path = write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    aliases = {"barking": "dog", "meowing": "cat"}
    clips = load_clips(path, label_aliases=aliases)
    assert clips[0].absent == ("cat", "rain")
    assert [clip.events[0].event_label for clip in clips] == ["dog", "barking", "barking"]
    assert load_clips(path, label_aliases=write(tmp_path / "aliases.json", json.dumps(aliases))) == clips


def test_a_folder_is_read_by_split_and_a_limit_reads_the_first_clips_alone(tmp_path):
    lines = [json.dumps({"id": name, "events": []}) for name in "ab"]
    write(tmp_path / "train.jsonl", "\n".join([*lines, "not read", ""]))
    assert [clip.id for clip in load_clips(tmp_path, split="train", limit=2)] == ["a", "b"]
    assert "line 3 is not JSON" in error_of(tmp_path, split="train")


def test_pseudo_labels_in_parquet_are_read_from_a_least_score_on(tmp_path):
    """What is left out is neither heard nor absent."""
    events = [
        {"onset": 0.5, "offset": 1.0, "event_label": "dog", "score": 0.9},
        {"onset": 2.0, "offset": 3.0, "event_label": "cat", "score": 0.2},
        {"onset": 4.0, "offset": 5.0, "event_label": "rain", "score": None},
    ]
    rows = [{"id": "a", "audio": "a.wav", "events": events}, {"id": "b", "audio": None, "events": []}]
    pandas.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    first, second = load_clips(tmp_path / "a.parquet", min_score=0.5)
    assert first.events == (Event(0.5, 1.0, "dog"), Event(4.0, 5.0, "rain")) and first.unsure == ("cat",)
    assert [event.score for event in first.events] == [0.9, None]
    assert (second.id, second.audio, second.events, second.unsure) == ("b", None, (), ())
    assert len(load_clips(tmp_path / "a.parquet")[0].events) == 3
    assert "clip 'b' names no recording" in error_of(tmp_path / "a.parquet", needs_audio=True)
    broken = [{**rows[0], "events": [{"onset": 1.0, "offset": 0.5, "event_label": "dog"}]}]
    pandas.DataFrame(broken).to_parquet(tmp_path / "b.parquet")
    assert f"{tmp_path / 'b.parquet'}, row 0, events[0]: offset is 0.5 s" in error_of(tmp_path / "b.parquet")
    write(tmp_path / "c.parquet", b"PAR1 and no more")
    assert "is not Parquet that can be read" in error_of(tmp_path / "c.parquet")


def test_scores_of_a_table_are_read(tmp_path):
    table = "filename,onset,offset,event_label,score\na.wav,0,1,dog,0.25\na.wav,2,3,dog,0.75\n"
    (clip,) = load_clips(write(tmp_path / "a.csv", table), min_score=0.5)
    assert clip.events == (Event(2, 3, "dog"),) and clip.events[0].score == 0.75 and clip.unsure == ()
