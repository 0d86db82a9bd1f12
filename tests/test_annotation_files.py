"""Annotations of other programs, and files that are not quite right."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processing import Event, format_annotations
from recipes.data.label_files import LABEL_FORMATS, label_format, read_labels

FOREIGN = {
    "vtt": "\ufeffWEBVTT - made elsewhere\n\nSTYLE\n::cue { color: red }\n\nNOTE\nby hand\n\nintro\n"
    "00:01.500 --> 00:02.000 align:start\n"
    "<v Roger><i>hello</i> &amp; bye\nagain\n\n01:00:00.000 --> 01:00:01.000\nx",
    "srt": "1\r\n00:00:01,500 --> 00:00:02,000\r\nhello & bye\r\nagain\r\n\r\n"
    "2\r\n01:00:00,000 --> 01:00:01,000\r\nx\r\n",
}


@pytest.mark.parametrize("format", FOREIGN)
def test_captions_of_other_programs(format, tmp_path):
    path = tmp_path / f"talk.{format}"
    path.write_bytes(FOREIGN[format].encode())
    (result,) = read_labels(path)
    assert result["events"] == [Event(1.5, 2, "hello & bye again").as_dict(), Event(3600, 3601, "x").as_dict()]


SHORT = (
    'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n2.5\n<exists>\n2\n"IntervalTier"\n"words"\n0\n2.5\n3\n'
    '0\n0.5\n""\n0.5\n1.5\n"dog ""x"" ä"\n1.5\n2.5\n" "\n"TextTier"\n"clicks"\n0\n2.5\n1\n2.25\n"click"\n'
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_textgrids_of_praat(encoding, tmp_path):
    path = tmp_path / "talk.TextGrid"
    path.write_bytes(SHORT.replace("\n", "\r\n").encode(encoding))
    (result,) = read_labels(path)
    events = [Event(0.5, 1.5, 'dog "x" ä').as_dict(), Event(2.25, 2.25, "click").as_dict()]
    assert result == {"file": "talk", "duration": 2.5, "events": events}


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.tsv", "filename\tonset\toffset\tevent_label\tscore\na\t0\t1\tx\thigh\n", "line 2: score is 'high'"),
        ("a.tsv", "filename\tonset\toffset\tevent_label\tscore\na\t\t\t\t0.5\n", "line 2: score is 0.5 but"),
        ("a.csv", "filename,onset,offset,event_label\na,2,1,x\n", "line 2: offset is 1.0 s, before"),
        ("a.json", "[{", "is not JSON"),
        ("a.json", "[" * 100_000, "is not JSON"),
        ("a.json", '[{"file": "a"}]', r"\[0\] has keys \['file'\]: missing \['events'\]"),
        ("a.jsonl", '{"file": "a", "events": []}\n{"file": 3, "events": []}\n', "line 2: file is 3"),
        ("a.jsonl", "[" * 100_000, "line 1 is not JSON"),
        ("a.txt", "0\t1\n0;1\tdog\n", "line 2: onset is '0;1'"),
        ("a.rttm", "SPEAKER a 1 0 1 <NA> <NA> x <NA> <NA>\nLEXEMES a 1 0 1 x <NA> y <NA>\n", "line 2 is 'LEXEMES"),
        ("a.rttm", "SPEAKER a 1 0 -1 <NA> <NA> x <NA> <NA>\n", "line 1: onset and length are 0.0 and -1.0 s"),
        ("a.rttm", "SPEAKER a 1 0 1e999999999 <NA> <NA> x <NA> <NA>\n", "line 1: length is '1e999999999'"),
        ("a.vtt", "1\n00:00.000 --> 00:01.000\nx\n", "the first line of WebVTT is 'WEBVTT'"),
        ("a.vtt", "WEBVTT\n\n00:00 --> 00:01\nx\n", "line 3 is '00:00 --> 00:01'; give times such as"),
        ("a.srt", "1\n00:00:02,000 --> 00:00:01,000\nx\n", "line 2: offset is 1.0 s, before"),
        ("a.srt", "1\nx\n", "line 1 is '1'; give times such as"),
        ("a.srt", "00:00:01,000 --> 00:00:02,000\ndog\n2\n00:00:03,000 --> 00:00:04,000\ncat\n", "line 4 gives times"),
        ("a.TextGrid", "x", "the end '' where a text is expected"),
        ("a.TextGrid", SHORT[:-2], "a quotation mark is never closed"),
        ("a.TextGrid", SHORT[:-9], "the end '' where a"),
        ("a.TextGrid", SHORT.replace("\n0\n2.5\n<", "\n-1\n2.5\n<"), "lasts from -1.0 to 2.5 s"),
        ("a.TextGrid", SHORT.replace("0.5\n1.5", "0.5\n-1.5"), r"events\[0\]: offset is -1.5 s"),
        ("a.TextGrid", SHORT.replace("TextTier", "SpellTier"), "'clicks' is of the class 'SpellTier'"),
        ("a.TextGrid", SHORT.replace("<exists>\n2", "<exists>\n1e999"), "the number '1e999' cannot be read"),
        ("a.txt", "Tier\tBegin Time - ss.msec\tEnd Time - ss\tAnnotation\n0\t0\t1\ta\n", "has no begin and end in"),
        ("a.eaf", "<x/>", "is not an .eaf of ELAN"),
        ("a.jams", "{", "is not JAMS"),
        ("a.jams", "[]", "is not JAMS"),
        ("a.jams", '{"annotations": [], "file_metadata": {"duration": 1}}', "has 0 annotations"),
        ("a.srt", b"\xff\xfea", "is not UTF-8"),
        ("a.TextGrid", b"ooBinaryFile\x08TextGrid\xff", "is a binary TextGrid"),
        ("a.jams", b"\xff", "is not JAMS"),
    ],
)  # fmt: skip
def test_malformed_files_are_named(name, content, message, tmp_path):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as caught:
        read_labels(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("format", LABEL_FORMATS)
def test_damaged_files_give_values_or_errors(format, tmp_path):
    whole = format_annotations(
        {"file": "a.wav", "duration": 9.0, "events": [Event(0, 1, "dog", 0.5), Event(1, 2, "cat", None)]},
        label_format(format),
        drop_scores=True,
    ).encode()

    @given(st.data())
    def check(data):
        start = data.draw(st.integers(0, len(whole)))
        stop = data.draw(st.integers(start, min(len(whole), start + 20)))
        path = tmp_path / f"a{LABEL_FORMATS[format].suffix}"
        path.write_bytes(whole[:start] + data.draw(st.binary(max_size=8)) + whole[stop:])
        try:
            read_labels(path, format)
        except ValueError:
            pass

    check()


def test_blank_lines_of_any_kind_separate_cues(tmp_path):
    cues = "1\n00:00:01,000 --> 00:00:02,000\ndog\n \t\n2\n00:00:03,000 --> 00:00:04,000\ncat\n"
    (tmp_path / "a.srt").write_text(cues)
    (recording,) = read_labels(tmp_path / "a.srt")
    assert [(event["onset"], event["event_label"]) for event in recording["events"]] == [(1.0, "dog"), (3.0, "cat")]


def test_elan_divides_times_evenly_and_other_programs_name_no_schema(tmp_path):
    values = {"ts1": 'TIME_VALUE="500"', "ts2": "", "ts3": "", "ts4": 'TIME_VALUE="2000"', "ts5": 'TIME_VALUE="2500"'}
    slots = "".join(f'<TIME_SLOT TIME_SLOT_ID="{name}" {value}/>' for name, value in values.items())
    parts = [("ts1", "ts2", "dog"), ("ts2", "ts3", ""), ("ts3", "ts4", "cat"), ("ts4", "ts5", "owl")]
    annotations = "".join(
        f'<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a{index}" TIME_SLOT_REF1="{begin}" TIME_SLOT_REF2="{end}">'
        f"<ANNOTATION_VALUE>{label}</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>"
        for index, (begin, end, label) in enumerate(parts)
    )
    reference = (
        '<TIER LINGUISTIC_TYPE_REF="d" PARENT_REF="x" TIER_ID="y"><ANNOTATION><REF_ANNOTATION ANNOTATION_ID="b" '
        'ANNOTATION_REF="a0"><ANNOTATION_VALUE>loud</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION></TIER>'
    )
    text = (
        '<?xml version="1.0" encoding="UTF-8"?><ANNOTATION_DOCUMENT AUTHOR="" DATE="" FORMAT="3.0" VERSION="3.0">'
        f'<HEADER MEDIA_FILE="" TIME_UNITS="milliseconds"/><TIME_ORDER>{slots}</TIME_ORDER>'
        f'<TIER LINGUISTIC_TYPE_REF="d" TIER_ID="x">{annotations}</TIER>{reference}'
        '<LINGUISTIC_TYPE LINGUISTIC_TYPE_ID="d" TIME_ALIGNABLE="true"/></ANNOTATION_DOCUMENT>'
    )
    path = tmp_path / "talk.eaf"
    path.write_text(text)
    (result,) = read_labels(path)
    events = [Event(0.5, 1.0, "dog"), Event(1.5, 2.0, "cat"), Event(2.0, 2.5, "owl")]
    assert result["events"] == [event.as_dict() for event in events]
    path.write_text(text.replace('TIME_VALUE="2000"', "").replace('TIME_VALUE="2500"', ""))
    with pytest.raises(ValueError, match="tier 'x': the annotation 'a3' has no times; align it in ELAN"):
        read_labels(path)
