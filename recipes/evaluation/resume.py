"""Append answers to a file as they arrive, so that a run resumes even after `kill -9`."""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path


@contextlib.contextmanager
def keep_rows(
    path: Path, settings: dict, keys: Iterable[str], settings_path: Path | None = None, overwrite: bool = False
) -> Iterator[tuple[list[dict], Callable[..., None]]]:
    """Open a JSON Lines file of answers, to which every answer is written immediately.

    A process that is killed leaves complete lines and perhaps a partial one, which is removed here. A file that has no
    rows in the end is deleted.

    Args:
        path: the file; created if necessary.
        settings: everything except the recordings that answers depend on, as JSON.
        keys: required keys of every row.
        settings_path: file for the settings; by default they are the first line of `path`.
        overwrite: start again, whatever the file contains.

    Yields:
        The existing rows, and a function that appends rows.

    Raises:
        ValueError: the file has answers from other settings, or is not such a file.
    """
    settings = json.loads(json.dumps(settings))
    if overwrite:
        # First, so that answers are never next to settings that are not theirs.
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
            # Without answers, earlier settings are irrelevant.
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
    """Check that existing answers were made with the current settings.

    Raises:
        ValueError: they were not; the message lists the differences and the way out.
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
