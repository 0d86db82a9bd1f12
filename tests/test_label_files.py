"""What is written is read back equal, other programs read it, and what a format cannot hold is an error."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processing import Event, annotations
from processing.events import normalize_label
from recipes.data.label_files import LABEL_FORMATS, label_format, read_labels, write_labels
from space_app.exchange import guess_exchange_format
from space_app.exchange_tiers import split_tiers


def format_annotations(results, format, **options):
    return annotations.format_annotations(results, label_format(format), **options)


MILLISECONDS = ("vtt", "srt", "elan", "eaf")
HOLD_DURATION = ("json", "jsonl", "textgrid", "jams")
IN_ORDER = ("tsv", "csv", "json", "jsonl", "audacity", "rttm")
DURATION = 1e5
SCORED = [name for name, format in LABEL_FORMATS.items() if format.holds_scores]
MANY = [name for name, format in LABEL_FORMATS.items() if format.holds_many]
STREET = [
    Event(0.5, 1.25, "dog bark", 0.875),
    Event(1.0, 2.112, "dog bark", 0.5),
    Event(2.112, 3.584, 'R&B "live" <loud>', None),
    Event(3.6, 4.0, "Käuzchen 猫", 0.25),
]

exact = st.one_of(st.integers(0, 100_000).map(lambda ms: ms / 1000), st.floats(0, DURATION))
whole = st.integers(0, 100_000_000).map(lambda ms: ms / 1000)
scores = st.none() | st.floats(-1e6, 1e6)
text = st.characters(codec="utf-8")


def labels(refused="", blank=False):
    strategy = st.text(st.characters(codec="utf-8", exclude_characters=refused), min_size=0 if blank else 1, max_size=9)
    tricky = st.sampled_from(
        ["a --> b", "a = b", '"', 'say ""', "<b>&amp;</b>", "# !x", "a  b", " dog ", "dog 2", "dog", "1", "NA"]
    )
    return (strategy | tricky.filter(lambda label: not set(label) & set(refused))).filter(
        lambda label: blank or normalize_label(label)
    )


LABELS = {
    "tsv": labels().filter(lambda label: label.strip().lower() != "nan"),
    "csv": labels().filter(lambda label: label.strip().lower() != "nan"),
    "json": labels(blank=True),
    "jsonl": labels(blank=True),
    "audacity": labels(blank=True),
    "rttm": labels().filter(lambda label: label != "<NA>"),
    "vtt": labels("\0"),
    "srt": labels("\0>}"),
    "textgrid": labels(),
    "elan": labels(),
    "eaf": labels("".join(map(chr, range(32))) + "\ufffe\uffff"),
    "jams": labels(blank=True),
}


def events_of(format):
    times = whole if format in MILLISECONDS else exact
    if format == "textgrid":
        # praatio takes times within 1e-14 for whole seconds.
        times = exact.map(lambda time: round(time, 7))
    times = st.tuples(times, times).map(sorted)
    if format in MILLISECONDS:
        times = times.filter(lambda pair: pair[0] < pair[1])
    score = scores if format in SCORED else st.none()
    event = st.builds(lambda pair, label, score: Event(*pair, label, score), times, LABELS[format], score)
    return st.lists(event, min_size=1 if format == "rttm" else 0, max_size=6)


def contents(events):
    return sorted((event["onset"], event["offset"], event["event_label"], repr(event["score"])) for event in events)


def assert_close(events, expected):
    """JAMS holds lengths, and no float is the length of every interval; within milliseconds it is exact."""
    assert len(events) == len(expected)
    for event, other in zip(events, sorted(expected, key=lambda event: Event.from_dict(event))):
        assert {**event, "offset": 0} == {**other, "offset": 0}
        assert abs(event["offset"] - other["offset"]) <= (0 if is_whole(other) else 1e-10)


def is_whole(event):
    return all(event[name] == round(event[name], 3) for name in ("onset", "offset"))


@pytest.mark.parametrize("format", LABEL_FORMATS)
def test_one_recording_is_read_back_equal(format):
    @given(events_of(format))
    def check(events):
        result = {"file": "street.wav", "duration": DURATION, "events": events}
        with tempfile.TemporaryDirectory() as folder:
            (path,) = write_labels(result, folder, format)
            assert path == Path(folder) / f"street{LABEL_FORMATS[format].suffix}"
            (read,) = read_labels(path, format)
            assert read_labels(folder, format) == [read]
        assert read["duration"] == (DURATION if format in HOLD_DURATION else None)
        assert Path(read["file"]).stem == "street"
        expected = [event.as_dict() for event in events]
        if format == "jams":
            assert_close(read["events"], expected)
            return
        assert contents(read["events"]) == contents(expected)
        if format in IN_ORDER:
            assert read["events"] == expected
        # Writing what was read changes nothing.
        again = {**read, "duration": DURATION}
        assert format_annotations(again, format) == format_annotations(
            {**again, "events": sorted(events) if format not in IN_ORDER else events}, format
        )

    check()


@pytest.mark.parametrize("format", MANY)
def test_many_recordings_are_read_back_equal(format, tmp_path):
    results = [
        {"file": f"{place}_30.000_40.000", "duration": 10.0, "events": [event.as_dict() for event in events]}
        for place, events in (
            ("street", [Event(0, 1, "dog", 0.1)]),
            ("yard", []),
            ("kitchen", [Event(1, 2, "tap", 0.2)]),
        )
    ]
    if format == "rttm":
        with pytest.raises(
            ValueError, match="'yard_30.000_40.000' has no events, but RTTM cannot name such recordings"
        ):
            write_labels(results, tmp_path / "all.rttm", format)
        del results[1]
    path = tmp_path / f"all{LABEL_FORMATS[format].suffix}"
    assert write_labels(iter(results), path, format) == [path]
    read = read_labels(path)
    assert read == [{**result, "duration": 10.0 if format in HOLD_DURATION else None} for result in results]


def test_many_recordings_go_into_a_folder(tmp_path):
    results = [{"file": f"x/{name}.wav", "duration": 4, "events": STREET} for name in ("b", "a.b")]
    paths = write_labels(results, tmp_path / "new", "vtt", drop_scores=True)
    assert paths == [tmp_path / "new" / "b.vtt", tmp_path / "new" / "a.b.vtt"]
    assert [result["file"] for result in read_labels(tmp_path / "new", "vtt")] == ["a.b", "b"]
    assert write_labels([], tmp_path / "none", "srt") == []
    # A name with a dot is a folder if it ends in a slash.
    (path,) = write_labels(results[:1], f"{tmp_path}/v1.2/", "textgrid", drop_scores=True)
    assert path == tmp_path / "v1.2" / "b.TextGrid"
    with pytest.raises(ValueError, match="are 2 recordings, but a file of format 'vtt' holds one; give a folder"):
        write_labels(results, tmp_path / "all.vtt", "vtt", drop_scores=True)
    with pytest.raises(ValueError, match=r"'x/b.flac': a second recording would be written to .*b.vtt"):
        write_labels([results[0], {**results[0], "file": "x/b.flac"}], tmp_path, "vtt", drop_scores=True)


@pytest.mark.parametrize("format", sorted(set(LABEL_FORMATS) - set(SCORED)))
def test_scores_are_dropped_only_on_demand(format, tmp_path):
    result = {"file": "a.wav", "duration": 4.0, "events": STREET}
    with pytest.raises(
        ValueError, match=f"has events with scores, which '{format}' cannot hold; pass drop_scores=True"
    ):
        write_labels(result, tmp_path, format)
    assert not list(tmp_path.iterdir())
    write_labels(result, tmp_path, format, drop_scores=True)
    (read,) = read_labels(tmp_path, format)
    assert contents(read["events"]) == contents([{**event.as_dict(), "score": None} for event in STREET])


@pytest.mark.parametrize(
    "format, event, message",
    [
        ("csv", Event(0, 1, ""), "which reads as none"),
        ("rttm", Event(0, 1, "<NA>"), "the name or label '<NA>', which RTTM cannot hold"),
        ("rttm", Event(0, 1, ""), "the name or label '', which RTTM cannot hold"),
        ("vtt", Event(1, 1.0004, "x"), "WebVTT needs at least a millisecond"),
        ("vtt", Event(0, 1, "a\0b"), "WebVTT cannot hold it"),
        ("srt", Event(0, 1, "a --> b"), "SubRip cannot hold '-->'"),
        ("srt", Event(0, 1, "<i>dog</i>"), "SubRip cannot hold '-->' or tags"),
        ("srt", Event(0, 1, " "), "SubRip cannot hold it; name the event"),
        ("textgrid", Event(0, 1, ""), "a TextGrid cannot hold blank labels"),
        ("textgrid", Event(0, 11, "x"), "ends at 11.0 s, after the recording of 10.0 s"),
        ("eaf", Event(0, 1, "a\x01b"), "an .eaf cannot hold control characters"),
        ("elan", Event(1, 1, "x"), "ELAN's text needs at least a millisecond"),
        ("jsonl", Event(0, 1, "\ud800"), "has characters that UTF-8 lacks"),
    ],
)
def test_what_a_format_cannot_hold_is_named(format, event, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_labels({"file": "a.wav", "duration": 10, "events": [event]}, tmp_path, format)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", ["textgrid", "jams"])
def test_formats_that_need_the_duration(format):
    with pytest.raises(ValueError, match="'a.wav' has no duration, which .* must say"):
        format_annotations({"file": "a.wav", "events": []}, format)


@pytest.mark.parametrize(
    "result, message",
    [
        ({"file": "a.wav"}, r"results\[0\] has keys \['file'\]: missing \['events'\]"),
        ({"file": "a.wav", "events": [], "text": ""}, r"unknown \['text'\]"),
        ({"file": "", "events": []}, "file is ''; give the name"),
        ({"file": "a.wav", "events": None}, "the events of 'a.wav' are None"),
        ({"file": "a.wav", "events": {}}, "events is {}; give a list"),
        ({"file": "a.wav", "events": [], "duration": -1}, r"results\[0\]: duration is -1"),
        (
            {"file": "a.wav", "events": [{"onset": 2, "offset": 1}]},
            r"results\[0\], events\[0\]: offset is 1.0 s, before",
        ),
        ({"file": "a.wav", "events": [{"onset": 2, "offset": float("nan")}]}, r"events\[0\]: offset is nan"),
        ({"file": "a.wav", "events": [3]}, r"events\[0\] is 3; give a dict"),
        ("a.wav", r"results\[0\] is 'a'; give a dict"),
    ],
)
def test_malformed_results_are_named(result, message):
    with pytest.raises(ValueError, match=message):
        format_annotations(result, "json")


def test_times_and_labels_as_text():
    # 3.584 - 2.112 = 1.472, which binary fractions miss; 3725.5 s = 1 h 2 min 5.5 s.
    events = [Event(2.112, 3.584, "Running_water", 0.5), Event(3725.5, 3726, "R&B_-->_<loud>")]
    result = {"file": "x/Y_30.000_40.000.wav", "events": events}
    assert format_annotations(result, "rttm") == (
        "SPEAKER Y_30.000_40.000 1 2.112 1.472 <NA> <NA> Running_water 0.5 <NA>\n"
        "SPEAKER Y_30.000_40.000 1 3725.500 0.500 <NA> <NA> R&B_-->_<loud> <NA> <NA>\n"
    )
    assert format_annotations(result, "vtt", drop_scores=True) == (
        "WEBVTT\n"
        "\n00:00:02.112 --> 00:00:03.584\nRunning_water\n"
        "\n01:02:05.500 --> 01:02:06.000\nR&amp;B_--&gt;_&lt;loud&gt;\n"
    )
    result = {"file": "a.wav", "events": [Event(1, 2, "b"), Event(0.0004, 1.9996, "a")]}
    assert format_annotations(result, "srt") == (
        "1\n00:00:00,000 --> 00:00:02,000\na\n\n2\n00:00:01,000 --> 00:00:02,000\nb\n"
    )
    assert format_annotations(result, "elan") == (
        "Tier\tBegin Time - ss.msec\tEnd Time - ss.msec\tAnnotation\na\t0.000\t2.000\ta\nb\t1.000\t2.000\tb\n"
    )


def test_tiers_have_no_overlap_and_unique_names():
    dogs = [Event(0, 2, "dog"), Event(1, 3, "dog"), Event(2, 4, "dog")]
    tiers = split_tiers([*dogs, Event(0, 1, "dog 2"), Event(5, 6, "dog  2")])
    assert [name for name, _ in tiers] == ["dog 2", "dog", "dog 3"]
    # The third dog starts when the first ends.
    assert tiers[1][1] == [dogs[0], dogs[2]]
    assert tiers[2][1] == [dogs[1]]


@given(events_of("textgrid"))
def test_tiers_hold_every_event_once(events):
    tiers = split_tiers(events)
    assert sorted(event for _, mine in tiers for event in mine) == sorted(events)
    assert len({name for name, _ in tiers}) == len(tiers)
    for _, mine in tiers:
        assert len({event.event_label for event in mine}) <= 1
        assert all(first.offset <= second.onset for first, second in zip(mine, mine[1:]))


@pytest.mark.parametrize(
    "name, line, format",
    [
        ("a.tsv", "filename\tonset", "tsv"),
        ("a.TSV", "Tier\tBegin Time - ss.msec", "elan"),
        ("a.txt", "0\t1\tdog", "audacity"),
        ("a.txt", "Tier\tBegin Time - ss.msec", "elan"),
        ("a.textgrid", "", "textgrid"),
        ("a.eaf", "", "eaf"),
    ],
)
def test_the_suffix_tells_the_format(name, line, format, tmp_path):
    (tmp_path / name).write_text(line + "\n")
    kind = guess_exchange_format(tmp_path / name)
    assert (kind.name if kind else annotations.guess_annotation_format(tmp_path / name)) == format


def test_wrong_paths_and_formats(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist; give a file of annotations"):
        read_labels(tmp_path / "absent.tsv")
    with pytest.raises(ValueError, match="is a folder; say which format"):
        read_labels(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"has no \*.vtt"):
        read_labels(tmp_path, "vtt")
    with pytest.raises(ValueError, match="format is 'xml'; choose one of tsv, csv, json"):
        write_labels([], tmp_path, "xml")
    (tmp_path / "a.xml").touch()
    with pytest.raises(ValueError, match="has the suffix '.xml', which tells no format"):
        read_labels(tmp_path / "a.xml")


@pytest.mark.parametrize("num_events", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_many_events_that_overlap(tmp_path, num_events):
    events = [Event(i / 100, i / 100 + 5, "rain") for i in range(num_events)]
    write_labels({"file": "a.wav", "duration": 1005.0, "events": events}, tmp_path, "elan")
    (read,) = read_labels(tmp_path, "elan")
    assert len(read["events"]) == num_events


def test_results_are_plain_json():
    results = json.loads(format_annotations({"file": Path("x/a.wav"), "events": STREET}, "json"))
    assert results == [{"file": "x/a.wav", "duration": None, "events": [event.as_dict() for event in STREET]}]
