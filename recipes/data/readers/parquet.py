"""Parquet tables with the keys of our JSON Lines as columns, such as pseudo-labels of another model.

id: string, audio: string, duration: double, events: list<struct<onset, offset, event_label, score>>, ...
"""

import os
from collections.abc import Iterator
from pathlib import Path

from recipes.data.clip import AnnotatedClip

BATCH_SIZE = 1000


def read_parquet(path) -> Iterator[AnnotatedClip]:
    """Yield the clip of every row, streaming the file; events keep their scores.

    `path` may be a folder, whose files are read in order of name. `audio` is a path, or a struct with a path, as in a
    `datasets.Audio` column.

    Raises:
        ValueError: not a Parquet file, or a malformed row; rows count from 0.
    """
    if os.path.isdir(path):
        for file in sorted(Path(path).glob("*.parquet")):
            yield from read_parquet(file)
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            rows = (row for batch in file.iter_batches(BATCH_SIZE) for row in batch.to_pylist())
            for index, row in enumerate(rows):
                where = f"{path}, row {index}"
                if isinstance(row.get("audio"), dict):
                    row["audio"] = _path_of(row["audio"], where)
                yield AnnotatedClip.from_dict(row, where)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not Parquet that can be read ({error}); fetch or write it again.") from None


def _path_of(audio, where):
    if audio.get("bytes") is not None:
        raise ValueError(f"{where}: audio holds the recording itself; write it to a file and name its path.")
    return audio.get("path")
