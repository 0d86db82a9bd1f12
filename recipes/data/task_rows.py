"""Questions of all tasks as rows, made from a data set of annotated recordings."""

import datasets
import numpy as np

from processing.answer_text import PROMPTS, TASKS, prompt_text
from recipes.data.absent_labels import draw_absent_labels
from recipes.data.event_dataset import FEATURES, build_dataset
from recipes.data.event_rows import make_row

TASK_FEATURES = datasets.Features({**FEATURES, "question": datasets.Value("string")})


def make_task_rows(dataset, tasks=TASKS, num_absent=1, wordings=None, seed=0) -> datasets.Dataset:
    """Return one row for every question that annotations answer; besides the usual columns it has `question`.

    What can be asked depends on what a row says:

    - a detection row lists all events: it gives one detection row, one grounding row for each of its labels with all
      the intervals, and grounding rows without events for labels that it lacks. These are drawn from the labels of the
      data set's detection rows;
    - a grounding row is kept. No absent queries are drawn for it: its queries are free text, and another recording's
      `a man speaks` may well be true of this one;
    - a captioning row, whose labels are descriptions, is kept.

    Ids are `<id>/detection`, `<id>/grounding/<label>` and so on. The draw for a row depends on `seed` and its id alone,
    so it stays the same in a part of the data set, as far as the labels do.

    Args:
        dataset: rows of `event_rows.py`.
        tasks: those to ask for.
        num_absent: absent labels asked for in each detection row, at most.
        wordings: how many of the built-in wordings are used; `None` for all.
        seed: an integer of 0 or more.

    Raises:
        ValueError: an unknown task, a bad number, or no questions at all.
    """
    unknown = [task for task in tasks if task not in TASKS]
    if isinstance(tasks, str) or unknown or not tasks:
        raise ValueError(f"tasks is {tasks!r}; give some of {', '.join(TASKS)} in a list.")
    num_wordings = min(map(len, PROMPTS.values()))
    for name, value, least, most in (
        ("num_absent", num_absent, 0, None),
        ("seed", seed, 0, None),
        ("wordings", num_wordings if wordings is None else wordings, 1, num_wordings),
    ):
        is_integer = isinstance(value, int) and not isinstance(value, bool)
        if not is_integer or value < least or (most is not None and value > most):
            limit = f"from {least} to {most}" if most else f"of {least} or more"
            raise ValueError(f"{name} is {value!r}; give an integer {limit}.")
    labels = sorted(
        {event["event_label"] for row in dataset if row["task"] == "detection" for event in row["events"]} - {""}
    )
    rows = (
        {**made, "question": prompt_text(made["task"], made["query"], _wording(rng, made["task"], wordings))}
        for row in dataset
        for rng in [np.random.default_rng([seed, *row["id"].encode()])]
        for made in _questions(row, tasks, labels, num_absent, rng)
    )
    made = build_dataset(rows, TASK_FEATURES)
    if not len(made):
        kinds = ", ".join(sorted(set(dataset["task"]))) or "no"
        raise ValueError(f"tasks is {tasks!r}, but the data set has {kinds} rows, which answer none of them.")
    return made


def _wording(rng, task, wordings):
    return int(rng.integers(wordings or len(PROMPTS[task])))


def _questions(row, tasks, labels, num_absent, rng):
    """Return the rows made from one row."""
    id, task, events = row["id"], row["task"], row["events"]
    if task != "detection":
        return [_asked(row, f"{id}/{task}", task, events, row["query"])] if task in tasks else []
    made = [_asked(row, f"{id}/detection", "detection", events, None)] if "detection" in tasks else []
    if "grounding" in tasks:
        present = sorted({event["event_label"] for event in events} - {""})
        for label in present + draw_absent_labels(labels, present, num_absent, rng):
            mine = [event for event in events if event["event_label"] == label]
            made.append(_asked(row, f"{id}/grounding/{label}", "grounding", mine, label))
    return made


def _asked(row, id, task, events, query):
    return make_row(id, row["audio"], task, events, row["source"], row["duration"], query)
