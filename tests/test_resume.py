"""Answers that are kept as they come."""

import json

import pytest

from recipes.evaluation import resume


def keep_rows(path, settings, **options):
    return resume.keep_rows(path, settings, ("file", "state", "answers"), **options)


def by_file(rows):
    return {row["file"]: row for row in rows}


def row(file, value=0):
    return {"file": file, "state": None, "answers": [value]}


def test_rows_come_back_and_the_later_one_counts(tmp_path):
    path = tmp_path / "x.partial.jsonl"
    with keep_rows(path, {"task": "detection", "pair": (1, 2)}) as (done, keep):
        assert done == []
        keep(row("a.wav"))
        keep(row("ü\u2028.wav", 1))
    with keep_rows(path, {"task": "detection", "pair": (1, 2)}) as (done, keep):
        assert by_file(done) == {"a.wav": row("a.wav"), "ü\u2028.wav": row("ü\u2028.wav", 1)}
        keep(row("a.wav", 2))
    with keep_rows(path, {"task": "detection", "pair": (1, 2)}) as (done, _):
        assert by_file(done)["a.wav"] == row("a.wav", 2)


def test_any_cut_leaves_whole_rows_and_a_file_that_goes_on(tmp_path):
    path = tmp_path / "x.partial.jsonl"
    with keep_rows(path, {"task": "captioning"}) as (_, keep):
        keep(row("a.wav"))
        keep(row("b.wav"))
    whole = path.read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == ord("\n")]
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        # Lines that are whole, without that of the settings.
        num_rows = max(0, sum(end <= length for end in ends) - 1)
        with keep_rows(path, {"task": "captioning"}) as (done, keep):
            assert list(by_file(done)) == ["a.wav", "b.wav"][:num_rows]
            keep(row("c.wav"))
        with keep_rows(path, {"task": "captioning"}) as (done, _):
            assert len(done) == num_rows + 1


def test_other_settings_are_refused_with_the_way_out(tmp_path):
    path = tmp_path / "x.partial.jsonl"
    with keep_rows(path, {"task": "detection", "min_score": None}) as (_, keep):
        keep(row("a.wav"))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"\{'min_score': None\}, not \{'min_score': 0.5\}; .*delete the file"):
        with keep_rows(path, {"task": "detection", "min_score": 0.5}):
            pass
    assert path.read_bytes() == before


def test_settings_without_answers_bind_nobody(tmp_path):
    path = tmp_path / "x.partial.jsonl"
    with pytest.raises(KeyboardInterrupt), keep_rows(path, {"task": "detection"}):
        raise KeyboardInterrupt
    assert not path.exists()
    path.write_text('{"settings": {"task": "captioning"}}\n')
    with keep_rows(path, {"task": "detection"}) as (_, keep):
        keep(row("a.wav"))
    with keep_rows(path, {"task": "detection"}) as (done, _):
        assert done == [row("a.wav")]


@pytest.mark.parametrize("text", ["{}\n", "onset\toffset\n1\t2", '[1]\n{"fi', '{"settings": {}}\n{"file": "a"}\n'])
def test_a_file_of_something_else_is_left_alone(tmp_path, text):
    path = tmp_path / "x.partial.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match="no run wrote; delete the file"):
        with keep_rows(path, {}):
            pass
    assert path.read_text() == text


def test_settings_may_have_a_file_of_their_own(tmp_path):
    path, settings_path = tmp_path / "predictions.jsonl", tmp_path / "settings.json"
    with keep_rows(path, {"model": "a"}, settings_path=settings_path) as (_, keep):
        keep(row("a.wav"), row("b.wav"))
    assert [json.loads(line) for line in path.read_text().splitlines()] == [row("a.wav"), row("b.wav")]
    assert json.loads(settings_path.read_text()) == {"model": "a"}
    with pytest.raises(ValueError, match=r"\{'model': 'a'\}, not \{'model': 'b'\}; .*pass --overwrite"):
        with keep_rows(path, {"model": "b"}, settings_path=settings_path):
            pass
    settings_path.unlink()  # nobody knows what the answers were made with
    with pytest.raises(ValueError, match="not {'model': 'a'}"):
        with keep_rows(path, {"model": "a"}, settings_path=settings_path):
            pass
    with keep_rows(path, {"model": "b"}, settings_path=settings_path, overwrite=True) as (rows, keep):
        assert rows == []
        keep(row("c.wav"))
    with keep_rows(path, {"model": "b"}, settings_path=settings_path) as (rows, _):
        assert rows == [row("c.wav")]
