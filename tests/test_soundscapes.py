"""Soundscapes: what a mixture holds, and that its labels are tight around what can be heard."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import butter, sosfiltfilt

from processing.events import Event
from recipes.data.augmentation import MERGE_GAP, merge_same_label
from recipes.soundscapes.mixing import audible_span, draw_background, equalise, mix, vary
from recipes.soundscapes.sound_bank import HOP, SoundBank, audible_pieces, level

RATE = 16000


def decibels(ratio):
    return 20 * np.log10(ratio)


def rms(waveform):
    return np.sqrt(np.mean(np.square(waveform, dtype=np.float64)))


def noise(seconds, low=0, high=RATE / 2, seed=0):
    """Return noise of RMS 0.3 that is strictly between two frequencies."""
    waveform = np.random.default_rng(seed).normal(size=round(seconds * RATE))
    spectrum, frequency = np.fft.rfft(waveform), np.fft.rfftfreq(len(waveform), 1 / RATE)
    waveform = np.fft.irfft(spectrum * ((frequency >= low) & (frequency < high)), len(waveform))
    return (0.3 * waveform / rms(waveform)).astype(np.float32)


def tone(seconds, frequency):
    return (0.4 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def pad(waveform, before, after):
    """Put silence of so many seconds around a sound."""
    return np.pad(waveform, (round(before * RATE), round(after * RATE)))


@pytest.fixture(scope="module")
def bank():
    """Steady sounds above 2 kHz, so that they can be told from the background, which is below 400 Hz."""
    steady = {
        "beep": [(tone(0.6, 2500), "beep 1"), (tone(0.3, 3000), "beep 2")],
        "hiss": [(noise(0.4, 2000, 6000, seed=1), "hiss 1"), (noise(1.5, 3000, 7000, seed=2), "hiss 2")],
        "buzz": [(tone(0.8, 2300) + tone(0.8, 4600), "buzz 1")],
        "blow": [(noise(6.0, 2000, 5000, seed=3), "blow 1")],
    }
    return SoundBank(steady, [(noise(30, 50, 400, seed=seed), f"hum {seed}") for seed in (4, 5)])


@pytest.fixture(scope="module")
def scenes(bank):
    return [mix(bank, np.random.default_rng(seed), duration=4.0) for seed in range(300)]


def bands(waveform):
    """Return the levels per 10 ms of the background's band, over 0.25 s, and of the events' band."""
    low = sosfiltfilt(butter(8, 900, "low", fs=RATE, output="sos"), waveform)
    high = sosfiltfilt(butter(8, 900, "high", fs=RATE, output="sos"), waveform)
    return level(low, smooth=25), level(high)


def test_a_mixture_depends_on_the_seed_alone(bank):
    once, again, other = (mix(bank, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(once.waveform, again.waveform)
    assert (once.events, once.recordings) == (again.events, again.recordings)
    assert not np.array_equal(once.waveform, other.waveform)


@pytest.mark.parametrize("duration", [0.5, 3.0, 10.0, 12.0])
def test_a_mixture_is_as_long_as_asked_for_and_never_clips(bank, duration):
    for seed in range(8):
        scene = mix(bank, np.random.default_rng(seed), duration)
        assert scene.waveform.shape == (duration * RATE,) and scene.waveform.dtype == np.float32
        assert np.isfinite(scene.waveform).all() and np.abs(scene.waveform).max() <= 1
        assert all(0 <= event.onset < event.offset <= duration for event in scene.events)


def test_mixtures_tell_their_events_in_order_and_their_recordings(bank, scenes):
    owner = {ref: label for label, sounds in bank.events.items() for _, ref in sounds}
    for scene in scenes:
        assert scene.events == sorted(scene.events) == merge_same_label(scene.events)
        background, *sounds = scene.recordings
        assert background.startswith("hum")
        assert {event.event_label for event in scene.events} == {owner[ref] for ref in sounds}
        assert len(scene.events) <= len(sounds) <= 5 and len({owner[ref] for ref in sounds}) <= 3
    assert {ref for scene in scenes for ref in scene.recordings} == {*owner, "hum 4", "hum 5"}


def test_clips_hold_one_to_five_events_some_at_once_and_few_hold_none(scenes):
    counts = [len(scene.recordings) - 1 for scene in scenes]
    assert {1, 2, 3, 4, 5} <= set(counts)
    assert 0.015 < counts.count(0) / len(counts) < 0.075
    overlaps = [scene for scene in scenes if any(b.onset < a.offset for a, b in combinations(scene.events, 2))]
    assert 0.2 < len(overlaps) / len(scenes) < 0.9


def test_events_lie_0_to_20_decibels_above_the_background(scenes):
    ratios = []
    for scene in scenes:
        # One that takes part of the clip only; a loud one rings on after its label for up to half a second.
        if len(scene.recordings) != 2 or scene.events[0].duration > 2.0:
            continue
        (event,) = scene.events
        low, high = bands(scene.waveform)
        inside = high[round(event.onset * 100) + 3 : round(event.offset * 100) - 3]
        if len(inside) >= 10:
            ratios.append(decibels(np.median(inside) / np.sqrt((low**2).mean())))
    assert len(ratios) > 30
    assert min(ratios) > -2 and max(ratios) < 21.5
    assert np.percentile(ratios, 10) < 5 and np.percentile(ratios, 90) > 15 and 6 < np.median(ratios) < 14


def test_the_sound_is_where_the_label_says(bank):
    checked = 0
    for seed in range(60):
        scene = mix(bank, np.random.default_rng([7, seed]), duration=5.0)
        low, high = bands(scene.waveform)
        near = np.zeros(len(high), dtype=bool)
        near[:5] = near[-5:] = True  # the background is cut there, which sounds in all bands
        for event in scene.events:
            first, last = round(event.onset * 100), round(event.offset * 100)
            near[max(0, first - 3) : last + 3] = True
            # Just inside of either end it is about as loud as the background, or louder.
            if first >= 5 and last <= len(high) - 5:
                assert high[first : first + 4].max() > 0.6 * low[first], (seed, event)
                assert high[last - 4 : last].max() > 0.6 * low[last - 1], (seed, event)
                checked += 1
        # Elsewhere nothing is louder than the background; what two tails leave may add up.
        assert (high[~near] < 1.5 * low[~near]).all(), seed
    assert checked > 60


@pytest.mark.parametrize("start", [0, 16000, 31999, 50077])
@pytest.mark.parametrize("sound", [noise(0.5, seed=8), tone(0.5, 700), noise(0.5, 1000, 3000, seed=9)])
def test_a_burst_is_found_to_20_milliseconds(start, sound):
    background = 0.003 * noise(6, seed=10)
    onset, offset = audible_span(pad(sound, before=0.3, after=0.4), background, start)
    assert onset == pytest.approx(start / RATE + 0.3, abs=0.02)
    assert offset == pytest.approx(start / RATE + 0.8, abs=0.02)


@pytest.mark.parametrize("quieter_by", [20, 10, 6])
def test_a_drowned_sound_has_no_label(quieter_by):
    event = noise(0.6, seed=11) * 10 ** (-quieter_by / 20)
    assert audible_span(event, noise(4, seed=12), RATE) is None


def test_a_sound_a_little_below_the_background_has_no_label():
    """The ends of a sound are no louder against the background than its middle."""
    event = noise(0.6, seed=11) * 10 ** (-1.5 / 20)
    assert audible_span(event, noise(4, seed=12), RATE) is None


def test_silence_and_clicks_have_no_label():
    background = 0.01 * noise(4, seed=13)
    assert audible_span(np.zeros(RATE), background, 0) is None
    assert audible_span(np.zeros(0), background, 0) is None
    assert audible_span(np.zeros(100), background, 0) is None


@pytest.mark.parametrize("background_level", [0.1, 0.05])
def test_a_decaying_tail_ends_where_it_falls_under_the_background(background_level):
    time = np.arange(2 * RATE) / RATE
    event = np.sqrt(2) * np.sin(2 * np.pi * 800 * time) * np.exp(-time / 0.2)
    background = noise(5, seed=14) * background_level / 0.3
    onset, offset = audible_span(event, background, RATE)
    assert onset == pytest.approx(1.0, abs=0.02)
    assert offset == pytest.approx(1.0 + 0.2 * np.log(1 / background_level), abs=0.04)


def test_a_tail_over_silence_ends_30_decibels_below_its_peak():
    time = np.arange(2 * RATE) / RATE
    event = np.sin(2 * np.pi * 800 * time) * np.exp(-time / 0.2)
    _, offset = audible_span(event, np.zeros(5 * RATE), RATE)
    assert offset == pytest.approx(1.0 + 0.2 * np.log(10**1.5), abs=0.04)


def test_a_sound_with_a_soft_middle_is_one_event():
    event = np.concatenate([tone(0.3, 600), 0.01 * tone(0.5, 600), tone(0.3, 600)])
    onset, offset = audible_span(event, 0.05 * noise(4, seed=15), RATE)
    assert (onset, offset) == (pytest.approx(1.0, abs=0.02), pytest.approx(2.1, abs=0.02))


TIMES = st.integers(0, 1000).map(lambda hundredths: hundredths / 100)
EVENTS = st.lists(
    st.builds(lambda a, b, label: Event(min(a, b), max(a, b), label), TIMES, TIMES, st.sampled_from("abc")), max_size=12
)


@given(EVENTS)
def test_merged_events_of_a_label_are_apart_and_cover_what_sounds(events):
    merged = merge_same_label(events)
    assert merged == sorted(merged) == merge_same_label(merged)
    for label in "abc":
        spans = [event for event in merged if event.event_label == label]
        parts = sorted(event for event in events if event.event_label == label)
        assert all(b.onset - a.offset >= MERGE_GAP for a, b in zip(spans, spans[1:]))
        assert all(any(s.onset <= p.onset and p.offset <= s.offset for s in spans) for p in parts)
        # Nothing is covered but the events and pauses of less than 0.15 s between them.
        for span in spans:
            inside = [part for part in parts if span.onset <= part.onset and part.offset <= span.offset]
            reached = inside[0].offset
            assert inside[0].onset == span.onset
            for part in inside[1:]:
                assert part.onset - reached < MERGE_GAP
                reached = max(reached, part.offset)
            assert reached == span.offset


def test_levels_are_rms_per_10_milliseconds():
    assert level(np.full(16079, 0.5)).shape == (100,)
    assert level(np.full(16000, -0.5))[1:-1] == pytest.approx(0.5)
    assert level(tone(1, 1000), smooth=25)[13:-13] == pytest.approx(0.4 / np.sqrt(2), rel=0.01)
    assert level(np.zeros(HOP - 1)).shape == (0,) and level(np.full(HOP, 0.5)).tolist() == [0.5]


def test_a_recording_is_cut_into_its_audible_pieces():
    first = np.concatenate([noise(0.5, seed=16), np.zeros(round(0.2 * RATE)), 0.5 * noise(0.4, seed=17)])
    second, click = 0.3 * noise(0.7, seed=18), np.full(80, 0.9, dtype=np.float32)
    recording = np.concatenate([pad(first, 0.4, 0.6), second, pad(click, 0.5, 0.5), 0.001 * noise(1, seed=19)])
    pieces = audible_pieces(recording)
    assert [len(piece) / RATE for piece in pieces] == pytest.approx([1.1, 0.7], abs=0.03)
    assert rms(pieces[1]) == pytest.approx(rms(second), rel=0.05)
    assert audible_pieces(np.zeros(RATE)) == [] and audible_pieces(np.zeros(10)) == []


def test_equalising_tilts_around_a_kilohertz_and_often_cuts_the_treble():
    gains = {frequency: [] for frequency in (1000, 2000, 7000)}
    for seed in range(60):
        for frequency, found in gains.items():
            waveform = tone(0.5, frequency)
            equalised = equalise(waveform, np.random.default_rng(seed))
            assert equalised.shape == waveform.shape and equalised.dtype == np.float32
            found.append(decibels(rms(equalised) / rms(waveform)))
    assert np.abs(gains[1000]).max() < 0.1
    assert -5 < min(gains[2000]) < -2 and 2 < max(gains[2000]) < 4.1
    assert 0.1 < np.mean(np.array(gains[7000]) < -12) < 0.6


@pytest.mark.parametrize("seconds", [0.05, 1.0, 4.0, 9.0])
def test_varied_sounds_are_seeded_finite_faded_and_of_bounded_length(seconds):
    recording, lengths = noise(seconds, seed=20).astype(np.float16), set()
    for seed in range(12):
        varied = vary(recording, np.random.default_rng(seed))
        assert np.array_equal(varied, vary(recording, np.random.default_rng(seed)))
        assert varied.dtype == np.float32 and np.isfinite(varied).all() and np.abs(varied).max() > 0
        # At most 4 s are used, at 0.85 of the speed, with a reverberation of half a second.
        assert 0.8 * min(seconds, 1.0) * RATE < len(varied) <= (min(seconds, 4.0) / 0.85 + 0.5) * RATE + 1
        assert max(abs(varied[0]), abs(varied[-1])) < 0.05 * np.abs(varied).max()
        lengths.add(len(varied))
    assert len(lengths) > 6


@pytest.mark.parametrize("seconds", [0.4, 1.3, 2.9999, 3.0, 3.2, 3.25, 3.3, 9.0])
def test_backgrounds_are_as_long_as_asked_for_and_have_no_holes(seconds):
    bank = SoundBank({}, [(noise(seconds, seed=21).astype(np.float16), "noise")])
    for seed in range(5):
        background, ref = draw_background(bank, np.random.default_rng(seed), 3 * RATE)
        assert background.shape == (3 * RATE,) and ref == "noise" and np.isfinite(background).all()
        assert -50.1 < decibels(level(background).mean()) < -31.9
        steady = level(background, smooth=10)[10:-10]
        assert steady.min() > 0.5 * steady.mean()  # the middle of a cross-fade is 3 dB softer


def test_a_short_background_repeats_itself():
    recording = noise(1.0, 100, 2000, seed=22)
    background, _ = draw_background(SoundBank({}, [(recording, "noise")]), np.random.default_rng(0), 5 * RATE)
    period = RATE - RATE // 4
    assert np.corrcoef(background[:-period], background[period:])[0, 1] > 0.8
