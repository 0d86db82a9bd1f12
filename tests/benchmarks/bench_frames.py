"""Time queries about one clip of 10 s, answered in text and by the frame grounder, in one run: one JSON line.

    python tests/benchmarks/bench_frames.py [--num-queries 8] [--repeats 5]

The embedded checkpoint answers about one of its examples; where it has no frame grounder it is given one with random
weights, whose time is the same. Both ways put the clip through the model once and take turns. Times are medians in
seconds, of the clock and (`cpu`) of the processor; `speedup` is of the latter, text to frames.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from processing.audio_io import load_audio  # noqa: E402
from recipes import DEFAULT_CHECKPOINT  # noqa: E402
from recipes.conversion.checkpoint_folder import load_pipeline  # noqa: E402

CLIP = ROOT / "space_app" / "examples" / "farmyard.flac"


def measure(num_queries, repeats):
    pipe = load_pipeline(DEFAULT_CHECKPOINT)
    has_grounder = pipe.model.frame_grounder is not None
    if not has_grounder:
        pipe.model.add_frame_grounder(frames="stem")
    pipe.model.eval()
    waveform, queries = load_audio(CLIP, sampling_rate=16000), pipe.model.config.event_labels[:num_queries]
    times = {"text": [], "frames": []}
    for repeat in range(repeats + 1):
        for decode, found in times.items():
            clock, cpu = time.perf_counter(), time.process_time()
            pipe(waveform, task="grounding", query=queries, decode=decode, batch_size=num_queries)
            if repeat:  # the first of each warms up
                found.append((time.perf_counter() - clock, time.process_time() - cpu))
    medians = {decode: [statistics.median(column) for column in zip(*found)] for decode, found in times.items()}
    return {
        "num_queries": num_queries,
        "seconds_of_audio": len(waveform) / 16000,
        "trained_frame_grounder": has_grounder,
        **{decode: {"clock": round(clock, 4), "cpu": round(cpu, 4)} for decode, (clock, cpu) in medians.items()},
        "speedup": round(medians["text"][1] / medians["frames"][1], 2),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-queries", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.num_queries, arguments.repeats)))


if __name__ == "__main__":
    main()
