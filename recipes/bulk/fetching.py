"""Recordings on the local disk, while they are needed: of remote files, tars and tables a copy is made."""

import bisect
import contextlib
import functools
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory

from recipes.bulk.plan import open_table
from recipes.bulk.sources import audio_column, load_data_set
from recipes.bulk.storage import filesystem, is_remote, read_bytes

# Recordings whose copies lie on the disk at one time: this many that are annotated, and as many that are fetched.
NUM_AHEAD = 32
NUM_TRIES = 3


def fetch_ahead(rows: list[dict]) -> Iterator[tuple[list[dict], list[str | Exception]]]:
    """Yield rows of a plan, some at a time, and for each the path of its recording, or why there is none.

    Copies are removed when the next are asked for.
    """
    some = [rows[start : start + NUM_AHEAD] for start in range(0, len(rows), NUM_AHEAD)]
    with ThreadPoolExecutor(1) as ahead, ThreadPoolExecutor(8) as pool, contextlib.ExitStack() as folders:

        def fetch(rows):
            folder = TemporaryDirectory(prefix="timepro-annotate-")
            targets = [Path(folder.name, str(index)) for index in range(len(rows))]
            # Rows of a table are read one after the other, as they lie there.
            is_row = rows[0]["place_start"] is not None and rows[0]["place_size"] is None
            return folder, list((map if is_row else pool.map)(_fetch, rows, targets))

        next_copies = ahead.submit(fetch, some[0]) if some else None
        for index, part in enumerate(some):
            folder, paths = next_copies.result()
            folders.enter_context(folder)
            if index + 1 < len(some):
                next_copies = ahead.submit(fetch, some[index + 1])
            yield part, paths
            folder.cleanup()


def _fetch(row, folder) -> str | Exception:
    place, start = row["place"], row["place_start"]
    if start is None and not is_remote(place):
        return place
    # The suffix helps to tell the format, and the rest whoever reads of it in an error.
    target = folder / os.path.basename(row["audio"] or "recording")
    for number in range(1, NUM_TRIES + 1):
        try:
            folder.mkdir(exist_ok=True)
            if start is None:
                fs, path = filesystem(place)
                fs.get_file(path, str(target))
            else:
                target.write_bytes(_content(row))
            return str(target)
        # What a network brings is an error of its package's own.
        except Exception as error:
            is_final = isinstance(error, (FileNotFoundError, PermissionError, ValueError, ImportError))
            if is_final or number == NUM_TRIES:
                return OSError(f"{place} cannot be read: {type(error).__name__}: {error}")
            shutil.rmtree(folder, ignore_errors=True)
            time.sleep(2**number)
    raise AssertionError


def _content(row) -> bytes:
    place, start = row["place"], row["place_start"]
    if row["place_size"] is not None:
        return read_bytes(place, start, row["place_size"])
    if place.startswith("{"):
        data_set, column = load_data_set(place)
        audio = data_set[start][column] or {}
        if audio.get("bytes") is None and audio.get("path"):
            return Path(audio["path"]).read_bytes()
    else:
        audio = _table_row(place, start) or {}
    if audio.get("bytes") is None:
        raise ValueError(f"row {start} holds no recording")
    return audio["bytes"]


def _table_row(place, start) -> dict | None:
    starts = _group_starts(place)
    group = bisect.bisect_right(starts, start) - 1
    # What was read before is not kept: another look at it starts again.
    for _ in range(2):
        for index, audio in _open_group(place, group, starts[group]):
            if index == start:
                return audio
        _open_group.cache_clear()
    raise OSError(f"{place} has no row {start}; it was replaced after it was listed.")


@functools.lru_cache(maxsize=4)
def _group_starts(place) -> list[int]:
    with open_table(place) as table:
        sizes = [table.metadata.row_group(index).num_rows for index in range(table.num_row_groups)]
    return list(accumulate(sizes[:-1], initial=0))


@functools.lru_cache(maxsize=1)
def _open_group(place, group, first) -> Iterator[tuple[int, dict | None]]:
    """Return what reads the recordings of a row group on, one at a time, for together they may be gigabytes."""

    def read():
        with open_table(place, pre_buffer=False, buffer_size=2**20) as table:
            batches = table.iter_batches(1, row_groups=[group], columns=[audio_column(table)])
            for index, batch in enumerate(batches, first):
                yield index, batch.column(0)[0].as_py()

    return read()
