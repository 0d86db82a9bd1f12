"""Rows of annotated recordings as a `datasets.Dataset`, and whether its recordings are there."""

import hashlib
import os
from collections.abc import Iterable, Iterator

import datasets
import pyarrow as pa

FEATURES = datasets.Features(
    {
        "id": datasets.Value("string"),
        "audio": datasets.Value("string"),
        "duration": datasets.Value("float64"),
        "task": datasets.Value("string"),
        "query": datasets.Value("string"),
        "events": datasets.List(
            {
                "onset": datasets.Value("float64"),
                "offset": datasets.Value("float64"),
                "event_label": datasets.Value("string"),
            }
        ),
        "source": datasets.Value("string"),
    }
)
# Rows and events that exist as Python objects at a time.
BATCH_SIZE = 5000


def build_dataset(rows: Iterable[dict], features=FEATURES) -> datasets.Dataset:
    """Return rows as a data set in memory; nothing is written to disk.

    Rows go to Arrow in batches, so that no more than one batch of them exists as Python objects. The fingerprint
    depends on the contents alone.
    """
    schema, digest, batches = features.arrow_schema, hashlib.sha1(), []
    for batch in _batched(rows):
        batches.append(pa.RecordBatch.from_pylist(batch, schema=schema))
        digest.update(batches[-1].serialize())
    table = pa.Table.from_batches(batches, schema=schema)
    return datasets.Dataset(table, datasets.DatasetInfo(features=features), fingerprint=digest.hexdigest()[:16])


def _batched(rows: Iterable[dict]) -> Iterator[list[dict]]:
    batch, size = [], 0
    for row in rows:
        batch.append(row)
        # A recording may have very many events: those count, not the rows alone.
        size += 1 + len(row["events"])
        if size >= BATCH_SIZE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def check_audio(dataset) -> None:
    """Check that the recordings of a data set are there; none is opened.

    Raises:
        FileNotFoundError: some are not. The message lists all of them.
    """
    paths = dict.fromkeys(row["audio"] for row in dataset.select_columns(["audio"]))
    report_missing([path for path in paths if not os.path.isfile(path)], len(paths))


def report_missing(missing, num_files):
    """Raise an error that lists recordings that are not there; do nothing if there are none."""
    if missing:
        listed = "".join(f"\n  {path}" for path in missing)
        raise FileNotFoundError(
            f"{len(missing)} of {num_files} recordings are missing; fetch them, or give audio_dir, the folder that "
            f"the names of the annotation start from:{listed}"
        )
