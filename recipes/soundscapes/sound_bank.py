"""Banks of prepared sounds: audible pieces of real recordings, and long backgrounds, at 16 kHz."""

import hashlib
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from processing.audio_io import load_audio
from recipes.soundscapes.catalogue import bank_files, event_labels
from recipes.soundscapes.packages import DEFAULT_SOUNDS, fetch_packages, read_sound_file
from recipes.soundscapes.synthetic_sounds import SAMPLING_RATE, generated_sounds

logger = logging.getLogger(__name__)

HOP = 160
# A longer pause (seconds) splits a recording into several sounds.
MAX_PAUSE = 0.3


@dataclass
class SoundBank:
    """Pieces of sound by event label, and backgrounds; each entry is `(waveform (num_samples,) float32, ref)`.

    `distractors` are pieces like `events`, but unlabelled. `series` has the same entries of every label, background and
    distractor as one list per recording series, so that series can be drawn with equal probability.
    """

    events: dict[str, list[tuple[np.ndarray, str]]] = field(default_factory=dict)
    backgrounds: list[tuple[np.ndarray, str]] = field(default_factory=list)
    distractors: dict[str, list[tuple[np.ndarray, str]]] = field(default_factory=dict)
    series: dict[str, list[list[tuple[np.ndarray, str]]]] = field(default_factory=dict)


def level(waveform, smooth=3):
    """Return the RMS level per 10 ms, `(num_samples // 160,)`, smoothed over `smooth` values."""
    frames = waveform[: len(waveform) // HOP * HOP].reshape(-1, HOP)
    power = (frames.astype(np.float64) ** 2).mean(1)
    return np.sqrt(np.convolve(power, np.ones(smooth) / smooth, mode="same") if len(power) >= smooth else power)


def audible_pieces(waveform, threshold_db=-30.0, min_length=0.05):
    """Cut a recording into its audible pieces.

    In a piece the level exceeds `threshold_db` relative to the loudest 10 ms, except for pauses of up to 0.3 s. Pieces
    shorter than `min_length` seconds are dropped as clicks.
    """
    levels = level(waveform)
    if len(levels) == 0 or levels.max() <= 0:
        return []
    active = np.flatnonzero(levels > levels.max() * 10 ** (threshold_db / 20))
    breaks = np.flatnonzero(np.diff(active) > MAX_PAUSE * SAMPLING_RATE / HOP)
    starts = np.concatenate([[0], breaks + 1])
    ends = np.concatenate([breaks, [len(active) - 1]])
    pieces = [waveform[active[s] * HOP : (active[e] + 1) * HOP] for s, e in zip(starts, ends)]
    return [piece for piece in pieces if len(piece) >= min_length * SAMPLING_RATE]


def catalogue_digest(bank):
    """Return a hexadecimal digest of a bank's files in the catalogue."""
    listed = [[file.label, file.kind, file.ref] for file in bank_files(bank)]
    return hashlib.sha1(json.dumps(listed).encode()).hexdigest()


def load_bank(name, sounds=DEFAULT_SOUNDS):
    """Return the [`SoundBank`] of a name in `BANKS`, prepared and cached in `sounds`.

    It is prepared again if its files in the catalogue have changed.

    Raises:
        RuntimeError: packages or espeak-ng are missing; the message has the commands to install them.
    """
    folder = Path(sounds) / "prepared" / name
    index = folder / "index.json"
    key = folder / "catalogue.sha1"
    if not index.is_file() or not key.is_file() or key.read_text() != catalogue_digest(name):
        _prepare(name, Path(sounds), folder)
    bank, series = SoundBank(), {}
    samples = np.load(folder / "samples.npy", mmap_mode="r", allow_pickle=False)
    for entry in json.loads(index.read_text(encoding="utf-8")):
        item, label = (samples[entry["start"] : entry["end"]], entry["ref"]), entry["label"]
        if entry["kind"] == "background":
            bank.backgrounds.append(item)
        else:
            parts = bank.events if entry["kind"] == "event" else bank.distractors
            parts.setdefault(label, []).append(item)
        series.setdefault(label, {}).setdefault(entry.get("series", entry["ref"]), []).append(item)
    bank.series = {label: list(groups.values()) for label, groups in series.items()}
    return bank


def _prepare(name, sounds, folder):
    files = bank_files(name)
    fetch_packages([file.requirement for file in files], sounds)
    entries, chunks, position = [], [], 0

    def add(waveform, kind, label, ref, series):
        nonlocal position
        peak, end = np.abs(waveform).max(), position + len(waveform)
        chunks.append((waveform / peak * 0.9).astype(np.float16))
        entries.append({"kind": kind, "label": label, "ref": ref, "series": series, "start": position, "end": end})
        position = end

    for file in tqdm(files, desc=f"recordings ({name})"):
        waveform = load_audio(read_sound_file(file, sounds), sampling_rate=SAMPLING_RATE)
        if file.kind == "background":
            if np.abs(waveform).max() > 0:
                add(waveform[: 60 * SAMPLING_RATE], "background", file.label, file.ref, file.group)
            continue
        for piece in audible_pieces(waveform[: 30 * SAMPLING_RATE]):
            add(piece, file.kind, file.label, file.ref, file.group)
    for label, ref, waveform in generated_sounds(name):
        # All sentences of a voice, and all sirens of a kind, are one series.
        for piece in audible_pieces(waveform):
            add(piece, "event", label, ref, ref.rsplit(":", 1)[0])
    silent = set(event_labels(name)) - {entry["label"] for entry in entries}
    if silent and name in ("train", "heldout", "field_train", "all_train"):
        raise RuntimeError(f"bank {name!r} has no sound of {sorted(silent)}; check the catalogue.")
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "samples.npy", np.concatenate(chunks), allow_pickle=False)
    (folder / "index.json").write_text(json.dumps(entries), encoding="utf-8")
    (folder / "catalogue.sha1").write_text(catalogue_digest(name))
