"""Files that survive a kill and a full disk: room taken at once, written through, replaced whole, errors explained."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from richrep.errors import CacheError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def explain_write_errors(path: Path, needed_bytes: int) -> Iterator[None]:
    """Turns an OSError into a CacheError that names the path and what to do."""
    try:
        yield
    except TimeoutError:  # of a lock
        raise
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise CacheError(no_room_message(path, needed_bytes)) from error
        raise CacheError(
            f"The feature cache cannot be written at {path} ({error.strerror or error}). "
            "Choose a folder that can be written with --cache-dir, or set RICHREP_HOME."
        ) from error


def no_room_message(path: Path, needed_bytes: int) -> str:
    """What a full disk says: path, size needed, size free, what to do."""
    return (
        f"No room for features at {path}: {needed_bytes / 1e6:.1f} MB are needed, {free_bytes(path) / 1e6:.1f} MB are "
        "free. Make room (`richrep cache clear` drops extracted features), or choose another disk with --cache-dir or "
        "RICHREP_HOME."
    )


def free_bytes(path: Path) -> int:
    """Free bytes of the disk that `path` lies on, or will lie on."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def allocate(path: Path, size_bytes: int) -> None:
    """A new file of `size_bytes` zeros whose place on the disk is taken, not only promised."""
    with path.open("wb") as file:
        if size_bytes and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size_bytes)
        else:
            for start in range(0, size_bytes, 1 << 20):
                file.write(bytes(min(1 << 20, size_bytes - start)))
        file.flush()
        os.fsync(file.fileno())


def write_at(path: Path, offset: int, data: bytes) -> None:
    """Writes `data` into an existing file, and waits until it is on the disk."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, content: bytes) -> None:
    """Writes `path` whole or not at all. A kill may leave a temporary file beside it, NAME.*.tmp."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")  # two may write the same file
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
