"""Write a data set of soundscapes: audio, DESED annotations and JSON Lines."""

import json
import logging
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from recipes.data.clip import AnnotatedClip
from recipes.data.writers import write_label_files
from recipes.soundscapes.catalogue import event_labels
from recipes.soundscapes.field_mixing import mix_field
from recipes.soundscapes.mixing import DURATION, mix
from recipes.soundscapes.packages import DEFAULT_SOUNDS
from recipes.soundscapes.sound_bank import SAMPLING_RATE, load_bank

logger = logging.getLogger(__name__)

# The bank of each split. The first four have 18 labels, with tests on seen and unseen recordings; the last three have
# more labels and split recordings by package, so that no package is in both training and test.
SPLITS = {
    "train": "train",
    "validation": "train",
    "test_seen": "train",
    "test_unseen": "heldout",
    "train_field": "field_train",
    "validation_field": "field_validation",
    "test_field": "field_test",
    "train_all": "all_train",
}
_BANKS = {}


def soundscape(index, seed, split, sounds=DEFAULT_SOUNDS):
    """Return soundscape `index` of a split, which depends only on `(seed, split, index)`."""
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; choose one of {tuple(SPLITS)}.")
    key = (SPLITS[split], str(sounds))
    if key not in _BANKS:
        _BANKS[key] = load_bank(SPLITS[split], sounds)
    rng = np.random.default_rng([seed, list(SPLITS).index(split), index])
    if SPLITS[split].startswith("field") or split == "train_all" and index % 2:
        return mix_field(_BANKS[key], rng, is_varied="train" in split)
    return mix(_BANKS[key], rng)


def row_id(index, split, seed):
    """Return the `id` of a soundscape's row."""
    return f"{split}-{seed}-{index:06d}"


def soundscape_row(scene, index, split, seed):
    """Return the JSON Lines row of a soundscape."""
    labels = {event.event_label for event in scene.events}
    name = f"{split}/{index:06d}.flac"
    return {
        "id": row_id(index, split, seed),
        "audio": name,
        "duration": DURATION,
        "task": "detection",
        "query": None,
        "events": [
            {"onset": event.onset, "offset": event.offset, "event_label": event.event_label} for event in scene.events
        ],
        "absent": [label for label in event_labels(SPLITS[split]) if label not in labels],
        "source": f"soundscape:{split}",
        "recordings": scene.recordings,
    }


def _write_clip(arguments):
    index, seed, split, sounds, out = arguments
    row_path = out / split / f"{index:06d}.json"
    if row_path.is_file():
        try:
            row = json.loads(row_path.read_text(encoding="utf-8"))
        except ValueError:
            row = {}
        # It may be truncated by an interruption, or from another seed.
        if row.get("id") == row_id(index, split, seed):
            return row
    scene = soundscape(index, seed, split, sounds)
    row = soundscape_row(scene, index, split, seed)
    soundfile.write(out / row["audio"], scene.waveform, SAMPLING_RATE, subtype="PCM_16")
    # The row is written last, because a clip without it is made again.
    row_path.write_text(json.dumps(row), encoding="utf-8")
    return row


def synthesize(out, num_clips, seed=0, split="train", sounds=None, num_workers=1):
    """Write `num_clips` soundscapes of 10 s to `out` and return their rows.

    Files: `<split>/*.flac` (16 kHz mono), `<split>.tsv` (DESED's columns; a clip without events has empty fields),
    `<split>.jsonl`. The result does not depend on `num_workers`; an interrupted run resumes.

    Raises:
        ValueError: an unknown split, or no clips.
        RuntimeError: packages with recordings are missing; the message has the commands to get them.
    """
    if num_clips < 1:
        raise ValueError(f"num_clips is {num_clips}; give 1 or more.")
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; choose one of {tuple(SPLITS)}.")
    out, sounds = Path(out), Path(sounds or DEFAULT_SOUNDS)
    load_bank(SPLITS[split], sounds)
    (out / split).mkdir(parents=True, exist_ok=True)
    jobs = [(index, seed, split, sounds, out) for index in range(num_clips)]
    if num_workers > 1:
        with ProcessPoolExecutor(num_workers) as pool:
            rows = list(tqdm(pool.map(_write_clip, jobs, chunksize=8), total=num_clips, desc=split))
    else:
        rows = [_write_clip(job) for job in tqdm(jobs, desc=split)]
    clips = (AnnotatedClip.from_dict(row, row["id"]) for row in rows)
    write_label_files(clips, out / f"{split}.tsv", "tsv", audio_dir=split)
    with open(out / f"{split}.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    for job in jobs:
        (out / split / f"{job[0]:06d}.json").unlink()
    return rows
