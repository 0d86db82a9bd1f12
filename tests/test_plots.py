"""The picture of a recording and its events: one time axis, units, and bars where the events are."""

import numpy as np
import pytest

from processing.events import Event
from space_app.plots import plot_events
from space_app.spectrogram import log_mel

RATE = 16000
EVENTS = [Event(0.5, 1.0, "dog bark"), Event(2.0, 4.5, "speech"), Event(3.0, 3.4, "dog bark")]


@pytest.fixture(scope="module")
def waveform():
    return 0.1 * np.random.default_rng(0).standard_normal(5 * RATE).astype(np.float32)


def panels(figure):
    return {axis.get_label(): axis for axis in figure.axes}


def bars(axis, kind):
    """Return (onset, offset, lane) of the bars of one kind."""
    boxes = [part.get_paths()[0].get_extents() for part in axis.collections if part.get_label() == kind]
    return sorted((round(box.x0, 6), round(box.x1, 6), round((box.y0 + box.y1) / 2)) for box in boxes)


def test_bars_lie_where_the_events_are(waveform):
    axis = panels(plot_events(waveform, RATE, EVENTS))["events"]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["dog bark", "speech"]
    assert bars(axis, "event") == [(0.5, 1.0, 0), (2.0, 4.5, 1), (3.0, 3.4, 0)]
    assert "2.00\u20134.50" in [text.get_text() for text in axis.texts]


def test_one_time_axis_with_units(waveform):
    axes = panels(plot_events(waveform, RATE, EVENTS))
    assert list(axes) == ["waveform", "spectrogram", "events"]
    for axis in axes.values():
        assert axis.get_xlim() == (0, 5)
        assert axis.get_position().intervalx == pytest.approx(axes["events"].get_position().intervalx)
    assert axes["events"].get_xlabel() == "time (s)"
    assert axes["spectrogram"].get_ylabel() == "frequency (kHz)"
    assert axes["spectrogram"].images[0].get_extent()[:2] == [0, 5]


def test_reference_is_outlined_and_has_its_own_lanes(waveform):
    figure = plot_events(waveform, RATE, EVENTS, reference=[Event(0.6, 1.1, "dog bark"), Event(1.5, 2.5, "cat")])
    axis = panels(figure)["events"]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["dog bark", "cat", "speech"]
    assert bars(axis, "reference") == [(0.6, 1.1, 0), (1.5, 2.5, 1)]
    assert "dashed: reference" in [text.get_text() for text in figure.texts]


@pytest.mark.parametrize("num_labels", [0, 1, 12])
def test_any_number_of_labels(waveform, tmp_path, num_labels):
    events = [Event(0.3 * i, 0.3 * i + 0.5, f"${i}$ _{{") for i in range(num_labels)]
    figure = plot_events(waveform, RATE, events, path=tmp_path / "events.png", title="100 % $of_it")
    axis = panels(figure)["events"]
    assert len(axis.get_yticks()) == num_labels
    assert (tmp_path / "events.png").stat().st_size > 10_000
    assert ("no events" in [text.get_text() for text in axis.texts]) == (num_labels == 0)


def test_times_never_overlap(waveform):
    generator = np.random.default_rng(1)
    events = [Event(t, min(5, t + generator.uniform(0, 2)), "dog") for t in generator.uniform(0, 5, 12)]
    figure = plot_events(waveform, RATE, events)
    boxes = [text.get_window_extent() for text in panels(figure)["events"].texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_spectrogram_shows_a_tone_at_its_frequency():
    tone = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)
    decibels, edges = log_mel(tone, RATE)
    loudest = int(decibels[:, decibels.shape[1] // 2].argmax())
    assert edges[loudest] < 1000 < edges[loudest + 2]
    assert decibels.max() == 0 and decibels.shape[1] == pytest.approx(100, abs=2)


@pytest.mark.parametrize("rate, num_samples", [(8000, 1), (16000, 100), (44100, 44100)])
def test_short_clips_and_other_rates(rate, num_samples):
    figure = plot_events(np.zeros(num_samples), rate, [Event(0, num_samples / rate, "x")])
    assert panels(figure)["events"].get_xlim()[1] == pytest.approx(num_samples / rate)


def test_wrong_arguments(waveform):
    with pytest.raises(ValueError, match=r"waveform has shape \(0,\)"):
        plot_events(np.zeros(0), RATE, [])
    with pytest.raises(ValueError, match=r"waveform has shape \(2, 10\)"):
        plot_events(np.zeros((2, 10)), RATE, [])
    with pytest.raises(ValueError, match="sampling_rate is 0"):
        plot_events(waveform, 0, [])
