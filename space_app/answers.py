"""`answer_steps`: ask about a recording, window after window; and what was answered, filtered by a threshold."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from gradio import Warning as show_warning

from space_app.jobs import Job, JobCriteria
from space_app.recordings import read_recording

TASKS = ("detection", "grounding", "captioning")
# Windows answered together: enough to be fast, few enough to show progress.
BATCH_SIZE = 4
MAX_QUERIES, MAX_QUERY_LENGTH = 12, 200


# Compared as what it is, not by what it holds: Gradio hashes what a session keeps.
@dataclass(frozen=True, eq=False)
class Answers:
    """The answers so far.

    Args:
        name: of the recording.
        task, queries: as asked; queries are `[None]` unless the task is `grounding`.
        waveform: `(num_samples,)` at `sampling_rate`.
        results: of the pipeline, one for each query; their events of every score.
        num_windows: of the whole recording.
    """

    name: str
    task: str
    queries: list
    waveform: np.ndarray = field(repr=False)
    sampling_rate: int
    results: list[dict]
    num_windows: int

    @property
    def duration(self) -> float:
        """Seconds of the recording."""
        return len(self.waveform) / self.sampling_rate

    @property
    def num_done(self) -> int:
        """Windows that were answered."""
        return len(self.results[0]["windows"]) if self.results else 0

    @property
    def is_whole(self) -> bool:
        """Whether all windows were answered."""
        return self.num_done == self.num_windows

    @property
    def unread(self) -> list[str]:
        """Answers of windows that could not be parsed."""
        return [w["text"] for result in self.results for w in result["windows"] if w["events"] is None]

    @property
    def num_truncated(self) -> int:
        """Answers of windows that ran out of room."""
        return sum(window["truncated"] for result in self.results for window in result["windows"])

    def events(self, threshold: float = 0.0) -> list[dict]:
        """Return the events of all queries that have at least a score, in order of time."""
        events = [event for result in self.results for event in result["events"] or ()]
        events = [event for event in events if event["score"] is None or event["score"] >= threshold]
        return sorted(events, key=lambda event: (event["onset"], event["offset"], event["event_label"]))


def split_queries(text: str | None) -> list[str]:
    """Return the queries in a text of one a line, each once.

    Raises:
        ValueError: none, too many, or one that is too long.
    """
    queries = list(dict.fromkeys(line.strip() for line in (text or "").splitlines() if line.strip()))
    if not queries:
        raise ValueError("There is no query; write what to look for, one query per line.")
    if len(queries) > MAX_QUERIES:
        raise ValueError(f"There are {len(queries)} queries; give {MAX_QUERIES} at most.")
    longest = max(queries, key=len)
    if len(longest) > MAX_QUERY_LENGTH:
        raise ValueError(f"A query has {len(longest)} characters; give {MAX_QUERY_LENGTH} at most.")
    return queries


def default_threshold(pipe, task: str) -> float:
    """Return the score that events need by default, as in the pipeline."""
    return float(pipe.processor.min_score or 0.0) if task == "detection" else 0.0


def answer_steps(
    pipe,
    path: str | None,
    task: str,
    queries: list[str] | None,
    limits,
    job: Job,
    chunk_length_s=None,
    stride_length_s=None,
) -> Iterator[Answers]:
    """Yield the [`Answers`] so far: none at first, then after every few windows. The last one is whole.

    Args:
        path: of the recording.
        task: one of [`TASKS`].
        queries: for `grounding` alone.
        chunk_length_s, stride_length_s: seconds of windows and of their overlaps; by default as the checkpoint says.

    Raises:
        ValueError: an impossible task, query, window or recording.
    """
    if not path:
        raise ValueError("There is no recording; drop one, record one, or choose an example.")
    if task not in TASKS:
        raise ValueError(f"task is {str(task)[:40]!r}; choose one of {', '.join(TASKS)}.")
    plan = pipe.plan_windows(chunk_length_s, stride_length_s)
    if plan.chunk_length_s - plan.stride_left - plan.stride_right < 0.5:
        raise ValueError("Windows advance by less than 0.5 s; make them longer, or their overlap shorter.")
    waveform = read_recording(pipe, path, limits, job.check, show_warning)
    rate = pipe.processor.sampling_rate
    asked = list(queries) if task == "grounding" else [None]
    num_windows = sum(1 for _ in plan.split(len(waveform) / rate))
    answers = Answers(Path(path).name, task, asked, waveform, rate, [], num_windows)
    yield answers
    stream = pipe.results_so_far(
        waveform, task=task, query=asked if task == "grounding" else None, batch_size=BATCH_SIZE * len(asked),
        chunk_length_s=chunk_length_s, stride_length_s=stride_length_s, min_score=0.0, disable_tqdm=True,
        stopping_criteria=[JobCriteria(job)],
    )  # fmt: skip
    while True:
        with job.model():
            results = next(stream, None)
        if results is None:
            return
        yield replace(answers, results=results if task == "grounding" else [results])
