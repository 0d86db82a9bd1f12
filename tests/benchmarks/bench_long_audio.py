"""Measure what long recordings and many queries cost the pipeline, as one line of JSON.

    python tests/benchmarks/bench_long_audio.py                              1 minute beside 10
    python tests/benchmarks/bench_long_audio.py --seconds 60 36000           beside 10 hours

The example recordings are repeated to a FLAC file of the length, and each length is answered in a process of its own,
for the peak of its memory (`peak_mib`; `added_mib` beside the first length). `queries` holds the seconds for one query
about a clip, for `--num-queries` at once, and for these one by one. Seconds are of the clock and (`cpu`) of the
processor, which other programs disturb less; loading the model is not counted.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import soundfile  # noqa: E402

from recipes import DEFAULT_CHECKPOINT  # noqa: E402

EXAMPLES = ROOT / "space_app" / "examples"
QUERIES = ("dog bark", "siren", "speech", "rooster", "drum", "cow moo", "church bell", "owl hoot")
RATE = 16000


def write_recording(path, seconds):
    """Write the examples, one after the other and again, until `seconds` are full."""
    loop = np.concatenate([soundfile.read(file, dtype="float32")[0] for file in sorted(EXAMPLES.glob("*.flac"))])
    missing = round(seconds * RATE)
    with soundfile.SoundFile(path, "w", RATE, 1) as file:
        while missing > 0:
            file.write(loop[:missing])
            missing -= len(loop)


def timed(function):
    """Return what a function returns, and the seconds `(clock, processor)` that it took."""
    start = time.perf_counter(), time.process_time()
    result = function()
    return result, (time.perf_counter() - start[0], time.process_time() - start[1])


def measure_length(pipe, arguments, seconds, folder):
    """Return the figures of detection in one long recording."""
    path = Path(folder) / f"{seconds:g}.flac"
    result, (clock, cpu) = timed(
        lambda: pipe(
            path, batch_size=arguments.batch_size, chunk_length_s=arguments.chunk_length_s,
            max_new_tokens=arguments.max_new_tokens, disable_tqdm=False,
        )
    )  # fmt: skip
    assert abs(result["duration"] - seconds) < 0.01
    return {
        "seconds": clock,
        "cpu_seconds": cpu,
        "cpu_seconds_per_minute": cpu / seconds * 60,
        "num_windows": len(result["windows"]),
        "num_events": len(result["events"] or []),
        # Linux counts in KiB.
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def measure_queries(pipe, arguments):
    """Return the seconds of one query about a clip, of several at once, and of these one by one."""
    clip = np.resize(soundfile.read(EXAMPLES / "night.flac", dtype="float32")[0], round(arguments.clip_seconds * RATE))
    queries = [QUERIES[index % len(QUERIES)] for index in range(arguments.num_queries)]
    # Answers of one length, so that only the sound can make a difference.
    options = {"task": "grounding", "max_new_tokens": 16, "min_new_tokens": 16}
    pipe(clip, query=queries[0], **options)
    ways = {
        "one": lambda: pipe(clip, query=queries[0], **options),
        "together": lambda: pipe(clip, query=queries, **options),
        "one_by_one": lambda: [pipe(clip, query=query, **options) for query in queries],
    }
    figures = {}
    for name, ask in ways.items():
        _, (figures[f"{name}_seconds"], figures[f"{name}_cpu_seconds"]) = timed(ask)
    return figures


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Time long recordings and many queries.")
    parser.add_argument("--model", default=str(DEFAULT_CHECKPOINT), help="checkpoint directory")
    parser.add_argument("--seconds", type=float, nargs="+", default=[60.0, 600.0], help="lengths of the recordings")
    parser.add_argument("--batch-size", type=int, default=8, help="windows answered together")
    parser.add_argument("--chunk-length-s", type=float, help="seconds of a window (default: the pipeline's)")
    parser.add_argument("--max-new-tokens", type=int, default=256, help="tokens of an answer, at most")
    parser.add_argument("--num-queries", type=int, default=8, help="queries about one clip")
    parser.add_argument("--clip-seconds", type=float, default=10.0, help="length of that clip")
    parser.add_argument("--only", nargs=2, metavar=("PART", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.only:
        from recipes.conversion.checkpoint_folder import load_pipeline

        part, folder = arguments.only
        pipe = load_pipeline(arguments.model)
        is_length = part != "queries"
        figures = (
            measure_length(pipe, arguments, float(part), folder) if is_length else measure_queries(pipe, arguments)
        )
        print(json.dumps(figures))
        return 0
    options = [item for name, value in vars(arguments).items() if name not in ("only", "seconds") and value is not None
               for item in (f"--{name.replace('_', '-')}", str(value))]  # fmt: skip
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for part in (*map(str, arguments.seconds), "queries"):
            if part != "queries":
                write_recording(Path(folder) / f"{float(part):g}.flac", float(part))
            command = [sys.executable, __file__, *options, "--only", part, folder]
            output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
            figures[part] = json.loads(output.splitlines()[-1])
    queries = figures.pop("queries")
    first = next(iter(figures.values()))["peak_mib"]
    for values in figures.values():
        values["added_mib"] = values["peak_mib"] - first
    settings = {name: value for name, value in vars(arguments).items() if name not in ("only", "seconds")}
    print(json.dumps({**settings, "recordings": figures, "queries": queries}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
