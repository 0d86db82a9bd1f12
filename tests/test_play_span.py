"""In a browser: bars at their times, one time axis for all panels, and a click on a bar plays its span."""

import math

import numpy as np
import pytest
import soundfile

pytest.importorskip("plotly")
gradio = pytest.importorskip("gradio")

from processing.events import Event  # noqa: E402
from space_app.interactive_plot import PLAY_SPAN_JS, interactive_figure  # noqa: E402

pytestmark = pytest.mark.slow

RATE = 16000
EVENTS = [Event(0.5, 0.9, "dog bark", 0.91), Event(2.0, 4.5, "speech", 0.6), Event(6.0, 6.3, "<b>x</b>")]
EXPECTED = [(0.5, 0.9), (2.0, 4.5), (6.0, 6.3), (7.0, 7.5)]
LABEL = "<script>window.hacked=1</script><a href='https://example.org'>here</a>"
# The player's audio element lives in a shadow tree.
AUDIO = """() => {
  const inside = (root) => [...root.querySelectorAll("audio")].concat(
    ...[...root.querySelectorAll("*")].filter((node) => node.shadowRoot).map((node) => inside(node.shadowRoot)));
  const audio = inside(document).find((found) => found.currentSrc || found.src);
  return audio ? [audio.currentTime, audio.paused] : null;
}"""
BARS = """() => {
  const axis = document.querySelector(".js-plotly-plot")._fullLayout.xaxis;
  const left = document.querySelector(".js-plotly-plot .nsewdrag").getBoundingClientRect().x;
  return [...document.querySelectorAll(".barlayer .point path")].map((path) => {
    const box = path.getBoundingClientRect();
    return [box.x, box.x + box.width].map((x) => axis.range[0] + (x - left) / axis._length
      * (axis.range[1] - axis.range[0]));
  });
}"""


@pytest.fixture(scope="module")
def waveform():
    return (0.1 * np.random.default_rng(0).standard_normal(10 * RATE)).astype(np.float32)


@pytest.fixture(scope="module")
def address(waveform, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "noise.wav"
    soundfile.write(path, waveform, RATE)

    def draw(rounds):
        return interactive_figure(waveform, RATE, [*EVENTS, Event(7.0, 7.5, LABEL, rounds / 10)]), rounds + 1

    with gradio.Blocks(analytics_enabled=False) as blocks:
        gradio.Audio(str(path), interactive=True, elem_classes="plays-spans")
        rounds, picture = gradio.State(0), gradio.Plot(show_label=False)
        blocks.load(draw, rounds, [picture, rounds])
        gradio.Button("again", elem_id="again").click(draw, rounds, [picture, rounds])
    _, url, _ = blocks.launch(
        prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", head=f"<script>{PLAY_SPAN_JS}</script>",
        allowed_paths=[str(path.parent)],
    )  # fmt: skip
    yield url
    blocks.close()


@pytest.fixture(scope="module")
def opened(chromium, address):
    page = chromium.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(error))
    page.goto(address, wait_until="domcontentloaded")
    page.wait_for_selector(".barlayer .point[role=button]", state="attached", timeout=60_000)
    page.wait_for_function(f"({AUDIO})() !== null")
    yield page
    page.close()
    assert not errors


@pytest.fixture
def page(opened):
    """Return the page at rest: to load it again for every test would take seconds each."""
    opened.set_viewport_size({"width": 900, "height": 1000})
    opened.mouse.move(0, 0)
    if not opened.evaluate(AUDIO)[1]:
        opened.click("[aria-label='Pause']")
    opened.wait_for_function("document.querySelector('.js-plotly-plot').getBoundingClientRect().width > 500")
    return opened


def click_bar(page, place):
    # Plotly takes a click for the point that it was told to hover over, once it has drawn everything.
    for attempt in range(50):
        box = page.evaluate(f"[...document.querySelectorAll('.barlayer .point path')][{place}].getBoundingClientRect()")
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(x - 1 - attempt % 2, y)
        page.mouse.move(x, y)
        page.wait_for_timeout(100)
        if page.locator(".hoverlayer .hovertext").count():
            break
    page.mouse.click(x, y)


def wait_for_stop(page):
    page.wait_for_function(f"({AUDIO})()[1] === false")
    started, _ = page.evaluate(AUDIO)
    page.wait_for_function(f"({AUDIO})()[1] === true")
    return started, page.evaluate(AUDIO)[0]


def test_a_click_plays_the_span_and_a_new_picture_does_too(page):
    click_bar(page, 0)
    started, stopped = wait_for_stop(page)
    assert 0.5 <= started < 0.9 and 0.9 <= stopped < 1.15
    line = page.locator(".play-line").bounding_box()
    ticks = page.locator(".js-plotly-plot .nsewdrag").first.bounding_box()
    assert line["x"] == pytest.approx(ticks["x"] + ticks["width"] * stopped / 10, abs=2)
    page.click("#again")
    page.wait_for_function("document.querySelector('.js-plotly-plot').data[5].text[0] === '0.10'")
    page.wait_for_selector(".barlayer .point[role=button]", state="attached")
    click_bar(page, 2)
    started, stopped = wait_for_stop(page)
    assert 6.0 <= started < 6.3 and 6.3 <= stopped < 6.55


def test_a_second_click_and_the_player_leave_the_span(page):
    click_bar(page, 1)
    page.wait_for_function(f"({AUDIO})()[1] === false && ({AUDIO})()[0] > 2.6")
    click_bar(page, 1)
    assert wait_until_paused(page) < 4.4
    # Playing on from there is the player's own: it does not stop at the offset.
    page.click("[aria-label='Play']")
    page.wait_for_function(f"({AUDIO})()[0] > 4.8", timeout=10_000)
    assert not page.evaluate(AUDIO)[1]


def test_a_click_beside_a_short_event_hits_it(page):
    page.set_viewport_size({"width": 390, "height": 1000})
    page.wait_for_function("document.querySelector('.js-plotly-plot').getBoundingClientRect().width < 380")
    page.wait_for_timeout(200)
    box = page.evaluate("[...document.querySelectorAll('.barlayer .point path')][2].getBoundingClientRect()")
    middle, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    assert box["width"] < 14
    page.mouse.move(middle - 9, y)
    page.mouse.move(middle - 8, y)
    page.wait_for_selector(".hoverlayer .hovertext", state="attached")
    page.mouse.click(middle - 8, y)
    started, stopped = wait_for_stop(page)
    assert 6.0 <= started < 6.3 and 6.3 <= stopped < 6.55


def wait_until_paused(page):
    page.wait_for_function(f"({AUDIO})()[1] === true")
    return page.evaluate(AUDIO)[0]


def test_the_keyboard_plays_too(page):
    page.focus(".barlayer .point[tabindex='0']")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Play dog bark, 0.50 to 0.90 seconds"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    started, stopped = wait_for_stop(page)
    assert 6.0 <= started < 6.3 and 6.3 <= stopped < 6.55


def test_bars_stand_at_their_times_and_one_zoom_moves_all(page):
    assert np.allclose(page.evaluate(BARS), EXPECTED, atol=0.02)
    for panel in range(3):
        box = page.locator(".js-plotly-plot .nsewdrag").nth(panel).bounding_box()
        middle = box["y"] + box["height"] / 2
        page.mouse.move(box["x"] + 0.1 * box["width"], middle)
        page.mouse.down()
        page.mouse.move(box["x"] + 0.5 * box["width"], middle, steps=4)
        page.mouse.up()
        page.wait_for_function("document.querySelector('.js-plotly-plot').layout.xaxis.range[1] < 9")
        layout = page.evaluate("document.querySelector('.js-plotly-plot').layout")
        assert layout["xaxis"]["range"] == pytest.approx([1, 5], abs=0.1)
        assert not [key for key in layout if key.startswith("xaxis") and key != "xaxis"]
        # Every panel hangs on that axis, and its own one stays.
        anchors = page.evaluate("Object.keys(document.querySelector('.js-plotly-plot')._fullLayout._plots)")
        assert anchors == ["xy", "xy2", "xy3"]
        assert page.evaluate(BARS)[1] == pytest.approx((2.0, 4.5), abs=0.02)
        page.evaluate("Plotly.relayout(document.querySelector('.js-plotly-plot'), {'xaxis.range': [0, 10]})")


def test_html_in_labels_is_text(page):
    texts = page.evaluate("[...document.querySelectorAll('.annotation-text')].map((text) => text.textContent)")
    assert "<b>x</b>" in texts and any(text.startswith("<script>window.hacked=1") for text in texts)
    click_bar(page, 3)
    hover = page.evaluate("document.querySelector('.hoverlayer .hovertext').textContent")
    assert "<script>window.hacked=1</script>" in hover and "href='https://example.org'>here</a>" in hover
    assert page.evaluate("document.querySelectorAll('.main-svg a, .main-svg script').length") == 0
    assert page.evaluate("window.hacked") is None


def test_a_phone_shows_all_of_it(page):
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_function("document.querySelector('.js-plotly-plot').getBoundingClientRect().width < 380")
    page.wait_for_timeout(200)
    right = page.evaluate("document.querySelector('.js-plotly-plot').getBoundingClientRect().right")
    texts = page.evaluate(
        "[...document.querySelectorAll('.js-plotly-plot .main-svg text')].filter((text) => text.textContent.trim())"
        ".map((text) => [text.textContent, text.getBoundingClientRect().left, text.getBoundingClientRect().right])"
    )
    assert math.isfinite(right) and len(texts) > 10
    assert not [text for text in texts if text[2] > right or text[1] < 0]
    assert np.allclose(page.evaluate(BARS), EXPECTED, atol=0.05)


def test_a_finger_scrolls_over_the_picture_and_a_tap_plays(chromium, address):
    context = chromium.new_context(viewport={"width": 390, "height": 500}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(address, wait_until="domcontentloaded")
    page.wait_for_selector(".barlayer .point[role=button]", state="attached", timeout=60_000)
    page.wait_for_function(f"({AUDIO})() !== null")
    box = page.locator(".js-plotly-plot").bounding_box()
    touch = context.new_cdp_session(page)
    for step in range(12):
        kind = "touchStart" if step == 0 else "touchEnd" if step == 11 else "touchMove"
        points = [] if step == 11 else [{"x": 200, "y": box["y"] + 120 - 15 * step}]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        page.wait_for_timeout(16)
    page.wait_for_function("window.scrollY > 100")
    assert page.evaluate("document.querySelector('.js-plotly-plot').layout.xaxis.range") == [0, 10]
    page.wait_for_timeout(500)
    bar = page.locator(".barlayer .point path").nth(1)
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    page.wait_for_timeout(500)
    box = bar.bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_function(f"({AUDIO})()[1] === false && ({AUDIO})()[0] > 2.5")
    context.close()
