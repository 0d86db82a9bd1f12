"""Measure what a live stream costs beside the windows of a recording, and how late its events are, as one line of JSON.

    python tests/benchmarks/bench_live.py                                   1 minute of the examples
    python tests/benchmarks/bench_live.py --gap 20                          with 20 s of low noise after each of them
    python tests/benchmarks/bench_live.py --seconds 3600 --gap 15 --rss-every 300 --live-only       memory over an hour

`ratio` is the processor time of the stream over that of the recording, whose windows are answered one by one.
`latency` counts, of the events that were closed, seconds of sound from their end until they were told; `found` those of
the recording that the stream has closed too, onset and offset within a frame (`same`) or 0.2 s (`near`); `more` those
that it closed and the recording lacks. `later` says why events were not told within 1 s: there was no look then, for
want of credit (`no_credit`) or because sound was not noticed to cease (`no_look`), or the answer did not name the event
or let it go on (`answer`). `rss_mib` is the memory in use after every `--rss-every` seconds of sound, the first when
all is loaded; each is told on stderr too, as it is measured.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import soundfile  # noqa: E402
import torch  # noqa: E402

from processing.live_state import SETTLED_S  # noqa: E402
from recipes import DEFAULT_CHECKPOINT  # noqa: E402
from recipes.conversion.checkpoint_folder import load_pipeline  # noqa: E402

RATE, CHUNK = 16000, 4000


def sound_of(seconds, gap):
    """Yield chunks of a quarter of a second of the examples, one after the other and again."""
    rng, chunks = np.random.default_rng(0), []
    for file in sorted((ROOT / "space_app" / "examples").glob("*.flac")):
        samples = soundfile.read(file, dtype="float32")[0]
        low = 0.002 * rng.standard_normal(round(gap * RATE)).astype(np.float32)
        samples = np.concatenate([samples, low])
        chunks += np.split(samples, range(CHUNK, len(samples), CHUNK))
    left = round(seconds * RATE)
    while left:
        for chunk in chunks:
            yield chunk[:left]
            left -= len(chunk[:left])


def same(first, second, tolerance):
    """Tell whether two events are the same within a tolerance in seconds."""
    times = max(abs(first["onset"] - second["onset"]), abs(first["offset"] - second["offset"]))
    return first["event_label"] == second["event_label"] and times <= tolerance + 1e-6


def reason(end, hops):
    """Return why an event that ended then was not told within 1 s.

    Args:
        hops: of every chunk the seconds up to which the stream was heard, whether it was answered, and the credit.
    """
    near = [(is_answered, credit) for heard, is_answered, credit in hops if end + SETTLED_S <= heard <= end + 1.0]
    if any(is_answered for is_answered, _ in near):
        return "answer"
    return "no_credit" if all(credit < 1 for _, credit in near) else "no_look"


def used_mib():
    """Return the memory that this process has in use, in MiB."""
    return round(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(DEFAULT_CHECKPOINT), metavar="DIR")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--gap", type=float, default=0.0, help="seconds of low noise after each example")
    parser.add_argument("--look-every", type=float, default=10.0, help="look_every_s of the stream")
    parser.add_argument("--rss-every", type=float, metavar="S", help="seconds of sound (default: a tenth)")
    parser.add_argument("--live-only", action="store_true", help="leave the recording out")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pipe = load_pipeline(arguments.model)
    warm = next(iter(sound_of(2, 0)))
    pipe(np.resize(warm, 2 * RATE))
    figures = {"seconds": arguments.seconds, "gap": arguments.gap, "look_every_s": arguments.look_every}
    stream, reports, used = pipe.live(RATE, look_every_s=arguments.look_every), [], []
    hops, answered = [], (0, 0)
    every = (arguments.rss_every or arguments.seconds / 10) * RATE
    start = time.process_time()
    for chunk in sound_of(arguments.seconds, arguments.gap):
        reports += stream.push(chunk)
        before, answered = answered, (stream.num_looks, stream.state.index)
        # Where memory is measured, ten hours of these would be part of it.
        if not arguments.live_only:
            hops.append((stream.state.heard / RATE, answered != before, stream.state.credit))
        if stream.position >= len(used) * every:
            used.append(used_mib())
            print(json.dumps({"heard": stream.position / RATE, "rss_mib": used[-1]}), file=sys.stderr, flush=True)
    reports += stream.finish()
    figures["live_cpu_seconds"] = time.process_time() - start
    closed = [report for report in reports if report["state"] == "closed"]
    late = sorted(report["heard"] - report["offset"] for report in closed)
    figures |= {
        "looks_per_minute": 60 * stream.num_looks / arguments.seconds,
        "rss_mib": used,
        "num_closed": len(closed),
    }
    figures["num_withdrawn"] = sum(report["state"] == "withdrawn" for report in reports)
    figures["latency"] = {
        "median": late[len(late) // 2] if late else None,
        "within_1_s": sum(seconds <= 1.0 for seconds in late) / max(1, len(late)),
        "most": late[-1] if late else None,
    }
    if not arguments.live_only:
        reasons = [reason(one["offset"], hops) for one in closed if one["heard"] - one["offset"] > 1.0]
        figures["later"] = {name: reasons.count(name) for name in ("no_look", "no_credit", "answer")}
        recording = np.concatenate(list(sound_of(arguments.seconds, arguments.gap)))
        start = time.process_time()
        events = pipe(recording)["events"]
        figures["recording_cpu_seconds"] = time.process_time() - start
        figures["ratio"] = figures["live_cpu_seconds"] / figures["recording_cpu_seconds"]
        figures |= {"num_events": len(events), "found": {}}
        for name, tolerance in (("same", pipe.processor.time_step), ("near", 0.2)):
            figures["found"][name] = sum(any(same(one, event, tolerance) for one in closed) for event in events)
        figures["more"] = sum(not any(same(event, one, 1.0) for event in events) for one in closed)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
