"""The engine of several machines: shards as rows of a Ray Data set, workers as its actors (extra `ray`).

Every machine sees the bundle, the photographs and the output at the same paths. A worker writes the shard itself and
returns its counts: Ray Data's own writers name their files after the task that wrote them, so a task that is repeated
after its result was lost would leave its records twice. A worker that dies is started again by Ray, and its shard with
it, until a worker says that the shard has cost enough of them. Failures come back as rows, because Ray takes a failing
constructor for a death and repeats it.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fgr_edge.bulk.shard import ShardDone, ShardTask
from fgr_edge.bulk.worker import Instructions, Labeller
from fgr_edge.errors import ConfigError, EngineError, FgrEdgeError, MissingExtraError

log = logging.getLogger(__name__)

STORE_BYTES = 128 * 1024 * 1024  # rows are names and counts; by default Ray would take 30 % of the memory

Batch = dict[str, npt.NDArray[np.object_]]


def run_on_ray(
    instructions: Instructions,
    tasks: Sequence[ShardTask],
    workers: int | None,
    *,
    address: str | None = None,
    gpu: bool = False,
) -> Generator[ShardDone, None, None]:
    """Label shards on a Ray cluster; yield each when it is done.

    Args:
        workers: in all; None takes one for each machine (for each GPU, with `gpu`).
        address: of the cluster; None takes the one that this process is connected to, else that of $RAY_ADDRESS,
            else a new one on this machine, which ends with the work.
        gpu: a worker needs a GPU.

    Raises:
        MissingExtraError: Ray is not installed.
        ConfigError: the cluster is not there, or too small.
        FgrEdgeError: see `Labeller`.
        EngineError: Ray gave up.
    """
    ray = _import_ray()
    with _connected(ray, address):
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        workers, cpus = shares(nodes, workers, instructions.threads, gpu=gpu)
        log.info("Ray: %d workers, %d threads each, %d machines", workers, cpus, len(nodes))
        told = replace(instructions, threads=cpus)
        with _quiet_context(ray):
            results = ray.data.from_items(
                [{"task": pickle.dumps(task)} for task in tasks], override_num_blocks=len(tasks)
            ).map_batches(
                _ShardRows,
                fn_constructor_args=(told,),
                batch_size=1,
                batch_format="numpy",
                compute=ray.data.ActorPoolStrategy(size=min(workers, len(tasks)), max_tasks_in_flight_per_actor=1),
                **({"num_gpus": 1} if gpu else {"num_cpus": cpus}),
            )
            yield from _answers(ray, results)


def shares(
    nodes: Sequence[dict[str, float]], workers: int | None, threads: int | None, *, gpu: bool
) -> tuple[int, int]:
    """How many workers, and how many CPUs each of them has, so that all fit into the cluster at once.

    Raises:
        ConfigError: they do not fit.
    """
    unit = "GPU" if gpu else "CPU"
    counts = [int(node.get(unit, 0)) for node in nodes]
    able = [count for count in counts if count]
    if not able:
        raise ConfigError(f"the Ray cluster has no {unit}; expected a machine with one")
    if gpu:
        wanted = workers or sum(able)
        if wanted > sum(able):
            raise ConfigError(f"{wanted} workers need a GPU each, and the cluster has {sum(able)}; give fewer")
        return wanted, threads or 1
    wanted = workers or len(able)
    cpus = threads or max(1, next(n for n in range(max(able), 0, -1) if n == 1 or _fit(able, n) >= wanted))
    if _fit(able, cpus) < wanted:
        raise ConfigError(
            f"{wanted} workers with {cpus} threads each do not fit into machines of {', '.join(map(str, able))} CPUs; "
            "give fewer workers or threads"
        )
    return wanted, cpus


def _fit(able: Sequence[int], cpus: int) -> int:
    return sum(count // cpus for count in able)


class _ShardRows:
    """The actor: a batch is one row, a pickled task; its answer is a row, a pickled `ShardDone` or error."""

    def __init__(self, instructions: Instructions) -> None:
        self._labeller = Labeller(instructions)

    def __call__(self, batch: Batch) -> dict[str, list[bytes]]:
        answers = []
        for packed in batch["task"]:
            answer: ShardDone | FgrEdgeError
            try:
                answer = self._labeller(pickle.loads(packed))
            except FgrEdgeError as error:
                answer = error
            except Exception as error:  # Ray would bring it wrapped in pages of its own, and name none of it first
                log.exception("a shard could not be labelled")
                answer = EngineError(
                    f"a worker failed ({type(error).__name__}: {error}); expected it to label its shard, or to say why "
                    "not. Its traceback is in Ray's log of the worker. Finished shards are kept: repeat the command to "
                    "go on"
                )
            answers.append(pickle.dumps(answer))
        return {"answer": answers}


def _answers(ray: Any, results: Any) -> Iterator[ShardDone]:
    """What the workers say, as it comes."""
    try:
        for row in results.iter_rows():
            answer: ShardDone | FgrEdgeError = pickle.loads(row["answer"])
            if isinstance(answer, FgrEdgeError):
                raise answer
            yield answer
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise EngineError(
            f"Ray gave up: {reason[0]}; expected workers that live. Finished shards are kept: repeat the command to go "
            "on, with fewer workers if memory was short"
        ) from error


def _import_ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError(
            f"--engine ray needs Ray Data ({error}): pip install 'fgr-edge[ray]', or label with --engine local"
        ) from error
    return ray


@contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    """A connection to a cluster; one that was there before stays."""
    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": False}
    address = address or os.environ.get("RAY_ADDRESS")
    if address in (None, "local"):
        # On a cluster of our own nobody asked for a dashboard, nor for statistics to be sent.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options |= {"object_store_memory": STORE_BYTES, "include_dashboard": False}
    try:
        ray.init(address=address or "local", **options)
    except Exception as error:  # Ray raises no narrower class where its own processes are late
        raise ConfigError(
            f"cannot reach a Ray cluster at {address or 'this machine'} ({error}); expected host:port of its head, "
            "or auto"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _quiet_context(ray: Any) -> Iterator[None]:
    """Without Ray Data's own bars and reports: the caller has its own."""
    context = ray.data.DataContext.get_current()
    before = context.enable_progress_bars, context.print_on_execution_start
    context.enable_progress_bars = context.print_on_execution_start = False
    try:
        yield
    finally:
        context.enable_progress_bars, context.print_on_execution_start = before
