"""The plan of a run: which recordings are annotated, cut into shards, each of which becomes one file of annotations.

    OUT/manifest.json         settings, source and counts
    OUT/annotations/*.parquet a row for every recording and query
    OUT/failures/*.parquet    a row for every recording that failed
    OUT/plan.parquet          only while a run is not finished: a row group for each shard
    OUT/partial/              answers of shards that are not finished

A shard is named after its settings and recordings, so that whoever does it again writes the same file. It is done when
its annotations are there; they are written last. A run that was stopped goes on with its plan; a run after one that was
finished plans what is new and what failed.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from recipes.bulk.sources import ROWS_READ, Source, infer_schema
from recipes.bulk.storage import filesystem, join, list_names, read_bytes, remove, write_whole
from recipes.evaluation.resume import refuse_other_settings

OWN_COLUMNS = ("id", "audio", "duration", "task", "query", "events", "status", "recording", "model", "revision")
PLACE_COLUMNS = ("id", "audio", "place", "place_start", "place_size")


@dataclass(frozen=True)
class Job:
    """Hold all that a process needs to annotate shards of a plan.

    Args:
        out: folder or address that is written.
        partial: local folder of the answers of unfinished shards.
        settings: what annotations depend on: `task`, `queries`, `model`, `revision`, `source` and options of the
            pipeline.
        options: those of the pipeline, and `batch_size`.
        backend: URL of a server that answers instead of the model.
    """

    out: str
    partial: str
    settings: dict
    options: dict = field(default_factory=dict)
    backend: str | None = None

    def address(self, kind: str, name: str) -> str:
        """Return where the `annotations` or `failures` of a shard lie."""
        return join(self.out, kind, f"{name}.parquet")


def settings_of(out: str) -> dict | None:
    """Return the settings that a folder was annotated with, `None` if it was not."""
    if "manifest.json" not in list_names(out):
        return None
    return json.loads(read_bytes(join(out, "manifest.json")))["settings"]


def prepare_plan(job: Job, source: Source, shard_size: int | None, num_workers: int) -> list[int]:
    """Return the shards that are to be done, of the plan that is there or else of a new one.

    Args:
        shard_size: recordings of a shard at most, by default 500 or fewer, so that every worker has four.

    Raises:
        ValueError: other settings than those of the annotations that are there, an id twice, no recordings, or columns
            of several types.
    """
    names = list_names(job.out)
    before = settings_of(job.out)
    if before is not None:
        refuse_other_settings(job.out, before, job.settings, "pass --overwrite to start again")
    elif {"annotations", "failures", "plan.parquet"} & names:
        raise ValueError(f"--out is {job.out!r}, which has annotations but no manifest.json; choose another folder.")
    if "plan.parquet" not in names:
        if not _make_plan(job, source, shard_size, num_workers):
            return []
    shards = [f"{name}.parquet" for name in plan_shards(job)]
    # Failures of earlier runs are planned again.
    for name in list_names(join(job.out, "failures")) - set(shards):
        remove(join(job.out, "failures", name))
    done = list_names(join(job.out, "annotations"))
    return [index for index, name in enumerate(shards) if name not in done]


def _make_plan(job, source, shard_size, num_workers) -> int:
    """Write the plan of all recordings that have no annotations, and return their number."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    done = {_digest(id) for id in _ids(job, "annotations")}
    seen, num_new = set(), 0

    def count():
        nonlocal num_new
        for row in source.rows():
            digest = _digest(row["id"])
            if digest in seen:
                raise ValueError(
                    f"SOURCE has the id {row['id']!r} twice; name a recording once, or give rows an `id` of their own."
                )
            seen.add(digest)
            num_new += digest not in done
            yield row["columns"]

    columns = count()
    schema = source.schema
    if schema is None:
        schema = infer_schema(iter(lambda: list(islice(columns, ROWS_READ)), []), job.settings["source"])
    for _ in columns:
        pass
    if not seen:
        raise ValueError(f"SOURCE is {job.settings['source']!r}, which has no recordings.")
    if not num_new:
        return 0
    fields = [("id", pa.string()), ("audio", pa.string()), ("place", pa.string())]
    fields += [("place_start", pa.int64()), ("place_size", pa.int64())]
    kept = _kept_names(schema.names)
    schema = pa.schema(fields + [(kept[item.name], item.type) for item in schema])
    shard_size = shard_size or max(1, min(500, -(-num_new // (4 * num_workers))))
    new = (row for row in source.rows() if _digest(row["id"]) not in done)
    with TemporaryDirectory() as folder:
        path = Path(folder, "plan.parquet")
        try:
            writer = pq.ParquetWriter(path, schema)
        except pa.ArrowNotImplementedError as error:
            raise ValueError(f"SOURCE has a column that Parquet cannot hold: {error}") from None
        with writer:
            while rows := list(islice(new, shard_size)):
                table = [
                    {**{name: row.get(name) for name in PLACE_COLUMNS},
                     **{kept[name]: value for name, value in row["columns"].items()}}
                    for row in rows
                ]  # fmt: skip
                writer.write_table(pa.Table.from_pylist(table, schema), row_group_size=shard_size)
        write_manifest(job, {"finished": False})
        write_whole(join(job.out, "plan.parquet"), path)
    return num_new


def _kept_names(names) -> dict[str, str]:
    """Return the names under which columns of the source are kept: their own, where no column of ours has it."""
    kept = {}
    for name in names:
        kept[name] = name
        while kept[name] in (*OWN_COLUMNS, *PLACE_COLUMNS) or kept[name] != name and kept[name] in names:
            kept[name] = f"manifest_{kept[name]}"
    return kept


def _digest(id) -> int:
    return int.from_bytes(hashlib.blake2b(id.encode(), digest_size=8).digest())


def _ids(job, kind) -> Iterator[str]:
    for name in sorted(list_names(join(job.out, kind))):
        if name.endswith(".parquet"):
            with open_table(join(job.out, kind, name)) as table:
                for batch in table.iter_batches(columns=["recording"]):
                    yield from batch.column(0).to_pylist()


def open_table(address: str, pre_buffer: bool = True, buffer_size: int = 0):
    """Return an open `pyarrow.parquet.ParquetFile`."""
    import pyarrow.parquet as pq

    fs, path = filesystem(address)
    return pq.ParquetFile(fs.open(path, "rb"), pre_buffer=pre_buffer, buffer_size=buffer_size)


def read_shard(job: Job, index: int):
    """Return the name of a shard and the table of its recordings."""
    with open_table(join(job.out, "plan.parquet")) as plan:
        table = plan.read_row_group(index)
    return _shard_name(job, table.column("id").to_pylist()), table


def plan_shards(job: Job) -> Iterator[str]:
    """Yield the names of the shards of the plan."""
    with open_table(join(job.out, "plan.parquet")) as plan:
        for index in range(plan.num_row_groups):
            yield _shard_name(job, plan.read_row_group(index, columns=["id"]).column("id").to_pylist())


def _shard_name(job, ids):
    return hashlib.sha256(json.dumps([job.settings, ids], sort_keys=True).encode()).hexdigest()[:16]


def write_manifest(job: Job, values: dict) -> None:
    """Write the manifest of a run: its settings, and what else there is to say."""
    content = json.dumps({"settings": job.settings, **values}, indent=2, ensure_ascii=False)
    write_whole(join(job.out, "manifest.json"), content.encode() + b"\n")


def finish_plan(job: Job) -> dict:
    """Write the final manifest, remove the plan, and return `num_annotated` and `num_failed`, counts of recordings."""
    counts = {}
    for kind, name in (("annotations", "num_annotated"), ("failures", "num_failed")):
        counts[name] = len({_digest(id) for id in _ids(job, kind)})
    # What a process that was killed has left.
    for folder in (job.out, join(job.out, "annotations"), join(job.out, "failures")):
        for name in list_names(folder):
            if name.startswith(".") and name.endswith(".partial"):
                remove(join(folder, name))
    # A shard of failures alone; it would count as done when they are tried again.
    for name in list_names(join(job.out, "annotations")):
        with open_table(address := join(job.out, "annotations", name)) as table:
            is_empty = not table.metadata.num_rows
        if is_empty:
            remove(address)
    write_manifest(job, {"finished": True, **counts})
    remove(join(job.out, "plan.parquet"))
    return counts
