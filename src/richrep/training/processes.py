"""Several processes that train together, as torchrun starts them: what only the first of them does."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")

_by_itself = ContextVar("_by_itself", default=False)  # while the first process does what the others wait for


def rank_and_count() -> tuple[int, int]:
    """The number of this process, from 0, and how many train together; (0, 1) without torchrun."""
    if any(name not in os.environ for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")):
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def is_main() -> bool:
    """Whether this is the first process, the one that writes, evaluates and speaks."""
    return rank_and_count()[0] == 0


def on_main(work: Callable[[], Result]) -> Result:
    """What `work` gives, done by the first process alone while the others wait; its error is raised in all of them.

    All processes must come here in the same order, after `make_accelerator`. The result must be possible to pickle.
    """
    if not torch.distributed.is_initialized() or _by_itself.get():
        return work()
    outcome: list[Any] = [None]
    if is_main():
        outcome = [_outcome(work)]
    torch.distributed.broadcast_object_list(outcome, src=0)
    result, error = outcome[0]
    if error is not None:
        raise error
    return result  # type: ignore[no-any-return]


def _outcome(work: Callable[[], Result]) -> tuple[Result | None, Exception | None]:
    token = _by_itself.set(True)
    try:
        return work(), None
    except Exception as error:  # the others must not wait for ever
        return None, error
    finally:
        _by_itself.reset(token)


def leave() -> None:
    """Ends the group of processes, if there is one; the last thing they do together."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
