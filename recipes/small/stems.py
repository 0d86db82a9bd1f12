"""Store training clips as features of the audio encoder's frozen stem, so that they are computed only once.

    python -m recipes.small.stems --weights yamnet.safetensors --out DIR --num-clips 6000 --split train

Files: `<split>_stem.npy` float16 `(num_clips, num_frames, stem_size)` and `<split>.jsonl`, one row per clip. With
`--features mel`: `<split>_mel.npy`, `(num_clips, num_mel_frames, 128)`, the input of a Qwen2-Audio encoder.
"""

import json
import logging
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from tqdm import tqdm
from transformers import WhisperFeatureExtractor

from modeling_timepro import TimeProYamnetConfig, TimeProYamnetEncoder
from processing import TimeProYamnetFeatureExtractor
from recipes.arguments import script_parser
from recipes.small.yamnet_weights import load_trunk
from recipes.soundscapes.packages import DEFAULT_SOUNDS
from recipes.soundscapes.sound_bank import SAMPLING_RATE, load_bank
from recipes.soundscapes.synthesize import SPLITS, row_id, soundscape, soundscape_row

logger = logging.getLogger(__name__)
_STEM = {}


def _stem(weights):
    if weights not in _STEM:
        torch.set_num_threads(1)
        encoder = TimeProYamnetEncoder(TimeProYamnetConfig(num_hidden_layers=0)).eval()
        load_trunk(encoder.trunk, load_file(weights))
        _STEM[weights] = (encoder, TimeProYamnetFeatureExtractor())
    return _STEM[weights]


def _clip(arguments):
    index, seed, split, sounds, weights = arguments
    scene = soundscape(index, seed, split, sounds)
    if weights is None:
        extractor = WhisperFeatureExtractor(feature_size=128)
        mel = extractor(scene.waveform, sampling_rate=SAMPLING_RATE, padding="do_not_pad")["input_features"][0]
        return np.asarray(mel, dtype=np.float16).T, soundscape_row(scene, index, split, seed)
    encoder, extractor = _stem(weights)
    features = extractor(scene.waveform, sampling_rate=SAMPLING_RATE, return_tensors="pt")
    with torch.inference_mode():
        stem = encoder.stem(features["input_features"])[0].to(torch.float16).numpy()
    return stem, soundscape_row(scene, index, split, seed)


def write_stem_cache(
    out, num_clips, weights=None, seed=0, split="train", sounds=DEFAULT_SOUNDS, num_workers=1, features="stem"
):
    """Mix `num_clips` soundscapes and store their features and rows in `out`.

    The clips are those that `synthesize` writes for the same seed and split. An interrupted run resumes after its last
    complete clip, and a run with more clips extends an earlier one.

    Args:
        weights: YAMNet's `safetensors` file; only for stems.
        features: `stem` or `mel`.

    Raises:
        ValueError: stems without weights, unknown features, an unknown split, or no clips.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; choose one of {', '.join(SPLITS)}.")
    if num_clips < 1:
        raise ValueError(f"num_clips is {num_clips}; give 1 or more.")
    if features not in ("stem", "mel") or (features == "stem") != (weights is not None):
        raise ValueError(f"features is {features!r} and weights {weights!r}; give 'stem' with weights, or 'mel'.")
    out, weights = Path(out), None if weights is None else str(weights)
    out.mkdir(parents=True, exist_ok=True)
    load_bank(SPLITS[split], sounds)
    path, rows_path = out / f"{split}_{features}.npy", out / f"{split}.jsonl"
    lines = _whole_rows(rows_path, split, seed) if path.is_file() else []
    jobs = [(index, seed, split, sounds, weights) for index in range(len(lines), num_clips)]
    if not jobs:
        return
    first, _ = _clip(jobs[0])
    shape = (num_clips, *first.shape)
    if lines and np.load(path, mmap_mode="r", allow_pickle=False).shape != shape:
        # There are more clips than before.
        before = np.load(path, mmap_mode="r", allow_pickle=False)
        stems = np.lib.format.open_memmap(path.with_suffix(".part"), mode="w+", dtype=np.float16, shape=shape)
        stems[: len(lines)] = before[: len(lines)]
        path.with_suffix(".part").replace(path)
    else:
        stems = np.lib.format.open_memmap(path, mode="r+" if lines else "w+", dtype=np.float16, shape=shape)
    rows_path.write_text("".join(lines), encoding="utf-8")
    with ProcessPoolExecutor(num_workers) as pool, open(rows_path, "a", encoding="utf-8") as rows:
        results = pool.map(_clip, jobs, chunksize=8) if num_workers > 1 else map(_clip, jobs)
        results = tqdm(results, initial=len(lines), total=num_clips, desc=f"{split} features")
        for index, (stem, row) in enumerate(results, len(lines)):
            stems[index] = stem
            rows.write(json.dumps({**row, "stem_index": index}) + "\n")
            rows.flush()
    stems.flush()


def _whole_rows(path, split, seed):
    """Return the complete lines that an earlier run with the same seed has written."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else ():
        try:
            is_whole = line.endswith("\n") and json.loads(line)["id"] == row_id(len(lines), split, seed)
        except ValueError:
            is_whole = False
        if not is_whole:
            break
        lines.append(line)
    return lines


def main(argv=None):
    parser = script_parser(__doc__)
    parser.add_argument("--weights", help="YAMNet's weights, see recipes/small/yamnet_weights.py; for stems")
    parser.add_argument("--out", required=True, help="directory to write")
    parser.add_argument("--num-clips", type=int, required=True)
    parser.add_argument("--split", choices=tuple(SPLITS), default="train")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sounds", default=DEFAULT_SOUNDS, help="folder of the unpacked packages")
    parser.add_argument("--num-workers", type=int, default=1)
    parser.add_argument("--features", choices=("stem", "mel"), default="stem", help="what to store (default: stem)")
    write_stem_cache(**vars(parser.parse_args(argv)))


if __name__ == "__main__":
    main()
