"""A worker: opens the bundle once, and labels shard after shard. The same on one machine and on many.

In: `Instructions`, and the photographs of a shard. Out: the shard's file. A photograph that cannot be read becomes a
record with an error. Records hold no times: labelling the same photograph again gives the same record, but for an
engine's rounding, which may depend on what was read before.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fgr_edge.bulk.shard import ShardDone, ShardTask, left_by_the_dead, line_of, read_shard, written_whole
from fgr_edge.errors import BundleError, DataError, EngineError, ImageError
from fgr_edge.runtime.image import MAX_STREAM_BYTES
from fgr_edge.runtime.labels import LabelSet
from fgr_edge.runtime.prompt import Mode
from fgr_edge.runtime.recognizer import Recognizer

DEATHS_AT_MOST = 3  # workers that one shard may cost in a run: a photograph that kills its worker does so for ever


@dataclass(frozen=True, slots=True)
class Instructions:
    """What a worker needs to know, beyond its shards.

    Attributes:
        bundle: its folder, absolute.
        manifest_sha256: of the bundle that the driver saw: on another machine the same path may hold another one.
        root: folder from which the photographs' names start, absolute.
        labels: rows of `LabelSet.to_json`; None takes the bundle's.
        threads: of one operator; None takes one per core.
    """

    bundle: str
    manifest_sha256: str
    root: str
    labels: list[str | dict[str, Any]] | None
    mode: Mode
    question: str | None
    think_budget: int | None
    top_k: int
    threads: int | None


class Labeller:
    """Labels shards; the bundle is opened for the first.

    Raises (when called):
        BundleError: the bundle is not the driver's.
        DataError: the store is not there.
        EngineError: `DEATHS_AT_MOST` workers have died of this shard.
        StorageError: the shard cannot be written.
    """

    def __init__(self, instructions: Instructions) -> None:
        self._told = instructions
        self._opened: Recognizer | None = None

    def __call__(self, task: ShardTask) -> ShardDone:
        """Label one shard, unless it is there already: a retry finds what the worker before it had finished."""
        found = read_shard(task)
        if found is not None:
            return found
        _check_deaths(task)
        digest, errors, size = hashlib.sha256(), 0, 0
        with written_whole(Path(task.file)) as file:
            recognizer = self._recognizer()  # inside: a worker that dies of it leaves its mark, too
            for name in task.names:
                record = self._record(recognizer, name)
                line = line_of(record)
                file.write(line)
                file.flush()  # what a killed worker had reached can be seen
                digest.update(line)
                errors += "error" in record
                size += len(line)
        return ShardDone(task.number, len(task.names), errors, size, digest.hexdigest())

    def _recognizer(self) -> Recognizer:
        if self._opened is None:
            told = self._told
            if not Path(told.root).is_dir():  # else every photograph would become an error
                raise DataError(f"{told.root} is not on this worker's machine; expected the photographs at that path")
            labels = None if told.labels is None else LabelSet.from_json(told.labels)
            opened = Recognizer(told.bundle, labels, threads=told.threads)
            found = opened.bundle.manifest["manifest_sha256"]
            if found != told.manifest_sha256:
                raise BundleError(
                    f"the bundle {told.bundle} is {found[:12]} on this worker's machine, expected "
                    f"{told.manifest_sha256[:12]}, which the driver sees: put the same bundle on every machine"
                )
            self._opened = opened
        return self._opened

    def _record(self, recognizer: Recognizer, name: str) -> dict[str, Any]:
        told = self._told
        record: dict[str, Any] = {"image": name}
        try:
            data = _read(Path(told.root) / name)
            record["sha256"] = hashlib.sha256(data).hexdigest()
            found = recognizer(
                data, mode=told.mode, question=told.question, think_budget=told.think_budget, top_k=told.top_k
            )
        except ImageError as error:
            return {**record, "error": str(error)}
        answer = found.to_json()
        del answer["timings"]
        return {**record, **answer}


def _check_deaths(task: ShardTask) -> None:
    counts = left_by_the_dead(Path(task.file))
    if len(counts) < DEATHS_AT_MOST:
        return
    last = min(counts[-1], len(task.names) - 1)
    raise EngineError(
        f"{len(counts)} workers died of shard {task.number}, the furthest at {task.names[last]!r}, its photograph "
        f"{last + 1} of {len(task.names)}; expected memory for every worker, and photographs that a decoder survives: "
        "use fewer workers, or leave the photograph out. Finished shards are kept"
    )


def _read(path: Path) -> bytes:
    """The bytes of a file, read once: what is digested is what is recognised.

    Raises:
        ImageError: there is no such file, or it cannot be read.
    """
    try:
        if not path.is_file():  # a pipe would wait for ever
            raise ImageError("there is no such file; expected a photograph")
        with path.open("rb") as file:
            data = file.read(MAX_STREAM_BYTES + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if len(data) > MAX_STREAM_BYTES:
        raise ImageError(f"holds over {MAX_STREAM_BYTES:,} bytes; expected one photograph")
    return data
