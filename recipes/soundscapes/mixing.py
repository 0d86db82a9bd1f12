"""Mix one soundscape: events over a background, annotated where they are audible."""

from dataclasses import dataclass

import numpy as np
import soxr
from scipy.ndimage import uniform_filter1d
from scipy.signal import fftconvolve

from processing.events import Event
from recipes.data.augmentation import merge_same_label
from recipes.soundscapes.sound_bank import HOP, SAMPLING_RATE, SoundBank, level

DURATION = 10.0
MAX_PIECE = 4.0
# Level of the background in dBFS.
BACKGROUND_DB = (-50.0, -32.0)
SNR_DB = (0.0, 20.0)
TAIL_DB = -30.0


@dataclass
class Soundscape:
    """A mixture: `waveform (num_samples,)` float32 at 16 kHz, its sorted events, and its source recordings."""

    waveform: np.ndarray
    events: list[Event]
    recordings: list[str]


def vary(waveform, rng):
    """Randomly change pitch and speed, equalise, low-pass and reverberate a piece, and fade its ends."""
    waveform = np.asarray(waveform, dtype=np.float32)
    limit = int(MAX_PIECE * SAMPLING_RATE)
    if len(waveform) > limit:
        length = int(rng.uniform(1.0, MAX_PIECE) * SAMPLING_RATE)
        start = int(rng.integers(0, len(waveform) - length))
        waveform = waveform[start : start + length]
    if rng.random() < 0.8:
        waveform = soxr.resample(waveform, SAMPLING_RATE * rng.uniform(0.85, 1.18), SAMPLING_RATE, quality="MQ")
    waveform = equalise(waveform, rng)
    if rng.random() < 0.3:
        decay = rng.uniform(0.1, 0.5)
        time = np.arange(int(decay * SAMPLING_RATE)) / SAMPLING_RATE
        response = rng.normal(size=len(time)) * 10 ** (-3 * time / decay) * rng.uniform(0.02, 0.1)
        response[0] = 1.0
        waveform = fftconvolve(waveform, response).astype(np.float32)
    ramp = np.minimum(1, np.arange(1, len(waveform) + 1) / (0.005 * SAMPLING_RATE)).astype(np.float32)
    return waveform * ramp * ramp[::-1]


def equalise(waveform, rng):
    """Tilt the spectrum by up to 4 dB per octave and sometimes low-pass it, so that bandwidth is not a shortcut."""
    spectrum = np.fft.rfft(waveform)
    frequency = np.maximum(np.fft.rfftfreq(len(waveform), 1 / SAMPLING_RATE), 50)
    gain = 10 ** (rng.uniform(-4, 4) * np.log2(frequency / 1000) / 20)
    if rng.random() < 0.4:
        cutoff = np.exp(rng.uniform(np.log(2500), np.log(7500)))
        gain /= np.sqrt(1 + (frequency / cutoff) ** 8)
    return np.fft.irfft(spectrum * gain, len(waveform)).astype(np.float32)


def draw_background(bank: SoundBank, rng, num_samples):
    """Return a background of `num_samples`, looped with cross-fades if the recording is shorter, and its ref."""
    recording, ref = bank.backgrounds[int(rng.integers(len(bank.backgrounds)))]
    background = equalise(loop(recording, rng, num_samples), rng)
    return background * 10 ** (rng.uniform(*BACKGROUND_DB) / 20) / max(level(background).mean(), 1e-6), ref


def loop(recording, rng, num_samples):
    """Return `num_samples` from a random position of a recording, looped with cross-fades if it is shorter."""
    fade = SAMPLING_RATE // 4
    if len(recording) <= num_samples + fade:
        piece = np.asarray(recording, dtype=np.float32)
        fade = min(fade, len(piece) // 4)
        ramp = np.linspace(0, 1, fade, dtype=np.float32)
        result = piece
        while len(result) < num_samples:
            cross = result[-fade:] * (1 - ramp) + piece[:fade] * ramp
            result = np.concatenate([result[:-fade], cross, piece[fade:]])
        start = int(rng.integers(0, len(result) - num_samples + 1))
    else:
        result = recording
        start = int(rng.integers(0, len(recording) - num_samples))
    return np.asarray(result[start : start + num_samples], dtype=np.float32)


def background_level(background):
    """Return the RMS level per 10 ms of a background, `(num_samples // 160,)`, smoothed over 0.25 s."""
    frames = background[: len(background) // HOP * HOP].reshape(-1, HOP)
    return np.sqrt(uniform_filter1d((frames.astype(np.float64) ** 2).mean(1), 25, mode="nearest"))


def audible_span(event, background, start):
    """Return `(onset, offset)` in seconds of an event in the mixture, or `None` if it is inaudible.

    The span is from the first to the last time at which the event's level exceeds both -30 dB relative to its peak and
    the local level of the background.

    Args:
        event: `(num_samples,)` the event alone, already scaled.
        background: the clip's background.
        start: sample of the clip at which the event begins.
    """
    levels = level(event)
    # The smoothed background level includes the surroundings of the event.
    first = start // HOP
    local = background_level(background)[first : first + len(levels)]
    if len(levels) == 0 or levels.max() <= 0:
        return None
    threshold = np.maximum(levels.max() * 10 ** (TAIL_DB / 20), local)
    heard = np.flatnonzero(levels[: len(local)] > threshold)
    if len(heard) < 3:
        return None
    return (start + heard[0] * HOP) / SAMPLING_RATE, (start + (heard[-1] + 1) * HOP) / SAMPLING_RATE


def draw_place(event, background, rng, snr_db=SNR_DB):
    """Scale an event to a random level over the background, and return it with its first sample in the clip.

    Its level is measured on the louder half, so that silence within the event does not matter. It may start anywhere
    and be cut by the end of the clip.
    """
    num_samples = len(background)
    base = np.sqrt((background.astype(np.float64) ** 2).mean())
    loud = np.sqrt((np.sort(level(event))[-max(3, len(event) // HOP // 2) :] ** 2).mean())
    event = event * (base * 10 ** (rng.uniform(*snr_db) / 20) / max(loud, 1e-6))
    start = int(rng.integers(0, max(1, num_samples - int(0.3 * SAMPLING_RATE))))
    start = min(start, max(0, num_samples - len(event))) if rng.random() < 0.85 else start
    return event[: num_samples - start], start


def scaled(mixture, rng):
    """Return a mixture at a random level without clipping; 30 % are left unchanged, unless they would clip."""
    peak = np.abs(mixture).max()
    gain = min(rng.uniform(0.5, 1.0) * 0.95 / peak, 10.0) if rng.random() < 0.7 or peak > 0.95 else 1.0
    return (mixture * gain).astype(np.float32)


def mix(bank: SoundBank, rng, duration=DURATION) -> Soundscape:
    """Mix a soundscape of `duration` seconds with 1 to 5 events of 1 to 3 labels; 4 % have no events."""
    num_samples = round(duration * SAMPLING_RATE)
    background, ref = draw_background(bank, rng, num_samples)
    mixture, events, refs = background.copy(), [], [ref]
    num_events = 0 if rng.random() < 0.04 else int(rng.choice([1, 2, 3, 4, 5], p=[0.2, 0.25, 0.25, 0.18, 0.12]))
    labels = sorted(bank.events)
    palette = [labels[i] for i in rng.choice(len(labels), size=min(3, len(labels)), replace=False)]
    for _ in range(num_events):
        for _attempt in range(5):
            label = palette[int(rng.integers(len(palette)))]
            sounds = bank.events[label]
            waveform, ref = sounds[int(rng.integers(len(sounds)))]
            event, start = draw_place(vary(waveform, rng)[:num_samples], background, rng)
            span = audible_span(event, background, start)
            if span is None:
                continue
            mixture[start : start + len(event)] += event
            events.append(Event(round(span[0], 3), round(min(span[1], duration), 3), label))
            refs.append(ref)
            break
    return Soundscape(scaled(mixture, rng), merge_same_label(events), refs)
