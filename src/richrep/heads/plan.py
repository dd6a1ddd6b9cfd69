"""How a fit is done: by columns or by samples, whole or in blocks, and how many penalties at once, as memory allows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from richrep.features.feature_set import Block
from richrep.features.memory import MemoryBudget

Spans = tuple[tuple[int, int], ...]

_MAX_SQUARE = 8192  # rows of a matrix that is taken apart whole, 9·8192³ operations: a minute or two
_MAX_BLOCK = 4096  # columns of a block where there are several
_MAX_WORKERS = 8  # more would wait for the interpreter
_PAIRS, _FEWEST_PAIRS, _MOST_PAIRS = 10, 3, 50  # steps the optimiser remembers: of a batch, at least, of a path
_OTHER_VECTORS = 22  # points, gradients, directions, what one evaluation makes, what is kept of the solutions


def choose_spans(count: int, dim: int, blocks: Sequence[Block] | None, budget: MemoryBudget) -> Spans | None:
    """The (start, stop) of the columns whose Gram matrices are taken apart; None: that of the samples is, N < D.

    In this order: the samples where they are fewer, all columns, each member's, each member's in pieces.
    """
    if count < dim and count <= _MAX_SQUARE and _taken_apart_bytes(count, count) <= budget.square:
        return None
    if dim <= _MAX_SQUARE and _taken_apart_bytes(dim, dim) <= budget.square:
        return ((0, dim),)
    widest = max(1, min(dim, _MAX_BLOCK, _widest_block(dim, budget.square)))
    members = [(block.start, block.stop) for block in blocks] if blocks else [(0, dim)]
    return tuple(piece for start, stop in members for piece in _pieces(start, stop, widest))


def _taken_apart_bytes(dim: int, widest: int) -> int:
    """Blocks of a Gram matrix (D, D) in float64, as eigenvectors in float32, and LAPACK's work on one of them."""
    return 12 * dim * widest + 16 * widest**2


def _widest_block(dim: int, max_bytes: int) -> int:
    """The largest width whose `_taken_apart_bytes` are at most `max_bytes`: the root of the quadratic."""
    return int((math.sqrt((12 * dim) ** 2 + 64 * max_bytes) - 12 * dim) / 32)


def _pieces(start: int, stop: int, widest: int) -> list[tuple[int, int]]:
    """[start, stop) in as few equal pieces (but for one column) as none is wider than `widest`."""
    count = -(-(stop - start) // widest)
    edges = [start + (stop - start) * i // count for i in range(count + 1)]
    return list(itertools.pairwise(edges))


@dataclass(frozen=True)
class Schedule:
    """What is done at once.

    Attributes:
        group: penalties solved as one batch; results: penalties whose weights are held at once.
        pairs: steps that the batch remembers; carried_pairs: that are carried from one penalty to the next.
        block_bytes: for Hessian blocks of one class each.
        workers: threads that share the rows; each has sums of its own.
    """

    group: int
    results: int
    pairs: int = _PAIRS
    carried_pairs: int = _MOST_PAIRS
    block_bytes: int = MemoryBudget.state
    workers: int = 1


def make_schedule(
    num_penalties: int, *, shape: tuple[int, int, int], itemsize: int, budget: MemoryBudget, on_cpu: bool = True
) -> Schedule:
    """The schedule for L penalties with K classes, r coordinates and D columns, `shape` (K, r, D).

    Args:
        itemsize: bytes of a number.
        on_cpu: whether threads can share the rows; an accelerator shares them by itself.

    Raises:
        RichrepError: not even one penalty fits.
    """
    classes, rank, dim = shape
    vector = itemsize * classes * (max(rank, dim) + 1)
    workers = min(torch.get_num_threads(), _MAX_WORKERS) if on_cpu else 1
    results = max(1, budget.state // (5 * vector))  # the weights in float64, too
    if budget.limit is None:
        group = max(1, budget.state // (26 * vector))
        return Schedule(min(group, num_penalties), results, block_bytes=budget.state, workers=workers)
    units = budget.state // vector
    least = 2 * _FEWEST_PAIRS + _OTHER_VECTORS
    budget.check_state(
        least * vector, f"the optimiser for one penalty ({least} vectors of {classes:,} classes x {dim:,} features)"
    )
    if units < least + workers + 2 * _PAIRS:
        workers = 1
    carried = min(_MOST_PAIRS, (units - _OTHER_VECTORS - workers + 1) // 2)
    group = max(1, (units - 10) // (2 * _PAIRS + _OTHER_VECTORS - 10 + workers - 1))
    return Schedule(
        group=min(group, num_penalties),
        results=max(1, min(results, group)),
        pairs=min(_PAIRS, carried),
        carried_pairs=carried,
        block_bytes=budget.state // 2,
        workers=workers,
    )
