"""`Job` and `run_steps`: work that stops when it is told to, when its client is gone, and at its deadline."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Executor

import torch
from transformers import StoppingCriteria

# The model is asked by one thread at a time; requests take turns at every batch of windows.
_MODEL = threading.Lock()
_DONE = object()


class Stopped(Exception):
    """The work was cancelled; there is nobody to tell."""


class OutOfTime(ValueError):
    """The work took too long."""


class Job:
    """The work for one request.

    Args:
        seconds: that it may take from now on.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._deadline = time.monotonic() + seconds
        self._cancelled = threading.Event()

    def cancel(self):
        """Let the work end at its next check, in whatever thread it runs."""
        self._cancelled.set()

    def check(self):
        """Raise what ends the work, if anything does.

        Raises:
            Stopped: it was cancelled.
            OutOfTime: its time is over.
        """
        if self._cancelled.is_set():
            raise Stopped
        if time.monotonic() > self._deadline:
            raise OutOfTime(f"This took longer than {self.seconds:g} s; ask about a shorter recording.")

    @contextlib.contextmanager
    def model(self):
        """Wait for the model, and have it for this thread alone."""
        while not _MODEL.acquire(timeout=0.05):
            self.check()
        try:
            self.check()
            yield
        finally:
            _MODEL.release()


class JobCriteria(StoppingCriteria):
    """End `generate` at the next token once a job is over, by an exception: half an answer is none."""

    def __init__(self, job: Job):
        self.job = job

    def __call__(self, input_ids, scores, **kwargs):
        self.job.check()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


async def run_steps(steps: Iterator, job: Job, executor: Executor) -> AsyncIterator:
    """Yield what `steps` yields, which runs in threads of the executor; if this is left early, the job is cancelled."""
    step = None
    try:
        while True:
            step = executor.submit(next, steps, _DONE)
            if (item := await asyncio.wrap_future(step)) is _DONE:
                return
            yield item
    finally:
        job.cancel()
        if step is not None:
            # A step that goes on ends at its next check. What waits between two of them is not ended by anything else.
            step.add_done_callback(lambda _: steps.close())
