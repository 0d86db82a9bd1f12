"""Every format from a file in its public layout, and what becomes of files that are not quite right."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from recipes.data.event_dataset import FEATURES, check_audio
from recipes.data.event_loaders import READERS, load_events

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
HEADER = "filename\tonset\toffset\tevent_label\n"


def event(onset, offset, event_label):
    return {"onset": onset, "offset": offset, "event_label": event_label}


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def error_of(path, error=ValueError, **arguments):
    with pytest.raises(error) as caught:
        load_events(path, **arguments)
    return str(caught.value)


@pytest.mark.parametrize("file, format", PUBLIC_FILES)
def test_the_format_is_told_from_the_contents(file, format, tmp_path):
    named, guessed = load_events(FIXTURES / file, format), load_events(FIXTURES / file)
    assert guessed.features == FEATURES
    assert guessed.to_list() == named.to_list() and guessed._fingerprint == named._fingerprint
    # Neither a byte order mark nor Windows line ends change anything.
    text = (FIXTURES / file).read_bytes().replace(b"\n", b"\r\n")
    assert load_events(write(tmp_path / file, b"\xef\xbb\xbf" + text)).to_list() == named.to_list()


def test_every_format_has_a_file():
    assert {format for _, format in PUBLIC_FILES} == set(READERS)


def test_desed_gives_one_row_per_recording_and_keeps_those_without_events():
    rows = load_events(FIXTURES / "desed_validation.tsv", durations=FIXTURES / "desed_durations.tsv").to_list()
    water, silent, dogs = rows
    assert water == {
        "id": "Y0bjUq9XMMmQ_30.000_40.000.wav",
        "audio": "Y0bjUq9XMMmQ_30.000_40.000.wav",
        "duration": 10.0,
        "task": "detection",
        "query": None,
        "events": [event(2.112, 3.584, "Running_water"), event(0.0, 10.0, "Frying")],
        "source": "desed:desed_validation",
    }
    assert silent["events"] == [] and silent["duration"] == 9.984
    # Overlapping events of one label are two events.
    assert dogs["events"] == [event(1.25, 4.5, "Dog"), event(2.0, 3.0, "Dog")]


def test_columns_are_read_by_name_and_nan_is_no_event(tmp_path):
    table = "event_label\tfilename\toffset\tonset\nDog\tb.wav\t2\t1\nNaN\ta.wav\tnan\tNaN\n\nCat\tb.wav\t4e0\t.5\n"
    rows = load_events(write(tmp_path / "a.tsv", table)).to_list()
    assert [(row["audio"], row["events"]) for row in rows] == [
        ("b.wav", [event(1, 2, "Dog"), event(0.5, 4, "Cat")]),
        ("a.wav", []),
    ]


def test_csv_labels_may_hold_commas():
    rows = load_events(FIXTURES / "events.csv").to_list()
    assert rows[0]["events"] == [event(0.5, 1.75, "Water tap, faucet"), event(3, 3.25, "Dishes")]
    assert rows[1]["audio"] == "silence.wav" and rows[1]["events"] == []


def test_durations_are_the_list_of_recordings(caplog):
    rows = load_events(FIXTURES / "events.csv", durations={"kitchen.wav": 4, "silence.wav": 2, "more.wav": 3}).to_list()
    assert [(row["audio"], row["duration"], len(row["events"])) for row in rows] == [
        ("kitchen.wav", 4.0, 2),
        ("silence.wav", 2.0, 0),
        ("more.wav", 3.0, 0),
    ]
    assert "1 recordings are named by durations alone" in caplog.text
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
    assert load_events(path)[1]["events"] == [event(2.627, 7.237, "/m/05zppz")]
    assert "the labels are MIDs" in caplog.text
    named = load_events(path, label_names=FIXTURES / "mid_to_display_name.tsv")
    assert named[0]["events"] == [event(0, 10, "Wind"), event(4.753, 5.72, "Male speech, man speaking")]
    indices = 'index,mid,display_name\n0,/m/05zppz,"Male speech, man speaking"\n1,/m/03m9d0z,Wind\n'
    assert load_events(path, label_names=write(tmp_path / "indices.csv", indices)).to_list() == named.to_list()
    message = error_of(path, label_names={"/m/03m9d0z": "Wind"})
    assert "label_names lacks 1 of the labels" in message and f"/m/05zppz ({path}, line 3)" in message
    assert "only audioset_strong takes it" in error_of(FIXTURES / "events.csv", label_names={})


def test_framed_labels_of_audioset_are_no_events(tmp_path):
    table = "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\tpresent\na_0\t0\t1\t/m/04rlf\tNOT_PRESENT\n"
    path = write(tmp_path / "posneg.tsv", table)
    assert f"{path}, line 1: the header has unknown 'present'" in error_of(path)


def test_ftar_grounding_and_captions():
    dogs, voice = load_events(FIXTURES / "ftar_grounding.json").to_list()
    assert (dogs["id"], dogs["task"], dogs["query"]) == ("Y2o1p83UjJFA-0", "grounding", "dogs barking")
    assert dogs["events"] == [event(1.2, 3.4, "dogs barking"), event(5.0, 6.1, "dogs barking")]
    assert voice["query"] == "a man's voice" and voice["events"] == [event(0, 10, "a man's voice")]
    after, before = load_events(FIXTURES / "ftar_captions.json").to_list()
    assert after["task"] == "captioning" and after["query"] is None and after["duration"] == 11.3
    assert after["events"] == [event(0, 2.1, "2-3 dogs bark"), event(4.5, 9.8, "a car passes by")]
    assert before["events"] == [event(0, 40.5, "A letter is read aloud"), event(40.5, 81.7, "She answers it")]


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
    rows = load_events(FIXTURES / "audiogrounding.json").to_list()
    assert [(row["id"], row["query"], row["events"]) for row in rows] == [
        ("91139-0", "a dog barks", [event(0.4, 1.2, "a dog barks"), event(2, 2.3, "a dog barks")]),
        ("91139-1", "wind blows", [event(0, 10, "wind blows")]),
        ("91140-0", "birds sing", []),
    ]


def test_lighthouse_keeps_windows_that_pass_the_end_and_says_so(caplog):
    rows = load_events(FIXTURES / "castella.jsonl").to_list()
    assert rows[1]["events"] == [event(116, 300, "Something is fried in oil")] and rows[1]["duration"] == 299
    assert "1 events end after the recording" in caplog.text
    toilet, whale = load_events(FIXTURES / "clotho_moment.jsonl").to_list()
    assert toilet["id"] == "32694" and toilet["audio"] == "Singapore_0.0_60.0"
    assert whale["query"] == "A whale sings." and whale["events"] == []


def test_audiotime_intervals_and_its_files_without():
    rows = load_events(FIXTURES / "audiotime_timestamp.json").to_list()
    assert rows[0]["events"] == [
        event(1.056, 5.158, "Electric shaver, electric razor"),
        event(7.66, 10, "Jackhammer"),
    ]
    assert "have no intervals" in error_of(FIXTURES / "audiotime_frequency.json")


def test_label_tracks_of_a_file_and_of_a_folder(tmp_path):
    (row,) = load_events(FIXTURES / "living_room.txt").to_list()
    # The line of frequencies is no label; a point and an empty label are.
    assert row["events"] == [event(0.5, 1.75, "door"), event(3, 3, "click"), event(4.1, 6, "")]
    write(tmp_path / "b.txt", "1\t2\tdog\n")
    write(tmp_path / "a.txt", "")
    rows = load_events(tmp_path, "audacity").to_list()
    assert [(row["audio"], row["events"]) for row in rows] == [("a", []), ("b", [event(1, 2, "dog")])]
    assert "say format='audacity'" in error_of(tmp_path)


def test_our_own_rows():
    scene, absent = load_events(FIXTURES / "soundscapes.jsonl").to_list()
    assert scene["events"] == [event(0.41, 1.59, "laughter"), event(8.11, 9.71, "guitar")]
    assert scene["source"] == "soundscape:train" and set(scene) == set(FEATURES)
    assert (absent["task"], absent["query"], absent["events"]) == ("grounding", "dog bark", [])


def test_unknown_formats_and_paths(tmp_path):
    assert "format is 'tsv'; choose one of desed, csv" in error_of(FIXTURES / "events.csv", format="tsv")
    assert "does not exist" in error_of(tmp_path / "none", error=FileNotFoundError)
    assert "is a folder" in error_of(tmp_path, error=IsADirectoryError, format="desed")
    assert "is no folder" in error_of(FIXTURES / "events.csv", error=NotADirectoryError, audio_dir=tmp_path / "none")


def test_missing_recordings_are_listed_all_at_once(tmp_path):
    soundfile.write(tmp_path / "kitchen.wav", np.zeros(8000), 16000)
    dataset = load_events(FIXTURES / "desed_validation.tsv")
    with pytest.raises(FileNotFoundError, match="3 of 3 recordings are missing") as caught:
        check_audio(dataset)
    assert all(row["audio"] in str(caught.value) for row in dataset)
    found = error_of(FIXTURES / "events.csv", error=FileNotFoundError, audio_dir=tmp_path)
    assert "1 of 2 recordings are missing" in found and str(tmp_path / "silence.wav") in found
    # With durations no header is needed, and so no recording.
    rows = load_events(FIXTURES / "events.csv", audio_dir=tmp_path, durations={"kitchen.wav": 4, "silence.wav": 2})
    with pytest.raises(FileNotFoundError, match="1 of 2"):
        check_audio(rows)


def test_durations_come_from_headers_and_names_without_suffix_are_looked_up(tmp_path):
    soundfile.write(tmp_path / "Singapore_0.0_60.0.flac", np.zeros(16000), 16000)
    soundfile.write(tmp_path / "living_room.wav", np.zeros(8000), 16000)
    (row,) = load_events(FIXTURES / "living_room.txt", audio_dir=tmp_path).to_list()
    assert row["audio"] == str(tmp_path / "living_room.wav") and row["duration"] == 0.5
    dataset = load_events(FIXTURES / "clotho_moment.jsonl", audio_dir=tmp_path)
    assert set(dataset["audio"]) == {str(tmp_path / "Singapore_0.0_60.0.flac")}
    assert set(dataset["duration"]) == {60.0}
    check_audio(dataset)
    soundfile.write(tmp_path / "living_room.flac", np.zeros(8000), 16000)
    assert "living_room.flac, living_room.wav" in error_of(FIXTURES / "living_room.txt", audio_dir=tmp_path)


def test_a_hundred_thousand_events_of_one_recording(tmp_path):
    lines = "".join(f"a.wav\t{i / 10}\t{i / 10 + 0.25}\tDog\n" for i in range(100_000))
    (row,) = load_events(write(tmp_path / "a.tsv", HEADER + lines)).to_list()
    assert len(row["events"]) == 100_000 and row["events"][-1] == event(9999.9, 10000.15, "Dog")
