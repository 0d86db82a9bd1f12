"""`annotate`: what happens when in very many recordings, as Parquet files; it goes on where it was stopped."""

import contextlib
import fcntl
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

from tqdm import tqdm

from recipes.bulk.engines import run_local, run_ray
from recipes.bulk.plan import Job, finish_plan, prepare_plan
from recipes.bulk.sources import HUB_ID, open_source
from recipes.bulk.storage import is_remote, join, list_names, remove
from recipes.conversion.checkpoint_folder import read_config

ENGINES = ("local", "ray")


def annotate(
    source: str, out: str, model: str, task: str = "detection", queries: tuple[str | None, ...] = (None,), *,
    options: dict | None = None, batch_size: int = 8, engine: str = "local", num_workers: int = 1, num_gpus: float = 0,
    shard_size: int | None = None, audio_dir: str | None = None, split: str = "train", overwrite: bool = False,
    backend: str | None = None,
) -> dict[str, int]:  # fmt: skip
    """Annotate the recordings of a source; every one of them ends once in the annotations or in the failures.

    Args:
        source, audio_dir, split: see [`open_source`].
        out: folder or address that is written, see `recipes/bulk/plan.py`. What is there is kept: a run that was
            stopped goes on, a later one annotates what is new and tries again what failed.
        model: checkpoint, a folder or an id on the Hub.
        options: of the pipeline; annotations depend on them.
        batch_size: questions per batch.
        num_workers: processes; with `ray` actors at most.
        num_gpus: of each actor of Ray.
        shard_size: recordings of a file at most, by default 500 or fewer, so that every worker has four.
        overwrite: remove what is in `out` and start again.
        backend: URL of a server that answers, see [`ServedPipeline`](../serving/client.py); every worker asks it.

    Returns:
        How many recordings were annotated and failed, all runs together: `num_annotated`, `num_failed`.

    Raises:
        ValueError, OSError: a source that cannot be, annotations of other settings in `out`, or another run into it.
        ImportError: a package is missing.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine is {engine!r}; choose one of {', '.join(ENGINES)}.")
    # Actors of Ray, and whoever continues, may be in another folder.
    is_id = HUB_ID.fullmatch(source) and not os.path.exists(source)
    where = source if is_remote(source) or is_id else os.path.abspath(source)
    audio_dir = audio_dir if audio_dir is None or is_remote(audio_dir) else os.path.abspath(audio_dir)
    out = out if is_remote(out) else os.path.abspath(out)
    if not is_remote(out) and os.path.exists(out) and not os.path.isdir(out):
        raise NotADirectoryError(f"--out is {out!r}, which is a file; give a folder.")
    found = open_source(where, audio_dir, split)
    options = {name: value for name, value in (options or {}).items() if value is not None}
    settings = {"source": where, "task": task, "queries": list(queries), **_identify(model), **options}
    settings = json.loads(json.dumps(settings))
    with _only_run(out, settings) as partial:
        job = Job(out, partial, settings, {"batch_size": batch_size, **options}, backend)
        if overwrite:
            for name in ("plan.parquet", "manifest.json", "annotations", "failures"):
                remove(join(out, name))
        shards = prepare_plan(job, found, shard_size, num_workers)
        if "plan.parquet" not in list_names(out):
            print(f"timepro: all recordings of {source} were annotated before.", file=sys.stderr)
            return finish_plan(job)
        run = run_local(job, shards, num_workers) if engine == "local" else run_ray(job, shards, num_workers, num_gpus)
        num_failed = 0
        with tqdm(total=len(shards), desc="shards", unit="shard", file=sys.stderr, disable=None) as bar:
            for counts in run if shards else ():
                num_failed += int(counts["num_failed"])
                bar.set_postfix(failed=num_failed, refresh=False)
                bar.update()
        return finish_plan(job)


def _identify(model) -> dict[str, str]:
    """Return name and revision of a checkpoint: the commit of one on the Hub, else a hash of weights and settings."""
    if not Path(model).exists():
        from huggingface_hub import hf_hub_download

        # Snapshots of the Hub lie in folders that are called after their commits.
        return {"model": model, "revision": Path(hf_hub_download(model, "config.json")).parent.name}
    read_config(model)
    content = hashlib.sha256()
    for path in sorted([*Path(model).glob("*.json"), *Path(model).glob("*.safetensors")]):
        with path.open("rb") as file:
            content.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return {"model": str(Path(model).resolve()), "revision": f"sha256:{content.hexdigest()[:16]}"}


@contextlib.contextmanager
def _only_run(out, settings):
    """Yield the folder of partial answers, which only one run may use at a time."""
    if is_remote(out):
        name = hashlib.sha256(json.dumps([out, settings]).encode()).hexdigest()[:16]
        partial = Path(tempfile.gettempdir(), f"timepro-annotate-{os.getuid()}", name)
    else:
        partial = Path(out, "partial")
    partial.mkdir(parents=True, exist_ok=True)
    with (partial / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"--out is {out!r}, into which another run writes; wait for it, or stop it.") from None
        yield str(partial)
        for path in partial.iterdir():
            path.unlink()
    partial.rmdir()
