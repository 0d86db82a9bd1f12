"""Answers about many recordings on disk as they come, so that a run that was stopped goes on where it was."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path


def partial_path(out: str | os.PathLike, is_folder: bool) -> Path:
    """Return where the answers of an unfinished run lie: beside the file that it will write, or in the folder."""
    return Path(out) / "timepro.partial.jsonl" if is_folder else Path(f"{out}.partial.jsonl")


@contextlib.contextmanager
def keep_answers(path: Path, settings: dict) -> Iterator[tuple[dict[str, dict], Callable[[dict], None]]]:
    """Open the file of partial answers: a line of settings, then one JSON object per recording, written at once.

    A process that is killed at any moment leaves whole lines and perhaps the start of one, which is cut off here. A
    file without any row is removed in the end.

    Args:
        path: the file; it is made if there is none.
        settings: all that answers depend on but the recordings, as JSON.

    Yields:
        The rows that are there (`{"file", "state", "answers", ...}`), by their file; a later row of a file replaces an
        earlier one. And a function that appends a row.

    Raises:
        ValueError: the file has answers that were made with other settings, or is not such a file.
    """
    settings = json.loads(json.dumps(settings))
    with path.open("a+b") as file:
        file.seek(0)
        content = file.read()
        length = content.rfind(b"\n") + 1
        rows = [_parse(line, path) for line in content[:length].splitlines()]
        file.truncate(length)
        num_kept = max(0, len(rows) - 1)
        if not num_kept:
            # Settings that no answer was made with bind nobody.
            file.truncate(0)
            _write(file, {"settings": settings})
        elif (before := rows[0].get("settings")) != settings:
            before = before if isinstance(before, dict) else {}
            names = [name for name in {**settings, **before} if settings.get(name) != before.get(name)]
            then, now = ({name: values.get(name) for name in names} for values in (before, settings))
            raise ValueError(
                f"{str(path)!r} has answers of an unfinished run with other settings, {then}, not {now}; run that "
                "command again to finish it, choose another --out, or delete the file to start anew."
            )

        def keep(row):
            nonlocal num_kept
            _write(file, row)
            num_kept += 1

        try:
            yield {row["file"]: row for row in rows[1:]}, keep
        finally:
            if not num_kept:
                path.unlink(missing_ok=True)


def _write(file, row):
    file.write(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n")
    file.flush()


def _parse(line, path):
    with contextlib.suppress(ValueError):
        row = json.loads(line)
        if isinstance(row, dict) and ("settings" in row or {"file", "state", "answers"} <= row.keys()):
            return row
    raise ValueError(f"{str(path)!r} has the line {line[:60]!r}, which no run wrote; delete the file to start anew.")


__all__ = ["keep_answers", "partial_path"]
