"""`Service`: the loaded model, its limits, and what the page and its interface for programs share."""

import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

from space_app.answers import answer_steps
from space_app.checkpoint_code import load_pipeline
from space_app.jobs import Job, run_steps
from space_app.limits import Limits
from space_app.model_facts import model_facts
from space_app.uploads import Uploads


class Service:
    """Answer questions about uploads.

    Args:
        model: checkpoint directory or id on the Hub.
        limits: what one visitor may ask.
        folder: for uploads and files to download; deleted by the caller.
    """

    def __init__(self, model: str, limits: Limits, folder: str):
        self.pipe = load_pipeline(model)
        self.facts = model_facts(self.pipe, model)
        self.limits = limits
        self.folder = folder
        self.downloads = tempfile.mkdtemp(dir=folder)
        self.uploads = Uploads(folder, 1e6 * limits.max_megabytes)
        # Threads of those that were cancelled end at their next check.
        self.executor = ThreadPoolExecutor(2 * limits.num_parallel + 2, thread_name_prefix="answers")

    def new_job(self) -> Job:
        """Return a job with the time of one request."""
        return Job(self.limits.timeout)

    def answer(self, job: Job, path, task, queries, chunk_length_s=None, stride_length_s=None):
        """Return an asynchronous iterator of the [`Answers`] so far; leaving it stops the work.

        Arguments and errors are those of [`answer_steps`].
        """
        path = path and self.uploads.checked(path)

        def steps():
            with self.uploads.held(path) if path else nullcontext() as held:
                yield from answer_steps(
                    self.pipe, held, task, queries, self.limits, job, chunk_length_s, stride_length_s
                )

        return run_steps(steps(), job, self.executor)
