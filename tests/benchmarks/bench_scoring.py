"""Measure event-based F1: one group of completions as a reward, and many clips beside sed_eval, as one line of JSON.

    python tests/benchmarks/bench_scoring.py

Times are those of the processor (`time.process_time`), so that other programs of the machine do not count; both scorers
get the same clips in the same run, each in its own format made beforehand.
"""

import argparse
import json
import random
import time

import sed_eval

from processing.events import Event
from recipes.scoring import event_based_f1, event_f1

# The classes of DESED.
LABELS = (
    "Alarm_bell_ringing", "Blender", "Cat", "Dishes", "Dog", "Electric_shaver_toothbrush", "Frying", "Running_water",
    "Speech", "Vacuum_cleaner",
)  # fmt: skip
T_COLLAR = PERCENTAGE_OF_LENGTH = 0.2


def random_clip(generator: random.Random, num_events: int) -> list[Event]:
    """Draw events of a clip of 10 s."""
    starts = [generator.uniform(0, 9) for _ in range(num_events)]
    return [Event(t, min(10.0, t + generator.uniform(0.1, 5)), generator.choice(LABELS)) for t in starts]


def imitate(generator: random.Random, reference: list[Event]) -> list[Event]:
    """Move every event a little, miss some, take some for another class, and add some."""
    found = []
    for event in reference:
        if generator.random() < 0.85:
            onset = max(0.0, event.onset + generator.gauss(0, 0.15))
            label = event.event_label if generator.random() < 0.9 else generator.choice(LABELS)
            found.append(Event(onset, max(onset, event.offset + generator.gauss(0, 0.3)), label))
    return found + random_clip(generator, generator.choice((0, 0, 1)))


def group_milliseconds(seed: int, repetitions: int = 200) -> float:
    """Return the mean time of scoring 8 completions of 5 events each against a reference of 5."""
    generator = random.Random(seed)
    reference = random_clip(generator, 5)
    group = [[*imitate(generator, reference), *random_clip(generator, 5)][:5] for _ in range(8)]
    start = time.process_time()
    for _ in range(repetitions):
        for completion in group:
            event_f1(reference, completion, T_COLLAR, PERCENTAGE_OF_LENGTH)
    return 1000 * (time.process_time() - start) / repetitions


def compare_with_sed_eval(num_clips: int, seed: int) -> dict:
    """Score the same clips with both; a tenth of them have no events."""
    generator = random.Random(seed)
    references = [random_clip(generator, generator.choice((0, *range(1, 10)))) for _ in range(num_clips)]
    predictions = [imitate(generator, reference) for reference in references]
    dicts = [
        [[{**event.as_dict(), "filename": "a"} for event in events] for events in pair]
        for pair in zip(references, predictions, strict=True)
    ]

    start = time.process_time()
    ours = event_based_f1(references, predictions, T_COLLAR, PERCENTAGE_OF_LENGTH)
    our_seconds = time.process_time() - start

    start = time.process_time()
    metrics = sed_eval.sound_event.EventBasedMetrics(
        list(LABELS), t_collar=T_COLLAR, percentage_of_length=PERCENTAGE_OF_LENGTH
    )
    for reference, prediction in dicts:
        metrics.evaluate(reference_event_list=reference, estimated_event_list=prediction)
    theirs = metrics.results()
    their_seconds = time.process_time() - start

    pairs = {
        "micro_f1": (ours["micro"]["f1"], theirs["overall"]["f_measure"]["f_measure"]),
        "macro_f1": (ours["macro"]["f1"], theirs["class_wise_average"]["f_measure"]["f_measure"]),
        "error_rate": (ours["micro_errors"]["error_rate"], theirs["overall"]["error_rate"]["error_rate"]),
    }
    return {
        "num_clips": num_clips,
        "num_reference_events": sum(map(len, references)),
        "seconds": our_seconds,
        "sed_eval_seconds": their_seconds,
        "times_faster": their_seconds / our_seconds,
        **{name: value for name, (value, _) in pairs.items()},
        **{f"sed_eval_{name}": value for name, (_, value) in pairs.items()},
        "largest_difference": max(abs(a - b) for a, b in pairs.values()),
    }


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Time event-based F1, also beside sed_eval.")
    parser.add_argument("--clips", type=int, default=10000, help="clips that both score")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    group = group_milliseconds(arguments.seed)
    result = {"clock": "process_time", "group_of_8_ms": group, **compare_with_sed_eval(arguments.clips, arguments.seed)}
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
