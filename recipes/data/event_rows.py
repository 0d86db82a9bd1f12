"""The one row that all data sets are read into, and what every loader needs to make it.

    {id, audio, duration, task, query, events: [{onset, offset, event_label}], source}

Times are in seconds from the start of the recording. `audio` is a path and nothing is decoded; `duration` is `None`
where nobody says how long the recording is. Nothing here needs `datasets`; see `event_dataset.py` for that.
"""

import os
from pathlib import Path

from processing import text_files
from processing.text_files import AUDIO_SUFFIXES, audio_stem

COLUMNS = ("id", "audio", "duration", "task", "query", "events", "source")


def make_row(id, audio, task, events, source, duration=None, query=None) -> dict:
    """Return a row with its keys in the order of [`COLUMNS`]."""
    values = (id, audio, duration, task, query, events, source)
    return dict(zip(COLUMNS, values, strict=True))


def make_event(onset, offset, event_label, where) -> dict:
    """Return `{"onset", "offset", "event_label"}` after checking it as [`~processing.events.Event`] does.

    Args:
        where: file and line (or JSON path), which an error begins with.

    Raises:
        ValueError: a time is not finite, the order is not 0 <= onset <= offset, or a type is wrong.
    """
    return plain_events([text_files.make_event(onset, offset, event_label, where)])[0]


def plain_events(events) -> list[dict]:
    """Return `{"onset", "offset", "event_label"}` of events; rows hold no scores."""
    return [{"onset": e.onset, "offset": e.offset, "event_label": e.event_label} for e in events]


def make_events(intervals, event_label, where) -> list[dict]:
    """Return the events of one label from `[[onset, offset], ...]` as JSON holds them."""
    if not isinstance(intervals, list):
        raise ValueError(f"{where} is {intervals!r}; give a list of [onset, offset] pairs in seconds.")
    events = []
    for index, pair in enumerate(intervals):
        if not isinstance(pair, list) or len(pair) != 2:
            raise ValueError(f"{where}[{index}] is {pair!r}; give a pair [onset, offset] in seconds.")
        events.append(make_event(*pair, event_label, f"{where}[{index}]"))
    return events


def require_keys(values, keys, where):
    """Check that a JSON value is an object with certain keys.

    Raises:
        ValueError: it is something else, or lacks some.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{where} is {values!r}; give an object with the keys {', '.join(keys)}.")
    missing = [key for key in keys if key not in values]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}; its keys are {', '.join(values) or 'none'}.")


def require_text(values, key, where) -> str:
    """Return a string that must not be blank.

    Raises:
        ValueError: it is something else.
    """
    text = values[key]
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{where}: {key} is {text!r}; give a string that is not empty.")
    return text


def audio_locator(audio_dir):
    """Return a function from the name of a recording, as an annotation has it, to its path.

    Without a folder names stay as they are. With one they are joined to it; for a name that has no suffix of an audio
    format (`YTID_30000`) the file of that name is looked up, and is taken to be a `.wav` if there is none.

    Raises:
        NotADirectoryError: `audio_dir` is no folder.
        ValueError: by the function: several files of the folder fit one name.
    """
    if audio_dir is None:
        return lambda name: name
    folder = Path(audio_dir)
    if not folder.is_dir():
        raise NotADirectoryError(f"audio_dir is {str(audio_dir)!r}, which is no folder; give that of the recordings.")
    by_stem = {}
    for file in sorted(os.listdir(folder)):
        if os.path.splitext(file)[1].lower() in AUDIO_SUFFIXES:
            by_stem.setdefault(audio_stem(file), []).append(file)

    def locate(name):
        if os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES:
            return os.path.join(folder, name)
        files = by_stem.get(name, [f"{name}.wav"])
        if len(files) > 1:
            raise ValueError(f"audio_dir {str(folder)!r} has {', '.join(files)} for {name!r}; leave one of them there.")
        return os.path.join(folder, files[0])

    return locate


def source_of(path, format) -> str:
    """Return what a row gives as its source: the format and the name of the file."""
    return f"{format}:{Path(path).stem}"
