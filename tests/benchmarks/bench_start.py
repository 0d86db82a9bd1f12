"""Time what is waited for before anything happens, in fresh processes. Prints one JSON line.

    python tests/benchmarks/bench_start.py [--baseline FOLDER] [--repeats 9]

`help` is `timepro --help`, `detect` is `timepro detect` on an example of 10 s, from the start of the process to its
end, `baseline_detect` the same by another copy of this repository, turn by turn; `transformers` is an interpreter that
imports `PreTrainedModel`, which any model needs, and `python` one that does nothing, for comparison. Each is the least
of the repeats: seconds by the clock, `_cpu` seconds of the processor (those of the clock on a machine that does nothing
else), `_mib` the peak of memory. `import_processing` is the time of that import alone, as `-X importtime` counts it.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
# The second is where the command was before.
MAIN = (
    "import sys\ntry:\n    from recipes.cli.main import main\nexcept ImportError:\n    from recipes.cli import main\n"
)
DETECT = MAIN + "sys.exit(main(['detect', 'space_app/examples/farmyard.flac']))"
PROGRAMS = {
    "help": MAIN + "sys.exit(main(['--help']))", "detect": DETECT,
    "transformers": "from transformers import PreTrainedModel", "python": "pass",
}  # fmt: skip


def measure(code: str, tree: Path) -> dict[str, float]:
    """Return what a fresh interpreter takes for a program of a copy: seconds, of the processor too, and MiB."""
    environment = os.environ | {"PYTHONPATH": str(tree), "HF_HUB_OFFLINE": "1"}
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tree, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"status {status} of {code!r} in {tree}")
    seconds = time.perf_counter() - start
    return {"": seconds, "_cpu": usage.ru_utime + usage.ru_stime, "_mib": usage.ru_maxrss / 1024}


def seconds_of_import(package: str) -> float:
    """Return the seconds that the import of a package takes in a fresh interpreter, all that it imports included."""
    command = [sys.executable, "-X", "importtime", "-c", f"import {package}"]
    report = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    (total,) = re.findall(rf"\| +(\d+) \| {package}$", report, re.MULTILINE)
    return int(total) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baseline", type=Path, help="another copy of this repository")
    parser.add_argument("--repeats", type=int, default=9, help="fresh processes of each kind (default 9)")
    arguments = parser.parse_args()
    programs = {name: (code, ROOT) for name, code in PROGRAMS.items()}
    if arguments.baseline:
        programs["baseline_detect"] = DETECT, arguments.baseline.resolve()
    rounds = [
        {name + key: value for name, program in programs.items() for key, value in measure(*program).items()}
        for _ in range(arguments.repeats)
    ]
    figures = {name: min(one[name] for one in rounds) for name in rounds[0]}
    figures["import_processing"] = min(seconds_of_import("processing") for _ in range(arguments.repeats))
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
