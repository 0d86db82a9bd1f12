"""The page in a real browser: upload, ask, read the bars, filter, download; on a phone and in the dark."""

import csv
import json

import pytest
import soundfile

from recipes import DEFAULT_CHECKPOINT
from recipes.cli.main import main
from recipes.conversion.checkpoint_folder import load_pipeline

pytest.importorskip("gradio")
pytestmark = pytest.mark.slow

FARMYARD = "space_app/examples/farmyard.flac"
BARS = """() => (document.querySelector("#picture .js-plotly-plot")?.data || [])
  .filter((trace) => trace.meta && trace.meta.kind === "event")
  .flatMap((trace) => trace.customdata.map(([onset, offset]) => [onset, offset, trace.meta.label]))"""
TABLE = """() => [...document.querySelectorAll("table.events tbody tr")].map((row) =>
  [Number(row.dataset.onset), Number(row.dataset.offset), row.cells[row.cells.length - 1].textContent])"""
WIDTHS = "() => [document.documentElement.scrollWidth, window.innerWidth]"


@pytest.fixture(scope="module")
def expected():
    """Return the events of every score that the pipeline hears in the example."""
    return load_pipeline(DEFAULT_CHECKPOINT)(FARMYARD, min_score=0)["events"]


@pytest.fixture(scope="module")
def wav(tmp_path_factory):
    path = tmp_path_factory.mktemp("recording") / "farmyard.wav"
    soundfile.write(path, *soundfile.read(FARMYARD))
    return path


@pytest.fixture
def open_page(chromium, space_page):
    """Return a function that opens the page; errors of its scripts are errors of the test."""
    contexts, errors = [], []

    def open_page(width=1280, scheme="light"):
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("dialog", lambda dialog: errors.append(f"a dialog: {dialog.message}"))
        page.set_default_timeout(60000)
        page.goto(space_page.url, wait_until="domcontentloaded")
        page.wait_for_selector("#ask")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not errors


def ask(page, path=None):
    if path:
        page.set_input_files("#recording input[type=file]", str(path))
        page.wait_for_selector("#recording button[aria-label='Clear']")
    page.click("#ask")
    page.wait_for_selector("#stop", state="visible")
    page.wait_for_selector("#stop", state="hidden")
    page.wait_for_selector("#status .done, #status .error")


def shown(events, threshold):
    return sorted((e["onset"], e["offset"], e["event_label"]) for e in events if e["score"] >= threshold)


def in_time(found):
    return sorted(map(tuple, found))


def wait_for_bars(page, count):
    page.wait_for_function(f"() => ({BARS})().length === {count}")


def test_upload_ask_filter_and_download(open_page, expected, wav, tmp_path):
    page = open_page()
    ask(page, wav)
    assert shown(expected, 0.25) != shown(expected, 0.0), "the threshold would filter nothing"
    wait_for_bars(page, len(shown(expected, 0.25)))
    assert in_time(page.evaluate(BARS)) == in_time(page.evaluate(TABLE)) == shown(expected, 0.25)
    page.screenshot(path=tmp_path / "desktop.png", full_page=True)
    # Another task has another threshold, which holds at once for what is shown.
    for task, threshold in (("Queries", 0.0), ("All sounds", 0.25)):
        page.get_by_label(task, exact=True).click()
        wait_for_bars(page, len(shown(expected, threshold)))
        assert float(page.input_value("#threshold input[type=number]")) == threshold
    # The model is not asked again.
    page.fill("#threshold input[type=number]", "0")
    page.press("#threshold input[type=number]", "Enter")
    wait_for_bars(page, len(expected))
    page.wait_for_function(f"() => ({TABLE})().length === {len(expected)}")
    assert in_time(page.evaluate(BARS)) == in_time(page.evaluate(TABLE)) == shown(expected, 0.0)
    by_score = sorted((event["score"] for event in expected), reverse=True)
    for _ in range(2):
        page.click("table.events th:nth-child(4) button")
    cells = page.evaluate(
        "() => [...document.querySelectorAll('table.events td:nth-child(4)')].map((c) => c.innerText)"
    )
    assert cells == [f"{score:.2f}" for score in by_score]
    with page.expect_download() as download:
        page.click("#download")
    download.value.save_as(tmp_path / "page.tsv")
    main(["detect", str(wav), "--min-score", "0", "--out", str(tmp_path / "command.tsv")])
    page_rows, command_rows = (
        [tuple(row.values()) for row in csv.DictReader(open(tmp_path / name), delimiter="\t")]
        for name in ("page.tsv", "command.tsv")
    )
    assert [row[:4] for row in page_rows] == [("farmyard.wav", *row[1:4]) for row in command_rows]
    assert len(page_rows) == len(expected)
    # A click on a bar plays its span.
    page.evaluate("() => document.querySelector('#picture').scrollIntoView()")
    page.wait_for_selector("#picture .barlayer .point[role=button]")
    page.locator("#picture .barlayer .point").first.press("Enter")
    page.wait_for_function("() => document.querySelector('#picture .play-line')?.style.display === 'block'")
    page.get_by_text("Raw answer and prompt").click()
    assert "<0.08>" in page.inner_text("#raw pre") and "rooster" in page.inner_text("#raw code")
    page.get_by_text("Where the answer looks").click()
    page.click("#look")
    page.wait_for_selector("#looks .js-plotly-plot")
    looks = page.evaluate(
        "() => document.querySelector('#looks .js-plotly-plot').data.map((t) => [t.y.length, t.type])"
    )
    assert looks == [[2 * len(expected), "heatmap"]] * 2


def test_queries_labels_and_text_that_looks_like_a_script(open_page, tmp_path):
    page = open_page(390, "dark")
    evil = "<script>alert(1)</script>"
    page.get_by_text("Farmyard", exact=True).click()
    page.wait_for_selector("#recording button[aria-label='Clear']")
    page.get_by_label("Queries", exact=True).click()
    page.fill("#query textarea", f"rooster\nsheep bleat\n{evil}\n<img src=x onerror=alert(2)>")
    ask(page)
    # The example comes with its true labels: three events of the two labels, of five in all.
    page.wait_for_selector("#scores dd")
    scores = page.eval_on_selector_all("#scores dd", "(all) => all.map((one) => one.innerText)")
    assert scores[3] == "3" and 0 < float(scores[1]) <= 1
    page.wait_for_selector("#picture .js-plotly-plot .barlayer")
    text = page.inner_text("#status") + page.inner_text("#table")
    assert evil in text and not page.query_selector("#status script, #table script, #picture script, #status img")
    left, width = page.evaluate(WIDTHS)
    assert left <= width == 390
    assert "dark" in page.get_attribute("body", "class")
    ink = page.evaluate("() => document.querySelector('#picture .js-plotly-plot').layout.font.color")
    assert int(ink[1:3], 16) > 128, "dark pages need light letters"
    page.screenshot(path=tmp_path / "phone-dark.png", full_page=True)
    assert (tmp_path / "phone-dark.png").stat().st_size > 20000
    # Labels of one's own, from a file.
    label = {"onset": 1.0, "offset": 2.0, "event_label": evil}
    (tmp_path / "labels.json").write_text(json.dumps([{"file": "farmyard", "duration": 10.0, "events": [label]}]))
    page.get_by_label("All sounds").click()
    page.get_by_text("Compare with true labels").click()
    page.locator("#labels button[aria-label='Clear'], #labels button[aria-label='Remove this file']").first.click()
    page.set_input_files("#labels input[type=file]", str(tmp_path / "labels.json"))
    ask(page)
    page.wait_for_function("() => document.querySelectorAll('#scores dd')[3]?.innerText === '1'")
    assert page.evaluate("() => document.querySelectorAll('#scores dd')[0].innerText") == "0.000"


def test_a_bad_file_shows_a_message_and_the_page_goes_on(open_page, wav, tmp_path):
    page = open_page(390)
    (tmp_path / "broken.wav").write_bytes(b"RIFF and nothing more")
    page.click("#ask")
    page.wait_for_selector("#status .error")
    assert "There is no recording" in page.inner_text("#status")
    page.set_input_files("#recording input[type=file]", str(tmp_path / "broken.wav"))
    page.wait_for_selector("#recording button[aria-label='Clear']")
    page.click("#ask")
    page.wait_for_function("() => document.querySelector('#status .error')?.innerText.includes('broken.wav')")
    message = page.inner_text("#status .error")
    assert "is not audio that can be read" in message and "/" not in message
    page.click("#recording button[aria-label='Clear']")
    page.wait_for_selector("#recording button[aria-label='Clear']", state="detached")
    ask(page, wav)
    page.wait_for_selector("#status .done")
    left, width = page.evaluate(WIDTHS)
    assert left <= width == 390
    page.screenshot(path=tmp_path / "phone-light.png", full_page=True)


def test_long_recordings_show_progress_and_stop(open_page, space_page, tmp_path):
    page = open_page(1280, "dark")
    samples, rate = soundfile.read(FARMYARD)
    with soundfile.SoundFile(tmp_path / "long.flac", "w", rate, 1) as file:
        for _ in range(9):
            file.write(samples[: 9 * rate])
    page.set_input_files("#recording input[type=file]", str(tmp_path / "long.flac"))
    page.wait_for_selector("#recording button[aria-label='Clear']")
    page.get_by_text("Windows", exact=True).click()
    page.fill("#chunk input", "2")
    page.fill("#stride input", "0.5")
    page.click("#ask")
    # The overlap of 0.5 s is 0.48 on the grid: windows advance by 1.04 s, the 76th ends at 80.0 s, the last at 81.
    page.wait_for_function("() => /window [1-9]\\d* of 77/.test(document.querySelector('#status').innerText)")
    page.wait_for_selector("#picture .js-plotly-plot")
    page.screenshot(path=tmp_path / "progress.png", full_page=True)
    page.click("#stop")
    page.wait_for_function("() => document.querySelector('#status').innerText === 'Stopped.'")
    page.close()
    # Who leaves takes the upload along.
    for _ in range(100):
        if not [path for path in space_page.uploads() if path.name == "long.flac"]:
            return
        page.context.pages or page.context.new_page().wait_for_timeout(100)
    raise AssertionError(space_page.uploads())
