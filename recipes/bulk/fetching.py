"""Recordings on the local disk, while they are needed: of remote files, tars and tables a copy is made."""

import contextlib
import functools
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from recipes.bulk.sources import AUDIO_COLUMNS, load_data_set
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
            return folder, list(pool.map(_fetch, rows, targets))

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
        audio = data_set[start][column]
    else:
        audio = _table_rows(place, *_group_of(place, start))[start]
    content = audio["bytes"]
    return Path(audio["path"]).read_bytes() if content is None else content


@functools.lru_cache(maxsize=4)
def _group_starts(place) -> list[int]:
    from recipes.bulk.plan import open_table

    with open_table(place) as table:
        starts = [0]
        for index in range(table.num_row_groups):
            starts.append(starts[-1] + table.metadata.row_group(index).num_rows)
    return starts


def _group_of(place, row):
    starts = _group_starts(place)
    index = next(index for index, end in enumerate(starts[1:]) if row < end)
    return index, starts[index]


@functools.lru_cache(maxsize=1)
def _table_rows(place, group, first) -> dict[int, dict]:
    from recipes.bulk.plan import open_table

    with open_table(place) as table:
        name = next(name for name in AUDIO_COLUMNS if name in table.schema_arrow.names)
        rows = table.read_row_group(group, columns=[name]).column(0).to_pylist()
    return dict(enumerate(rows, first))
