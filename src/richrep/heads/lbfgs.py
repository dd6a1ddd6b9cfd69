"""L-BFGS for a batch of independent smooth convex problems: one evaluation serves all that are still running."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from richrep.heads.preconditioner import Diagonal, Preconditioner

# values (A,) float64 and gradients (A, P) of the problems `active` (A,) at `points` (A, P)
Evaluate = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
# the diagonals of their Hessians (A, P), > 0
Curvature = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Minimum:
    """Where the L problems ended.

    Attributes:
        points: (L, P).
        values: (L,) float64.
        iterations: (L,) int64, gradient evaluations at accepted points.
        converged: (L,) bool; False where `max_iter` came first.
    """

    points: torch.Tensor
    values: torch.Tensor
    iterations: torch.Tensor
    converged: torch.Tensor


class History:
    """The last `size` steps and gradient changes of A problems, oldest first; H·gradient by the two-loop recursion."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.preconditioner: Preconditioner | None = None  # the Hessians as last measured; None means the identity
        self.steps: list[torch.Tensor] = []  # each (A, P)
        self.changes: list[torch.Tensor] = []  # each (A, P)
        self.inverse_curvatures: list[torch.Tensor] = []  # each (A, 1), 1/(s·y); 0 where the pair is not usable

    def add(self, step: torch.Tensor, change: torch.Tensor) -> None:
        self.steps.append(step)
        self.changes.append(change)
        self.inverse_curvatures.append(_inverse_curvature(step, change))
        if len(self.steps) > self.size:
            for tensors in (self.steps, self.changes, self.inverse_curvatures):
                tensors.pop(0)

    def keep(self, rows: torch.Tensor) -> None:
        for tensors in (self.steps, self.changes, self.inverse_curvatures):
            for i, tensor in enumerate(tensors):  # one after the other: never a second copy of all
                tensors[i] = tensor[rows]
        if self.preconditioner is not None:
            self.preconditioner = self.preconditioner.keep(rows)

    def add_quadratic(self, diagonal: torch.Tensor) -> None:
        """Makes the pairs those of the problems plus `diagonal`/2·x² (P,): changes grow by diagonal·step."""
        for step, change in zip(self.steps, self.changes, strict=True):
            change.addcmul_(step, diagonal)
        self.inverse_curvatures = [_inverse_curvature(s, y) for s, y in zip(self.steps, self.changes, strict=True)]

    def descent(self, gradients: torch.Tensor) -> torch.Tensor:
        """-H·gradient (A, P)."""
        direction = -gradients
        pairs = list(zip(self.steps, self.changes, self.inverse_curvatures, strict=True))
        weights = []
        for step, change, inverse in reversed(pairs):
            weight = inverse * (step * direction).sum(1, keepdim=True)
            direction.addcmul_(change, weight, value=-1)
            weights.append(weight)
        if self.preconditioner is not None:
            direction = self.preconditioner.solve(direction)
        if pairs:
            _, change, inverse = pairs[-1]
            scaled = change if self.preconditioner is None else self.preconditioner.solve(change)
            power = inverse * (change * scaled).sum(1, keepdim=True)  # y·H0·y / s·y: H0 is this much too large
            direction.div_(torch.where(power > 0, power, torch.ones_like(power)))
        for (step, change, inverse), weight in zip(pairs, reversed(weights), strict=True):
            direction.addcmul_(step, weight - inverse * (change * direction).sum(1, keepdim=True))
        return direction


def _inverse_curvature(step: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    """1/(s·y) (A, 1); 0 where rounding hides the positive curvature of a convex function."""
    curvature = (step * change).sum(1, keepdim=True)
    floor = torch.finfo(step.dtype).eps * step.norm(dim=1, keepdim=True) * change.norm(dim=1, keepdim=True)
    return torch.where(curvature > floor, 1 / curvature.masked_fill(curvature <= floor, 1.0), 0.0)


def _backtrack(
    evaluate: Evaluate,
    active: torch.Tensor,
    points: torch.Tensor,
    values: torch.Tensor,
    directions: torch.Tensor,
    slopes: torch.Tensor,
    *,
    max_trials: int = 12,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Steps that satisfy Armijo's rule: (new points, values, gradients, accepted); only failing problems try again."""
    new_points = points + directions
    new_values, gradients = evaluate(active, new_points)
    slack = 4 * torch.finfo(points.dtype).eps * values.abs()  # what rounding can add to a value
    accepted = new_values <= values + 1e-4 * slopes + slack
    lengths = torch.ones_like(values)
    for _ in range(max_trials):
        failing = (~accepted).nonzero().flatten()
        if len(failing) == 0:
            break
        rise = (new_values - values)[failing] - lengths[failing] * slopes[failing]
        best = -slopes[failing] * lengths[failing].square() / (2 * rise)  # minimum of the parabola through what we know
        low, high = 0.1 * lengths[failing], 0.5 * lengths[failing]
        lengths[failing] = torch.where(torch.isfinite(best), best.clamp(low, high), low)
        trial = points[failing] + lengths[failing].to(points)[:, None] * directions[failing]
        trial_values, trial_gradients = evaluate(active[failing], trial)
        new_points[failing], new_values[failing], gradients[failing] = trial, trial_values, trial_gradients
        enough = values[failing] + 1e-4 * lengths[failing] * slopes[failing] + slack[failing]
        accepted[failing] = trial_values <= enough
    return new_points, new_values, gradients, accepted


def minimize_batch(
    evaluate: Evaluate,
    curvature: Curvature,
    start: torch.Tensor,
    *,
    tol: float,
    max_iter: int,
    memory: History | None = None,
    num_pairs: int = 10,
    window: int = 3,
) -> Minimum:
    """Minimises L convex problems from `start` (L, P), scaled so that their Hessians are at most the identity there.

    After 10, 20, 40, 80, … iterations the Hessian's diagonal is measured anew and takes the identity's place: where
    the bound has become loose (weak penalties, samples fitted almost perfectly) this saves most iterations.

    A problem is finished when the decrease its quadratic model predicts and that of the last `window` iterations (a
    tenth of all, where that is more: who comes slowly has far to go) are both below `tol` times its value, or when no
    step along the model's direction decreases it (rounding decides then).

    Args:
        memory: steps of problems with almost the same Hessians, to go on from, and the preconditioner to use
            throughout; new steps are added to it.
        num_pairs: steps remembered where there is no `memory`; each takes two vectors (L, P).

    Source: Nocedal and Wright, Numerical Optimization, 2006, algorithms 7.4 and 7.5. Differs: line search and
    stopping by problem, finished problems leave the batch, the initial matrix is the measured diagonal.
    """
    total = len(start)
    points, iterations = start.clone(), torch.zeros(total, dtype=torch.int64)
    converged = torch.zeros(total, dtype=torch.bool)
    active = torch.arange(total, device=start.device)
    current = points.clone()
    values, gradients = evaluate(active, current)
    best_values = values.clone()
    recent = [values]  # values (A,) of the last iterations, oldest first
    goes_on = memory is not None
    memory = memory or History(num_pairs)
    for iteration in range(max_iter):
        if _is_time_to_measure(iteration) and not goes_on:
            memory.preconditioner = Diagonal(curvature(active, current))
        directions = memory.descent(gradients)
        slopes = (gradients * directions).sum(1).to(torch.float64)  # (A,), negative
        new_points, new_values, new_gradients, accepted = _backtrack(
            evaluate, active, current, values, directions, slopes
        )
        stalled = ~accepted
        new_points[stalled], new_values[stalled] = current[stalled], values[stalled]
        points[active], best_values[active] = new_points, new_values
        iterations[active.cpu()] += 1
        span = max(window, iteration // 10)
        recent = [*recent[-span:], new_values]
        small = tol * new_values.abs()
        finished = stalled | ((-slopes / 2 <= small) & (recent[0] - new_values <= small) & (iteration >= window))
        converged[active[finished].cpu()] = True
        memory.add(new_points - current, new_gradients - gradients)
        current, values, gradients = new_points, new_values, new_gradients
        if bool(finished.all()):
            break
        if bool(finished.any()):
            rows = (~finished).nonzero().flatten()
            active, current, values, gradients = active[rows], current[rows], values[rows], gradients[rows]
            recent = [old[rows] for old in recent]
            memory.keep(rows)
    return Minimum(points=points, values=best_values, iterations=iterations, converged=converged)


def _is_time_to_measure(iteration: int) -> bool:
    """At iterations 10, 20, 40, 80, …"""
    return iteration >= 10 and iteration % 10 == 0 and (iteration // 10).bit_count() == 1
