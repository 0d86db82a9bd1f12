"""The interactive figures: bars, axes, units and labels, read from their data."""

import json
import time
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("plotly")

from processing.events import Event  # noqa: E402
from space_app.interactive_attention import attention_figure  # noqa: E402
from space_app.interactive_plot import interactive_figure  # noqa: E402
from space_app.plot_style import fitted  # noqa: E402

RATE = 16000
EVENTS = [Event(0.5, 1.0, "dog bark", 0.914), Event(2.0, 4.5, "speech"), Event(3.0, 3.4, "dog bark", 0.5)]


@pytest.fixture(scope="module")
def waveform():
    return (0.1 * np.random.default_rng(0).standard_normal(5 * RATE)).astype(np.float32)


def traces(figure, kind):
    return [trace for trace in figure.data if trace.meta["kind"] == kind]


def spans(trace):
    return [(onset, round(onset + length, 6)) for onset, length in zip(trace.base, trace.x, strict=True)]


def texts(figure):
    return [note.text for note in figure.layout.annotations]


def test_bars_lie_where_the_events_are(waveform):
    dogs, speech = traces(interactive_figure(waveform, RATE, EVENTS), "event")
    assert dogs.meta["label"] == "dog bark" and speech.meta["label"] == "speech"
    assert spans(dogs) == [(0.5, 1.0), (3.0, 3.4)] and spans(speech) == [(2.0, 4.5)]
    assert dogs.orientation == speech.orientation == "h"
    assert list(dogs.text) == ["0.91", "0.50"] and list(speech.text) == [""]
    assert [list(span) for span in dogs.customdata] == [[0.5, 1.0], [3.0, 3.4]]
    # Lanes do not touch.
    assert dogs.y[0] + dogs.width / 2 < speech.y[0] - speech.width / 2
    assert dogs.marker.color != speech.marker.color


def test_dicts_and_foreign_objects_are_events_too(waveform):
    expected = interactive_figure(waveform, RATE, EVENTS).to_json()
    assert interactive_figure(waveform, RATE, [event.as_dict() for event in EVENTS]).to_json() == expected
    assert interactive_figure(waveform, RATE, [SimpleNamespace(**event.as_dict()) for event in EVENTS]).to_json() == (
        expected
    )


def test_one_time_axis_for_all_panels_and_units(waveform):
    figure = interactive_figure(waveform, RATE, EVENTS)
    layout = figure.layout
    assert layout.xaxis.title.text == "Time (s)" and tuple(layout.xaxis.range) == (0, 5)
    assert {"Amplitude", "Frequency (kHz)"} < set(texts(figure))
    assert {trace.yaxis for trace in figure.data} == {"y", "y2", "y3"}
    assert all(trace.xaxis in (None, "x") for trace in figure.data)
    panels = [layout.yaxis, layout.yaxis2, layout.yaxis3]
    assert all(panel.fixedrange for panel in panels)
    domains = [panel.domain for panel in panels]
    assert domains[0][1] == pytest.approx(1) and domains[2][0] == pytest.approx(0)
    assert domains[0][0] > domains[1][1] and domains[1][0] > domains[2][1]
    assert list(layout.yaxis2.ticktext) == ["0.25", "0.5", "1", "2", "4", "8"]


def test_waveform_is_an_envelope_and_spectrogram_shows_a_tone_at_its_time(waveform):
    tone = np.zeros(10 * RATE)
    tone[4 * RATE : 5 * RATE] = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)
    figure = interactive_figure(tone, RATE, [])
    (wave,), (mel,) = traces(figure, "waveform"), traces(figure, "spectrogram")
    assert len(wave.x) == 2000 and max(wave.y) == pytest.approx(0.5) and min(wave.y) == pytest.approx(-0.5)
    assert [x for x, y in zip(wave.x, wave.y, strict=True) if y > 0.4][0] == pytest.approx(4.0, abs=0.01)
    levels = np.array(mel.z)
    row, column = np.unravel_index(levels.argmax(), levels.shape)
    assert float(mel.y[row].split()[0]) == pytest.approx(1.0, abs=0.03) and mel.y[row].endswith("kHz")
    loud = mel.x0 + mel.dx * np.flatnonzero(levels[row] > -20)
    assert loud[0] == pytest.approx(4.0, abs=0.05) and loud[-1] == pytest.approx(5.0, abs=0.05)
    assert mel.zmin == -70 and levels.min() == -70 and levels.max() == 0


def test_hover_names_label_times_and_score(waveform):
    figure = interactive_figure(waveform, RATE, EVENTS, [Event(0.25, 1, "cat")], decimals=3)
    dogs = traces(figure, "event")[1]
    assert dogs.hovertext[0] == "<b>dog bark</b><br>0.500\u20131.000 s \u00b7 score 0.91"
    (reference,) = traces(figure, "reference")
    assert reference.hovertext[0] == "<b>cat</b><br>reference \u00b7 0.250\u20131.000 s"


def test_overlapping_events_of_one_label_share_no_pixel(waveform):
    events = [Event(0, 3, "dog"), Event(1, 2, "dog"), Event(1.5, 4, "dog"), Event(2, 5, "dog"), Event(4.5, 5, "cat")]
    dogs, cats = traces(interactive_figure(waveform, RATE, events), "event")
    boxes = [(*span, y - dogs.width / 2, y + dogs.width / 2) for span, y in zip(spans(dogs), dogs.y, strict=True)]
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert a[0] >= b[1] or b[0] >= a[1] or a[2] >= b[3] or b[2] >= a[3]
    # Of four events three sound at once; the fourth takes the row that the second leaves.
    assert len(set(dogs.y)) == 3 and dogs.y[3] == dogs.y[1]
    assert max(box[3] for box in boxes) < cats.y[0] - cats.width / 2


def test_reference_is_outlined_over_its_lane(waveform):
    figure = interactive_figure(waveform, RATE, EVENTS, [Event(0.6, 1.1, "dog bark"), Event(1.5, 2.5, "cat")])
    (reference,) = traces(figure, "reference")
    assert [trace.meta["label"] for trace in traces(figure, "event")] == ["dog bark", "cat", "speech"]
    assert spans(reference) == [(0.6, 1.1), (1.5, 2.5)] and list(reference.meta["labels"]) == ["dog bark", "cat"]
    dogs = traces(figure, "event")[0]
    assert reference.y[0] == dogs.y[0] and reference.width[0] > dogs.width
    assert reference.marker.color == "rgba(0,0,0,0)" and reference.marker.line.width > 0
    assert "filled: answer \u00b7 outlined: reference" in texts(figure)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("num_labels", [0, 1, 40])
def test_any_number_of_labels_without_a_number_that_is_none(num_labels, dark):
    events = [Event(0.02 * i, 0.02 * i + 0.01 * (i % 3), f"label {i}", i / 40) for i in range(num_labels)]
    figure = interactive_figure(np.zeros(RATE), RATE, events, dark=dark)
    json.loads(figure.to_json(), parse_constant=lambda name: pytest.fail(name))
    (mel,) = traces(figure, "spectrogram")
    assert np.array(mel.z).max() == -70  # silence is not loud
    assert ("no events" in texts(figure)) == (num_labels == 0)
    bars = traces(figure, "event")
    assert [bar.meta["label"] for bar in bars] == [f"label {i}" for i in range(num_labels)]
    assert all(length > 0 for bar in bars for length in bar.x)
    assert figure.layout.height < 1800


def test_labels_are_text_and_long_ones_are_whole_in_the_hover(waveform):
    label = "<b>a</b> <a href='javascript:1'>b</a> & $x$ %{meta.duration} " + "and so on " * 10
    figure = interactive_figure(waveform, RATE, [Event(0, 1, label)])
    (note,) = [note for note in figure.layout.annotations if note.name == "label"]
    assert note.text == "&lt;b&gt;a&lt;/b&gt; &lt;a href='javascript:1'&gt;b…"
    (bar,) = traces(figure, "event")
    whole = bar.hovertext[0].removeprefix("<b>").split("</b><br>0.00")[0].replace("<br>", " ")
    expected = "&lt;b&gt;a&lt;/b&gt; &lt;a href='javascript:1'&gt;b&lt;/a&gt; &amp; &#36;x&#36; &#37;{meta.duration} "
    assert whole == (expected + "and so on " * 10).strip() == note.hovertext.replace("<br>", " ")


def test_wide_letters_are_cut_earlier():
    # 34 lowercase letters fit; capitals take one and a half, ideographs two, and the cut takes one for its mark.
    assert fitted("a" * 34) == "a" * 34 and fitted("a" * 35) == "a" * 33 + "…"
    assert fitted("A" * 23) == "A" * 21 + "…" and fitted("\u96e8" * 17) == "\u96e8" * 17


def test_scores_stand_in_bars_that_hold_them_or_beside(waveform):
    # A tenth of five seconds holds a score.
    events = [
        Event(0, 1, "dog", 0.9),
        Event(1.1, 1.2, "dog", 0.8),
        Event(1.4, 1.5, "dog", 0.7),
        Event(4.8, 5, "dog", 1),
    ]
    (dogs,) = traces(interactive_figure(waveform, RATE, events), "event")
    assert list(dogs.textposition) == ["inside", "none", "outside", "none"]


def test_wrong_arguments(waveform):
    with pytest.raises(ValueError, match=r"waveform has shape \(2, 10\)"):
        interactive_figure(np.zeros((2, 10)), RATE, [])
    with pytest.raises(ValueError, match="samples that are not finite"):
        interactive_figure(np.full(100, np.nan), RATE, [])
    with pytest.raises(ValueError, match="sampling_rate is 0"):
        interactive_figure(waveform, 0, [])
    with pytest.raises(ValueError, match="event has onset 2.0 and offset 1.0"):
        interactive_figure(waveform, RATE, [{"onset": 2, "offset": 1, "event_label": "dog"}])


def test_long_recordings_take_no_more_bytes_and_keep_short_sounds():
    # Ten minutes stand for an hour: both are reduced to the same columns.
    waveform = np.full(600 * RATE, 1e-4, dtype=np.float32)
    waveform[300 * RATE : 300 * RATE + RATE // 10] = np.sin(2 * np.pi * 1000 * np.arange(RATE // 10) / RATE)
    events = [Event(t, t + 1, f"label {t % 8}", 0.5) for t in range(0, 600)]
    started = time.process_time()
    figure = interactive_figure(waveform, RATE, events)
    assert len(figure.to_json()) < 500_000
    assert time.process_time() - started < 3
    (mel,) = traces(figure, "spectrogram")
    loud = np.flatnonzero(np.array(mel.z).max(0) > -20)
    # A column is 0.6 s.
    assert len(loud) <= 2 and mel.x0 + mel.dx * loud[0] == pytest.approx(300, abs=0.7)


def test_attention_has_a_row_for_each_time_said():
    times = np.arange(25) * 0.08
    weights = {"ticks": np.zeros((2, 25)), "frames": np.eye(2, 25) / 2}
    figure = attention_figure(times, weights, [0.4, 1.2])
    ticks, frames = figure.data
    assert (ticks.meta["to"], frames.meta["to"]) == ("ticks", "frames") and ticks.zmax == frames.zmax == 0.5
    # A cell reaches from its tick to the next.
    assert np.allclose(frames.x, times + 0.04) and np.allclose(np.array(frames.z), weights["frames"])
    assert tuple(figure.layout.xaxis.range) == pytest.approx((0, 2)) and figure.layout.xaxis.anchor == "y2"
    assert list(figure.layout.yaxis2.ticktext) == ["0.40 s", "1.20 s"] and figure.layout.yaxis2.range[0] > 0
    assert [shape.x0 for shape in figure.layout.shapes if shape.name == "said"] == [0.4, 1.2] * 2
    assert {"Attention to ticks", "Attention to frames", "full colour: 0.5"} < set(texts(figure))
    assert figure.layout.xaxis.title.text == "Time (s)"


def test_attention_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"attention to ticks has shape \(2, 3\); give \(1, 3\)"):
        attention_figure([0, 1, 2], np.zeros((2, 3)), said=[1.0])
    with pytest.raises(ValueError, match="not finite"):
        attention_figure([0, 1, 2], np.full((1, 3), np.nan), said=[1.0])
