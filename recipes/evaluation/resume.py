"""Answers on disk as they come, so that a run that was stopped, even by `kill -9`, goes on where it was."""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path


@contextlib.contextmanager
def keep_rows(
    path: Path, settings: dict, keys: Iterable[str], settings_path: Path | None = None, overwrite: bool = False
) -> Iterator[tuple[list[dict], Callable[..., None]]]:
    """Open a file of answers, a JSON object in each line, to which every answer is written at once.

    A process that is killed at any moment leaves whole lines and perhaps the start of one, which is cut off here. A
    file without any row is removed in the end.

    Args:
        path: the file; it is made if there is none.
        settings: all that answers depend on but the recordings, as JSON.
        keys: what every row must have.
        settings_path: file of the settings; by default they are the first line of `path`.
        overwrite: start again, whatever is there.

    Yields:
        The rows that are there, and a function that appends rows.

    Raises:
        ValueError: the file has answers that were made with other settings, or is not such a file.
    """
    settings = json.loads(json.dumps(settings))
    if overwrite:
        # Before new settings are written, so that answers never lie beside settings that are not theirs.
        path.unlink(missing_ok=True)
    with path.open("a+b") as file:
        file.seek(0)
        content = file.read()
        length = content.rfind(b"\n") + 1
        rows = [_parse(line, path, keys) for line in content[:length].splitlines()]
        file.truncate(length)
        head = {}
        if rows and settings_path is None:
            head = rows.pop(0).get("settings")
        elif rows and settings_path.is_file():
            head = json.loads(settings_path.read_text(encoding="utf-8"))
        num_rows = len(rows)
        if not rows:
            # Settings that no answer was made with bind nobody.
            file.truncate(0)
            if settings_path is None:
                _write(file, [{"settings": settings}])
            else:
                settings_path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        else:
            way_out = "delete the file to start again" if settings_path is None else "pass --overwrite to start again"
            refuse_other_settings(path, head if isinstance(head, dict) else {}, settings, way_out)

        def keep(*new):
            nonlocal num_rows
            _write(file, new)
            num_rows += len(new)

        try:
            yield rows, keep
        finally:
            if not num_rows:
                path.unlink(missing_ok=True)


def refuse_other_settings(path, before: dict, now: dict, way_out: str) -> None:
    """Check that answers that are there were made with the settings of now.

    Raises:
        ValueError: they were not; the message has the differences, and the way out.
    """
    names = [name for name in {**now, **before} if now.get(name) != before.get(name)]
    if names:
        then, now = ({name: values.get(name) for name in names} for values in (before, now))
        raise ValueError(
            f"{str(path)!r} has answers of a run with other settings, {then}, not {now}; run that command again to "
            f"finish it, choose another --out, or {way_out}."
        )


def _write(file, rows):
    file.write(b"".join(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n" for row in rows))
    file.flush()


def _parse(line, path, keys):
    with contextlib.suppress(ValueError):
        row = json.loads(line)
        if isinstance(row, dict) and ("settings" in row or set(keys) <= row.keys()):
            return row
    raise ValueError(f"{str(path)!r} has the line {line[:60]!r}, which no run wrote; delete the file to start again.")
