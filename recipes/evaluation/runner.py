"""Run a checkpoint on many recordings, some of which may fail: for `timepro detect` and for scoring."""

import sys
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

from tqdm import tqdm


class Request(NamedTuple):
    """A recording with a task and its queries, `(None,)` if the task takes none."""

    audio: str
    task: str = "detection"
    queries: tuple[str | None, ...] = (None,)


class Unavailable(RuntimeError):
    """No answers can be obtained, for this recording or any other; this ends the run."""


def run(
    pipe, requests: Iterable[Request], num_done: int = 0, show_progress: bool | None = None, **options
) -> Iterator[tuple[Request, list[dict] | Exception]]:
    """Yield each request with its results, one per query, or with its error.

    Consecutive requests of the same task are batched. A recording is encoded once for all its queries. A recording that
    is unreadable or too short does not affect the others.

    Args:
        pipe: a `TemporalAudioGroundingPipeline`.
        num_done: number of requests answered earlier, where the progress bar starts.
        show_progress: by default if stderr is a terminal.
        options: options of the pipeline, such as `batch_size`, the number of questions per batch.
    """
    requests = list(requests)
    hidden = None if show_progress is None else not show_progress
    total = num_done + len(requests)
    with tqdm(total=total, initial=num_done, desc="recordings", unit="file", file=sys.stderr, disable=hidden) as bar:
        for task, group in groupby(requests, key=lambda request: request.task):
            for outcome in _run_task(pipe, task, list(group), options):
                yield outcome
                bar.update()


def _run_task(pipe, task, requests, options):
    position = num_read = 0

    def results_of(some):
        # The pipeline reads ahead by at most one batch, so `num_read` bounds the recordings of the current batch.
        def read():
            nonlocal num_read
            for num_read, request in enumerate(some, position + 1):  # noqa: B007 - read below
                yield request.audio

        has_queries = some[0].queries != (None,)
        queries = [list(request.queries) for request in some] if has_queries else None
        for result in pipe(read(), task=task, query=queries, **options):
            yield result if has_queries else [result]

    while position < len(requests):
        try:
            for results in results_of(requests[position:]):
                yield requests[position], results
                position += 1
        except (ImportError, OSError, ValueError) as error:
            outcome = error
            if num_read > position + 1:  # another recording of the batch may have failed
                try:
                    (outcome,) = results_of([requests[position]])
                except (ImportError, OSError, ValueError) as own_error:
                    outcome = own_error
            yield requests[position], outcome
            position += 1
