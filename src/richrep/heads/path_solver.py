"""In which order the penalties of a path are solved, and from where: strong ones together, weak ones by following."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from richrep.heads.lbfgs import History, minimize_batch
from richrep.heads.objective import Objective
from richrep.heads.plan import Schedule
from richrep.heads.preconditioner import ClassBlocks, Diagonal, Preconditioner
from richrep.heads.samples import RotatedSamples

_MAX_BLOCK = 1024  # coordinates: measuring the blocks costs about as much as r/6 iterations
_ROUGH_TOL = 1e-4  # half the float32 evaluations of 1e-3 for 5 to 17 more passes (benchmarks/solver.py --case tf32)
_SMALL_BLOCKS = 2**26  # bytes; larger ones must be few beside the rows: factors cost 0.7·r²/N iterations a penalty

Start = Callable[[Sequence[int]], torch.Tensor]  # places of A penalties -> points (A, P), each in its coordinates


@dataclass(frozen=True, eq=False)
class Solved:
    """Where penalty `index` ended: the point (P,) in its own coordinates, and how it came there."""

    index: int
    point: torch.Tensor
    value: float
    iterations: int
    converged: bool


def solve_path(
    objective: Objective,
    start: Start,
    schedule: Schedule,
    *,
    tol: float,
    max_iter: int,
    rough: Objective | None = None,
) -> Iterator[Solved]:
    """The solutions from strong to weak: strong penalties as batches, weak ones each from where its neighbours lead.

    Weak penalties take many iterations from a cold start. But their solutions move almost linearly with log l2, and
    their Hessians change slowly, so the next one starts from the last two extrapolated, with the steps of the last ones
    in memory and the Hessian's blocks of one class each as the preconditioner.

    The same holds where every evaluation reads the features anew: weak penalties from a cold start, all sharing one
    reading, need about as many readings, and two to three times the products.

    Args:
        objective: of L penalties.
        start: where they begin; groups after the first begin at the last solution instead.
        schedule: how many go together.
        tol, max_iter: as for `minimize_batch`.
        rough: the same objective by faster, less accurate products. Batches begin with it, as far as it can tell
            progress from rounding, and finish with `objective`: the solutions are as accurate as without it.
    """
    order = torch.argsort(objective.penalties, descending=True).tolist()
    together = -(-len(order) // 3)
    path = _Follower(objective, order, schedule, tol=tol, max_iter=max_iter)
    for first in range(0, together, schedule.group):
        chosen = order[first : min(first + schedule.group, together)]
        index = torch.tensor(chosen, device=objective.scales.device)
        begin, before = start(chosen) if first == 0 else path.last_for(chosen), torch.zeros(len(chosen))
        options: dict[str, Any] = {"max_iter": max_iter, "num_pairs": schedule.pairs}
        if rough is not None:
            reached = minimize_batch(*rough.among(index), begin, tol=max(tol, _ROUGH_TOL), **options)
            begin, before = reached.points, reached.iterations
            del reached
        found = minimize_batch(*objective.among(index), begin, tol=tol, **options)
        del begin
        for place, i in enumerate(chosen):
            iterations, converged = int(before[place] + found.iterations[place]), bool(found.converged[place])
            solved = Solved(i, found.points[place].clone(), float(found.values[place]), iterations, converged)
            yield path.pass_on(solved)
        del found  # before the next group takes as much
    for i in order[together:]:
        yield path.solve(i)


class _Follower:
    """Solves one penalty after the other, from strong to weak, in the coordinates of the first that it is given."""

    def __init__(
        self, objective: Objective, order: Sequence[int], schedule: Schedule, *, tol: float, max_iter: int
    ) -> None:
        self._objective, self._order, self._schedule = objective, order, schedule
        self._tol, self._max_iter = tol, max_iter
        self._before: deque[Solved] = deque(maxlen=2)
        self._memory = History(schedule.carried_pairs)
        self._followed: list[int] = []

    def pass_on(self, solved: Solved) -> Solved:
        """`solved` itself, remembered for the start of the next."""
        self._before.append(solved)
        return solved

    def last_for(self, chosen: Sequence[int]) -> torch.Tensor:
        """The last solution in the coordinates of the penalties `chosen`, (A, P)."""
        last = self._before[-1]
        return torch.cat([self._objective.moved(last.point, last.index, i) for i in chosen])

    def solve(self, i: int) -> Solved:
        """Solves penalty `i`, the next in the order."""
        if not self._followed:
            self._same = self._objective.in_coordinates_of(i)
            num_left = len(self._order) - self._order.index(i)
            self._preconditioners = _Preconditioners(self._same, num_left, self._schedule.block_bytes)
        else:
            grown = self._same.penalty_diagonal(i) - self._same.penalty_diagonal(self._followed[-1])
            self._memory.add_quadratic(grown)
        self._followed.append(i)
        best, spent, converged, value = self._start_of(i), 0, False, torch.inf
        evaluate, curvature = self._same.among(torch.tensor([i], device=best.device))
        while not converged and spent < self._max_iter:
            self._memory.preconditioner = self._preconditioners.at(i, best)
            limit = min(self._preconditioners.patience, self._max_iter - spent)
            reached = minimize_batch(evaluate, curvature, best, tol=self._tol, max_iter=limit, memory=self._memory)
            best, value, converged = reached.points, float(reached.values), bool(reached.converged)
            spent += int(reached.iterations)
            self._preconditioners.age += int(reached.iterations)
        point = self._objective.moved(best[0], self._followed[0], i)[0]
        return self.pass_on(Solved(i, point, value, spent, converged))

    def _start_of(self, i: int) -> torch.Tensor:
        """Where the solutions before it lead, (1, P)."""
        before = [self._objective.moved(solved.point, solved.index, self._followed[0]) for solved in self._before]
        return self._same.extrapolated(i, self._order, before)


class _Preconditioners:
    """For one penalty after the other: blocks of classes, measured anew now and then; diagonals where those don't fit.

    Measuring the blocks takes a Gram matrix of the samples for each class, about as long as r/6 iterations; measuring
    the diagonal of samples that are not kept takes their coordinates, r/2K iterations. Both are measured again when
    the iterations since cost three times that.

    Attributes:
        age: iterations since the last measurement.
        patience: iterations after which one preconditioner has served.
    """

    def __init__(self, objective: Objective, num_penalties: int, max_bytes: int) -> None:
        self._objective = objective
        rank, classes = objective.scales.shape[1], objective.num_classes
        size = 4 * classes * (rank + 1) ** 2 * objective.scales.element_size()  # kept, factors, halves, inverses
        pays = size <= _SMALL_BLOCKS or rank**2 <= 8 * objective.samples.count
        self._uses_blocks = size <= max_bytes and pays and rank <= _MAX_BLOCK and num_penalties > 1
        self._measured: torch.Tensor | None = None  # of the cross-entropy alone
        self.age, self.patience = 0, max(100, rank // 2)
        is_kept = isinstance(objective.samples, RotatedSamples)
        self._diagonal_patience = 0 if is_kept else min(self.patience, 3 * rank // (2 * classes))

    def at(self, i: int, point: torch.Tensor) -> Preconditioner:
        """For penalty `i`, near `point` (1, P)."""
        penalty = self._objective.penalty_diagonal(i)
        if self._uses_blocks:
            if self._measured is None or self.age >= self.patience:
                self._measured, self.age = self._objective.class_blocks(i, point), 0
            return ClassBlocks(self._measured, penalty.view(self._objective.num_classes, -1))
        if self._measured is None or self.age >= self._diagonal_patience:
            self._measured = self._objective.curvature(torch.tensor([i], device=point.device), point)
            self._measured, self.age = self._measured.sub_(penalty), 0
        floor = torch.finfo(point.dtype).eps
        return Diagonal((self._measured + penalty).clamp_(min=floor))
