"""Synthetic English about sounds and times, to teach a very small language model digits, order and answers.

Everything is drawn from a seeded generator, so no corpus is needed.
"""

from collections.abc import Callable, Iterator

import numpy as np

from processing.answer_text import PROMPTS, TASKS, format_events, prompt_text
from processing.events import Event, TimeGrid
from recipes.data.label_phrases import PHRASES

LABELS = tuple(PHRASES)
NUMBER_WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()
GRIDS = (TimeGrid(), TimeGrid(frame_rate=12.5, time_step=0.08))
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
AUDIO = "Audio 1: <|audio_bos|><|AUDIO|><|audio_eos|>\n"


def choose(rng: np.random.Generator, items):
    """Return one of `items` at random."""
    return items[int(rng.integers(len(items)))]


def draw_events(rng: np.random.Generator, grid: TimeGrid, max_events: int = 5) -> list[Event]:
    """Draw 0 to `max_events` events of up to three labels on the grid, in a clip of up to 30 s."""
    duration = float(choose(rng, (5.0, 10.0, 10.0, 10.0, 20.0, 30.0)))
    labels = [choose(rng, LABELS) for _ in range(3)]
    events = []
    for _ in range(int(rng.integers(0, max_events + 1))):
        length = float(np.clip(rng.lognormal(0.2, 0.8), 0.16, duration / 2))
        onset = grid.snap(float(rng.uniform(0, duration - length)))
        events.append(Event(onset, max(grid.snap(onset + length), onset), choose(rng, labels)))
    return sorted(set(events))


def clause(rng: np.random.Generator, event: Event, decimals: int = 2) -> str:
    """Describe one event in words."""
    who, does, noun = PHRASES[event.event_label]
    on, off = f"{event.onset:.{decimals}f}", f"{event.offset:.{decimals}f}"
    length = f"{event.offset - event.onset:.{decimals}f}"
    return choose(
        rng,
        (
            f"{who} {does} from {on} to {off} seconds",
            f"{noun} from {on} to {off} s",
            f"between {on} and {off} seconds {who} {does}",
            f"{who} {does} at {on} s and stops at {off} s",
            f"{noun} starts at {on} and lasts {length} seconds",
            f"from {on} until {off} there is {noun}",
        ),
    )


def story(rng: np.random.Generator) -> str:
    """Describe events in order of time."""
    events = draw_events(rng, choose(rng, GRIDS))
    if not events:
        return choose(rng, ("Nothing can be heard.", "The clip is silent.", "There are no sound events in the audio."))
    text = choose(rng, (". ", "; ", ", then ")).join(clause(rng, event) for event in events)
    return text[0].upper() + text[1:] + "."


def counting(rng: np.random.Generator) -> str:
    """Count occurrences, or count up in steps."""
    if rng.random() < 0.5:
        step = int(choose(rng, (1, 2, 4, 5, 8, 10)))
        start = int(rng.integers(0, 2900)) // step * step
        steps = (start + step * i for i in range(int(rng.integers(5, 16))))
        decimals = ", ".join(f"{value / 100:.2f}" for value in steps)
        return f"Counting by {step / 100:.2f}: {decimals}."
    number = int(rng.integers(1, len(NUMBER_WORDS)))
    label = choose(rng, LABELS)
    listed = ", ".join([label] * number)
    return f"{listed}: {label} occurs {NUMBER_WORDS[number]} time{'s' if number > 1 else ''} ({number})."


def comparison(rng: np.random.Generator) -> str:
    """Order and compare numbers."""
    decimals = int(choose(rng, (1, 2, 2, 2)))
    spread = float(choose(rng, (1.0, 5.0, 30.0)))
    base = float(rng.uniform(0, 30 - spread))
    unit = 10**decimals
    draws = rng.choice(np.arange(int(base * unit), int((base + spread) * unit) + 1), 3, replace=False)
    low, middle, high = (f"{value / unit:.{decimals}f}" for value in sorted(draws))
    shuffled = ", ".join(f"{value / unit:.{decimals}f}" for value in draws)
    return choose(
        rng,
        (
            f"{high} is after {low}.",
            f"{low} is before {high}.",
            f"{middle} is between {low} and {high}.",
            f"{high} is greater than {middle}, and {low} is less than {middle}.",
            f"Sort {shuffled}: {low}, {middle}, {high}.",
            f"The latest of {shuffled} is {high}; the earliest is {low}.",
        ),
    )


def duration_arithmetic(rng: np.random.Generator) -> str:
    """Add and subtract times."""
    onset, length = int(rng.integers(0, 2000)), int(rng.integers(1, 1000))
    on, off, long = f"{onset / 100:.2f}", f"{(onset + length) / 100:.2f}", f"{length / 100:.2f}"
    label = choose(rng, LABELS)
    return choose(
        rng,
        (
            f"{label} starts at {on} and ends at {off}, so it lasts {long} seconds.",
            f"{on} + {long} = {off}",
            f"{off} - {on} = {long}",
            f"A sound of {long} seconds that starts at {on} ends at {off}.",
        ),
    )


def spelling(rng: np.random.Generator) -> str:
    """Spell a time digit by digit."""
    value = f"{int(rng.integers(0, 3000)) / 100:.2f}"
    spelt = " ".join("point" if c == "." else NUMBER_WORDS[int(c)] for c in value)
    return choose(rng, (f"{value} is spoken {spelt}.", f"{spelt} is written {value}.", f"{spelt}: {value} seconds"))


def naming(rng: np.random.Generator) -> str:
    """Relate a label to its paraphrases, or state that two labels differ."""
    label, other = choose(rng, LABELS), choose(rng, LABELS)
    who, does, noun = PHRASES[label]
    if label != other and rng.random() < 0.3:
        return f"{label} is not {other}: {who} {does}, while {PHRASES[other][0]} {PHRASES[other][1]}."
    return choose(
        rng,
        (
            f"{label} means that {who} {does}.",
            f"When {who} {does}, the sound is called {label}.",
            f"{noun} is the same as {label}.",
            f"The sound of {noun} is {label}.",
        ),
    )


def timeline(rng: np.random.Generator) -> str:
    """List sounds between successive times, with the answer; this imitates the interleaved audio prompt."""
    grid = GRIDS[1]
    start, length = int(rng.integers(0, grid.num_ticks - 20)), int(rng.integers(6, 14))
    labels = [choose(rng, LABELS) for _ in range(int(rng.integers(0, 3)))]
    sounding: list[list[str]] = [[] for _ in range(length)]
    events = []
    for label in dict.fromkeys(labels):
        first = int(rng.integers(0, length - 1))
        last = int(rng.integers(first + 1, length))
        for step in range(first, last):
            sounding[step].append(label)
        events.append(Event(grid.tick_seconds(start + first), grid.tick_seconds(start + last), label))
    marks = " ".join(
        f"{grid.tick_seconds(start + step):.2f} {' + '.join(sounds) or '-'}" for step, sounds in enumerate(sounding)
    )
    return chat(rng, marks + "\n", events, grid)


def chat(rng: np.random.Generator, content: str, events: list[Event], grid: TimeGrid) -> str:
    """Write a turn of the chat: content, one of the project's prompts, and the answer in its grammar."""
    task = choose(rng, TASKS)
    wording = int(rng.integers(len(PROMPTS[task])))
    query = None
    if task == "grounding":
        label = choose(rng, events).event_label if events and rng.random() < 0.8 else choose(rng, LABELS)
        query = choose(rng, (label, label, PHRASES[label][2]))
        events = [event for event in events if event.event_label == label]
    elif task == "captioning":
        events = [Event(e.onset, e.offset, " ".join(PHRASES[e.event_label][:2])) for e in events]
    answer_format = "ticks" if rng.random() < 0.3 else "digits"
    answer = format_events(events, task, grid, answer_format)
    return (
        f"{SYSTEM}<|im_start|>user\n{content}{prompt_text(task, query, wording)}<|im_end|>\n"
        f"<|im_start|>assistant\n{answer}<|im_end|>\n"
    )


def conversation(rng: np.random.Generator) -> str:
    """Write a chat about a clip; most describe the clip in words, so that the answer can be copied."""
    grid = choose(rng, GRIDS)
    events = draw_events(rng, grid, max_events=4)
    told = ""
    if rng.random() < 0.9:
        order = rng.permutation(len(events))
        told = ". ".join(clause(rng, events[i]) for i in order) + ".\n" if events else "Silence.\n"
    return chat(rng, (AUDIO if rng.random() < 0.5 or not told else "") + told, events, grid)


KINDS: tuple[tuple[Callable[[np.random.Generator], str], float], ...] = (
    (conversation, 0.27),
    (timeline, 0.40),
    (story, 0.08),
    (comparison, 0.06),
    (duration_arithmetic, 0.05),
    (counting, 0.05),
    (naming, 0.05),
    (spelling, 0.03),
)


def documents(seed: int) -> Iterator[str]:
    """Yield an endless stream of short texts, determined by `seed`."""
    rng = np.random.default_rng(seed)
    writers, weights = [kind for kind, _ in KINDS], np.array([weight for _, weight in KINDS])
    while True:
        yield writers[int(rng.choice(len(writers), p=weights / weights.sum()))](rng)
