"""Time what `timepro detect` does to a file before a model hears it: decode, mix down, resample. One JSON line.

    python tests/benchmarks/bench_decoding.py [--minutes 10] [--against DIR]

Processor seconds per format for stereo of 44.1 kHz that goes to 16 kHz in blocks, medians of fresh processes, with
those of the programs they start. `--against` is another tree of the sources; its seconds and the ratio are printed too.
Files are encoded by ffmpeg.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

ROOT = Path(__file__).parents[2]
FORMATS = {"wav": [], "flac": [], "ogg": ["-c:a", "libvorbis"], "opus": [], "mp3": ["-b:a", "128k"], "m4a": []}
# The module had another name before.
CODE = """
import sys
try:
    from processing.audio_io import stream_audio
except ImportError:
    from processing.audio_stream import stream_audio
print(sum(map(len, stream_audio(sys.argv[1])[1]))) if len(sys.argv) > 1 else None
"""


def processor_seconds(tree: Path, *arguments) -> float:
    """Return the processor time of a process that imports the code of a tree, and streams a file if one is given."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"PYTHONPATH": str(tree)}
    subprocess.run([sys.executable, "-c", CODE, *arguments], check=True, env=environment, cwd=tree, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="length of the files (default 10)")
    parser.add_argument("--repeats", type=int, default=5, help="fresh processes for each (default 5)")
    parser.add_argument("--against", type=Path, metavar="DIR", help="another tree of the sources")
    args = parser.parse_args()
    trees = {"seconds": ROOT} | ({"against": args.against} if args.against else {})
    report = {"minutes": args.minutes} | {name: {} for name in trees}
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "noise.wav"
        with soundfile.SoundFile(wav, "w", 44100, 2) as file:
            rng = np.random.default_rng(0)
            for _ in range(round(6 * args.minutes)):
                file.write(0.1 * rng.normal(size=(441000, 2)).clip(-5, 5))
        for suffix, options in FORMATS.items():
            path = Path(folder) / f"a.{suffix}"
            subprocess.run(["ffmpeg", "-v", "error", "-i", wav, *options, path], check=True)
            for name, tree in trees.items():
                times = [processor_seconds(tree, str(path)) - processor_seconds(tree) for _ in range(args.repeats)]
                report[name][suffix] = round(statistics.median(times), 2)
    if args.against:
        report["ratio"] = {key: round(report["seconds"][key] / report["against"][key], 2) for key in FORMATS}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
