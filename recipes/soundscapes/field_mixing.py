"""Mix soundscapes that resemble field recordings: overlaps, repetitions, unlabelled sounds, codecs."""

import io

import numpy as np
import soundfile

from processing.events import Event
from recipes.data.augmentation import merge_same_label
from recipes.soundscapes.mixing import (
    BACKGROUND_DB,
    DURATION,
    MAX_PIECE,
    Soundscape,
    audible_span,
    draw_place,
    equalise,
    loop,
    scaled,
    vary,
)
from recipes.soundscapes.sound_bank import SAMPLING_RATE, SoundBank, level

TEST_SNR_DB, TRAIN_SNR_DB = (3.0, 18.0), (-2.0, 22.0)
NUM_EVENTS = (0.05, 0.18, 0.24, 0.24, 0.17, 0.12)
NUM_DISTRACTORS = (0.5, 0.3, 0.2)
REPEAT_FRACTION, CODEC_FRACTION, BLEND_FRACTION = 0.25, 0.5, 0.1
CODECS = {"ogg": ("OGG", "VORBIS"), "mp3": ("MP3", "MPEG_LAYER_III")}


def draw(series, rng):
    """Draw a recording, with equal probability for each series; return `(waveform, ref)`."""
    group = series[int(rng.integers(len(series)))]
    return group[int(rng.integers(len(group)))]


def crop(waveform, rng):
    """Return a piece of at most 4 s with 5 ms fades, like `vary` but without variation."""
    length = int(MAX_PIECE * SAMPLING_RATE)
    start = int(rng.integers(0, max(1, len(waveform) - length)))
    piece = np.array(waveform[start : start + length], dtype=np.float32)
    ramp = np.minimum(1, np.arange(1, len(piece) + 1) / (0.005 * SAMPLING_RATE)).astype(np.float32)
    return piece * ramp * ramp[::-1]


def through_codec(waveform, name, rng):
    """Encode and decode a waveform with one of [`CODECS`] at a random quality."""
    container, subtype = CODECS[name]
    file = io.BytesIO()
    settings = {"compression_level": float(rng.uniform(0.2, 0.9))}
    soundfile.write(file, waveform, SAMPLING_RATE, format=container, subtype=subtype, **settings)
    file.seek(0)
    decoded, _ = soundfile.read(file, dtype="float32")
    return np.pad(decoded[: len(waveform)], (0, max(0, len(waveform) - len(decoded))))


def mix_field(bank: SoundBank, rng, duration=DURATION, is_varied=True) -> Soundscape:
    """Mix a soundscape of `duration` seconds: up to 5 events of up to 4 labels, and up to 2 unlabelled sounds.

    Labels, and series within a label, are drawn with equal probability. A quarter of the clips have only one label.

    Args:
        is_varied: for training: vary pitch, speed, spectrum and room of every sound, and sometimes blend two recordings
            of one label. Otherwise sounds are used as recorded.
    """
    num_samples, snr_db = round(duration * SAMPLING_RATE), TRAIN_SNR_DB if is_varied else TEST_SNR_DB
    labels = sorted(bank.events)
    kinds = sorted(label for label in bank.series if label not in bank.events and label not in bank.distractors)
    recording, ref = draw(bank.series[kinds[int(rng.integers(len(kinds)))]], rng)
    background = loop(recording, rng, num_samples)
    background = equalise(background, rng) if is_varied else background
    background = background * 10 ** (rng.uniform(*BACKGROUND_DB) / 20) / max(level(background).mean(), 1e-6)
    mixture, events, refs = background.copy(), [], [ref]
    size = 1 if rng.random() < REPEAT_FRACTION else min(4, len(labels))
    palette = [labels[i] for i in rng.choice(len(labels), size=size, replace=False)]
    num_distractors = int(rng.choice(len(NUM_DISTRACTORS), p=NUM_DISTRACTORS)) if bank.distractors else 0
    sounding = [None] * num_distractors
    sounding += [palette[int(rng.integers(size))] for _ in range(int(rng.choice(len(NUM_EVENTS), p=NUM_EVENTS)))]
    unnamed = [bank.series[label] for label in sorted(bank.distractors)]
    for label in sounding:
        series = unnamed[int(rng.integers(len(unnamed)))] if label is None else bank.series[label]
        for _attempt in range(5):
            waveform, ref = draw(series, rng)
            event = vary(waveform, rng) if is_varied else crop(waveform, rng)
            if is_varied and rng.random() < BLEND_FRACTION:
                other = vary(draw(series, rng)[0], rng)[: len(event)]
                event[: len(other)] += other * rng.uniform(0.3, 1.0)
            event, start = draw_place(event[:num_samples], background, rng, snr_db)
            span = audible_span(event, background, start)
            if span is None:
                continue
            mixture[start : start + len(event)] += event
            refs.append(ref)
            if label is not None:
                events.append(Event(round(span[0], 3), round(min(span[1], duration), 3), label))
            break
    mixture = scaled(mixture, rng)
    if rng.random() < CODEC_FRACTION:
        mixture = through_codec(mixture, sorted(CODECS)[int(rng.integers(len(CODECS)))], rng)
    return Soundscape(mixture, merge_same_label(events), refs)
