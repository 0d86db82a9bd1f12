"""`read_recording`: decode an upload within the limits, without revealing its path on this machine."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from space_app.checkpoint_code import carried
from space_app.jobs import OutOfTime


def read_recording(
    pipe, path: str, limits, check: Callable[[], None], report: Callable[[str], object] | None = None
) -> np.ndarray:
    """Return a recording as the model hears it.

    Args:
        pipe: the pipeline, whose checkpoint knows how to decode.
        path: file.
        limits: [`Limits`] on its size and length.
        check: called again and again, to end the work by an exception.
        report: told what was found wrong in a recording that could be decoded all the same; by default it is logged.

    Returns:
        float32 array `(num_samples,)` at `pipe.processor.sampling_rate`.

    Raises:
        ValueError: too large, too long, or no whole recording; the message names the file without its folder.
    """
    name = Path(path).name
    try:
        size = os.path.getsize(path)
        if size > limits.max_megabytes * 1e6:
            raise ValueError(
                f"{name} has {size / 1e6:.1f} MB; give a file of {limits.max_megabytes:g} MB at most, such as a flac."
            )
        rate = pipe.processor.sampling_rate
        say = report and (lambda text: report(without_folder(text, path)))
        kept, num_samples = [], 0
        # As it is decoded: what a header says may be wrong.
        for block in carried(pipe, "audio_io").stream_audio(path, rate, report=say)[1]:
            check()
            num_samples += len(block)
            if num_samples > limits.max_seconds * rate:
                raise ValueError(
                    f"{name} lasts more than {_minutes(limits.max_seconds)}; give no more than that, or use `timepro "
                    "detect`, which takes any length."
                )
            kept.append(block)
        return np.concatenate(kept)
    except FileNotFoundError:
        raise ValueError(f"{name} is no longer here; upload it again.") from None
    except OutOfTime:
        raise
    except (ImportError, OSError, ValueError) as error:
        raise ValueError(without_folder(str(error), path)) from None


def _minutes(seconds) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def without_folder(message: str, path: str) -> str:
    """Return a message in which a file is called by its name alone."""
    folder = os.path.dirname(path)
    for spelling in {path, os.path.realpath(path), repr(path)[1:-1]}:
        message = message.replace(spelling, os.path.basename(path))
    for spelling in {folder, os.path.realpath(folder)} - {"", "/"}:
        message = message.replace(spelling, "")
    return message
