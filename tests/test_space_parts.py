"""The parts of the page by themselves: limits, jobs, uploads, scores, facts of the card, and text as text."""

import asyncio
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from huggingface_hub import SpaceCard

from processing import Event
from recipes import DEFAULT_CHECKPOINT
from recipes.data.label_files import LABEL_FORMATS
from recipes.scoring import event_f1, union_iou
from space_app.answers import Answers, split_queries
from space_app.checkpoint_code import find_model, load_pipeline
from space_app.downloads import export_choices, remove_export, write_export
from space_app.endpoints import as_json
from space_app.jobs import Job, JobCriteria, OutOfTime, Stopped, run_steps
from space_app.limits import Limits, read_limits
from space_app.model_facts import card_figures, card_section, facts_html
from space_app.page_events import PageEvents
from space_app.recordings import without_folder
from space_app.reference_labels import read_reference, score_file
from space_app.results_view import error_html, progress_html, summary_html, table_html
from space_app.service import Service
from space_app.uploads import Uploads

ROOT = Path(__file__).resolve().parents[1]
EVIL = "<script>alert(1)</script>"


def random_events(rng, labels, count):
    events = []
    for _ in range(count):
        onset = round(rng.uniform(0, 8), 1)
        events.append(Event(onset, round(onset + rng.choice([0, 0.1, 0.5, 2.0]), 1), rng.choice(labels)))
    return events


def test_live_scores_are_those_of_the_reports():
    rng = random.Random(0)
    for _ in range(200):
        reference, prediction = (random_events(rng, ["dog", "cat"], rng.randrange(7)) for _ in range(2))
        scores = score_file(reference, prediction)
        assert scores["f1"] == pytest.approx(event_f1(reference, prediction))
        names = sorted({event.event_label for event in reference})
        sides = [[[e for e in side if e.event_label == name] for side in (reference, prediction)] for name in names]
        expected = np.mean([union_iou(*pair) for pair in sides]) if names else None
        assert scores["miou"] == pytest.approx(expected, abs=1e-9)
        one = score_file(reference, prediction, time_only=True)
        assert one["f1"] == pytest.approx(event_f1(reference, prediction, time_only=True))


def test_live_scores_by_hand():
    reference = [Event(1.0, 2.0, "dog"), Event(4.0, 8.0, "cat")]
    # The dog is within the collars. The cat's offset misses by 1.0 s, more than 20 % of its 4 s; it shares 3 of 4 s.
    prediction = [Event(1.1, 2.1, "dog"), Event(4.0, 7.0, "cat")]
    scores = score_file(reference, prediction)
    assert scores == {"f1": 0.5, "num_matched": 1, "num_reference": 2, "num_predicted": 2,
                      "miou": pytest.approx((0.9 / 1.1 + 3 / 4) / 2)}  # fmt: skip
    more = score_file([*reference, Event(5.0, 6.0, "cow")], prediction)
    assert (more["f1"], more["miou"]) == (pytest.approx(2 / 5), pytest.approx((0.9 / 1.1 + 3 / 4) / 3))
    assert score_file([], []) == {"f1": 1.0, "num_matched": 0, "num_reference": 0, "num_predicted": 0, "miou": None}


def test_limits_come_from_the_environment():
    assert read_limits({}) == Limits()
    assert read_limits({"TIMEPRO_MAX_SECONDS": "60", "TIMEPRO_NUM_PARALLEL": "3"}) == Limits(
        max_seconds=60, num_parallel=3
    )
    for value in ("0", "-1", "many", "inf", "nan"):
        with pytest.raises(ValueError, match="TIMEPRO_TIMEOUT is .*; give a number above 0, by default 300"):
            read_limits({"TIMEPRO_TIMEOUT": value})


def test_jobs_end_when_told_and_when_their_time_is_over():
    job = Job(60)
    job.check()
    assert not JobCriteria(job)(np.zeros((3, 1)), None).any()
    job.cancel()
    with pytest.raises(Stopped):
        JobCriteria(job)(np.zeros((1, 1)), None)
    with pytest.raises(OutOfTime, match="took longer than 0.01 s"):
        late = Job(0.01)
        time.sleep(0.02)
        late.check()


def test_the_model_is_asked_by_one_at_a_time():
    order, first = [], threading.Event()

    def work(job, name):
        with job.model():
            first.set()
            order.append(name)
            time.sleep(0.1)
            order.append(name)

    with ThreadPoolExecutor(3) as executor:
        futures = [executor.submit(work, Job(60), "a")]
        first.wait()
        futures.append(executor.submit(work, Job(60), "b"))
        impatient = executor.submit(work, Job(0.01), "c")
        with pytest.raises(OutOfTime):
            impatient.result()
        [future.result() for future in futures]
    assert order == ["a", "a", "b", "b"]


def test_work_whose_client_leaves_is_cancelled():
    job, seen = Job(60), []

    def steps():
        for index in range(1000):
            job.check()
            seen.append(index)
            yield index
            time.sleep(0.01)

    async def client(executor):
        async for index in run_steps(steps(), job, executor):
            if index == 3:
                await asyncio.sleep(60)

    async def leave(executor):
        task = asyncio.ensure_future(client(executor))
        while 3 not in seen:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with ThreadPoolExecutor(2) as executor:
        # A browser of other tests may have a loop in this thread.
        executor.submit(asyncio.run, leave(executor)).result()
        time.sleep(0.1)
        with pytest.raises(Stopped):
            job.check()
    assert seen == [0, 1, 2, 3]


async def request(application, path, during=None):
    async def send(message):
        if during:
            during(message)

    await application({"type": "http", "method": "POST", "path": path}, None, send)


def answering(paths):
    """Return Gradio's route for uploads, as far as it matters here."""

    async def application(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        body = str(paths).replace("'", '"').encode()
        await send({"type": "http.response.body", "body": body[:5], "more_body": True})
        await send({"type": "http.response.body", "body": body[5:]})

    return application


def test_an_upload_goes_with_the_last_who_needs_it(tmp_path):
    def run(coroutine):
        with ThreadPoolExecutor(1) as executor:
            executor.submit(asyncio.run, coroutine).result()

    folder = tmp_path / "uploads"
    path = folder / "hash" / "a.wav"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    (tmp_path / "other.wav").write_bytes(b"x")
    uploads = Uploads(folder)
    application = uploads.middleware(answering([str(path)]))
    run(request(application, "/gradio_api/upload"))
    run(request(application, "/gradio_api/upload"))
    uploads.release(str(path))
    assert path.exists()

    # While another upload is coming in, it may be of the same content.
    def released(message):
        if message["type"] == "http.response.start":
            uploads.release(str(path))
            assert path.exists()

    run(request(application, "/gradio_api/upload", released))
    assert uploads.checked(str(path)) == str(path)
    uploads.release(str(path))
    assert not path.parent.exists() and folder.exists()
    uploads.release(None)
    # What was not uploaded is left alone, and so is what is elsewhere.
    run(request(uploads.middleware(answering([str(tmp_path / "other.wav")])), "/gradio_api/upload"))
    for kept in (tmp_path / "other.wav", __file__):
        uploads.release(str(kept))
        assert os.path.exists(kept)
        with pytest.raises(ValueError, match="no such upload") as refused:
            uploads.checked(str(kept))
        assert str(kept) not in str(refused.value)


@pytest.mark.parametrize("has_links", [True, False])
def test_a_held_upload_stays_what_it_is(tmp_path, monkeypatch, has_links):
    def refuse(*args):
        raise OSError("links are not supported")

    if not has_links:
        monkeypatch.setattr(os, "link", refuse)
    uploads = Uploads(tmp_path)
    path = tmp_path / "hash" / "a.wav"
    path.parent.mkdir()
    path.write_bytes(b"first")
    (tmp_path / "incoming").write_bytes(b"second")
    with uploads.held(str(path)) as held:
        before = os.stat(held)
        os.rename(tmp_path / "incoming", path)
        path.unlink()
        after = os.stat(held)
        assert Path(held).name == "a.wav" and Path(held).read_bytes() == b"first"
        assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert [found for found in tmp_path.rglob("*") if found != path.parent] == []
    if has_links:
        with pytest.raises(ValueError, match="no such upload"), uploads.held(str(path)):
            pass


def test_an_upload_may_be_replaced_while_it_is_read(tmp_path):
    """Gradio puts an upload over one of the same content, which another visitor has asked about."""
    service = Service(str(DEFAULT_CHECKPOINT), Limits(), str(tmp_path))
    path = tmp_path / "hash" / "farmyard.flac"
    path.parent.mkdir()
    shutil.copyfile(ROOT / "space_app" / "examples" / "farmyard.flac", path)
    job, num_checks = service.new_job(), 0
    check = job.check

    def replace():
        nonlocal num_checks
        num_checks += 1
        shutil.copyfile(path, tmp_path / "incoming")
        os.rename(tmp_path / "incoming", path)
        check()

    job.check = replace

    async def ask():
        return [answers async for answers in service.answer(job, str(path), "detection", None)]

    assert asyncio.run(ask())[-1].is_whole and num_checks > 1


def test_labels_that_arrive_while_the_model_listens_are_those_that_count(tmp_path):
    (tmp_path / "upload").mkdir()
    for name in ("farmyard.flac", "farmyard.tsv"):
        shutil.copyfile(ROOT / "space_app" / "examples" / name, tmp_path / "upload" / name)
    recording, labels = (str(tmp_path / "upload" / name) for name in ("farmyard.flac", "farmyard.tsv"))
    events = PageEvents(Service(str(DEFAULT_CHECKPOINT), Limits(), str(tmp_path)), {})
    request, replaced = gr.Request(session_hash="visitor"), [Event(0.0, 1.0, "dog bark")]

    async def ask():
        steps = events.ask(recording, "detection", "", None, None, replaced, 0.0, "tsv", None, False, request)
        await anext(steps)
        reference, _ = events.compare(labels, None, recording, request)
        return reference, [step async for step in steps][-1]

    reference, step = asyncio.run(ask())
    scores = next(part["value"] for part in step if isinstance(part, dict) and "dl class" in str(part.get("value")))
    assert len(reference) > 1 and f"<dt>of reference</dt><dd>{len(reference)}</dd>" in scores


def test_messages_name_files_without_their_folders(tmp_path):
    path = str(tmp_path / "it's ü.wav")
    for spelling in (path, repr(path)):
        assert without_folder(f"source {spelling} is broken", path).count(str(tmp_path)) == 0
        assert "it's ü.wav" in without_folder(f"source {spelling} is broken", path).replace("\\", "")


def test_queries_are_split_by_line():
    assert split_queries(" dog bark \n\nsiren\r\ndog bark") == ["dog bark", "siren"]
    for text in (None, "", " \n "):
        with pytest.raises(ValueError, match="There is no query"):
            split_queries(text)


@pytest.fixture
def answers():
    event = {"onset": 0.5, "offset": 1.0, "event_label": EVIL, "score": 0.4}
    window = {"start": 0.0, "end": 2.0, "text": EVIL, "truncated": False, "events": [event]}
    result = {"events": [event, event | {"onset": 0.2, "score": 0.1}], "duration": 2.0, "windows": [window]}
    silent = {"events": [], "duration": 2.0, "windows": [window | {"events": None, "truncated": True}]}
    return Answers(f"{EVIL}.wav", "grounding", [EVIL, f"no {EVIL}"], np.zeros(4000), 1000, [result, silent], 2)


def test_names_labels_and_answers_are_text(answers):
    pages = [progress_html(answers), summary_html(answers, 0.3), table_html(answers.events()), error_html(EVIL)]
    assert all("<script" not in page and "&lt;script&gt;" in page for page in pages)
    assert "window 1 of 2, 2.0 s of 4.0 s" in pages[0]
    assert "1 event" in pages[1] and "1 more below the threshold of 0.30" in pages[1] and "Not heard: no" in pages[1]
    assert "ran out of room: 1; events may be missing" in pages[1]
    assert (as_json(answers, 0.3)["truncated"], as_json(answers, 0.3)["num_windows_truncated"]) == (True, 1)
    assert pages[2].index('data-onset="0.2"') < pages[2].index('data-onset="0.5"')
    figures = [{"name": f"a, {EVIL}", "R@.5": EVIL}]
    facts = {"name": EVIL, "num_parameters": 10_700_000, "labels": [EVIL], "figures": figures, "limits": [EVIL],
             "card": EVIL, "url": None}  # fmt: skip
    page = facts_html(facts)
    assert (
        "<script" not in page and "a small model of 10.7 million parameters" in page and "knows 1 kind of sound" in page
    )


def test_facts_are_read_from_the_card():
    card = (ROOT / "MODEL_CARD.md").read_text(encoding="utf-8")
    rows = card_figures(card)
    assert [row["name"] for row in rows[:3]] == [f"timepro-small, {test}" for test in ("field", "seen", "unseen")]
    assert rows[0]["R@.5"].split()[0] in card and len(rows) == 6
    limits = card_section(card, "Limits and known failures")
    assert limits[0].startswith("It knows its labels and nothing else;") and len(limits) > 5
    assert card_figures("# nothing") == [] and card_section("# nothing", "Limits") == []


def test_the_card_of_the_space_is_valid():
    card = SpaceCard.load(ROOT / "space_app" / "README.md")
    data = card.data.to_dict()
    assert data["sdk"] == "gradio" and (ROOT / "space_app" / data["app_file"]).is_file()
    assert len(data["short_description"]) <= 60 and data["license"] == "apache-2.0"
    colours = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert {data["colorFrom"], data["colorTo"]} <= colours
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")
    )
    assert data["sdk_version"] == pins["gradio"] and str(data["python_version"]) == "3.11"
    lines = (ROOT / "space_app" / "requirements.txt").read_text().splitlines()[1:]
    wanted = dict(line.replace("[mcp]", "").split("==") for line in lines)
    assert wanted == {name: pins[name] for name in wanted} and set(wanted) >= {
        "gradio", "torch", "transformers", "jams", "praatio", "pympi-ling"
    }  # fmt: skip


def test_every_export_of_the_page_is_read_as_reference(scripted_checkpoint, tmp_path):
    pipe = load_pipeline(str(scripted_checkpoint("none")))
    dog = {"onset": 1.2, "offset": 3.44, "event_label": "dog bark", "score": 0.5}
    choices = [format for _, format in export_choices(pipe)]
    assert choices == [*LABEL_FORMATS]
    for format in choices:
        path = write_export(pipe, str(tmp_path), {"file": "x/my street.wav", "duration": 10.0, "events": [dog]}, format)
        (event,) = read_reference(pipe, path, "my street.wav")
        assert (event.onset, event.offset, event.event_label) == (1.2, 3.44, "dog bark"), format
        remove_export(path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="holds|choose one of"):
        write_export(pipe, str(tmp_path), {"file": "a.wav", "duration": 10.0, "events": [dog]}, "xml")
    (tmp_path / "raven.txt").write_bytes((ROOT / "tests" / "fixtures" / "labels" / "raven.txt").read_bytes())
    (dog,) = read_reference(pipe, str(tmp_path / "raven.txt"), "a.wav")
    assert (dog.onset, dog.offset, dog.event_label) == (0.5, 1.25, "dog")


def test_a_checkpoint_is_found_or_asked_for(monkeypatch, tmp_path):
    monkeypatch.delenv("TIMEPRO_MODEL", raising=False)
    assert find_model() == str(DEFAULT_CHECKPOINT)
    monkeypatch.setenv("TIMEPRO_MODEL", "someone/model")
    assert find_model() == "someone/model" and find_model("here") == "here"
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in ("app", "__init__", "checkpoint_code", "limits"):
        (alone / f"{name}.py").write_bytes((ROOT / "space_app" / f"{name}.py").read_bytes())
    environment = {name: value for name, value in os.environ.items() if name not in ("TIMEPRO_MODEL", "PYTHONPATH")}
    done = subprocess.run(
        [sys.executable, str(alone / "app.py")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2 and "no checkpoint is named; give --model, or TIMEPRO_MODEL" in done.stderr
