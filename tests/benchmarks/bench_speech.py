"""Find speech in a recorded conversation: intersection over union with its transcript, one JSON line.

    python tests/benchmarks/bench_speech.py [--model DIR] [--decode text]

The recording (30 s) and its times are those that pyannote.audio 4.0.7 ships as an example; its wheel is downloaded on
first use and not installed. Frames of 10 ms are compared, whoever speaks.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from recipes import DEFAULT_CHECKPOINT  # noqa: E402
from recipes.conversion.checkpoint_folder import load_pipeline  # noqa: E402
from recipes.soundscapes.packages import DEFAULT_SOUNDS, fetch_packages  # noqa: E402

DURATION = 30.0
SAMPLE = "pypi/pyannote-audio/pyannote/audio/sample/sample"


def spoken(spans):
    """Return which frames of 10 ms are in one of the spans `(onset, offset)` in seconds."""
    frames = np.zeros(round(DURATION * 100), dtype=bool)
    for onset, offset in spans:
        frames[round(onset * 100) : round(offset * 100)] = True
    return frames


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_CHECKPOINT)
    parser.add_argument(
        "--decode", choices=("text", "frames", "both", "either"), help="default: that of the checkpoint"
    )
    arguments = parser.parse_args()
    fetch_packages([("pypi", "pyannote-audio==4.0.7")], DEFAULT_SOUNDS)
    sample = DEFAULT_SOUNDS / SAMPLE
    turns = [line.split()[3:5] for line in sample.with_suffix(".rttm").read_text().splitlines()]
    wanted = spoken((float(onset), float(onset) + float(duration)) for onset, duration in turns)
    pipe = load_pipeline(arguments.model)
    options = {"decode": arguments.decode} if arguments.decode else {}
    answer = pipe(str(sample.with_suffix(".wav")), task="grounding", query="speech", **options)
    found = spoken((event["onset"], event["offset"]) for event in answer["events"])
    result = {
        "seconds_of_speech": round(wanted.sum() / 100, 2),
        "seconds_found": round((wanted & found).sum() / 100, 2),
        "iou": round(float((wanted & found).sum() / (wanted | found).sum()), 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
