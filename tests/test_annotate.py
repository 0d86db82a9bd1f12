"""Very many recordings into Parquet files: sources, failures, and runs that are stopped."""

import fcntl
import io
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from test_serving_client import completion_of, serve

from recipes.bulk import annotator, fetching
from recipes.cli.main import main
from recipes.data.loading import load_clips
from recipes.serving import asking

EVENTS = [(1.2, 3.44, "dog")]


@pytest.fixture(scope="session")
def model(scripted_checkpoint):
    return str(scripted_checkpoint("dog: <1.20>-<3.44>"))


@pytest.fixture
def clips(tmp_path):
    """Return a folder of three recordings, one of them deeper."""
    folder = tmp_path / "sounds"
    for name in ("a.wav", "b.flac", "more/c d.wav"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(len(name)).standard_normal(16000 * 4)
        soundfile.write(folder / name, 0.1 * noise, 16000)
    return folder


def annotate(source, out, model, *arguments):
    return main(["annotate", str(source), "--out", str(out), "--model", model, *map(str, arguments)])


def rows_of(out, kind="annotations"):
    files = sorted((out / kind).glob("*.parquet"))
    return sorted((row for file in files for row in pq.read_table(file).to_pylist()), key=lambda row: row["recording"])


def events_of(row):
    return [(event["onset"], event["offset"], event["event_label"]) for event in row["events"]]


def test_a_folder_becomes_annotations_that_training_reads_and_a_table_of_failures(clips, tmp_path, model, capsys):
    (clips / "bad.wav").write_text("this is no audio")
    out = tmp_path / "out"
    assert annotate(clips, out, model) == 1
    assert "3 recordings annotated" in (told := capsys.readouterr().err) and "1 failed" in told
    rows = rows_of(out)
    assert [row["id"] for row in rows] == ["a.wav", "b.flac", "more/c d.wav"]
    assert all(events_of(row) == EVENTS and 0 <= row["events"][0]["score"] <= 1 for row in rows)
    assert all((row["duration"], row["task"], row["status"]) == (4.0, "detection", "complete") for row in rows)
    assert all(row["model"] == model and re.fullmatch("sha256:[0-9a-f]{16}", row["revision"]) for row in rows)
    (failure,) = rows_of(out, "failures")
    assert failure["recording"] == "bad.wav" and "bad.wav" in failure["error"]
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["finished"], manifest["num_annotated"], manifest["num_failed"]) == (True, 3, 1)
    assert sorted(os.listdir(out)) == ["annotations", "failures", "manifest.json"]
    # The folder alone, as `--data` of training has it.
    loaded = load_clips(out / "annotations", audio_dir=clips, split="train", needs_audio=True, needs_duration=True)
    assert {clip.audio for clip in loaded} == {str(clips / row["id"]) for row in rows}
    assert all(not clip.events and clip.unsure == ("dog",) for clip in load_clips(out / "annotations", min_score=1.0))


def test_a_later_run_annotates_what_is_new_and_tries_failures_again(clips, tmp_path, model, capsys):
    out = tmp_path / "out"
    (clips / "bad.wav").write_text("this is no audio")
    assert annotate(clips, out, model) == 1
    before = {path: path.stat().st_mtime_ns for path in (out / "annotations").iterdir()}
    assert annotate(clips, out, model) == 1
    assert len(rows_of(out, "failures")) == 1 and len(rows_of(out)) == 3
    (clips / "bad.wav").write_bytes((clips / "a.wav").read_bytes())
    (clips / "0new.wav").write_bytes((clips / "a.wav").read_bytes())
    assert annotate(clips, out, model) == 0
    assert [row["id"] for row in rows_of(out)] == ["0new.wav", "a.wav", "b.flac", "bad.wav", "more/c d.wav"]
    assert not rows_of(out, "failures")
    assert before.items() <= {path: path.stat().st_mtime_ns for path in (out / "annotations").iterdir()}.items()
    capsys.readouterr()
    assert annotate(clips, out, model) == 0
    assert "were annotated before" in capsys.readouterr().err


def write_source(kind, clips, folder):
    """Write a source of a kind, with the column `place`, and return it with the options it needs."""
    names = ["a.wav", "b.flac", "more/c d.wav"]
    extra = [{"city": "Łódź", "start": 1.5}, {"city": None, "start": 2.0}, {"city": "Rome", "start": None}]
    if kind == "jsonl":
        lines = [{"audio_filepath": name, "duration": 4.0, **more} for name, more in zip(names, extra, strict=True)]
        (clips / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return clips / "manifest.jsonl", ()
    if kind == "tar":
        with tarfile.open(folder / "set-000.tar", "w") as tar:
            for index, (name, more) in enumerate(zip(names, extra, strict=True)):
                for suffix, content in ((os.path.splitext(name)[1], (clips / name).read_bytes()),
                                        (".json", json.dumps(more).encode())):  # fmt: skip
                    member = tarfile.TarInfo(f"{index:04}{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        return folder / "set-*.tar", ()
    if kind == "data set":
        datasets = pytest.importorskip("datasets")
        columns = {"audio": [str(clips / name) for name in names], **{key: [m[key] for m in extra] for key in extra[0]}}
        made = datasets.Dataset.from_dict(columns).cast_column("audio", datasets.Audio(decode=False))
        datasets.DatasetDict({"test": made}).save_to_disk(folder / "saved")
        return folder / "saved", ("--split", "test")
    if kind == "parquet":
        table = pa.Table.from_pylist([{"audio_filepath": n, **m} for n, m in zip(names, extra, strict=True)])
        pq.write_table(table, folder / "manifest.parquet")
        return folder / "manifest.parquet", ("--audio-dir", clips)
    sounds = [{"bytes": (clips / name).read_bytes(), "path": os.path.basename(name)} for name in names]
    table = pa.Table.from_pylist([{"audio": sound, **m} for sound, m in zip(sounds, extra, strict=True)])
    (folder / "embedded").mkdir()
    pq.write_table(table, folder / "embedded" / "train-0.parquet", row_group_size=2)
    return folder / "embedded", ()


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "embedded", "tar", "data set"])
def test_every_kind_of_source_gives_all_recordings_and_keeps_its_columns(kind, clips, tmp_path, model):
    source, options = write_source(kind, clips, tmp_path)
    out = tmp_path / "out"
    assert annotate(source, out, model, "--shard-size", 2, *options) == 0
    rows = rows_of(out)
    assert len({row["id"] for row in rows}) == 3 and all(events_of(row) == EVENTS for row in rows)
    assert {(row["city"], row["start"]) for row in rows} == {("Łódź", 1.5), (None, 2.0), ("Rome", None)}
    assert all("audio" in row and row["duration"] == 4.0 for row in rows)
    assert ("manifest_duration" in rows[0]) == (kind == "jsonl")
    assert len(list((out / "annotations").iterdir())) == 2
    # One schema, so that readers of folders take it.
    assert pq.ParquetDataset(out / "annotations").read().num_rows == 3


def test_what_a_source_says_is_kept_whatever_it_is_called_and_wherever_it_begins(clips, tmp_path, model):
    lines = [{"audio": "a.wav", "duration": 4.0, "manifest_duration": 5}, {"audio": "b.flac", "later": {"x": ["Łódź"]}}]
    text = "\ufeff" + "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (clips / "manifest.jsonl").write_text(text, encoding="utf-8")
    assert annotate(clips / "manifest.jsonl", tmp_path / "out", model) == 0
    first, second = rows_of(tmp_path / "out")
    assert (first["manifest_manifest_duration"], first["manifest_duration"], first["later"]) == (4.0, 5, None)
    assert second["later"] == {"x": ["Łódź"]}
    # Annotations are a source themselves.
    assert annotate(tmp_path / "out" / "annotations", tmp_path / "again", model, "--audio-dir", clips) == 0
    assert [row["manifest_events"][0]["event_label"] for row in rows_of(tmp_path / "again")] == ["dog", "dog"]


def test_tables_and_tars_of_one_name_are_told_apart_and_rows_without_sound_fail(clips, tmp_path, model):
    sound = {"bytes": (clips / "a.wav").read_bytes(), "path": "a.wav"}
    for folder, sounds in (("x", [sound, None]), ("y", [sound | {"path": None}, {"bytes": None, "path": "b.flac"}])):
        (tmp_path / "tables" / folder).mkdir(parents=True)
        pq.write_table(
            pa.table({"audio": sounds, "audio_filepath": ["?", "!"]}), tmp_path / "tables" / folder / "0.parquet"
        )
        (tmp_path / "tars" / folder).mkdir(parents=True)
        with tarfile.open(tmp_path / "tars" / folder / "0.tar", "w") as tar:
            tar.add(clips / "a.wav", "a.wav")
    assert annotate(tmp_path / "tables", tmp_path / "out", model) == 1
    rows = rows_of(tmp_path / "out")
    assert [(row["id"], row["audio"]) for row in rows] == [("x/0.parquet/a.wav", "a.wav"), ("y/0.parquet/0", None)]
    assert [row["audio_filepath"] for row in rows] == ["?", "?"]
    failures = rows_of(tmp_path / "out", "failures")
    assert [row["recording"] for row in failures] == ["x/0.parquet/1", "y/0.parquet/b.flac"]
    assert all("row 1 holds no recording" in row["error"] for row in failures)
    for source in (tmp_path / "tars", tmp_path / "tars" / "*" / "0.tar"):
        assert annotate(source, tmp_path / str(len(str(source))), model) == 0
        assert [row["id"] for row in rows_of(tmp_path / str(len(str(source))))] == ["x/0.tar/a.wav", "y/0.tar/a.wav"]


def test_a_row_group_is_read_once_for_recordings_in_their_order(tmp_path, monkeypatch):
    sounds = [{"bytes": bytes([index]) * 1000, "path": None} for index in range(100)]
    pq.write_table(pa.table({"audio": sounds}), tmp_path / "t.parquet", row_group_size=60)
    place = {"place": str(tmp_path / "t.parquet"), "place_size": None, "audio": None}
    rows = [{"id": str(index), "place_start": index, **place} for index in (*range(100), 5, 3)]
    opened, open_table = [], fetching.open_table
    monkeypatch.setattr(fetching, "open_table", lambda *args, **options: opened.append(options) or open_table(*args))
    for some, paths in fetching.fetch_ahead(rows):
        assert [Path(path).read_bytes()[:1] for path in paths] == [bytes([row["place_start"]]) for row in some]
    assert len(list(filter(None, opened))) == 4  # two groups, and twice back


def test_a_source_is_found_from_another_folder(clips, tmp_path, model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert annotate("sounds", "out", model, "--shard-size", 1) == 0
    (tmp_path / "out" / "annotations").joinpath(sorted(os.listdir(tmp_path / "out" / "annotations"))[0]).unlink()
    monkeypatch.chdir(clips)
    assert annotate("../sounds", "../out", model) == 0 and len(rows_of(tmp_path / "out")) == 3


def test_two_runs_do_not_write_into_one_folder_at_once(clips, tmp_path, model, capsys):
    (tmp_path / "out" / "partial").mkdir(parents=True)
    with (tmp_path / "out" / "partial" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert annotate(clips, tmp_path / "out", model) == 1
    assert (
        "into which another run writes" in capsys.readouterr().err and not (tmp_path / "out" / "plan.parquet").exists()
    )


def test_a_server_answers_and_one_that_ends_loses_nothing(clips, tmp_path, model, capsys, monkeypatch):
    monkeypatch.setattr(asking, "FIRST_PAUSE", 0.01)
    pipe, options = annotator.load_pipeline(model), ("--batch-size", 1, "--shard-size", 3)
    with serve(lambda number, body: (500, "broken") if number > 1 else completion_of(pipe, body)) as (url, _):
        assert annotate(clips, tmp_path / "out", model, "--backend", url, *options) == 1
    assert "does not answer" in capsys.readouterr().err and not list(tmp_path.glob("out/*/*.parquet"))
    with serve(lambda number, body: completion_of(pipe, body)) as (url, requests):
        assert annotate(clips, tmp_path / "out", model, "--backend", url, *options) == 0
    assert len(requests) == 2 and all(events_of(row) == EVENTS for row in rows_of(tmp_path / "out"))


def test_queries_are_rows_of_their_own(clips, tmp_path, scripted_checkpoint):
    out = tmp_path / "out"
    span = str(scripted_checkpoint("<1.20>-<3.44>"))
    queries = ["--task", "grounding", "--query", "dog", "--query", "a door"]
    assert annotate(clips, out, span, *queries) == 0
    rows = rows_of(out)
    assert Counter(row["query"] for row in rows) == {"dog": 3, "a door": 3}
    loaded = load_clips(out / "annotations")
    assert len(loaded) == 6 and {clip.events[0].event_label for clip in loaded} == {"dog", "a door"}


@pytest.mark.parametrize("most_bytes", [500, 4000])
def test_a_full_disk_loses_nothing(most_bytes, clips, tmp_path, model, capsys):
    annotator.load_pipeline(model)  # which copies the checkpoint's code
    out, limits = tmp_path / "out", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, limits[1]))
    try:
        assert annotate(clips, out, model, "--shard-size", 3) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "File too large" in capsys.readouterr().err
    assert (out / "plan.parquet").exists() == (most_bytes == 4000) and not list(out.glob("annotations/*"))
    assert annotate(clips, out, model, "--shard-size", 3) == 0
    assert len(rows_of(out)) == 3 and sorted(os.listdir(out)) == ["annotations", "manifest.json"]


class Stop(BaseException):
    """What no code handles, as a kill is."""


def test_a_stopped_run_goes_on_with_its_plan_and_asks_nothing_twice(clips, tmp_path, model, monkeypatch):
    out, asked = tmp_path / "out", []
    run = annotator.run

    def stopping(pipe, requests, **options):
        for request, results in run(pipe, requests, **options):
            if len(asked) == 1:
                raise Stop
            asked.append(request.audio)
            yield request, results

    monkeypatch.setattr(annotator, "run", stopping)
    with pytest.raises(Stop):
        annotate(clips, out, model, "--shard-size", 3)
    assert not list((out / "annotations").glob("*")) and (out / "plan.parquet").exists()
    with pytest.raises(Stop):
        annotate(clips, out, model)

    def counting(pipe, requests, **options):
        asked.extend(request.audio for request in requests)
        return run(pipe, requests, **options)

    monkeypatch.setattr(annotator, "run", counting)
    assert annotate(clips, out, model) == 0
    assert len(asked) == len(set(asked)) == 3 and len(rows_of(out)) == 3
    assert sorted(os.listdir(out)) == ["annotations", "manifest.json"]


def test_a_recording_that_ends_the_process_twice_is_a_failure(clips, tmp_path, model, monkeypatch):
    out, run = tmp_path / "out", annotator.run

    def ending(pipe, requests, **options):
        for request in requests:
            if request.audio.endswith("b.flac"):
                raise Stop
        yield from run(pipe, requests, **options)

    monkeypatch.setattr(annotator, "run", ending)
    for _ in range(4):
        with pytest.raises(Stop):
            annotate(clips, out, model, "--shard-size", 3)
    assert annotate(clips, out, model) == 1
    assert [row["id"] for row in rows_of(out)] == ["a.wav", "more/c d.wav"]
    (failure,) = rows_of(out, "failures")
    assert failure["recording"] == "b.flac" and "ended 2 times" in failure["error"]


def test_an_error_that_nobody_foresaw_costs_no_other_recording_its_answer(clips, tmp_path, model, monkeypatch):
    run = annotator.run

    def failing(pipe, requests, **options):
        for outcome in run(pipe, requests, **options):
            if outcome[0].audio.endswith("b.flac"):
                raise RuntimeError("out of memory")
            yield outcome

    monkeypatch.setattr(annotator, "run", failing)
    assert annotate(clips, tmp_path / "out", model, "--shard-size", 3) == 1
    assert [row["id"] for row in rows_of(tmp_path / "out")] == ["a.wav", "more/c d.wav"]
    assert rows_of(tmp_path / "out", "failures")[0]["error"] == "RuntimeError: out of memory"


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda f: "absent", "SOURCE is .*absent', which is not there"),
        (lambda f: "no*.tar", "no file fits"),
        (lambda f: (f / "x.tar").write_bytes(b"\x1f\x8b1234" * 200) and "x.tar", "no tar that can be read"),
        (lambda f: (f / "x.jsonl").write_text('{"a": 1}\n') and "x.jsonl", "line 1 names no recording; its keys are a"),
        (lambda f: (f / "x.jsonl").write_text('{"audio": "a", "n": 1}\n{"audio": "b", "n": "x"}\n') and "x.jsonl",
         "several types"),
        (lambda f: (f / "x.jsonl").write_text('{"audio": "a"}\n{"audio": "a"}\n') and "x.jsonl", "id 'a' twice"),
        (lambda f: (f / "x.jsonl").write_bytes(b'{"audio": "\xfc"}\n') and "x.jsonl", "line 1 is not JSON in UTF-8"),
        (lambda f: (f / "x.jsonl").write_text('{"audio": "a", "n": {}}\n') and "x.jsonl", "Parquet cannot hold: .*'n'"),
        (lambda f: (f / "x.jsonl").write_text(f'{{"audio": "a", "n": {2**70}}}\n') and "x.jsonl", "'n' of several"),
        (lambda f: (f / "x.jsonl").write_text('{"audio": "a", "offset": 2}\n') and "x.jsonl", "offset is 2"),
        (lambda f: (f / "x.jsonl").write_text("\n") and "x.jsonl", "no recordings"),
        (lambda f: (f / "x.parquet").write_text("PAR1") and "x.parquet", "no Parquet|not Parquet"),
        (lambda f: (f / "x.wav").write_text("") or "x.wav", "timepro detect"),
        (lambda f: (f / "d").mkdir() or "d", "a folder of no recordings"),
    ],
)  # fmt: skip
def test_a_source_that_cannot_be_is_refused_before_anything_is_written(prepare, message, tmp_path, capsys):
    source = tmp_path / prepare(tmp_path)
    assert main(["annotate", str(source), "--out", str(tmp_path / "out")]) == 1
    assert re.search(message, error := capsys.readouterr().err), error
    assert not (tmp_path / "out" / "plan.parquet").exists()


def test_arguments_that_do_not_fit_are_refused(clips, tmp_path, model, capsys):
    out = tmp_path / "out"
    for arguments in (["--task", "grounding"], ["--query", "dog"], ["--num-gpus", 1], ["--num-workers", 0]):
        with pytest.raises(SystemExit):
            annotate(clips, out, model, *arguments)
        assert f"{arguments[0]}" in capsys.readouterr().err.replace("--query is None for ", "")
    (tmp_path / "file").touch()
    assert annotate(clips, tmp_path / "file", model) == 1
    assert "which is a file" in capsys.readouterr().err
    assert annotate(clips, out, model) == 0
    assert annotate(clips, out, model, "--min-score", 0.5) == 1
    assert "other settings, {'min_score': None}, not {'min_score': 0.5}" in capsys.readouterr().err
    assert annotate(clips, out, model, "--min-score", 0.5, "--overwrite") == 0


@pytest.mark.slow
def test_every_recording_ends_once_though_workers_and_the_driver_are_killed(tmp_path, model):
    clips, out = tmp_path / "sounds", tmp_path / "out"
    clips.mkdir()
    for index in range(60):
        soundfile.write(clips / f"{index:02}.wav", 0.1 * np.random.default_rng(index).standard_normal(32000), 16000)
    (clips / "bad.wav").write_text("this is no audio")
    command = [sys.executable, "-m", "recipes.cli.main", "annotate", str(clips), "--out", str(out), "--model", model]
    command += ["--num-workers", "2", "--shard-size", "5"]

    def start():
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def wait_for_shards(number):
        while len(list((out / "annotations").glob("*.parquet"))) < number:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)

    process = start()
    wait_for_shards(1)
    children = subprocess.check_output(["pgrep", "-P", str(process.pid), "-f", "spawn_main"], text=True).split()
    os.kill(int(children[0]), signal.SIGKILL)
    wait_for_shards(4)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process = start()
    _, told = process.communicate(timeout=300)
    assert process.returncode == 1, told
    assert [row["id"] for row in rows_of(out)] == [f"{index:02}.wav" for index in range(60)]
    assert [row["recording"] for row in rows_of(out, "failures")] == ["bad.wav"]
