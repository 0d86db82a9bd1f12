"""`AnnotatedClip`: a recording with its task and reference events. All annotation formats are read into it.

Our own JSON Lines, as `timepro synthesize` writes them, have one object per line:

    {"id", "audio", "duration", "task", "query", "events": [{"onset", "offset", "event_label", "score"}], "source",
     "absent", "question", "stem_index"}

`id` and `events` are required. Nothing here opens a recording.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from processing.answer_text import TASKS
from processing.events import Event, normalize_label
from processing.text_files import make_event, read_json_lines

EVENT_KEYS = ("onset", "offset", "event_label", "score")
OPTIONAL_KEYS = ("absent", "unsure", "question", "stem_index")


@dataclass(frozen=True, slots=True)
class AnnotatedClip:
    """One annotated clip. `None` means unknown, `()` means none.

    Args:
        id: unique in its data set; an integer becomes a string.
        events: [`Event`]s in the order of the annotation, with the annotator's scores, if any.
        audio: path of the recording; `None` if none is named.
        duration: seconds.
        task: `detection`: the events are all events of the clip; `grounding`: all that match `query`; `captioning`: all
            events, with descriptions as labels. `None`: grounding if there is a query, else detection.
        query: what to look for; only for grounding.
        absent: labels that are known to be absent.
        unsure: labels that may or may not be present, and are therefore not used as absent ones.
        question: replaces the built-in prompt.
        source: origin of the annotation, such as `desed:validation`.
        stem_index: row of the clip among stored stem features, see `recipes/small/stems.py`.

    Raises:
        ValueError: an invalid value.
    """

    id: str
    events: tuple[Event, ...]
    audio: str | None = None
    duration: float | None = None
    task: str | None = None
    query: str | None = None
    absent: tuple[str, ...] | None = None
    unsure: tuple[str, ...] = ()
    question: str | None = None
    source: str | None = None
    stem_index: int | None = None

    def __post_init__(self):
        if isinstance(self.id, bool) or not isinstance(self.id, str | int) or not str(self.id).strip():
            raise ValueError(f"id is {self.id!r}; give a string that is not empty.")
        task = self.task if self.task is not None else "detection" if self.query is None else "grounding"
        if task not in TASKS:
            raise ValueError(f"task is {task!r}; choose one of {', '.join(TASKS)}.")
        if task == "grounding":
            _check_text("query", self.query, "say what the events of this clip match")
        elif self.query is not None:
            raise ValueError(f"query is {self.query!r} but task {task!r} takes none; make it null.")
        for name in ("audio", "question", "source"):
            if getattr(self, name) is not None:
                _check_text(name, getattr(self, name), "or null for none")
        is_number = isinstance(self.duration, int | float) and not isinstance(self.duration, bool)
        if self.duration is not None and not (is_number and 0 < self.duration < float("inf")):
            raise ValueError(f"duration is {self.duration!r}; give seconds, a finite number above 0, or null.")
        if self.stem_index is not None and (isinstance(self.stem_index, bool) or not isinstance(self.stem_index, int)):
            raise ValueError(f"stem_index is {self.stem_index!r}; give an integer.")
        values = {
            "id": str(self.id),
            "events": tuple(self.events),
            "duration": None if self.duration is None else float(self.duration),
            "task": task,
            "query": None if self.query is None else normalize_label(self.query),
            "absent": None if self.absent is None else _labels("absent", self.absent),
            "unsure": _labels("unsure", self.unsure),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_dict(cls, values, where: str) -> "AnnotatedClip":
        """Return the clip of a JSON object; unknown keys are ignored.

        An event without `event_label` gets the query as its label; without a query that is an error.

        Args:
            where: file and line, or position in the JSON, with which errors begin.

        Raises:
            ValueError: a missing key, an unknown key of an event, or an invalid value.
        """
        require_keys(values, ("id", "events"), where)
        if not isinstance(values["events"], list):
            raise ValueError(f"{where}: events is {values['events']!r}; give a list of objects, [] for none.")
        query = values.get("query")
        events = [_event(item, query, f"{where}, events[{index}]") for index, item in enumerate(values["events"])]
        names = ("id", "audio", "duration", "task", "query", "source", *OPTIONAL_KEYS)
        found = {name: values[name] for name in names if values.get(name) is not None}
        return make_clip(where, **{"id": None, **found, "events": events})

    def as_dict(self) -> dict:
        """Return the JSON object that [`AnnotatedClip.from_dict`] reads, without empty optional keys."""
        values = {name: getattr(self, name) for name in ("id", "audio", "duration", "task", "query")}
        values["events"] = [
            {name: value for name, value in event.as_dict().items() if name != "score" or value is not None}
            for event in self.events
        ]
        values["source"] = self.source
        optional = {name: getattr(self, name) for name in OPTIONAL_KEYS}
        return values | {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in optional.items()
            if value is not None and (name != "unsure" or value)
        }


def make_clip(where: str, *args, **values) -> AnnotatedClip:
    """Return a clip; an error begins with `where`, its file and line."""
    try:
        return AnnotatedClip(*args, **values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def clips_of(path, found: Mapping[str, list[Event]], task: str | None = None) -> Iterator[AnnotatedClip]:
    """Yield the clips of a file that lists events, from its events by recording."""
    for recording, events in found.items():
        yield make_clip(str(path), recording, events, recording, task=task)


def files_of(path, suffix: str) -> list[Path]:
    """Return the file, or all files of a folder with a suffix, sorted by name.

    Raises:
        ValueError: a folder without such files.
    """
    path = Path(path)
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix.lower() == suffix)
    if not files:
        raise ValueError(f"{path} has no *{suffix}; give such a file or a folder of them.")
    return files


def read_json_clips(path) -> Iterator[AnnotatedClip]:
    """Yield the clip of every line of our JSON Lines; unknown keys are ignored.

    Lines that `timepro detect` wrote name the recording `file`, and have no `id`.

    Raises:
        ValueError: a malformed line.
    """
    for where, values in read_json_lines(path):
        if isinstance(values, dict) and "file" in values:
            values = {"id": values["file"], "audio": values["file"], **values}
        yield AnnotatedClip.from_dict(values, where)


def events_of_pairs(intervals, event_label: str, where: str) -> list[Event]:
    """Return the events of one label from JSON pairs `[[onset, offset], ...]`."""
    if not isinstance(intervals, list):
        raise ValueError(f"{where} is {intervals!r}; give a list of [onset, offset] pairs in seconds.")
    events = []
    for index, pair in enumerate(intervals):
        if not isinstance(pair, list) or len(pair) != 2:
            raise ValueError(f"{where}[{index}] is {pair!r}; give a pair [onset, offset] in seconds.")
        events.append(make_event(pair[0], pair[1], event_label, f"{where}[{index}]"))
    return events


def require_keys(values, keys: Iterable[str], where: str):
    """Check that a JSON value is an object with certain keys.

    Raises:
        ValueError: it is not an object, or lacks some of them.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} is {str(values)[:60]!r}; give an object with the keys {', '.join(keys)}.")
    missing = [key for key in keys if key not in values]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}; its keys are {', '.join(values) or 'none'}.")


def require_text(values: Mapping, key: str, where: str) -> str:
    """Return the value of a key, a string that is not blank.

    Raises:
        ValueError: it is anything else.
    """
    text = values[key]
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{where}: {key} is {text!r}; give a string that is not empty.")
    return text


def _event(values, query, where) -> Event:
    require_keys(values, EVENT_KEYS[: 2 if query is not None else 3], where)
    unknown = sorted(set(values) - set(EVENT_KEYS))
    if unknown:
        raise ValueError(f"{where} has unknown keys {unknown}; keep onset, offset, event_label and score.")
    label = values.get("event_label")
    score = values.get("score")
    return make_event(values["onset"], values["offset"], query if label is None else label, where, score)


def _check_text(name, text, fix):
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{name} is {text!r}; give a string that is not empty, {fix}.")


def _labels(name, labels) -> tuple[str, ...]:
    is_list = isinstance(labels, list | tuple)
    if not is_list or not all(isinstance(label, str) and label.strip() for label in labels):
        raise ValueError(f"{name} is {labels!r}; give a list of labels, each a string that is not empty.")
    return tuple(map(normalize_label, labels))
