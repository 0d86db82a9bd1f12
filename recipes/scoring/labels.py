"""Labels of references and predictions: aliases, and labels without counterpart."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from processing.events import Event, normalize_label


def read_label_aliases(path) -> dict[str, str]:
    """Read a JSON file `{"alias": "label", ...}`; names are normalized by [`~processing.events.normalize_label`].

    Raises:
        ValueError: not JSON, not an object of strings, an empty name, an alias of two labels, or a label that is itself
            an alias.
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
        raise ValueError(f'{name}, which is not an object; write {{"alias": "label", ...}}.')
    try:
        return check_aliases(pairs)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def check_aliases(pairs) -> dict[str, str]:
    """Return pairs of alias and label as a dict, normalized.

    Raises:
        ValueError: as [`read_label_aliases`].
    """
    aliases = {}
    for alias, label in pairs:
        if not all(isinstance(name, str) and normalize_label(name) for name in (alias, label)):
            raise ValueError(f"{alias!r} is an alias of {label!r}; both must be non-empty strings.")
        alias, label = normalize_label(alias), normalize_label(label)
        if aliases.setdefault(alias, label) != label:
            raise ValueError(f"{alias!r} is an alias of both {aliases[alias]!r} and {label!r}; keep one.")
    for alias, label in aliases.items():
        if aliases.get(label, label) != label:
            raise ValueError(f"{alias!r} is an alias of {label!r}, an alias of {aliases[label]!r}; name the label.")
    return aliases


def apply_aliases(events: Iterable[Event] | None, aliases: Mapping[str, str]) -> list[Event] | None:
    """Return the events of one clip with aliases replaced by their labels. `None` stays `None`.

    Aliases match up to white space and Unicode normalization; list other variants separately.

    Args:
        aliases: from [`read_label_aliases`] or [`check_aliases`].
    """
    if events is None:
        return None
    return [replace(event, event_label=aliases.get(event.event_label, event.event_label)) for event in events]


def unmatched_labels(references, predictions) -> dict[str, dict[str, int]]:
    """Return the labels that only one side has, with the number of their events, the most frequent first.

    They may be misspelt or need an alias: whatever their times, such events never match.

    Args:
        references, predictions: lists over clips of lists of events; a prediction may be `None`.

    Returns:
        `{"only_in_references": {label: count}, "only_in_predictions": {label: count}}`.
    """
    sides = [Counter(event.event_label for clip in side for event in clip or ()) for side in (references, predictions)]

    def only(counts, other):
        return dict(sorted(((k, n) for k, n in counts.items() if k not in other), key=lambda item: (-item[1], item[0])))

    return {"only_in_references": only(*sides), "only_in_predictions": only(*sides[::-1])}
