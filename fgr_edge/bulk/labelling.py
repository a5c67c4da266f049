"""Labels a photograph store with a bundle, exactly once a photograph, on one machine or many.

In: a `LabelConfig`. Out: a folder of shards and an index (`output`). A run that was stopped, by
whatever, is gone on with by repeating it: finished shards are kept, the others are labelled. Prints nothing; the caller
brings the progress bar.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, closing
from typing import Any

from fgr_edge.bulk.config import LabelConfig
from fgr_edge.bulk.local_engine import run_here
from fgr_edge.bulk.output import output_of, write_index
from fgr_edge.bulk.plan import plan_of
from fgr_edge.bulk.ray_engine import run_on_ray
from fgr_edge.bulk.shard import ShardDone, ShardTask, read_shard, tasks_of
from fgr_edge.bulk.store import Store, read_store
from fgr_edge.bulk.worker import Instructions
from fgr_edge.errors import StorageError
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.labels import LabelSet, read_labels

log = logging.getLogger(__name__)

ProgressBar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


def label_photographs(config: LabelConfig, progress_bar: ProgressBar) -> dict[str, Any]:
    """Label a store of photographs with a bundle.

    A photograph that cannot be read becomes a record with an error. Called from a script with more than one worker, the
    script needs the guard `if __name__ == "__main__"`, since workers import it.

    Args:
        config: what, with what, where to.
        progress_bar: makes a bar from a title and a number of photographs, as `export.progress.progress_bar`.

    Returns:
        index.json, and of this run: `shards_kept`, `photographs_labelled`, `seconds`.

    Raises:
        DataError, ImageError, LabelError, BundleError: source, labels or bundle cannot be used.
        OutputExistsError: the output is another plan's, or not ours.
        StorageError: it cannot be written, or another process writes it.
        MissingExtraError, ConfigError, EngineError: the engine cannot work.
    """
    started = time.perf_counter()
    bundle = Bundle.open(config.bundle)
    labels = None if config.labels is None else read_labels(config.labels)
    store = read_store(config.source, images=config.images)
    instructions = _instructions(config, bundle, store, labels)
    plan = plan_of(config, store, instructions.manifest_sha256, None if labels is None else labels.sha256)
    with output_of(config.output.absolute(), plan, store.photographs, force=config.force) as folder:
        tasks = tasks_of(folder, [photograph.name for photograph in store.photographs], config.shard_size)
        done = {task.number: found for task in tasks if (found := read_shard(task)) is not None}
        missing = [task for task in tasks if task.number not in done]
        if done:
            log.info("%d of %d shards are there already", len(done), len(tasks))
        with progress_bar("label", len(store.photographs)) as step:
            step(sum(shard.records for shard in done.values()))
            if missing:
                with closing(_engine(config, bundle, instructions, missing)) as shards:
                    for shard in shards:
                        step(shard.records)
        index = write_index(folder.parent, plan, _checked(tasks))
    return {
        **index,
        "shards_kept": len(done),
        "photographs_labelled": sum(len(task.names) for task in missing),
        "seconds": round(time.perf_counter() - started, 3),
    }


def _instructions(config: LabelConfig, bundle: Bundle, store: Store, labels: LabelSet | None) -> Instructions:
    return Instructions(
        bundle=str(bundle.path.resolve()),
        manifest_sha256=bundle.manifest["manifest_sha256"],
        root=str(store.root),
        labels=None if labels is None else labels.to_json(),
        mode=config.mode,
        question=config.question,
        think_budget=config.think_budget,
        top_k=config.top_k,
        threads=config.threads,
    )


def _engine(
    config: LabelConfig, bundle: Bundle, instructions: Instructions, tasks: Sequence[ShardTask]
) -> Generator[ShardDone, None, None]:
    if config.engine == "local":
        return run_here(instructions, tasks, config.workers)
    gpu = bundle.manifest["target"] != "cpu"
    return run_on_ray(instructions, tasks, config.workers, address=config.ray_address, gpu=gpu)


def _checked(tasks: Sequence[ShardTask]) -> list[ShardDone]:
    """Every shard as its file says: what a worker on another machine wrote may not have arrived on this one's disk."""
    shards = [read_shard(task) for task in tasks]
    lost = [task.file for task, shard in zip(tasks, shards, strict=True) if shard is None]
    if lost:
        raise StorageError(
            f"{len(lost)} shards are not there, such as {lost[0]}, though their workers wrote them; expected an output "
            "that every machine sees: repeat the command to write them again"
        )
    return [shard for shard in shards if shard is not None]
