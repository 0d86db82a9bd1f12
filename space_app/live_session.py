"""`LiveSession`: one visitor's microphone, heard by a thread of its own, so that no chunk waits for the model."""

import logging
import queue
import threading
import time

import numpy as np

from space_app.jobs import Job, OutOfTime, Stopped

logger = logging.getLogger(__name__)
# Seconds of sound that may wait for the model, and seconds without any after which a visitor is taken to have left.
MOST_BEHIND, PATIENCE = 60.0, 20.0
SOUND_FAILED = "The server failed at this sound; it was logged there. Record again."


class LiveSession:
    """Hear chunks in the order in which they come, and keep what was found.

    Args:
        pipe: the pipeline, whose checkpoint carries `live`.
        queries: what to listen for; `None` for all events.
        max_seconds: of sound; then the session ends.
    """

    def __init__(self, pipe, queries: list[str] | None, max_seconds: float):
        self.pipe, self.queries, self.max_seconds = pipe, queries, max_seconds
        self.events: dict[int, dict] = {}
        self.num_seconds = self.heard = 0.0
        self.touched = time.monotonic()
        self.error: str | None = None
        self.is_over = False
        self._chunks = queue.Queue()
        self._job = Job(float("inf"))
        self._thread = threading.Thread(target=self._run, name="live", daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether there is more to come: sound that was taken is still being heard."""
        return self._thread.is_alive()

    def put(self, rate: int, samples: np.ndarray) -> None:
        """Take the next sound, `(num_samples,)` or `(num_samples, num_channels)`; after the end it is left out."""
        if self.is_over:
            return
        seconds = len(samples) / rate
        left = self.max_seconds - self.num_seconds
        if seconds >= left:
            samples = samples[: max(0, round(left * rate))]
        self.num_seconds += len(samples) / rate
        self._chunks.put((rate, samples))
        if seconds >= left:
            self.finish()
        elif self.num_seconds - self.heard > MOST_BEHIND:
            self.error = "The server is too busy to keep up with the microphone; try again later."
            self.leave()

    def finish(self) -> None:
        """End the sound: what is open is closed."""
        if not self.is_over:
            self.is_over = True
            self._chunks.put(None)

    def leave(self) -> None:
        """Stop, whatever is still to be heard: nobody is there."""
        self._job.cancel()
        self.finish()

    def wait(self, seconds: float) -> None:
        """Wait for the end of the work."""
        self._thread.join(seconds)

    def _run(self):
        stream, last = None, time.monotonic()
        try:
            while True:
                try:
                    item = self._chunks.get(timeout=1.0)
                except queue.Empty:
                    if time.monotonic() - last > PATIENCE:
                        self.is_over, item = True, None
                    else:
                        continue
                last = time.monotonic()
                if item is not None and stream is None:
                    stream = self.pipe.live(item[0], queries=self.queries)
                if stream is not None:
                    with self._job.model():
                        reports = stream.finish() if item is None else stream.push(item[1])
                    self.heard = stream.position / stream.rate
                    self._keep(reports)
                if item is None:
                    return
        except (Stopped, OutOfTime):
            return
        except ValueError as error:
            self.error = str(error)
        except Exception:
            logger.exception("a microphone could not be heard")
            self.error = SOUND_FAILED
        finally:
            self.is_over = True

    def _keep(self, reports):
        for report in reports:
            if report["state"] == "withdrawn":
                self.events.pop(report["id"], None)
            else:
                self.events[report["id"]] = report
