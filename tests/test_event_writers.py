"""What is written is read back equal; what a format cannot hold is an error."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from processing.events import Event, normalize_label
from recipes.data.event_dataset import build_dataset
from recipes.data.event_loaders import load_events
from recipes.data.event_rows import COLUMNS, make_row
from recipes.data.writers import write_event_lines, write_rows

# Milliseconds, as annotations have them, and any other time.
seconds = st.one_of(st.integers(0, 100_000).map(lambda ms: ms / 1000), st.floats(0, 1e5))
names = st.text(st.characters(codec="utf-8", exclude_characters="/\0\r\n"), max_size=12).map(str.strip).filter(bool)
durations = st.none() | st.floats(1e-3, 1e5)


def events_of(labels):
    return st.lists(
        st.tuples(seconds, seconds, labels).map(
            lambda v: {"onset": min(v[:2]), "offset": max(v[:2]), "event_label": v[2]}
        ),
        max_size=4,
    )


def detection_rows(labels, names=names):
    row = st.builds(
        lambda name, events, duration: make_row(name, name, "detection", events, "test", duration),
        names,
        events_of(labels),
        durations,
    )
    return st.lists(row, min_size=1, max_size=4, unique_by=lambda row: row["audio"])


def any_rows():
    """Return rows of two tasks, several of one recording, with unique ids."""
    grounding = st.builds(
        lambda query, events, duration: make_row("", "a.wav", "grounding", events, None, duration, query),
        names,
        events_of(st.text(max_size=5).map(normalize_label)),
        durations,
    )
    parts = st.tuples(detection_rows(st.text(max_size=12).map(normalize_label)), st.lists(grounding, max_size=2))
    return parts.map(lambda parts: [{**row, "id": f"{i} {row['id']}"} for i, row in enumerate(parts[0] + parts[1])])


def contents(rows):
    return [(row["audio"], row["duration"], row["events"]) for row in rows]


track_labels = st.text(st.characters(codec="utf-8"), max_size=12).map(normalize_label)
table_labels = track_labels.filter(lambda text: text.lower() not in ("", "nan"))


@settings(max_examples=25)
@given(any_rows())
def test_json_lines_are_read_back_equal(rows):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write_event_lines(rows, path)
        assert load_events(path, "jsonl").to_list() == rows
        # A data set is written as its rows are.
        write_event_lines(build_dataset(rows), Path(folder) / "again.jsonl")
        assert (Path(folder) / "again.jsonl").read_bytes() == path.read_bytes()


@settings(max_examples=40)
@given(detection_rows(table_labels), st.sampled_from([("desed", "tsv"), ("csv", "csv")]))
def test_tables_are_read_back_equal(rows, kind):
    format, written = kind
    with tempfile.TemporaryDirectory() as folder:
        path, lengths = Path(folder) / "events.tsv", Path(folder) / "durations"
        write_rows(rows, path, written, durations=lengths)
        known = {row["audio"]: row["duration"] for row in rows if row["duration"] is not None}
        read = load_events(path, format, durations=lengths if len(known) == len(rows) else None)
        expected = [{**row, "duration": row["duration"] if len(known) == len(rows) else None} for row in rows]
        assert contents(read) == contents(expected)
        assert read["id"][:] == [row["audio"] for row in rows]


@settings(max_examples=40)
@given(detection_rows(track_labels, st.integers(0, 10**6).map("clip {}".format)))
def test_label_tracks_are_read_back_equal(rows):
    with tempfile.TemporaryDirectory() as folder:
        write_rows(rows, folder, "audacity")
        read = {row["audio"]: row["events"] for row in load_events(folder, "audacity")}
        assert read == {row["audio"]: row["events"] for row in rows}


def test_a_data_set_comes_back_whole_from_its_own_format(tmp_path):
    fixtures = Path(__file__).parent / "fixtures"
    for name, format, written in (
        ("desed_validation.tsv", "desed", "tsv"),
        ("events.csv", "csv", "csv"),
        ("soundscapes.jsonl", "jsonl", None),
    ):
        dataset = load_events(fixtures / name)
        if written is None:
            write_event_lines(dataset, tmp_path / name)
        else:
            write_rows(dataset, tmp_path / name, written)
        assert load_events(tmp_path / name, format).to_list() == dataset.to_list()
    dataset = load_events(fixtures / "living_room.txt")
    (path,) = write_rows(dataset, tmp_path / "tracks", "audacity")
    assert path.name == "living_room.txt" and load_events(path).to_list() == dataset.to_list()


def test_file_names_are_relative_to_the_folder_of_the_recordings(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(16000), 16000)
    row = make_row("x", str(tmp_path / "a.wav"), "detection", [], None, 1.0)
    write_rows([row], tmp_path / "a.tsv", "tsv", durations=tmp_path / "lengths.tsv", audio_dir=tmp_path)
    assert (tmp_path / "a.tsv").read_bytes() == b"filename\tonset\toffset\tevent_label\na.wav\t\t\t\n"
    assert (tmp_path / "lengths.tsv").read_bytes() == b"filename\tduration\na.wav\t1.000\n"
    assert contents(load_events(tmp_path / "a.tsv", audio_dir=tmp_path)) == contents([row])
    with pytest.raises(ValueError, match="is not in audio_dir"):
        write_rows([row], tmp_path / "b.tsv", "tsv", audio_dir=tmp_path / "elsewhere")


def test_times_have_three_decimals_or_all_they_need(tmp_path):
    events = [Event(0.5, 1.25, "dog bark").as_dict(), Event(1 / 3, 1, 'a "b"').as_dict()]
    write_rows([make_row("a", "a.wav", "detection", events, None)], tmp_path / "a.tsv", "tsv")
    assert (tmp_path / "a.tsv").read_bytes() == (
        b"filename\tonset\toffset\tevent_label\n"
        b"a.wav\t0.500\t1.250\tdog bark\n"
        b'a.wav\t0.3333333333333333\t1.000\t"a ""b"""\n'
    )


@pytest.mark.parametrize("format", ["tsv", "csv", "rttm", "vtt"])
def test_what_a_format_cannot_hold(format, tmp_path):
    row = make_row("a", "a.wav", "detection", [Event(0, 1, "dog").as_dict()], None)
    asked = make_row("b", "b.wav", "grounding", [], None, query="dog")
    with pytest.raises(ValueError, match="row 'b' has the task 'grounding'"):
        write_rows([row, asked], tmp_path / "out", format)
    with pytest.raises(ValueError, match="'a.wav' has several rows"):
        write_rows([row, {**row, "id": "c"}], tmp_path / "out", format)
    broken = {**row, "events": [Event(0, 1, " ").as_dict()]}
    with pytest.raises(ValueError, match="'a.wav' has"):
        write_rows([row | {"audio": "b.wav"}, broken], tmp_path / "out", format)
    assert list(tmp_path.iterdir()) == []


def test_labels_and_names_that_would_be_read_otherwise(tmp_path):
    for label in ("", " ", "nan", "NaN"):
        row = make_row("a", "a.wav", "detection", [Event(0, 1, label).as_dict()], None)
        with pytest.raises(ValueError, match="which reads as none"):
            write_rows([row], tmp_path / "a.tsv", "tsv")
    rows = [make_row(name, name, "detection", [], None) for name in ("x/a.wav", "y/a.flac")]
    with pytest.raises(ValueError, match="a second recording would be written to '.*a.txt'"):
        write_rows(rows, tmp_path, "audacity")
    with pytest.raises(ValueError, match="Out of range float"):
        write_event_lines([make_row("a", "a", "detection", [], None, float("nan"))], tmp_path / "a")


def test_further_columns_are_written_as_json_lines(tmp_path):
    row = {"question": "When?", **make_row("a", "a.wav", "detection", [], None)}
    write_event_lines([row], tmp_path / "a.jsonl")
    text = (tmp_path / "a.jsonl").read_text()
    assert text.endswith('"question": "When?"}\n')
    assert list(load_events(tmp_path / "a.jsonl")[0]) == list(COLUMNS)
