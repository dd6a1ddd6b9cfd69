"""Worker threads that share the cores: each runs its own operations, and no operation waits for another core."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Workers:
    """`count` threads and the pool they are in."""

    pool: ThreadPoolExecutor
    count: int


@contextlib.contextmanager
def worker_threads(count: int) -> Iterator[Workers]:
    """`count` threads whose torch operations use 1/count of the caller's threads each.

    With more than one, the caller's own operations use as few meanwhile: the helpers of a shared operation go on
    waiting for the next one, on the cores the workers need. On leaving, work not begun is cancelled, the rest is
    awaited, and the caller's number of threads is as before.
    """
    cores = torch.get_num_threads()
    each = max(1, cores // count)
    pool = ThreadPoolExecutor(
        count, thread_name_prefix="richrep-worker", initializer=torch.set_num_threads, initargs=(each,)
    )
    torch.set_num_threads(each)
    try:
        yield Workers(pool, count)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(cores)  # what the initializer set holds for new threads of the caller too
