"""`Limits`: how much one visitor may ask of the machine, set through the environment."""

import os
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Limits:
    """Hold what the page refuses. Each field is read from `TIMEPRO_` and its name in capitals.

    Args:
        max_megabytes: size of an upload.
        max_seconds: length of a recording.
        timeout: seconds that one request may work, time in the queue not counted.
        num_parallel: requests that are worked on at a time; the model itself takes their windows in turn.
        queue_size: requests that may wait; more are refused.
        max_live_seconds: of a microphone's sound.
        num_live: microphones that are followed at a time; more are refused.
        keep_seconds: after which uploads that nobody asked about are deleted.
    """

    max_megabytes: float = 100.0
    max_seconds: float = 900.0
    timeout: float = 300.0
    num_parallel: int = 2
    queue_size: int = 200
    max_live_seconds: float = 600.0
    num_live: int = 2
    keep_seconds: int = 3600


def read_limits(environment=os.environ) -> Limits:
    """Return the limits that the environment sets, the others by default.

    Raises:
        ValueError: a value that is no number, or not above 0.
    """
    values = {}
    for field in fields(Limits):
        name = f"TIMEPRO_{field.name.upper()}"
        if name not in environment:
            continue
        try:
            values[field.name] = field.type(environment[name])
        except ValueError:
            values[field.name] = 0
        if not 0 < values[field.name] < float("inf"):
            raise ValueError(f"{name} is {environment[name]!r}; give a number above 0, by default {field.default}.")
    return Limits(**values)
