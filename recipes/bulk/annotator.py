"""`Annotator`: a checkpoint in a process of its own, which annotates the shards of a plan."""

import io
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from recipes.bulk.fetching import fetch_ahead
from recipes.bulk.plan import PLACE_COLUMNS, Job, read_shard
from recipes.bulk.storage import join, list_names, remove, write_whole
from recipes.conversion.checkpoint_folder import load_pipeline
from recipes.conversion.light_imports import import_transformers_lightly
from recipes.evaluation.resume import keep_rows
from recipes.evaluation.runner import Request, Unavailable, run

EVENT = pa.struct(
    [("onset", pa.float64()), ("offset", pa.float64()), ("event_label", pa.string()), ("score", pa.float64())]
)
ANNOTATION = pa.schema(
    [("id", pa.string()), ("audio", pa.string()), ("duration", pa.float64()), ("task", pa.string()),
     ("query", pa.string()), ("events", pa.list_(EVENT)), ("status", pa.string()), ("recording", pa.string()),
     ("model", pa.string()), ("revision", pa.string())]
)  # fmt: skip
FAILURE = pa.schema([(name, pa.string()) for name in ("recording", "audio", "place", "error")])
# A process that ends so often in one shard goes on recording by recording; one on which it ends so often has failed.
MAX_DEATHS = 2


class Annotator:
    """Annotate shards with a checkpoint that is loaded once; an actor of Ray Data, or in a process of this machine.

    Every answer is kept at once in the job's partial folder. A recording on which the process itself ends (a decoder
    that crashes, no memory) is found by going on one by one, and is a failure then.

    Args:
        job: what to do, see [`Job`].
    """

    def __init__(self, job: Job):
        self.job = job
        if job.backend:
            from recipes.serving.client import ServedPipeline

            self.pipe = ServedPipeline(job.backend, job.settings["model"])
        else:
            import_transformers_lightly(job.settings["model"])
            self.pipe = load_pipeline(job.settings["model"])

    def __call__(self, batch: dict) -> dict:
        """Annotate the shard `{"item": [number]}`; return counts of recordings in columns, as Ray Data has them.

        After what ends the run, the columns `error` and `kind` have the message and the name of the exception: one that
        is raised in an actor reaches the driver as text of two pages.
        """
        (index,) = batch["item"]
        try:
            row = {**self.annotate(int(index)), "error": "", "kind": ""}
        except (OSError, ValueError, Unavailable) as error:
            row = {"num_annotated": 0, "num_failed": 0, "error": str(error), "kind": type(error).__name__}
        return {name: [value] for name, value in row.items()}

    def annotate(self, index: int) -> dict[str, int]:
        """Annotate a shard, unless that was done, and return how many recordings were annotated and failed.

        Raises:
            OSError: the annotations cannot be written.
            Unavailable: a server does not answer.
        """
        name, table = read_shard(self.job, index)
        rows = table.select(PLACE_COLUMNS).to_pylist()
        partial = Path(self.job.partial, f"{name}.jsonl")
        if f"{name}.parquet" in list_names(join(self.job.out, "annotations")):
            return {"num_annotated": len(rows), "num_failed": 0}
        partial.parent.mkdir(parents=True, exist_ok=True)
        with keep_rows(partial, {"shard": name}, ("id",)) as (kept, keep):
            outcomes = {row["id"]: row for row in kept if "began" not in row}
            began = Counter(row["id"] for row in kept if "began" in row)
            todo = [row for row in rows if row["id"] not in outcomes]
            if began[None] < MAX_DEATHS:
                keep({"id": None, "began": True})
                found = self._outcomes(todo)
            else:
                found = self._one_by_one(todo, began, keep)
            for outcome in found:
                outcomes[outcome["id"]] = outcome
                keep(outcome)
            self._write(name, table, [outcomes[row["id"]] for row in rows])
        partial.unlink(missing_ok=True)
        num_failed = sum("error" in outcome for outcome in outcomes.values())
        return {"num_annotated": len(rows) - num_failed, "num_failed": num_failed}

    def _outcomes(self, rows):
        for some, paths in fetch_ahead(rows):
            requests, rows_of = [], []
            for row, path in zip(some, paths, strict=True):
                if isinstance(path, Exception):
                    yield {"id": row["id"], "error": str(path)}
                else:
                    requests.append(Request(path, self.job.settings["task"], tuple(self.job.settings["queries"])))
                    rows_of.append(row)
            yield from self._answers(requests, rows_of)

    def _answers(self, requests, rows):
        num_done = 0
        try:
            for row, (_, results) in zip(rows, run(self.pipe, requests, show_progress=False, **self.job.options)):
                yield self._outcome(row, results)
                num_done += 1
        except Unavailable:
            raise
        # Those that the runner knows cost no other recording its answer; any other may be the fault of one of them.
        except Exception as error:
            if len(rows) - num_done == 1:
                yield {"id": rows[-1]["id"], "error": f"{type(error).__name__}: {error}"}
                return
            for request, row in zip(requests[num_done:], rows[num_done:], strict=True):
                yield from self._answers([request], [row])

    def _one_by_one(self, rows, began, keep):
        for row in rows:
            if began[row["id"]] >= MAX_DEATHS:
                yield {"id": row["id"], "error": f"the process that ran on it ended {began[row['id']]} times"}
            else:
                keep({"id": row["id"], "began": True})
                yield from self._outcomes([row])

    def _outcome(self, row, results) -> dict:
        if isinstance(results, Exception):
            return {"id": row["id"], "error": str(results)}
        for result in results:
            if result["events"] is None:
                return {"id": row["id"], "error": f"the model's answer {result['text']!r} cannot be read"}
        answers = [{name: result.get(name) for name in ("events", "truncated")} for result in results]
        return {"id": row["id"], "duration": results[0]["duration"], "answers": answers}

    def _write(self, name, table, outcomes):
        """Write failures and then annotations, which tell that the shard is done."""
        settings, annotations, failures, sources = self.job.settings, [], [], []
        places = table.select(PLACE_COLUMNS).to_pylist()
        for index, (row, outcome) in enumerate(zip(places, outcomes, strict=True)):
            if "error" in outcome:
                failures.append({**row, "recording": row["id"], "error": outcome["error"]})
                continue
            for query, answer in zip(settings["queries"], outcome["answers"], strict=True):
                status = "truncated" if answer["truncated"] else "complete"
                id = row["id"] if len(settings["queries"]) == 1 else f"{row['id']} | {query}"
                values = {**settings, **row, "id": id, "recording": row["id"], "query": query, "status": status}
                annotations.append({**values, "duration": outcome["duration"], "events": answer["events"]})
                sources.append(index)
        if failures:
            write_whole(self.job.address("failures", name), _parquet(pa.Table.from_pylist(failures, FAILURE), settings))
        else:
            remove(self.job.address("failures", name))  # of the same recordings, in a run before
        found = pa.Table.from_pylist(annotations, ANNOTATION)
        rest = table.drop_columns(list(PLACE_COLUMNS)).take(pa.array(sources, pa.int64()))
        for column in rest.column_names:
            found = found.append_column(rest.schema.field(column), rest.column(column))
        write_whole(self.job.address("annotations", name), _parquet(found, settings))


def _parquet(table, settings) -> bytes:
    buffer = io.BytesIO()
    metadata = {**(table.schema.metadata or {}), b"timepro": json.dumps(settings).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), buffer)
    return buffer.getvalue()
