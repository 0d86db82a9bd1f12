"""The Live tab: sessions hear chunks in order within their limits; and a browser whose microphone plays a file."""

import re

import numpy as np
import pytest
import soundfile
from conftest import BROWSER, BROWSER_FLAGS

pytest.importorskip("gradio")

from processing.pipeline_timepro import TemporalAudioGroundingPipeline  # noqa: E402
from space_app.limits import Limits  # noqa: E402
from space_app.live_session import LiveSession  # noqa: E402
from space_app.live_tab import LiveSessions, bars_html  # noqa: E402

FARMYARD = "space_app/examples/farmyard.flac"


@pytest.fixture(scope="module")
def pipe(lively_checkpoint):
    model, processor = lively_checkpoint
    return TemporalAudioGroundingPipeline(model=model, processor=processor)


@pytest.fixture(scope="module")
def chunks():
    """Return 9 s of noise that comes and goes, in chunks of a quarter of a second."""
    noise = np.random.default_rng(0).standard_normal((36, 4000)).astype(np.float32)
    return list(0.2 * noise * (np.arange(36) % 8 < 4)[:, None])


def test_a_session_hears_all_chunks_in_order_though_they_come_faster(pipe, chunks):
    session = LiveSession(pipe, ["dog"], 100.0)
    for chunk in chunks:
        session.put(16000, chunk)
    assert session.heard < session.num_seconds == 9.0
    session.finish()
    session.put(16000, chunks[0])
    session.wait(120)
    assert session.heard == 9.0 and session.is_over and not session.is_running and session.error is None
    expected = {report["id"]: report for report in pipe.stream(chunks, 16000, queries=["dog"])}
    assert session.events == {id: one for id, one in expected.items() if one["state"] == "closed"} != {}


def test_a_session_ends_at_its_limit_to_the_sample(pipe, chunks):
    session = LiveSession(pipe, None, 1.6)
    for chunk in chunks:
        session.put(16000, chunk)
    session.wait(120)
    assert session.is_over and session.num_seconds == session.heard == 1.6


def test_bad_sound_and_a_visitor_who_leaves_end_a_session(pipe, chunks):
    session = LiveSession(pipe, None, 100.0)
    session.put(16000, np.full(4000, np.nan, np.float32))
    session.wait(60)
    assert "NaN" in session.error and session.is_over
    session = LiveSession(pipe, None, 1000.0)
    for chunk in 3 * chunks:
        session.put(16000, chunk)
    session.leave()
    session.wait(60)
    assert not session.is_running and session.heard < session.num_seconds


def test_as_many_microphones_are_followed_as_the_limits_say(pipe, chunks):
    sessions = LiveSessions(pipe, Limits(num_live=1, max_live_seconds=100.0))
    data = (32767 * np.concatenate(chunks[:8])).astype("<i2").tobytes()
    first = sessions.take("a" * 12, 16000, data, "dog", False)
    with pytest.raises(ValueError, match="1 microphones are followed"):
        sessions.take("b" * 12, 16000, data, "", False)
    # The same visitor goes on.
    assert sessions.take("a" * 12, 16000, b"", "", True) is first
    first.wait(60)
    shown = sessions.view(first)
    assert shown["is_over"] and "2.0 s" in shown["status"] and first.queries == ["dog"]
    second = sessions.take("b" * 12, 16000, data, "", True)
    second.wait(60)
    assert second is not first and not second.is_running
    for rate, data, message in ((16000, b"odd", "no sound"), (1, b"", "no sound")):
        with pytest.raises(ValueError, match=message):
            sessions.take("c" * 12, rate, data, "", False)


def test_bars_show_the_last_half_minute_and_hide_nothing_in_markup():
    event = {"id": 0, "onset": 10.0, "offset": 12.0, "event_label": "<b>dog</b>", "score": 0.5, "state": "closed"}
    growing = event | {"id": 1, "onset": 38.0, "offset": None, "state": "open"}
    old = event | {"id": 2, "offset": 10.5, "event_label": "old"}
    shown = bars_html([event, growing, old], 41.0)
    assert "&lt;b&gt;dog" in shown and "<b>dog" not in shown and "old" not in shown
    spans = re.findall(r'class="(\w+)" data-id="(\d)" style="left:([\d.]+)%;width:([\d.]+)%"', shown)
    assert spans == [("closed", "0", "0.00", "3.33"), ("open", "1", "90.00", "10.00")]
    assert bars_html([old], 41.0) == ""


@pytest.fixture
def microphone(space_page, tmp_path):
    """Return a function that opens the page in a browser whose microphone plays a recording."""
    playwright = pytest.importorskip("playwright.sync_api")
    if BROWSER is None:
        pytest.skip("no Chromium")
    samples, rate = soundfile.read(FARMYARD, dtype="int16")
    soundfile.write(tmp_path / "microphone.wav", samples, rate, "PCM_16")
    flags = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    flags.append(f"--use-file-for-fake-audio-capture={tmp_path / 'microphone.wav'}")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, headless=True, args=[*BROWSER_FLAGS, *flags])
        context = browser.new_context(viewport={"width": 1280, "height": 900}, permissions=["microphone"])
        page, errors = context.new_page(), []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.set_default_timeout(120000)
        page.goto(space_page.url, wait_until="domcontentloaded")
        page.get_by_role("tab", name="Live").click()
        yield page
        browser.close()
    assert not errors


@pytest.mark.slow
def test_bars_grow_while_a_microphone_is_heard(microphone, space_page, tmp_path):
    page = microphone
    page.click("#live-record")
    page.wait_for_selector("#live-bars i", state="attached")
    page.wait_for_function("() => document.querySelectorAll('#live-table tbody tr').length >= 1")
    page.screenshot(path=tmp_path / "live.png", full_page=True)
    seconds = float(re.match(r"([\d.]+) s", page.inner_text("#live-status"))[1])
    assert seconds > 2
    page.click("#live-record")
    page.wait_for_function("() => document.querySelector('#live-record').innerText === 'Record'")
    assert not page.query_selector("#live-bars i.open") and "going on" not in page.inner_text("#live-status")
    labels = page.eval_on_selector_all("#live-table tbody tr", "(rows) => rows.map((row) => row.lastChild.innerText)")
    assert {"rooster", "sheep bleat"} & set(labels)
    assert not space_page.uploads()
