"""Sounds that are synthetic in reality, too: espeak-ng speech, electronic sirens, electronic telephone ringers.

Train, heldout and validation never share a voice, a sentence, or the pitch of a siren or ringer.
"""

import io
import shutil
import subprocess

import numpy as np
import soxr

SAMPLING_RATE = 16000
VOICES = {
    "train": ["en-us", "en-us+m1", "en-us+m3", "en-gb+f1", "en-us+f2", "en-gb+m2", "en-gb-scotland", "en-us+f4"],
    "heldout": ["en-gb+m7", "en-us+f5", "en-gb-x-rp+m5", "en-us+f3"],
    "validation": ["en-us+m6", "en-gb+f5", "en-gb-x-gbclan+m4"],
}
SENTENCES = {
    "train": [
        "Please hold the line.", "The train leaves at nine.", "Can you hear me now?", "Good morning everyone.",
        "Turn left at the corner.", "I will call you back later.", "No, thank you.", "What time is it?",
        "The weather is nice today.", "Wait a moment.", "Dinner is ready.", "Where did you put the keys?",
    ],
    "heldout": [
        "Welcome to the museum.", "Mind the gap.", "Who is at the door?", "That was a long day.", "Yes, of course.",
        "The shop closes in ten minutes.", "Come here.", "I have never seen it before.",
    ],
    "validation": [
        "Is anybody there?", "The bridge is closed today.", "Thanks a lot.", "We will be there by noon.", "Stop it!",
    ],
}  # fmt: skip
# The split for banks whose recordings are split by package.
SPLIT_OF_BANK = {
    "field_train": "train",
    "all_train": "train",
    "field_validation": "validation",
    "field_test": "heldout",
}
# Seed, and number of sirens and telephones.
SEED_OF_SPLIT = {"train": 0, "heldout": 1, "validation": 2}
NUM_ELECTRONIC = {"train": 24, "heldout": 8, "validation": 8}


def generated_sounds(bank):
    """Return `(label, name, waveform)` of all synthetic sounds of a bank, 16 kHz float32.

    Raises:
        RuntimeError: espeak-ng is not installed.
    """
    split = SPLIT_OF_BANK.get(bank, bank)
    return _speech(split) + _sirens(split) + _phones(split)


def _speech(split):
    if shutil.which("espeak-ng") is None:
        raise RuntimeError("espeak-ng is missing, it speaks some of the sounds; run: apt-get install -y espeak-ng")
    import soundfile

    rng = np.random.default_rng([1, SEED_OF_SPLIT[split]])
    sounds = []
    for voice in VOICES[split]:
        for sentence in SENTENCES[split]:
            speed, pitch = int(rng.integers(120, 200)), int(rng.integers(25, 75))
            command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", sentence]
            data = subprocess.run(command, check=True, capture_output=True).stdout
            waveform, rate = soundfile.read(io.BytesIO(data), dtype="float32")
            sounds.append(("speech", f"espeak-ng:{voice}:{sentence}", soxr.resample(waveform, rate, SAMPLING_RATE)))
    return sounds


def _tone(frequency, rng):
    """Synthesise a tone with a frequency curve `(num_samples,)` in hertz and the harmonics of a driven horn."""
    phase = 2 * np.pi * np.cumsum(frequency) / SAMPLING_RATE
    harmonics = rng.uniform(0.1, 0.6, 3) / np.arange(2, 5)
    return np.sin(phase) + sum(a * np.sin((k + 2) * phase) for k, a in enumerate(harmonics))


def _faded(waveform, seconds=0.02):
    ramp = np.minimum(1, np.arange(len(waveform)) / (seconds * SAMPLING_RATE))
    return (waveform * ramp * ramp[::-1]).astype(np.float32)


def _sirens(split):
    """Wail, yelp and two-tone (hi-lo), as from emergency vehicles."""
    rng = np.random.default_rng([2, SEED_OF_SPLIT[split]])
    sounds = []
    for index in range(NUM_ELECTRONIC[split]):
        seconds = rng.uniform(1.5, 4.0)
        time = np.arange(int(seconds * SAMPLING_RATE)) / SAMPLING_RATE
        if split == "train":
            low = rng.choice([rng.uniform(450, 550), rng.uniform(650, 750)])
            high = low * rng.uniform(1.6, 1.95)
        else:
            low = rng.uniform(560, 640) if split == "heldout" else rng.uniform(760, 860)
            high = low * rng.uniform(2.0, 2.2)
        kind = ("wail", "yelp", "hi-lo")[index % 3]
        if kind == "hi-lo":
            frequency = np.where((time * rng.uniform(0.9, 1.4)) % 1 < 0.5, low, low * 4 / 3)
        else:
            rate = rng.uniform(0.2, 0.5) if kind == "wail" else rng.uniform(2.5, 4.5)
            frequency = low + (high - low) * (0.5 - 0.5 * np.cos(2 * np.pi * (rate * time + rng.uniform())))
        sounds.append(("siren", f"electronic:{kind}:{split}:{index}", _faded(_tone(frequency, rng))))
    return sounds


def _phones(split):
    """Electronic telephone ringers: two alternating tones, warbled, in bursts."""
    rng = np.random.default_rng([3, SEED_OF_SPLIT[split]])
    sounds = []
    for index in range(NUM_ELECTRONIC[split]):
        if split == "train":
            low = rng.choice([rng.uniform(700, 980), rng.uniform(1200, 1500)])
        else:
            low = rng.uniform(1000, 1150) if split == "heldout" else rng.uniform(1550, 1800)
        ratio, warble = rng.uniform(1.15, 1.35), rng.uniform(*((15, 28) if split == "train" else (10, 14)))
        burst = rng.uniform(0.4, 1.2)
        time = np.arange(int(burst * SAMPLING_RATE)) / SAMPLING_RATE
        ring = _faded(_tone(np.where((time * warble) % 1 < 0.5, low, low * ratio), rng))
        pause = np.zeros(int(rng.uniform(0.1, 0.25) * SAMPLING_RATE), dtype=np.float32)
        count = int(rng.integers(1, 4))
        waveform = np.concatenate([part for _ in range(count) for part in (ring, pause)])[: 4 * SAMPLING_RATE]
        sounds.append(("phone ring", f"electronic:ring:{split}:{index}", waveform))
    return sounds
