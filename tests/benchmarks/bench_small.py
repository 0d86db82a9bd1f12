"""Time timepro-small on clips of 10 s, one thread, beside YAMNet alone and another copy of this repository.

    python tests/benchmarks/bench_small.py [--baseline FOLDER [--same-weights]] [--clips 64] [--rounds 3]

Prints one JSON line. All figures are of the processor's time, which other processes disturb least, and the least of
rounds in which every program runs once, turn by turn. `seconds` are those of detection on all clips, `tower` those of
mel features' way through the audio tower in it, `yamnet` those of YAMNet at its published 25 Hz, the frozen trunk
alone, and `whisper` those of the encoder of Whisper tiny, with windows of 30 s and random weights, which take as long;
`per_minute` is the processor's time for a minute of sound, `characters` the length of all answers. Clips are cut from
the examples of the Space, each from another place, and `baseline_*` are the figures of the other copy, with its own
checkpoint, on the same clips. `equal` is whether both find the same events in the examples themselves, to the step of a
tick. Other weights give answers of other lengths: with `--same-weights`, `weights_*` are the figures of this code with
the checkpoint of the other copy.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECONDS = 10


def make_clips(num_clips):
    """Return clips of 10 s and the examples themselves, at 16 kHz."""
    import numpy as np
    import soundfile
    import soxr

    examples = []
    for path in sorted((ROOT / "space_app" / "examples").glob("*.flac")):
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        examples.append(soxr.resample(samples.mean(1), rate, 16000).astype(np.float32))
    whole = np.concatenate(examples)
    starts = np.random.default_rng(0).integers(0, len(whole), num_clips)
    return [np.take(whole, range(start, start + SECONDS * 16000), mode="wrap") for start in starts], examples


def serve(num_clips, batch_size, weights):
    """Run a round for each line of stdin, and answer with a line of JSON; what is measured is found by `sys.path`.

    Args:
        weights: a checkpoint whose own code is not used; `None` for the embedded one, with its code.
    """
    import time

    import torch
    from transformers import pipeline

    torch.set_num_threads(1)
    clips, examples = make_clips(num_clips)
    folder = weights or "recipes/checkpoints/timepro-small"
    if weights:
        import modeling_timepro  # noqa: F401 - tells transformers its classes
    pipe = pipeline("temporal-audio-grounding", model=folder, trust_remote_code=not weights)
    tower, spent, inside = pipe.model.model.audio_tower, [], []

    def timed(function):
        def call(*args, **options):
            # Its stem may be called by itself, or by the tower.
            inside.append(function)
            start = time.process_time()
            output = function(*args, **options)
            inside.pop()
            if not inside:
                spent.append(time.process_time() - start)
            return output

        return call

    for name in ("forward", "stem"):
        if hasattr(tower, name):
            setattr(tower, name, timed(getattr(tower, name)))
    events = [[tuple(event.values())[:3] for event in result["events"]] for result in pipe(examples)]
    pipe(clips[:batch_size], batch_size=batch_size)
    for _ in sys.stdin:
        spent.clear()
        start = time.process_time()
        results = pipe(clips, batch_size=batch_size)
        figures = {"seconds": time.process_time() - start, "tower": sum(spent)}
        figures["characters"] = sum(len(result["text"]) for result in results)
        features = pipe.processor.feature_extractor(clips[:batch_size], sampling_rate=16000, return_tensors="pt")
        start = time.process_time()
        with torch.no_grad():
            tower.trunk(features["input_features"], None, [12])
        figures["yamnet"] = (time.process_time() - start) * num_clips / len(clips[:batch_size])
        print(json.dumps(figures | {"events": events}), flush=True)


def whisper_seconds(num_clips, rounds):
    """Return the processor's seconds that the encoder of Whisper tiny takes for clips, one window of 30 s each."""
    import time

    import torch
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    torch.set_num_threads(1)
    # By default its sizes are those of tiny.
    encoder, window, spent = WhisperEncoder(WhisperConfig()).eval(), torch.randn(2, 80, 3000), []
    with torch.no_grad():
        for _ in range(rounds + 1):
            start = time.process_time()
            encoder(window)
            spent.append(time.process_time() - start)
    return min(spent[1:]) * num_clips / len(window)


def start(tree, num_clips, batch_size, weights=None):
    """Start a process that serves by the code of a folder."""
    command = [sys.executable, __file__, "--serve", "--clips", str(num_clips), "--batch-size", str(batch_size)]
    command += ["--weights", str(weights)] if weights else []
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        command, cwd=tree, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True,
    )  # fmt: skip


def ask(process):
    process.stdin.write("\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baseline", type=Path, help="another copy of this repository, to be timed turn by turn")
    parser.add_argument("--same-weights", action="store_true", help="time this code with its checkpoint too")
    parser.add_argument("--clips", type=int, default=64, help="how many clips (default 64)")
    parser.add_argument("--batch-size", type=int, default=16, help="clips that are answered together (default 16)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--weights", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.clips, arguments.batch_size, arguments.weights)
        return
    if arguments.same_weights and not arguments.baseline:
        parser.error("--same-weights are those of another copy; give --baseline too.")
    trees = {"": ROOT} | ({"baseline_": arguments.baseline.resolve()} if arguments.baseline else {})
    sizes = arguments.clips, arguments.batch_size
    processes = {name: start(tree, *sizes) for name, tree in trees.items()}
    if arguments.same_weights:
        trees["weights_"] = ROOT
        folder = trees["baseline_"] / "recipes" / "checkpoints" / "timepro-small"
        processes["weights_"] = start(ROOT, *sizes, folder)
    rounds = [{name: ask(process) for name, process in processes.items()} for _ in range(arguments.rounds)]
    figures = {"clips": arguments.clips, "batch_size": arguments.batch_size}
    for name in trees:
        for key in ("seconds", "tower", "yamnet"):
            figures[name + key] = round(min(one[name][key] for one in rounds), 3)
        figures[name + "characters"] = rounds[0][name]["characters"]
        figures[name + "per_minute"] = round(figures[name + "seconds"] * 60 / SECONDS / arguments.clips, 3)
    if arguments.baseline:
        figures["times_as_fast"] = round(figures["baseline_seconds"] / figures["seconds"], 2)
        if arguments.same_weights:
            figures["weights_times_as_fast"] = round(figures["baseline_seconds"] / figures["weights_seconds"], 2)
        figures["equal"] = rounds[0][""]["events"] == rounds[0]["baseline_"]["events"]
    for process in processes.values():
        process.stdin.close()
        process.wait()
    figures["whisper"] = round(whisper_seconds(arguments.clips, arguments.rounds), 3)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
