"""Load the page with requests and print what came of them, and how its memory grew, as one line of JSON.

    python tests/benchmarks/bench_space.py                     50 at a time, 500 in all

The page runs in a process of its own, with the embedded checkpoint, and is asked over loopback by clients that each
have a connection of their own, as programs of strangers do. Requests are mixed: the example recordings, with and
without queries, and files that are broken, empty, or too long, and impossible arguments. `lost` counts those that ended
in neither the right answer nor the right refusal. Memory is the resident set of the page: after the first round, which
loads what is loaded on first use, and after the last. `left_uploads` counts uploads that were not deleted.
"""

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
import psutil  # noqa: E402
import soundfile  # noqa: E402
from gradio_client import Client, handle_file  # noqa: E402
from gradio_client.exceptions import AppError  # noqa: E402
from space_process import Page  # noqa: E402

EXAMPLES = sorted((ROOT / "space_app" / "examples").glob("*.flac"))


def write_cases(folder: Path) -> list[tuple]:
    """Return requests as `(file, endpoint, arguments, seconds of the answer or part of the refusal)`."""
    (folder / "broken.wav").write_bytes(b"RIFF" + bytes(range(256)))
    (folder / "empty.flac").write_bytes(b"")
    soundfile.write(folder / "long.flac", np.zeros(16000 * 91), 16000)
    stereo = np.random.default_rng(0).normal(size=(44100 * 3, 2)).clip(-3, 3) / 10
    soundfile.write(folder / "stereo.wav", stereo, 44100)
    seconds = [soundfile.info(path).duration for path in EXAMPLES]
    cases = [(path, "/detect", {}, length) for path, length in zip(EXAMPLES, seconds, strict=True)]
    cases += [(EXAMPLES[0], "/ground", {"queries": "rooster\nsiren"}, seconds[0])]
    cases += [(folder / "stereo.wav", "/caption", {"threshold": 0.5}, 3.0)]
    cases += [
        (folder / "broken.wav", "/detect", {}, "is not audio"),
        (folder / "empty.flac", "/detect", {}, "is empty"),
    ]
    cases += [(folder / "long.flac", "/detect", {}, "give 90 s at most")]
    cases += [(EXAMPLES[1], "/ground", {"queries": " "}, "There is no query")]
    return cases


def ask(client, case) -> tuple[str, float]:
    """Return `answered`, `refused` or why a request counts as lost, and its seconds."""
    path, endpoint, arguments, expected = case
    start = time.perf_counter()
    try:
        result = client.predict(handle_file(str(path)), api_name=endpoint, **arguments)
        right = isinstance(expected, float) and result["is_whole"] and abs(result["duration"] - expected) < 0.01
        outcome = "answered" if right else f"wrong answer to {path.name}"
    except AppError as error:
        outcome = "refused" if isinstance(expected, str) and expected in str(error) else f"{path.name}: {error}"
    except Exception as error:
        outcome = f"{path.name}: {type(error).__name__}: {error}"
    return outcome, time.perf_counter() - start


def run_round(url, cases, num_clients, start):
    """Ask once with each of many clients at the same moment."""
    clients = list(
        ThreadPoolExecutor(8).map(
            lambda _: Client(url, verbose=False, httpx_kwargs={"timeout": 120}), range(num_clients)
        )
    )
    barrier = threading.Barrier(num_clients)

    def work(index):
        barrier.wait()
        return ask(clients[index], cases[(start + index) % len(cases)])

    with ThreadPoolExecutor(num_clients) as executor:
        results = list(executor.map(work, range(num_clients)))
    for client in clients:
        client.close()
    return results


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-clients", type=int, default=50)
    parser.add_argument("--num-requests", type=int, default=500)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "cases").mkdir()
        cases = write_cases(folder / "cases")
        start = time.perf_counter()
        page = Page(folder / "page", max_megabytes=3, max_seconds=90).wait()
        started = time.perf_counter() - start
        process, results, memory = psutil.Process(page.process.pid), [], []
        start = time.perf_counter()
        try:
            while len(results) < arguments.num_requests:
                results += run_round(page.url, cases, arguments.num_clients, len(results))
                memory.append(process.memory_info().rss / 2**20)
            seconds, left = time.perf_counter() - start, len(page.uploads())
        finally:
            page.stop()
    outcomes = Counter(outcome for outcome, _ in results)
    lost = {outcome: count for outcome, count in outcomes.items() if outcome not in ("answered", "refused")}
    times = sorted(duration for _, duration in results)
    figures = {
        "num_clients": arguments.num_clients,
        "num_requests": len(results),
        "answered": outcomes["answered"],
        "refused": outcomes["refused"],
        "lost": sum(lost.values()),
        "reasons": lost,
        "startup_seconds": started,
        "requests_per_second": len(results) / seconds,
        "median_seconds": statistics.median(times),
        "p95_seconds": times[int(0.95 * len(times))],
        "first_round_mib": memory[0],
        "last_round_mib": memory[-1],
        "rounds_mib": memory,
        "left_uploads": left,
    }
    print(json.dumps({name: round(value, 3) if isinstance(value, float) else value for name, value in figures.items()}))


if __name__ == "__main__":
    main()
