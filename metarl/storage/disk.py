"""Files and folders that are whole or not there, and locked while a process writes them."""

from __future__ import annotations

import errno
import fcntl
import itertools
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

logger = logging.getLogger(__name__)


def write(path: Path, content: bytes) -> None:
    """Write a file and wait until the disk has it."""
    write_blocks(path, [content])


def write_blocks(path: Path, blocks: Iterable[bytes]) -> None:
    """Write a file that is too large to hold, block by block, and wait until the disk has it."""
    with path.open("wb") as file:
        file.writelines(blocks)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Wait until the disk has a folder's entries."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace(path: Path, content: bytes) -> None:
    """Write a file in such a way that a crash leaves the old content or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary, content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


@contextmanager
def replace_folder(final: Path) -> Iterator[Path]:
    """Fill a folder in such a way that a failure leaves the old one, or none, and nothing else.

    Yields:
        A temporary folder beside it, which takes its place when the block ends without an error.
    """
    temporary = final.with_name(f".{final.name}.{os.getpid()}")
    replaced = final.with_name(f"{temporary.name}.replaced")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        sync_folder(temporary)
        if final.exists():
            final.rename(replaced)
        temporary.rename(final)
        sync_folder(final.parent)
    except Exception:
        remove(temporary)
        if replaced.exists() and not final.exists():
            replaced.rename(final)
        raise
    remove(replaced)


def remove(path: Path) -> None:
    """Remove a folder or a file, whichever is there; what cannot be removed stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of `replace` that an interruption left in a folder."""
    for path in folder.glob(".*.*.[0-9]*"):
        path.unlink(missing_ok=True)


def new_folder(group: Path, name: str) -> Path:
    """Make a folder of that name, or of the name and a number where there is one already."""
    group.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        path = group / (name if number == 1 else f"{name}-{number}")
        with suppress(FileExistsError):
            path.mkdir()
            break
    return path


def check_same(path: Path, descriptor: int) -> None:
    """Raise OSError unless an open file is still that of its path.

    Where its folder was removed or moved away, writing would go on without an error, into nothing.
    """
    if not os.path.samestat(path.stat(), os.fstat(descriptor)):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))


def lock(path: Path) -> int:
    """Lock a file, made if missing, until its descriptor is closed or the process ends.

    Returns:
        The descriptor.

    Raises:
        BlockingIOError: another process holds it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError as error:
        # Some network file systems have no locks: better unprotected than unusable.
        logger.warning("%s: cannot be locked (%s); let one process alone write it.", path, error)
    return descriptor


@contextmanager
def failures_as(kind: type[Exception], path: Path) -> Iterator[None]:
    """Raise a failure of the disk as one sentence of ``kind`` that names the path and the cause."""
    try:
        yield
    except OSError as error:
        cause = error.strerror or str(error)
        raise kind(f"{error.filename or path}: cannot be read or written ({cause}).") from error
