"""The lock of a cache entry: shared by all who write its blocks; held alone to create, rebuild or clear it.

The system releases it when its holder dies, and takes it to other machines where the file system can (NFS does).
"""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

try:
    import fcntl
except ImportError:  # Windows: one process writes an entry at a time
    HAS_SHARED_LOCKS = False
else:
    HAS_SHARED_LOCKS = True

logger = logging.getLogger(__name__)

SILENT_WAIT_S = 1.0
_MOMENTS_S = 0.3


@contextlib.contextmanager
def hold_alone(path: Path, *, title: str) -> Iterator[None]:
    """Holds the lock file `path` alone; waits for all others, and says so when that takes more than a second."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=SILENT_WAIT_S)
    except Timeout:
        logger.warning("Waiting for another process that is writing the %s.", title)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def try_alone(path: Path) -> Iterator[bool]:
    """Holds the lock file `path` alone if it can be had within moments; yields whether it is held."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=_MOMENTS_S)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


@contextlib.contextmanager
def hold_shared(path: Path, *, title: str) -> Iterator[None]:
    """Holds the lock file `path` together with others who share it; waits for who holds it alone."""
    if not HAS_SHARED_LOCKS:
        with hold_alone(path, title=title):
            yield
        return
    with path.open("a+b") as file:  # NFS wants a shared lock on a file that is open for reading
        try:
            fcntl.flock(file, fcntl.LOCK_SH)
        except OSError as error:
            if error.errno != errno.ENOSYS:
                raise
            logger.warning("%s is on a file system without locks: clear no features while they are written.", path)
        yield
