"""Our own JSON Lines, one row of `event_rows.py` per line, as `timepro synthesize` writes them."""

from collections.abc import Iterator

from processing.answer_text import TASKS
from processing.text_files import check_duration, read_json_lines
from recipes.data.event_rows import make_event, make_row, require_keys, require_text, source_of


def read_event_lines(path) -> Iterator[dict]:
    """Yield the rows of a file.

    Needed are `id`, `audio` and `events`. Without `task` a row with a query is grounding and one without detection;
    `duration` may be `null`. Further keys (`absent`, `question`, ...) are left out.

    Raises:
        ValueError: a malformed line.
    """
    for where, item in read_json_lines(path):
        yield row_of(item, where, source_of(path, "jsonl"))


def row_of(item, where, source=None) -> dict:
    """Return the row that a line holds, see [`read_event_lines`].

    Args:
        item: the line's JSON value.
        where: file and line, which an error begins with.
        source: of a line that names none.
    """
    require_keys(item, ("id", "audio", "events"), where)
    if isinstance(item["id"], bool) or not isinstance(item["id"], int | str) or item["id"] == "":
        raise ValueError(f"{where}: id is {item['id']!r}; give a string that is not empty.")
    query = item.get("query")
    task = item.get("task", "detection" if query is None else "grounding")
    if task not in TASKS:
        raise ValueError(f"{where}: task is {task!r}; choose one of {', '.join(TASKS)}.")
    if task == "grounding":
        require_text({"query": query}, "query", where)
    elif query is not None:
        raise ValueError(f"{where}: query is {query!r} but task {task!r} takes none; make it null.")
    duration = item.get("duration")
    if duration is not None:
        duration = check_duration(duration, where)
    source = item.get("source", source)
    if source is not None and not isinstance(source, str):
        raise ValueError(f"{where}: source is {source!r}; give a string or null.")
    events, audio = _events(item["events"], where), require_text(item, "audio", where)
    return make_row(str(item["id"]), audio, task, events, source, duration, query)


def _events(values, where):
    if not isinstance(values, list):
        raise ValueError(f"{where}: events is {values!r}; give a list of objects, [] for none.")
    events = []
    for index, value in enumerate(values):
        place = f"{where}, events[{index}]"
        require_keys(value, ("onset", "offset", "event_label"), place)
        unknown = set(value) - {"onset", "offset", "event_label", "score"}
        if unknown:
            raise ValueError(f"{place} has unknown keys {sorted(unknown)}; keep onset, offset and event_label.")
        events.append(make_event(value["onset"], value["offset"], value["event_label"], place))
    return events
