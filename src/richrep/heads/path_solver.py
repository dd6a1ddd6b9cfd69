"""In which order the penalties of a path are solved, and from where: strong ones together, weak ones by following."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from richrep.heads.coordinates import StreamedSamples
from richrep.heads.lbfgs import History, Minimum, minimize_batch
from richrep.heads.objective import Objective
from richrep.heads.preconditioner import ClassBlocks, Diagonal, Preconditioner

_STATE_BYTES = 2**26  # what the optimiser's history may take; more penalties than fit run one group after another
_TOGETHER = 40  # iterations streamed samples serve all penalties at once; what is slower is worth a better start
_MEMORY = 50  # steps carried from one penalty to the next
_MAX_BLOCK = 1024  # coordinates: measuring the blocks costs about as much as r/6 iterations


def solve_path(objective: Objective, start: torch.Tensor, *, tol: float, max_iter: int) -> Minimum:
    """Strong penalties together, as one batch; weak ones one after the other, each from where its neighbours lead.

    Weak penalties take many iterations from a cold start. But their solutions move almost linearly with log l2, and
    their Hessians change slowly, so the next one starts from the last two extrapolated, with the steps of the last ones
    in memory and the Hessian's blocks of one class each as the preconditioner. Where a pass over the samples is dear
    (they are streamed), all go together first.

    Args:
        objective: of L penalties.
        start: (L, K, r + 1), each in the coordinates of its penalty, as the points returned are.
        tol, max_iter: as for `minimize_batch`.
    """
    order = torch.argsort(objective.penalties, descending=True)
    streamed = isinstance(objective.samples, StreamedSamples)
    together = len(order) if streamed else -(-len(order) // 3)
    found = Minimum(
        points=start.flatten(1),
        values=torch.full((len(order),), torch.inf, dtype=torch.float64, device=start.device),
        iterations=torch.zeros(len(order), dtype=torch.int64),
        converged=torch.zeros(len(order), dtype=torch.bool),
    )
    size = start[0].numel() * start.element_size()
    group = max(1, _STATE_BYTES // (26 * size))  # 26 vectors: history, points, gradients
    for first in range(0, together, group):
        chosen = order[first : min(first + group, together)]
        limit = min(_TOGETHER, max_iter) if streamed else max_iter
        evaluate = objective.among(chosen)
        found.put(chosen, minimize_batch(*evaluate, found.points[chosen], tol=tol, max_iter=limit))
    if max_iter > _TOGETHER or not streamed:
        left = [i for i in order.tolist() if not found.converged[i] and found.iterations[i] < max_iter]
        if left:
            _follow(objective, found, order.tolist(), left, tol=tol, max_iter=max_iter)
    return found


def _follow(
    objective: Objective, found: Minimum, order: Sequence[int], left: Sequence[int], *, tol: float, max_iter: int
) -> None:
    """Solves the penalties `left` from strong to weak, in the coordinates of the first of them."""
    same = objective.in_coordinates_of(left[0])
    memory = History(_MEMORY)
    preconditioners = _Preconditioners(same, len(left))
    for place, i in enumerate(left):
        one = torch.tensor([i], device=found.points.device)
        evaluate, curvature = same.among(one)
        before = [objective.moved(found.points[j], j, left[0]) for j in order[: order.index(i)][-2:]]
        begun = [objective.moved(found.points[i], i, left[0])] * bool(found.iterations[i])
        starts = [*begun, *same.extrapolated(i, order, before)]
        best = starts[0]
        if len(starts) > 1:
            best = min(starts, key=lambda point: float(evaluate(torch.zeros_like(one), point)[0]))
        if place:
            memory.add_quadratic(same.penalty_diagonal(i) - same.penalty_diagonal(left[place - 1]))
        spent, converged = int(found.iterations[i]), False
        while not converged and spent < max_iter:
            memory.preconditioner = preconditioners.at(i, best)
            limit = min(preconditioners.patience, max_iter - spent)
            reached = minimize_batch(evaluate, curvature, best, tol=tol, max_iter=limit, memory=memory)
            best, converged = reached.points, bool(reached.converged)
            spent += int(reached.iterations)
            preconditioners.age += int(reached.iterations)
        found.put(
            one,
            replace(reached, points=objective.moved(best[0], left[0], i), iterations=torch.tensor([spent])),
        )


class _Preconditioners:
    """For one penalty after the other: blocks of classes, measured anew now and then; diagonals where those don't fit.

    Measuring the blocks takes a Gram matrix of the samples for each class, about as long as r/6 iterations. They are
    measured again when the iterations since cost three times that.

    Attributes:
        age: iterations since the blocks were measured.
        patience: iterations after which one preconditioner has served.
    """

    def __init__(self, objective: Objective, num_penalties: int) -> None:
        self._objective = objective
        rank, classes = objective.scales.shape[1], objective.num_classes
        size = 4 * classes * (rank + 1) ** 2 * objective.scales.element_size()  # kept, factors, halves, inverses
        fits = size <= _STATE_BYTES and rank <= _MAX_BLOCK and not isinstance(objective.samples, StreamedSamples)
        self._uses_blocks = fits and num_penalties > 1
        self._blocks: torch.Tensor | None = None
        self.age, self.patience = 0, max(100, rank // 2)

    def at(self, i: int, point: torch.Tensor) -> Preconditioner:
        """For penalty `i`, near `point` (1, P)."""
        if not self._uses_blocks:
            return Diagonal(self._objective.curvature(torch.tensor([i], device=point.device), point))
        if self._blocks is None or self.age >= self.patience:
            self._blocks, self.age = self._objective.class_blocks(i, point), 0
        penalty = self._objective.penalty_diagonal(i).view(self._objective.num_classes, -1)
        return ClassBlocks(self._blocks, penalty)
