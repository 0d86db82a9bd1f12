"""Time `timepro annotate` against `timepro detect` on the same clips. A JSON line after each round, of all so far.

    python tests/benchmarks/bench_annotate.py [--num-clips 500] [--num-workers 2] [--engine local] [--rounds 3]
    python tests/benchmarks/bench_annotate.py --against FOLDER      with detect of another copy of this repository
    python tests/benchmarks/bench_annotate.py --num-rows 100000      what the driver alone does: plan and finish
    python tests/benchmarks/bench_annotate.py --growth 100 1000 5000 --seconds 1      memory and cost by number of clips

Clips of 10 s (`--seconds`) are cut from the shipped recordings at random places. Every command is a process of its
own, so that the start and the loading of checkpoints count. One command after the other, each with the cores that this
process may use, `--rounds` times; every other round backwards, so that what else runs on the machine disturbs all of
them. Figures are medians of the rounds, and ratios are medians of each round's ratio, `_rounds` all of them.

- `speedup` is that of annotate with `--num-workers` over detect; `speedup_against` over that of the other copy, with
  the checkpoint that is embedded there; `_cpu` has the ratio of the processor's times.
- `ideal` are as many detect as there are workers, at the same time, each with its part of the clips and of the cores;
  `overhead` is what annotate takes longer than they, as a fraction.
- `_cpu` is the processor's time of a command with all its processes, `_megabytes` the largest of them.

`--growth` prints a line for each number of clips. Of the driver and of every worker it has the resident memory, in
megabytes, at most, and its medians in the second and the last fifth of that process's life: `[early, late, most]`; of
all other processes, such as Ray's own, the sum of what each had at most.
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
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import soundfile

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "space_app" / "examples"
# The second is where the command was before.
MAIN = """
import sys
try:
    from recipes.cli.main import main
except ImportError:
    from recipes.cli import main
sys.exit(main(sys.argv[1:]))
"""
# Ratios by the names of their runs, and what is taken off; {} are the runs of annotate with all workers.
RATIOS = {
    "speedup": ("detect", "{}", 0), "speedup_against": ("against", "{}", 0), "overhead": ("{}", "ideal", 1),
    "overhead_of_one": ("annotate_1", "detect", 1),
}  # fmt: skip


def write_clips(folder: Path, num_clips: int, seconds: float) -> None:
    """Write clips, each a part of a shipped recording, turned round at a random place."""
    rng = np.random.default_rng(0)
    recordings = [soundfile.read(path, dtype="float32") for path in sorted(EXAMPLES.glob("*.flac"))]
    for index in range(num_clips):
        samples, rate = recordings[index % len(recordings)]
        soundfile.write(
            folder / f"{index:05}.wav", np.roll(samples, rng.integers(len(samples)))[: round(seconds * rate)], rate
        )


def start_command(*arguments, tree=ROOT, **environment) -> subprocess.Popen:
    """Start a command of a copy of this repository, by way of a process that tells what it used."""
    script = "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:]).returncode; "
    script += "used = resource.getrusage(resource.RUSAGE_CHILDREN); "
    script += "print(code, used.ru_utime + used.ru_stime, used.ru_maxrss)"
    command = [sys.executable, "-c", script, sys.executable, "-c", MAIN, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(tree), "HF_HUB_OFFLINE": "1"} | environment
    return subprocess.Popen(command, cwd=tree, env=environment, stdout=subprocess.PIPE, text=True)


def read_used(running: subprocess.Popen) -> tuple[float, int]:
    """Wait for a command, and return seconds of the processor and megabytes of its largest process."""
    code, used, kilobytes = running.communicate()[0].split()[-3:]
    if int(code):
        raise SystemExit(f"a command failed: {' '.join(running.args[6:])}")
    return round(float(used), 2), round(int(kilobytes) / 1024)


def measure(*arguments, tree=ROOT, watch=None) -> dict[str, float]:
    """Return what a command takes: seconds by the clock and of the processor, and the memory of its largest process.

    Args:
        tree: copy of this repository whose command it is.
        watch: dict that gets what [`look`] sees of every process of the command, twice a second.
    """
    start = time.perf_counter()
    running = start_command(*arguments, tree=tree)
    while watch is not None and running.poll() is None:
        look(running.pid, watch)
        time.sleep(0.5)
    used, megabytes = read_used(running)
    return {"": round(time.perf_counter() - start, 2), "_cpu": used, "_megabytes": megabytes}


def measure_ideal(clips: Path, num_workers: int) -> dict[str, float]:
    """Return what as many detect as there are workers take at the same time, each with its part of clips and cores."""
    num_threads = str(max(1, len(os.sched_getaffinity(0)) // num_workers))
    with tempfile.TemporaryDirectory() as folder:
        for index, clip in enumerate(sorted(clips.iterdir())):
            part = Path(folder, str(index % num_workers))
            part.mkdir(exist_ok=True)
            (part / clip.name).hardlink_to(clip)
        parts, start = sorted(Path(folder).iterdir()), time.perf_counter()
        running = [
            start_command("detect", part, "--out", f"{part}.jsonl", OMP_NUM_THREADS=num_threads) for part in parts
        ]
        used, megabytes = zip(*map(read_used, running), strict=True)
    return {"": round(time.perf_counter() - start, 2), "_cpu": sum(used), "_megabytes": max(megabytes)}


def look(pid: int, watch: dict) -> None:
    """Append megabytes and processor seconds of each process of a command to `watch`."""
    with contextlib.suppress(psutil.Error):
        for place, process in enumerate(psutil.Process(pid).children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                command, used = " ".join(process.cmdline()), process.cpu_times()
                is_worker = "spawn_main" in command or "MapWorker" in command
                role = "worker" if is_worker else "rest" if place else "driver"
                figures = process.memory_info().rss / 2**20, used.user + used.system
                watch.setdefault((role, process.pid), []).append(figures)


def measure_growth(folder: Path, num_clips: int, seconds: float, engine: str, num_workers: int) -> dict:
    """Return what annotating so many clips costs, and the memory of each process early, late and at most."""
    clips, watch = folder / str(num_clips), {}
    clips.mkdir()
    write_clips(clips, num_clips, seconds)
    options = ["--out", folder / f"out{num_clips}", "--engine", engine, "--num-workers", num_workers]
    found, memory = measure("annotate", clips, *options, watch=watch), {"driver": [], "worker": [], "rest": []}
    for (role, _), figures in watch.items():
        values = [megabytes for megabytes, _ in figures]
        fifth = max(1, len(values) // 5)
        shown = np.median(values[fifth : 2 * fifth]), np.median(values[-fifth:]), max(values)
        memory[role].append([round(float(value)) for value in shown])
    # Actors are no children of the driver, so that the system does not add up what they used.
    of_ray = {pid: used for (_, pid), figures in watch.items() for _, used in figures[-1:]}
    return {"num_clips": num_clips, "clip_seconds": seconds, "engine": engine, "num_workers": num_workers,
            "seconds": found[""], "cpu_seconds": round(sum(of_ray.values()), 2) if engine == "ray" else found["_cpu"],
            "driver_megabytes": memory["driver"], "worker_megabytes": memory["worker"],
            "rest_megabytes": sum(most for *_, most in memory["rest"])}  # fmt: skip


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
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another copy of this repository")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", nargs="+", help="some of annotate_1, detect, ideal, annotate_N, against")
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
    for figures in compare(args):
        print(json.dumps(figures), flush=True)


def compare(args: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Yield figures of detect and annotate on the same clips, after each round those of all rounds so far."""
    many = f"annotate_{args.num_workers}"
    # What is compared most runs one after the other.
    runs = {name: [] for name in ("annotate_1", "detect", "ideal", many, *(["against"] if args.against else []))}
    runs = {name: [] for name in runs if name in (args.runs or runs)}
    with tempfile.TemporaryDirectory() as folder:
        clips, out = Path(folder, "clips"), Path(folder, "out")
        clips.mkdir()
        write_clips(clips, args.num_clips, args.seconds)
        for turn in range(args.rounds):
            for name in list(runs)[:: -1 if turn % 2 else 1]:
                if name == "ideal":
                    runs[name].append(measure_ideal(clips, args.num_workers))
                elif name.startswith("annotate"):
                    options = ["--engine", args.engine, "--num-workers", name.split("_")[1]]
                    runs[name].append(measure("annotate", clips, "--out", out / f"{name}_{turn}", *options))
                else:
                    tree = args.against.resolve() if name == "against" else ROOT
                    events = Path(folder, f"{name}_{turn}.jsonl")
                    runs[name].append(measure("detect", clips, "--out", events, tree=tree))
                print(name, runs[name][-1], file=sys.stderr)
            yield summary(args, runs, many)


def summary(args: argparse.Namespace, runs: dict[str, list[dict[str, float]]], many: str) -> dict[str, object]:
    """Return medians of the rounds, and of their ratios."""
    figures = {}
    for name, rounds in runs.items():
        for kind, unit in (("", "_seconds"), ("_cpu", "_seconds_cpu"), ("_megabytes", "_megabytes")):
            figures[name + unit] = round(float(np.median([one[kind] for one in rounds])), 2)
    for ratio, (above, below, less) in RATIOS.items():
        pairs = list(zip(runs.get(above.format(many), ()), runs.get(below.format(many), ()), strict=False))
        for kind in ("", "_cpu"):
            if pairs:
                ratios = [round(a[kind] / b[kind] - less, 3) for a, b in pairs]
                figures[ratio + kind] = round(float(np.median(ratios)), 3)
                figures[f"{ratio}{kind}_rounds"] = ratios
    cores = len(os.sched_getaffinity(0))
    return {"num_clips": args.num_clips, "engine": args.engine, "num_cores": cores, "rounds": len(rounds), **figures}


if __name__ == "__main__":
    main()
