"""Time what is waited for before anything happens: `timepro --help` and the import of `processing`. One JSON line.

    python tests/benchmarks/bench_start.py [--repeats 9]

Seconds are medians over fresh processes. `import_processing` is the time of the import alone, as `-X importtime` counts
it; `python` is an interpreter that does nothing, for comparison. `_cpu` is the processor's time: that of the clock on a
machine that does nothing else.
"""

import argparse
import json
import re
import resource
import statistics
import subprocess
import sys
import time

HELP = "import sys; from recipes.cli.main import main; sys.exit(main(['--help']))"


def processor_seconds() -> float:
    """Return the processor's time of all processes that this one has started and seen the end of."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def seconds_of(code: str) -> tuple[float, float]:
    """Return the seconds that a fresh interpreter takes for a program, by the clock and of the processor."""
    start, used = time.perf_counter(), processor_seconds()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start, processor_seconds() - used


def seconds_of_import(package: str) -> float:
    """Return the seconds that the import of a package takes in a fresh interpreter, all that it imports included."""
    command = [sys.executable, "-X", "importtime", "-c", f"import {package}"]
    report = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    (total,) = re.findall(rf"\| +(\d+) \| {package}$", report, re.MULTILINE)
    return int(total) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, help="fresh processes of each kind (default 9)")
    repeats = range(parser.parse_args().repeats)
    seconds = {"import_processing": [seconds_of_import("processing") for _ in repeats]}
    for name, code in (("help", HELP), ("python", "pass")):
        seconds[name], seconds[f"{name}_cpu"] = zip(*(seconds_of(code) for _ in repeats), strict=True)
    print(json.dumps({name: round(statistics.median(values), 4) for name, values in seconds.items()}))


if __name__ == "__main__":
    main()
