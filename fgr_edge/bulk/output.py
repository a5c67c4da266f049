"""The output of a bulk labelling: a folder that says what is in it, written by one run at a time.

    plan.json      bundle, labels, options, source: each by its digest (`plan`)
    listing.jsonl  every photograph with its size, in the order of the shards
    shards/        NNNNNN.jsonl, one record a photograph (`shard`)
    index.json     every shard's counts and digest; written when all are there

Each file is whole or absent, and plan.json is the first sign that the folder is ours: what a killed run left is gone on
with, what is anybody else's is not touched.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fgr_edge.bulk.plan import SCHEMA_VERSION, Plan, differences
from fgr_edge.bulk.shard import PARTIAL, ShardDone, line_of, remove_partial, shard_name, written_whole
from fgr_edge.bulk.store import Photograph
from fgr_edge.errors import OutputExistsError, StorageError
from fgr_edge.runtime.bundle_folders import locked

PLAN, LISTING, SHARDS, INDEX = "plan.json", "listing.jsonl", "shards", "index.json"


@contextmanager
def output_of(output: Path, plan: Plan, photographs: Sequence[Photograph], *, force: bool) -> Iterator[Path]:
    """The output, ready for this plan and held by this process alone; yields the folder of its shards.

    Args:
        force: drop the records that are there, of whatever plan.

    Raises:
        OutputExistsError: something else is there, or records of another plan; the message says what differs.
        StorageError: it cannot be written, or another process is labelling into it.
    """
    if output.exists() and not output.is_dir():
        raise OutputExistsError(f"{output} is a file; expected the name of a folder for the records")
    with _held(output):
        _check(output, plan, force=force)
        shards = output / SHARDS
        try:
            if force:
                _clear(output)
            shards.mkdir(exist_ok=True)
            remove_partial(output)
            remove_partial(shards)
        except OSError as error:
            raise _not_writable(output, error) from error
        if not (output / PLAN).exists():
            with written_whole(output / LISTING) as file:
                file.writelines(line_of({"image": one.name, "bytes": one.size_bytes}) for one in photographs)
            _write_json(output / PLAN, plan)
        try:
            yield shards
        finally:
            remove_partial(shards)  # of the workers that were stopped with this run


def write_index(output: Path, plan: Plan, shards: Sequence[ShardDone]) -> dict[str, Any]:
    """Write index.json, the proof that all is there; returns it."""
    index = {
        "schema_version": SCHEMA_VERSION,
        "bundle_sha256": plan["bundle_sha256"],
        "source_sha256": plan["source"]["sha256"],
        "records": sum(shard.records for shard in shards),
        "errors": sum(shard.errors for shard in shards),
        "shards": [
            {
                "file": f"{SHARDS}/{shard_name(shard.number)}",
                "records": shard.records,
                "errors": shard.errors,
                "bytes": shard.size_bytes,
                "sha256": shard.sha256,
            }
            for shard in shards
        ],
    }
    _write_json(output / INDEX, index)
    return index


def _write_json(path: Path, document: object) -> None:
    with written_whole(path) as file:
        file.write((json.dumps(document, ensure_ascii=False, indent=2) + "\n").encode("utf-8", "backslashreplace"))


@contextmanager
def _held(output: Path) -> Iterator[None]:
    """The kernel's lock on the folder, which a killed process gives back by dying."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        descriptor = locked(output)
    except BlockingIOError as error:
        raise StorageError(
            f"another process is labelling into {output}; expected to be the only one: wait for it, or stop it"
        ) from error
    except OSError as error:
        raise _not_writable(output, error) from error
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _check(output: Path, plan: Plan, *, force: bool) -> None:
    """Refuse what is not ours, and what is another plan's."""
    ours = {PLAN, LISTING, SHARDS, INDEX}
    names = sorted(path.name for path in output.iterdir() if not path.name.endswith(PARTIAL))
    strangers = [name for name in names if name not in ours]
    there = _read_plan(output / PLAN)
    if strangers or (names and there is None and not _just_begun(output)):
        raise OutputExistsError(
            f"{output} holds {', '.join((strangers or names)[:3])}, and no records of this command; it is left alone, "
            "with or without --force: name a new folder"
        )
    if there is None or force:
        return
    found = list(differences(there, plan))
    if found:
        raise OutputExistsError(
            f"{output} holds records of another run, which would be mixed with these: {'; '.join(found)}. Name another "
            "folder, or give --force to drop them"
        )


def _just_begun(output: Path) -> bool:
    """Whether a run was killed before it had written its plan: there is no record yet."""
    return not (output / INDEX).exists() and not any((output / SHARDS).glob("*.jsonl"))


def _read_plan(path: Path) -> dict[str, Any] | None:
    try:
        plan = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return plan if isinstance(plan, dict) and "bundle_sha256" in plan else None


def _clear(output: Path) -> None:
    """Remove the records, then the plan: a run that is killed here leaves a folder that is still known as ours."""
    (output / INDEX).unlink(missing_ok=True)
    for path in (output / SHARDS).glob("*.jsonl"):
        path.unlink()
    (output / PLAN).unlink(missing_ok=True)


def _not_writable(output: Path, error: OSError) -> StorageError:
    return StorageError(f"cannot write {output} ({error.strerror or error}); name a folder with room")
