"""Other names for labels, so that answers in free words can be compared with the labels of a data set."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from processing.events import Event


def read_label_aliases(path) -> dict[str, str]:
    """Read a JSON file `{"alias": "label", ...}`.

    Raises:
        ValueError: not JSON, not an object of strings, an empty name, an alias of two labels, or a label that is itself
            an alias of another one.
        OSError: the file cannot be read.
    """
    name = f"path is {str(path)!r}"
    try:
        # utf-8-sig: editors of other systems put a byte order mark first.
        text = Path(path).read_text(encoding="utf-8-sig")
        pairs = json.loads(text, object_pairs_hook=lambda pairs: pairs)
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}, which is not UTF-8 at byte {error.start}; save it as UTF-8.") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{name}, not JSON: line {error.lineno}, column {error.colno}: {error.msg}.") from None
    if not isinstance(pairs, list) or not text.lstrip().startswith("{"):
        raise ValueError(f'{name}, which is no object; write {{"alias": "label", ...}}.')
    aliases = {}
    for alias, label in pairs:
        if not isinstance(label, str) or not label.strip() or not alias.strip():
            raise ValueError(f"{name}: {alias!r} stands for {label!r}; both must be strings and not empty.")
        if aliases.setdefault(alias, label) != label:
            raise ValueError(f"{name}: {alias!r} stands for {aliases[alias]!r} and {label!r}; keep one.")
    for alias, label in aliases.items():
        if aliases.get(label, label) != label:
            raise ValueError(
                f"{name}: {alias!r} stands for {label!r}, itself an alias of {aliases[label]!r}; name the label."
            )
    return aliases


def apply_aliases(events: Iterable[Event] | None, aliases: Mapping[str, str]) -> list[Event] | None:
    """Return the events of one clip with the labels that aliases stand for; other labels stay. `None` stays `None`.

    Aliases must agree to the letter: list every spelling.
    """
    if events is None:
        return None
    return [
        Event(event.onset, event.offset, aliases.get(event.event_label, event.event_label), event.score)
        for event in events
    ]


__all__ = ["apply_aliases", "read_label_aliases"]
