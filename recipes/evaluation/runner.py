"""Run a checkpoint on many recordings, some of which may be bad: for `timepro detect` and for scores alike."""

import sys
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

from tqdm import tqdm


class Request(NamedTuple):
    """Hold a recording and what is asked about it: a task, and its queries, `(None,)` if the task takes none."""

    audio: str
    task: str = "detection"
    queries: tuple[str | None, ...] = (None,)


class Unavailable(RuntimeError):
    """What answers cannot be had, for this recording or any other; it ends a run."""


def run(
    pipe, requests: Iterable[Request], num_done: int = 0, show_progress: bool | None = None, **options
) -> Iterator[tuple[Request, list[dict] | Exception]]:
    """Yield each request with its results, one for each query, or with the error that it ended in.

    Requests of one task in a row are answered in batches. A recording is encoded once for all its queries. One that
    cannot be read, or is too short, costs no other its answer.

    Args:
        pipe: a `TemporalAudioGroundingPipeline`.
        num_done: requests that were answered before, where the progress bar begins.
        show_progress: by default where stderr is a terminal.
        options: of the pipeline, such as `batch_size`, the number of questions about windows in a batch.
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
        # The pipeline reads ahead no further than a batch, so this knows which recordings a batch may hold.
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
            if num_read > position + 1:  # the batch may have failed because of another recording
                try:
                    (outcome,) = results_of([requests[position]])
                except (ImportError, OSError, ValueError) as own_error:
                    outcome = own_error
            yield requests[position], outcome
            position += 1
