"""The folders beside a bundle while it is written: their names, locks, leftovers, and the swap into place.

Names beside the output NAME, on the same file system:
    .NAME.partial-<pid>     being written by process <pid>; after the swap, the bundle that was replaced
    .NAME.replaced-<pid>    the bundle being replaced, for the moment between two renames, where the system has no swap
What a killed process left under them is found at the next start: the first is removed, the second is put back
if the output is absent. A process holds a lock (flock) on its folders, which the kernel drops when it dies.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h
_NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)  # an old kernel, or a file system that cannot


def exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step, so that neither name is ever absent; False where that is not to be had.

    Linux's renameat2, which Python does not offer; other systems swap by two renames.

    Raises:
        OSError: the swap failed; nothing moved.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(one), None, str(other))


def sibling(output: Path, role: str, pid: int | None = None) -> Path:
    return output.with_name(f".{output.name}.{role}-{os.getpid() if pid is None else pid}")


def clear_leftovers(output: Path) -> None:
    """Put right what a killed process left beside `output`."""
    if not output.name or not output.parent.is_dir():
        return
    for role in ("replaced", "partial"):
        prefix = sibling(output, role).name.rpartition("-")[0] + "-"
        for path in output.parent.iterdir():
            pid = path.name[len(prefix) :]
            if not path.name.startswith(prefix) or not pid.isdecimal() or not path.is_dir():
                continue
            if not _is_abandoned(path, int(pid)):
                log.warning("leaving %s alone: process %s may still be writing it", path, pid)
            elif role == "replaced" and not os.path.lexists(output):
                log.warning("an earlier run was killed while it replaced %s: the old bundle is put back", output)
                path.rename(output)
            else:
                log.warning("removing %s, left by a run that was killed", path)
                remove(path)


def _is_abandoned(folder: Path, pid: int) -> bool:
    """Whether the process that made `folder` is gone.

    The lock alone would do, but for the moment between mkdir and flock; the pid alone would do, but in
    containers every run may have the same one.
    """
    try:
        descriptor = locked(folder)
    except BlockingIOError:
        return False
    if descriptor is not None:
        os.close(descriptor)
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


def locked(folder: Path) -> int | None:
    """A descriptor that holds the lock on `folder`; None where the file system has no locks.

    Raises:
        BlockingIOError: another process (or writer) holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def remove(folder: Path) -> None:
    """Remove `folder`; failing is only logged: the bundle is in place, or another error is under way."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        log.warning("cannot remove %s (%s): remove it by hand", folder, error)


def files_below(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if not path.is_dir())


def folders_below(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_dir())


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
