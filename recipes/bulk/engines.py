"""How shards are spread: over processes of this machine, or by Ray Data over a cluster."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing.connection import wait

from recipes.bulk.plan import Job
from recipes.conversion.light_imports import import_transformers_lightly
from recipes.evaluation.runner import Unavailable

# A shard whose process ended so often stops the run: recordings that end it are failures long before.
MAX_DEATHS_OF_SHARD = 20


def run_local(job: Job, shards: list[int], num_workers: int) -> Iterator[dict]:
    """Yield the counts of each shard, annotated by processes of this machine; by this one if one is enough.

    With several GPUs, every process has one of them.

    Raises:
        OSError, ValueError: what a process could not go on after, such as a full disk.
        RuntimeError: another such error, or processes that ended again and again in one shard.
    """
    if min(num_workers, len(shards)) < 2:
        from recipes.bulk.annotator import Annotator

        annotator = Annotator(job) if shards else None
        for index in shards:
            yield annotator.annotate(index)
        return
    context = multiprocessing.get_context("spawn")
    todo, deaths, workers = list(reversed(shards)), dict.fromkeys(shards, 0), {}

    def start(number):
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(job, theirs, number, num_workers), daemon=True)
        process.start()
        theirs.close()
        workers[ours] = [process, number, todo.pop()]
        ours.send(workers[ours][2])

    try:
        for number in range(min(num_workers, len(shards))):
            start(number)
        while workers:
            for connection in wait(list(workers)):
                process, number, index = workers[connection]
                try:
                    found = connection.recv()
                except (EOFError, OSError):
                    process.join()
                    del workers[connection]
                    deaths[index] += 1
                    if deaths[index] == MAX_DEATHS_OF_SHARD:
                        raise RuntimeError(
                            f"processes ended {MAX_DEATHS_OF_SHARD} times in one shard, the last with exit code "
                            f"{process.exitcode}; run the command again with fewer --num-workers."
                        ) from None
                    todo.append(index)
                    start(number)
                    continue
                if isinstance(found, Exception):
                    raise found
                yield found
                if todo:
                    workers[connection][2] = todo.pop()
                    connection.send(workers[connection][2])
                else:
                    connection.close()
                    del workers[connection]
    finally:
        for process, *_ in workers.values():
            process.terminate()


def _work(job, connection, number, num_workers):
    """Annotate the shards whose numbers come, until none does; end with the process that started this one."""
    # That process may be killed and started again, while this one has not ended.
    parent = multiprocessing.parent_process()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()
    if not job.backend:
        import_transformers_lightly(job.settings["model"])  # before torch
    import torch

    if num_gpus := torch.cuda.device_count():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(num_gpus)))).split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[number % num_gpus]
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // num_workers))
    try:
        from recipes.bulk.annotator import Annotator

        annotator = Annotator(job)
        while True:
            connection.send(annotator.annotate(connection.recv()))
    except EOFError:
        pass
    except Exception as error:
        is_plain = isinstance(error, (OSError, ValueError, Unavailable))
        connection.send(error if is_plain else RuntimeError(f"{type(error).__name__}: {error}"))


def run_ray(job: Job, shards: list[int], num_workers: int, num_gpus: float = 0) -> Iterator[dict]:
    """Yield the counts of each shard, annotated by actors of Ray: of the cluster of `RAY_ADDRESS`, or a local one.

    Ray starts up to `num_workers` actors, as many as there is work for, and others for those that are lost.

    Raises:
        ImportError: Ray is not installed.
        OSError, ValueError, Unavailable: what an actor could not go on after, such as a full disk.
    """
    try:
        import ray
    except ImportError:
        raise ImportError("--engine ray needs Ray: pip install 'timepro[ray]'.") from None
    from recipes.bulk.annotator import Annotator

    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)
    # A block for each shard, so that what is done again after a loss is one shard.
    data = ray.data.from_items(shards, override_num_blocks=len(shards)).map_batches(
        Annotator, fn_constructor_args=(job,), batch_size=1, num_gpus=num_gpus or None,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=num_workers),
    )  # fmt: skip
    for row in data.iter_rows():
        if row["kind"]:
            raise {"ValueError": ValueError, "Unavailable": Unavailable}.get(row["kind"], OSError)(row["error"])
        yield row
