"""Time `timepro annotate` against `timepro detect` on the same clips, in one run. One JSON line.

    python tests/benchmarks/bench_annotate.py [--num-clips 500] [--num-workers 2] [--engine local]
    python tests/benchmarks/bench_annotate.py --num-rows 100000      what the driver alone does: plan and finish
    python tests/benchmarks/bench_annotate.py --growth 100 1000 5000 --seconds 1      memory and cost by number of clips

Clips of 10 s (`--seconds`) are cut from the shipped recordings at random places. Every command is a process of its
own, so that the start and the loading of checkpoints count. `speedup` is that of annotate over detect; `overhead` what
annotate with one worker takes longer than detect, as a fraction. `_cpu` is the processor's time of a command with all
its processes, `_megabytes` the largest of them. One command after the other, each with the cores that this process may
use.

`--growth` prints a line for each number of clips. Of the driver and of every worker it has the resident memory, in
megabytes, at most, and its medians in the second and the last fifth of that process's life: `[early, late, most]`.
"""

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import soundfile

EXAMPLES = Path(__file__).parents[2] / "space_app" / "examples"


def write_clips(folder: Path, num_clips: int, seconds: float) -> None:
    """Write clips, each a part of a shipped recording, turned round at a random place."""
    rng = np.random.default_rng(0)
    recordings = [soundfile.read(path, dtype="float32") for path in sorted(EXAMPLES.glob("*.flac"))]
    for index in range(num_clips):
        samples, rate = recordings[index % len(recordings)]
        soundfile.write(
            folder / f"{index:05}.wav", np.roll(samples, rng.integers(len(samples)))[: round(seconds * rate)], rate
        )


def measure(*arguments, watch=None) -> dict[str, float]:
    """Return what a command takes: seconds by the clock and of the processor, and the memory of its largest process.

    Args:
        watch: dict that gets megabytes of every process of the command, twice a second: `{(role, pid): [...]}`.
    """
    script = "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:]).returncode; "
    script += "used = resource.getrusage(resource.RUSAGE_CHILDREN); "
    script += "print(code, used.ru_utime + used.ru_stime, used.ru_maxrss)"
    command = [sys.executable, "-m", "recipes.cli.main", *map(str, arguments)]
    start = time.perf_counter()
    # By way of a process between, whose children are those of the command alone.
    with subprocess.Popen([sys.executable, "-c", script, *command], stdout=subprocess.PIPE, text=True) as running:
        while watch is not None and running.poll() is None:
            look(running.pid, watch)
            time.sleep(0.5)
        told = running.stdout.read()
    seconds = time.perf_counter() - start
    code, used, kilobytes = told.split()[-3:]
    if int(code):
        raise SystemExit(f"{arguments[0]} failed")
    return {"": round(seconds, 2), "_cpu": round(float(used), 2), "_megabytes": round(int(kilobytes) / 1024)}


def look(pid: int, watch: dict) -> None:
    """Append the megabytes of the driver and the workers below a process to `watch`."""
    with contextlib.suppress(psutil.Error):
        for place, process in enumerate(psutil.Process(pid).children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                command = " ".join(process.cmdline())
                is_worker = "spawn_main" in command or "MapWorker" in command
                if is_worker or not place:
                    role = ("worker" if is_worker else "driver", process.pid)
                    watch.setdefault(role, []).append(process.memory_info().rss / 2**20)


def measure_growth(folder: Path, num_clips: int, seconds: float, engine: str, num_workers: int) -> dict:
    """Return what annotating so many clips costs, and the memory of each process early, late and at most."""
    clips, watch = folder / str(num_clips), {}
    clips.mkdir()
    write_clips(clips, num_clips, seconds)
    options = ["--out", folder / f"out{num_clips}", "--engine", engine, "--num-workers", num_workers]
    found, memory = measure("annotate", clips, *options, watch=watch), {"driver": [], "worker": []}
    for (role, _), values in watch.items():
        fifth = max(1, len(values) // 5)
        shown = np.median(values[fifth : 2 * fifth]), np.median(values[-fifth:]), max(values)
        memory[role].append([round(float(value)) for value in shown])
    return {"num_clips": num_clips, "clip_seconds": seconds, "engine": engine, "num_workers": num_workers,
            "seconds": found[""], "cpu_seconds": found["_cpu"], "driver_megabytes": memory["driver"],
            "worker_megabytes": memory["worker"]}  # fmt: skip


def measure_driver(folder: Path, num_rows: int) -> dict[str, float]:
    """Return the processor time (seconds) in which the driver plans a manifest and knows its shards, and the memory."""
    from recipes.bulk.plan import Job, plan_shards, prepare_plan
    from recipes.bulk.sources import open_source

    with (folder / "manifest.jsonl").open("w") as file:
        for index in range(num_rows):
            row = {"audio_filepath": f"part-{index % 1000}/{index:08}.flac", "duration": 10.0, "language": "pl"}
            file.write(json.dumps(row) + "\n")
    manifest = str(folder / "manifest.jsonl")
    job = Job(str(folder / "out"), str(folder), {"source": manifest})
    open_source(manifest)
    memory, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    num_shards = len(prepare_plan(job, open_source(manifest), None, 64))
    used, most = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert num_shards == len(list(plan_shards(job)))
    return {"num_rows": num_rows, "num_shards": num_shards, "plan_cpu_seconds": round(used, 2),
            "more_megabytes": round((most - memory) / 1024)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-clips", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a clip")
    parser.add_argument("--num-workers", type=int, default=2)
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument("--num-rows", type=int, help="plan a manifest of so many rows, and nothing else")
    parser.add_argument("--growth", type=int, nargs="+", help="numbers of clips to annotate, and nothing else")
    args = parser.parse_args()
    if args.num_rows:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure_driver(Path(folder), args.num_rows)))
        return
    if args.growth:
        for num_clips in args.growth:
            with tempfile.TemporaryDirectory() as folder:
                growth = measure_growth(Path(folder), num_clips, args.seconds, args.engine, args.num_workers)
                print(json.dumps(growth), flush=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        clips = Path(folder, "clips")
        clips.mkdir()
        write_clips(clips, args.num_clips, args.seconds)
        runs = {"detect": measure("detect", clips, "--out", Path(folder, "events.jsonl"))}
        for name, workers in (("annotate_1", 1), (f"annotate_{args.num_workers}", args.num_workers)):
            options = ["--engine", args.engine, "--num-workers", workers]
            runs[name] = measure("annotate", clips, "--out", Path(folder, f"out{workers}"), *options)
    figures = {f"{name}_seconds{kind}": value for name, run in runs.items() for kind, value in run.items()}
    detect, one, many = (run[""] for run in runs.values())
    figures = {name.replace("_seconds_megabytes", "_megabytes"): value for name, value in figures.items()}
    figures |= {"speedup": round(detect / many, 2), "overhead": round(one / detect - 1, 3)}
    cores = len(os.sched_getaffinity(0))
    print(json.dumps({"num_clips": args.num_clips, "engine": args.engine, "num_cores": cores, **figures}))


if __name__ == "__main__":
    main()
