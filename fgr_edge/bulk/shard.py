"""A shard: a JSONL file with one record a photograph, in the order of the plan; whole, or absent.

A shard is written under a temporary name beside its place, put on the disk and renamed, so its own name is proof that
it is finished. Two workers that write the same shard, as after a retry that came too early, write the same records: the
second rename adds none. Knows files, not models.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from fgr_edge.errors import StorageError
from fgr_edge.runtime.bundle_folders import sync

PARTIAL = ".partial"


@dataclass(frozen=True, slots=True)
class ShardTask:
    """What a worker is told: the shard's file, and the photographs in it."""

    number: int
    file: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ShardDone:
    """A finished shard: its records, how many of them are errors, its size and digest."""

    number: int
    records: int
    errors: int
    size_bytes: int
    sha256: str


def shard_name(number: int) -> str:
    """File name of a shard; names sort as numbers do, below a million shards."""
    return f"{number:06d}.jsonl"


def line_of(record: Mapping[str, Any]) -> bytes:
    """A record as one line of JSON in UTF-8.

    A file name that is no UTF-8 text carries lone surrogates, which become JSON's own escapes.
    """
    return (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "backslashreplace")


@contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """A file that has its name only once it is complete and on the disk; nothing is left of one that failed.

    Its temporary name tells the process that writes it, which the kernel's lock cannot do on another machine.

    Raises:
        StorageError: writing failed.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{PARTIAL}")
    try:
        with open(partial, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync(path.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StorageError(f"cannot write {path} ({error.strerror or error}); free some space, then repeat") from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def read_shard(task: ShardTask) -> ShardDone | None:
    """What is in a finished shard; None where there is none, or one that does not hold its photographs, each once.

    Raises:
        StorageError: it is there, and cannot be read.
    """
    try:
        data = Path(task.file).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"cannot read {task.file} ({error.strerror or error}); expected a finished shard") from error
    try:
        records = [json.loads(line) for line in data.split(b"\n")[:-1]]
        names = [record["image"] for record in records]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if names != list(task.names) or not data.endswith(b"\n"):
        return None
    errors = sum("error" in record for record in records)
    return ShardDone(task.number, len(records), errors, len(data), hashlib.sha256(data).hexdigest())


def left_by_the_dead(path: Path) -> list[int]:
    """Finished lines in each unfinished copy of a file: one for every process that died while it wrote it."""
    counts = []
    for partial in path.parent.glob(f".{path.name}.*{PARTIAL}"):
        try:
            counts.append(partial.read_bytes().count(b"\n"))
        except FileNotFoundError:  # its writer lives, and has just finished
            continue
    return sorted(counts)


def remove_partial(folder: Path) -> None:
    """Remove what killed workers left. A worker that is still at work cannot finish its shard after this."""
    for path in folder.glob(f".*{PARTIAL}"):
        path.unlink(missing_ok=True)


def tasks_of(folder: Path, names: Sequence[str], shard_size: int) -> list[ShardTask]:
    """The photographs in shards of `shard_size`; the last may have fewer."""
    starts = range(0, len(names), shard_size)
    return [
        ShardTask(number, str(folder / shard_name(number)), tuple(names[start : start + shard_size]))
        for number, start in enumerate(starts)
    ]
