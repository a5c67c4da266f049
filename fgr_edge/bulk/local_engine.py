"""The engine of one machine: in this process, or in several.

A worker process gets its shards through a pipe of its own. When it dies, the pipe ends: another takes its place and
begins the shard anew. When this process dies, the pipe ends as well, and the worker stops after its shard.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing.connection import Connection
from queue import SimpleQueue

from fgr_edge.bulk.shard import ShardDone, ShardTask
from fgr_edge.bulk.worker import DEATHS_AT_MOST, Instructions, Labeller
from fgr_edge.errors import EngineError, FgrEdgeError

log = logging.getLogger(__name__)


def run_here(
    instructions: Instructions, tasks: Sequence[ShardTask], workers: int | None
) -> Generator[ShardDone, None, None]:
    """Label shards; yield each when it is done.

    Args:
        workers: processes; None or 1 is this one. More share the cores, where `instructions` do not say how many
            threads each has.

    Raises:
        FgrEdgeError: see `Labeller`.
    """
    if workers is None or workers == 1:
        yield from map(Labeller(instructions), tasks)
        return
    if instructions.threads is None:
        instructions = replace(instructions, threads=max(1, (os.cpu_count() or 1) // workers))
    yield from _run_in_processes(instructions, tasks, min(workers, len(tasks)))


def _run_in_processes(
    instructions: Instructions, tasks: Sequence[ShardTask], count: int
) -> Generator[ShardDone, None, None]:
    workers = [_Worker(instructions) for _ in range(count)]
    idle: SimpleQueue[_Worker] = SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def label(task: ShardTask) -> ShardDone:
        worker = idle.get()
        try:
            return worker.label(task)
        finally:
            idle.put(worker)

    pool = ThreadPoolExecutor(max(1, count))
    try:
        for future in as_completed([pool.submit(label, task) for task in tasks]):
            yield future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.stop()
        pool.shutdown()


class _Worker:
    """One worker process, begun anew when it dies."""

    def __init__(self, instructions: Instructions) -> None:
        self._instructions = instructions
        self._stopped = False
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy locks that an engine's threads hold
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._instructions), daemon=True)
        self._process.start()
        theirs.close()  # the worker's copy is the only one, so that its death ends the pipe

    def label(self, task: ShardTask) -> ShardDone:
        """One shard; a worker that dies is replaced, until one says that this shard has cost enough of them.

        Raises:
            FgrEdgeError: what the worker ran into.
            EngineError: workers die before they begin.
        """
        code: int | None = None
        for _ in range(DEATHS_AT_MOST + 1):
            try:
                self._pipe.send(task)
                answer: ShardDone | FgrEdgeError = self._pipe.recv()
            except (EOFError, OSError) as error:
                self._process.join()
                code = self._process.exitcode
                if self._stopped:
                    raise EngineError(f"shard {task.number} was given up, because another failed") from error
                log.warning("a worker died (exit %s) in shard %d: another begins", code, task.number)
                self._start()
                continue
            if isinstance(answer, FgrEdgeError):
                raise answer
            return answer
        raise EngineError(
            f"{DEATHS_AT_MOST + 1} workers died before they began shard {task.number}, the last with exit {code}; "
            "expected memory for every worker, and in a script the guard "
            '`if __name__ == "__main__":` around what starts them'
        )

    def stop(self) -> None:
        """End the process, wherever it is: a shard is whole or absent."""
        self._stopped = True
        self._process.terminate()
        self._process.join()
        self._pipe.close()


def _serve(pipe: Connection[ShardDone | FgrEdgeError, ShardTask], instructions: Instructions) -> None:
    """A worker process: shards in, their counts out, until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the driver ends its workers
    labeller = Labeller(instructions)
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        answer: ShardDone | FgrEdgeError
        try:
            answer = labeller(task)
        except FgrEdgeError as error:
            answer = error
        try:
            pipe.send(answer)
        except OSError:  # the driver is gone
            return
