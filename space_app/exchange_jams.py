"""Events of one recording as JAMS, through the `jams` library, which also checks them against its schema.

Source: Humphrey et al. 2014, "JAMS: a JSON annotated music specification for reproducible MIR research". Events are one
annotation of the namespace `tag_open`: intervals with a text and a confidence. Also read is scaper's own namespace, in
which URBAN-SED and other synthetic sets come.

JAMS holds lengths where events have offsets. Both are converted in decimals, for 3.584 - 2.112 is 1.4720000000000002 in
binary; so times as people write them come back equal, and others to within 1e-10 s in a recording of a day.
"""

import contextlib
import io
import re
import warnings
from decimal import Decimal
from pathlib import Path


def read_jams(path) -> list[dict]:
    """Return `[{"file", "duration", "events"}]` of a JAMS file that has one annotation of events.

    The recording is named by the title, or else after the file. Of scaper's annotations (`scaper`, `sound_event`)
    the foreground is read, with the length of the observation: `event_duration` is that before stretching.

    Raises:
        ValueError: no JAMS, no annotation of events or several, or values that are neither text nor scaper's.
        ImportError: the library is missing.
    """
    jams = _jams()
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
        # URBAN-SED has scaper's namespace under its first name, which the library does not know.
        text = re.sub(r'("namespace"\s*:\s*)"sound_event"', r'\1"scaper"', text)
        with _quiet():
            jam = jams.load(io.StringIO(text), validate=True, strict=True)
    # JAMS leaves what its parts may raise to them.
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, jams.JamsError) as error:
        raise ValueError(f"{path} is not JAMS ({str(error).splitlines()[0] if str(error) else error!r}).") from None
    if len(jam.annotations) != 1:
        found = [annotation.namespace for annotation in jam.annotations]
        raise ValueError(f"{path} has {len(found)} annotations {found}; keep one of events.")
    annotation, events = jam.annotations[0], []
    for index, item in enumerate(annotation.data):
        where, value = f"{path}, data[{index}]", item.value
        if isinstance(value, dict) and isinstance(value.get("label"), str):
            if value.get("role", "foreground") != "foreground":
                continue
            value = value["label"]
        if not isinstance(value, str):
            raise ValueError(
                f"{where}: value is {value!r} in the namespace {annotation.namespace!r}; give text, as in tag_open."
            )
        offset = float(Decimal(repr(float(item.time))) + Decimal(repr(float(item.duration))))
        # Some tools give 0 to 1, others no number at all.
        events.append({"onset": item.time, "offset": offset, "event_label": value, "score": item.confidence})
    name, duration = jam.file_metadata.title or Path(path).stem, jam.file_metadata.duration
    return [{"file": name, "duration": duration or None, "events": events}]


def format_jams(result: dict) -> str:
    """Return the events of one recording as JAMS, in order of their onsets.

    Raises:
        ValueError: an unknown duration.
        ImportError: the library is missing.
    """
    jams = _jams()
    if result["duration"] is None:
        raise ValueError(f"{result['file']!r} has no duration, which JAMS must say; give it in seconds.")
    jam = jams.JAMS()
    jam.file_metadata.title, jam.file_metadata.duration = result["file"], result["duration"]
    annotation = jams.Annotation(namespace="tag_open", time=0, duration=result["duration"])
    for event in sorted(result["events"]):
        length = float(Decimal(repr(event.offset)) - Decimal(repr(event.onset)))
        annotation.append(time=event.onset, duration=length, value=event.event_label, confidence=event.score)
    jam.annotations.append(annotation)
    with _quiet():
        jam.validate(strict=True)
        return jam.dumps(indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _jams():
    try:
        import jams
    except ImportError as error:
        raise ImportError("JAMS needs the library jams; install it by: pip install 'timepro[formats]'") from error
    return jams


@contextlib.contextmanager
def _quiet():
    # The library calls jsonschema in a way that this deprecates.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
