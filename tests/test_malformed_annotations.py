"""Files that are not quite right: the error names file, line or place, value and fix."""

import pytest

from recipes.data.loading import load_clips

ITEM = '{"id": "a", "audio": "a.wav", "question": "Times of \'x\'?", "answer": "1 - 2", "duration": 9}'
HEADER = "filename\tonset\toffset\tevent_label\n"


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def error_of(path, **arguments):
    with pytest.raises(ValueError) as caught:
        load_clips(path, **arguments)
    return str(caught.value)


@pytest.mark.parametrize(
    "line, message",
    [
        ("a.wav\t-0.5\t1\tDog", "line 3: onset is -0.5 s"),
        ("a.wav\t2\t1\tDog", "line 3: offset is 1.0 s, before the onset at 2.0 s"),
        ("a.wav\tnan\t1\tDog", "line 3: onset is 'nan'"),
        ("a.wav\t0\tinf\tDog", "line 3: offset is 'inf'"),
        ("a.wav\t0,5\t1\tDog", "line 3: onset is '0,5'; give a number of seconds with a decimal point"),
        ("a.wav\t0:05\t1\tDog", "line 3: onset is '0:05'"),
        ("a.wav\t1_0\t11\tDog", "line 3: onset is '1_0'"),
        ("a.wav\t0\t1e999\tDog", "line 3: offset is inf"),
        ("a.wav\t\t1\tDog", "line 3: onset is ''"),
        ("a.wav\t0\t1\t", "line 3: event_label is ''"),
        ("\t0\t1\tDog", "line 3: filename is ''"),
        ("a.wav\t0\t1", "line 3 has 3 fields, but the header names 4"),
        ("a.wav,0,1,Dog", "line 3 has 1 fields"),
        ('a.wav\t0\t1\t"Dog', "line 3: unexpected end of data; check the quotation marks"),
        ("x.wav\t\t\t", "line 3: 'x.wav' has events by one line and none by another (see line 2)"),
    ],
)
def test_a_malformed_line_is_named_with_its_value(line, message, tmp_path):
    path = write(tmp_path / "a.tsv", f"{HEADER}x.wav\t0\t1\tCat\n{line}\n")
    assert error_of(path).startswith(f"{path}, {message}")


@pytest.mark.parametrize(
    "header, format, message",
    [
        ("filename,onset,offset,event_label", "desed", "is separated by commas, where tabs are expected"),
        ("filename\tonset\toffset\tevent_label", "csv", "is separated by tabs, where commas are expected"),
        ("filename;onset;offset;event_label", None, "is separated by semicolons, where commas are expected"),
        ("filename\tonset\toffset\tlabel", None, "lacks 'event_label' and has unknown 'label'"),
        ("filename\tonset\toffset\tevent_label\tpresent", None, "has unknown 'present'"),
        ("filename\tonset\tonset\toffset\tevent_label", None, "repeats 'onset'"),
        ("a.wav\t0\tlong\tDog", "desed", "lacks 'filename', 'onset', 'offset', 'event_label'"),
    ],
)
def test_a_wrong_header_is_named(header, format, message, tmp_path):
    path = write(tmp_path / "a.tsv", f"{header}\n")
    found = error_of(path, data_format=format)
    assert found.startswith(f"{path}, line 1: the header") and message in found


@pytest.mark.parametrize(
    "format, content, message",
    [
        ("jsonl", '{"id": "a", "audio": "a.wav", "events": []}\n{"id": "b"', "line 2 is not JSON"),
        ("jsonl", '{"id": "a", "audio": "a.wav"}', "line 1 lacks events"),
        ("jsonl", '{"id": "a", "audio": "a.wav", "events": [{"onset": NaN, "offset": 1, "event_label": "x"}]}',
         "line 1, events[0]: onset is nan"),
        ("jsonl", '{"id": "a", "audio": "a.wav", "events": [{"onset": "1", "offset": 2, "event_label": "x"}]}',
         "line 1, events[0]: onset is '1'"),
        ("jsonl", '{"id": "a", "audio": "a.wav", "events": [{"onset": 1, "end": 2, "event_label": "x"}]}',
         "line 1, events[0] lacks offset; its keys are onset, end"),
        ("jsonl", '{"id": "a", "audio": "a.wav", "events": [], "task": "counting"}', "task is 'counting'"),
        ("jsonl", '{"id": "a", "audio": "a.wav", "events": [], "task": "grounding"}', "query is None"),
        ("jsonl", '{"id": "a", "audio": "a.wav", "events": [], "task": "detection", "query": "x"}', "takes none"),
        ("jsonl", '{"id": "a", "audio": "a.wav", "events": [], "duration": 0}', "duration is 0"),
        ("jsonl", '{"id": "a", "audio": "a.wav", "events": []}\n' * 2, "the id 'a' of clip 2 is that of clip 1 too"),
        ("lighthouse", '{"qid": 1, "query": "x", "duration": 9, "vid": "v"}', "line 1 lacks relevant_windows"),
        ("lighthouse", '{"qid": 1, "query": "x", "duration": 9, "vid": "v", "relevant_windows": [[1, 2, 3]]}',
         "line 1, relevant_windows[0] is [1, 2, 3]"),
        ("lighthouse", '{"qid": 1, "query": "x", "duration": 9, "vid": "v", "relevant_windows": [[1, 2], [3, 1]]}',
         "line 1, relevant_windows[1]: offset is 1.0 s, before the onset at 3.0 s"),
        ("audiogrounding",
         '[{"audiocap_id": 1, "audio_id": "a.wav", "phrases": [{"phrase": ["x"], "segments": [[-1, 2]]}]}]',
         "[0].phrases[0].segments[0]: onset is -1.0 s"),
        ("audiotime", '{"syn_1": {"event": {"Dog": [[0, true]]}}}', "['syn_1'].event['Dog'][0]: offset is True"),
        ("ftar", "[{}]", "[0] lacks id, audio, question, answer, duration"),
        ("ftar", f"[{ITEM}, {ITEM[:40]}", "is not JSON: after 1 whole items"),
        ("ftar", f"[{ITEM}, NaN]", "is not JSON: after 1 whole items"),
        ("ftar", '{"a": 1}', "begins with '{'; it must be a list in JSON"),
        ("audioset_strong", "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\na_0\t0\t1\tDog\n",
         "line 2: label is 'Dog'; it must be a MID"),
        ("audacity", "0\t1\tdog\tbarks\n", "line 1 has 4 fields"),
        ("audacity", "0;5\t1\tdog\n", "line 1: onset is '0;5'"),
        ("desed", "", "is empty; its first line must be"),
        ("desed", HEADER, "has no clips"),
        ("desed", HEADER.encode() + b"a.wav\t0\t1\tch\xe2teau\n", "is not UTF-8"),
        ("desed", HEADER.encode("utf-16")[:-1], "is not UTF-8"),
    ],
)  # fmt: skip
def test_malformed_files(format, content, message, tmp_path):
    path = write(tmp_path / "a.txt", content)
    found = error_of(path, data_format=format)
    assert found.startswith(str(path)) and message in found
