"""The logistic objective of many penalties at once, as the optimiser sees it: values, gradients, curvature."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from richrep.features.forward import tf32_products
from richrep.features.threads import Workers
from richrep.heads.lbfgs import Curvature, Evaluate
from richrep.heads.samples import Samples
from richrep.heads.softmax import cross_entropy_and_residual_

_WORTH_A_THREAD = 2**21  # multiplications; fewer are done before a thread has begun

_Sums = TypeVar("_Sums", bound=tuple[torch.Tensor, ...])


class Objective:
    """Values and gradients in the scaled coordinates; parameters (A, K·(r + 1)), the last of each class its bias.

    Args:
        samples: N centred samples with r coordinates.
        labels: (N,) int64, every class of [0, K) present.
        scales: (L, r), weight = scale · parameter.
        penalties: (L,) float64.
        workers: threads that share the rows, where there are enough; None means the caller's alone.
        max_logits: how many logits are held at once, at least those of 64 rows.
    """

    def __init__(
        self,
        samples: Samples,
        labels: torch.Tensor,
        scales: torch.Tensor,
        penalties: torch.Tensor,
        workers: Workers | None = None,
        max_logits: int = 2**20,
    ) -> None:
        self.samples, self.labels = samples, labels
        self.scales, self.penalties = scales, penalties
        self.num_classes = int(labels.max()) + 1
        self._workers, self._max_logits = workers, max_logits

    def unpack(self, active: torch.Tensor, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights (A, K, r) and biases (A, K, 1); the bias has Hessian at most ½, hence the factor √2."""
        shaped = points.view(len(points), self.num_classes, -1)
        return shaped[..., :-1] * self.scales[active][:, None], shaped[..., -1:] * 2**0.5

    def _sum(self, num_heads: int, sums: Callable[[Iterator[tuple[int, int]]], _Sums]) -> _Sums:
        """`sums` over all rows, given as (start, stop) of chunks whose logits and samples stay small.

        Where there is work enough, every worker sums over rows of its own. Unlike an operation that
        shares its work between the cores, that needs no barrier, and it shares all of the work.
        """
        count, dim = self.samples.count, max(1, self.samples.dim)
        parts = 1
        if self._workers is not None and count * dim * num_heads >= _WORTH_A_THREAD:
            parts = self._workers.count
        step = max(64, min(self._max_logits // num_heads, self.samples.max_values // dim) // parts)
        if self._workers is None or parts == 1:
            return sums(_chunks(0, count, step))
        edges = [count * i // parts for i in range(parts + 1)]
        chunks = [_chunks(start, stop, step) for start, stop in itertools.pairwise(edges)]
        others = [self._workers.pool.submit(sums, rows) for rows in chunks[1:]]
        result = sums(chunks[0])
        for other in others:  # in the order of the rows: the same sum every time
            for total, part in zip(result, other.result(), strict=True):
                total += part
        return result

    def among(self, chosen: torch.Tensor) -> tuple[Evaluate, Curvature]:
        """Value and curvature with problems counted within `chosen` (indices of penalties)."""

        def evaluate(active: torch.Tensor, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self(chosen[active], points)

        def curvature(active: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
            return self.curvature(chosen[active], points)

        return evaluate, curvature

    def with_tf32(self) -> Objective:
        """The same by TF32 products on CUDA: several times as fast, with 10 bits of every factor and float32 sums."""
        return _Tf32Objective(self.samples, self.labels, self.scales, self.penalties, self._workers, self._max_logits)

    def in_coordinates_of(self, i: int) -> Objective:
        """The same objective with every penalty in the coordinates of penalty `i`."""
        scales = self.scales[i].expand_as(self.scales)
        return Objective(self.samples, self.labels, scales, self.penalties, self._workers, self._max_logits)

    def moved(self, point: torch.Tensor, i: int, j: int) -> torch.Tensor:
        """The weights of `point` (P,), in the coordinates of penalty `i`, in those of penalty `j`, (1, P)."""
        shaped = point.view(self.num_classes, -1).clone()
        shaped[:, :-1] *= self.scales[i] / self.scales[j]
        return shaped.view(1, -1)

    def extrapolated(self, i: int, order: Sequence[int], before: Sequence[torch.Tensor]) -> torch.Tensor:
        """A start (1, P) for penalty `i` from the solutions `before` it in `order`: two extrapolated, or the only one.

        Solutions move almost linearly with log l2.
        """
        if len(before) < 2:
            return before[-1]
        place = order.index(i)
        far, near, here = (float(self.penalties[j].log()) for j in (order[place - 2], order[place - 1], i))
        if far == near:  # two equal penalties have no direction
            return before[1]
        return before[1] + (here - near) / (near - far) * (before[1] - before[0])

    def penalty_diagonal(self, i: int) -> torch.Tensor:
        """Diagonal (P,) of the penalty's Hessian: l2·scale² for each weight, 0 for each bias."""
        weights = self.penalties[i].to(self.scales) * self.scales[i].square()
        return torch.cat([weights, weights.new_zeros(1)]).repeat(self.num_classes)

    def curvature(self, active: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """Diagonal of the Hessian (A, K·(r + 1)): mean of p(1 - p)z² over the rows, plus the penalty."""
        weights, biases = self.unpack(active, points)
        count, classes, _ = weights.shape
        flat, flat_biases = weights.flatten(0, 1), biases.reshape(-1, 1)  # (A·K, r), (A·K, 1)
        on_columns = self.samples.to_columns(flat)

        def sums(chunks: Iterator[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
            total, bias_total = torch.zeros_like(flat), torch.zeros_like(flat_biases)
            for start, stop in chunks:
                chunk = self.samples.chunk(start, stop)  # (B, C)
                logits = torch.mm(on_columns, chunk.T).add_(flat_biases).view(count, classes, -1)
                probs = logits.softmax(1).view(len(flat), -1)
                spread = probs.mul_(1 - probs)  # (A·K, B)
                total.addmm_(spread, self.samples.to_coordinates(chunk).square())
                bias_total += spread.sum(1, keepdim=True)
            return total, bias_total

        total, bias_total = self._sum(len(flat), sums)
        squares = self.scales[active].square()[:, None]  # (A, 1, r)
        penalty = self.penalties[active].to(weights)[:, None, None]
        diagonal = (total.view_as(weights) / self.samples.count + penalty) * squares
        bias_diagonal = bias_total.view(count, classes, 1) * (2 / self.samples.count)
        floor = torch.finfo(points.dtype).eps
        return torch.cat([diagonal, bias_diagonal], dim=2).clamp_(min=floor).view(count, -1)

    def class_blocks(self, i: int, point: torch.Tensor) -> torch.Tensor:
        """The Hessian's blocks of one class each, (K, r + 1, r + 1), for penalty `i` at `point` (1, P).

        The penalty itself is left out.
        """
        weights, biases = self.unpack(torch.tensor([i], device=point.device), point)
        classes, rank = weights.shape[1:]

        def sums(chunks: Iterator[tuple[int, int]]) -> tuple[torch.Tensor]:
            blocks = point.new_zeros(classes, rank + 1, rank + 1)
            for start, stop in chunks:
                chunk = self.samples.to_coordinates(self.samples.chunk(start, stop))  # (B, r)
                probs = torch.addmm(biases[0].T, chunk, weights[0].T).softmax(1)
                for block, spread in zip(blocks, probs.mul_(1 - probs).T, strict=True):
                    weighted = (chunk * spread[:, None]).T  # (r, B)
                    block[:-1, :-1].addmm_(weighted, chunk)
                    block[:-1, -1] += weighted.sum(1)
                    block[-1, -1] += spread.sum()
            return (blocks,)

        (blocks,) = self._sum(classes, sums)
        blocks[:, -1, :-1] = blocks[:, :-1, -1]
        scales = torch.cat([self.scales[i], self.scales.new_full((1,), 2**0.5)])
        return blocks.div_(self.samples.count).mul_(scales).mul_(scales[:, None])

    def __call__(self, active: torch.Tensor, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        weights, biases = self.unpack(active, points)
        count, classes, rank = weights.shape
        on_columns = self.samples.to_columns(weights.flatten(0, 1))  # (A·K, C)
        flat_biases = biases.reshape(-1, 1)

        def sums(chunks: Iterator[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            losses = torch.zeros(count, dtype=torch.float64, device=points.device)
            slope, bias_slope = torch.zeros_like(on_columns), torch.zeros_like(flat_biases)
            for start, stop in chunks:
                chunk = self.samples.chunk(start, stop)  # (B, C)
                logits = torch.mm(on_columns, chunk.T).add_(flat_biases)  # (A·K, B)
                chunk_losses = cross_entropy_and_residual_(logits.view(count, classes, -1), self.labels[start:stop])
                losses += chunk_losses.sum(1, dtype=torch.float64)
                slope.addmm_(logits, chunk)  # logits hold the residuals now
                bias_slope += logits.sum(1, keepdim=True)
            return losses, slope, bias_slope

        losses, slope, bias_slope = self._sum(len(on_columns), sums)
        total, l2 = self.samples.count, self.penalties[active]
        values = losses / total + l2 / 2 * weights.square().sum((1, 2), dtype=torch.float64)
        gradients = torch.empty(count, classes, rank + 1, dtype=points.dtype, device=points.device)
        shaped = (
            self.samples.to_coordinates(slope)
            .view_as(weights)
            .div_(total)
            .add_(l2.to(weights)[:, None, None] * weights)
        )
        gradients[..., :-1] = shaped * self.scales[active][:, None]
        gradients[..., -1:] = bias_slope.view(count, classes, 1) / total * 2**0.5
        return values, gradients.view(count, -1)


class _Tf32Objective(Objective):
    def __call__(self, active: torch.Tensor, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with tf32_products():
            return super().__call__(active, points)


def _chunks(start: int, stop: int, step: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of chunks of at most `step` rows."""
    for first in range(start, stop, step):
        yield first, min(first + step, stop)
