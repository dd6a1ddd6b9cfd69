"""The two ends of a path: where its penalties start, and the heads that their solutions are handed over as."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from richrep.features.normalize import Normalization
from richrep.features.pca import Pca
from richrep.heads.basis import SampleBasis
from richrep.heads.coordinates import Coordinates
from richrep.heads.linear import Linear
from richrep.heads.objective import Objective
from richrep.heads.path_solver import Solved


class Start:
    """Where penalties begin: weights 0 and the bias that is best then, the log class frequency; or near a solution."""

    def __init__(self, objective: Objective, labels: torch.Tensor) -> None:
        self._scales = objective.scales
        self._biases = torch.bincount(labels).to(objective.scales).div(len(labels)).log()
        self._weights: torch.Tensor | None = None

    def begin_near(self, near: Linear, fitted: Normalization, coordinates: Coordinates) -> None:
        """Begins at a solution on the features, weights (K, D) and biases (K,), if it is finite and N >= D."""
        weights, biases = (tensor.to(torch.float64) for tensor in near)
        if isinstance(coordinates.basis, SampleBasis) or not bool(biases.isfinite().all()):
            return
        if fitted.folds:
            weights = weights / fitted.scale
        self._weights = coordinates.basis.to_coordinates(weights.to(self._scales))  # (K, r)
        self._biases = (biases + weights @ coordinates.mean).to(self._scales)

    def __call__(self, chosen: Sequence[int]) -> torch.Tensor:
        """Points (A, P) of the penalties at the places `chosen`."""
        scales = self._scales[torch.tensor(chosen, device=self._scales.device)]  # (A, r)
        start = scales.new_zeros(len(chosen), len(self._biases), scales.shape[1] + 1)
        start[..., -1] = self._biases / 2**0.5
        if self._weights is not None:
            start[..., :-1] = self._weights / scales[:, None]
        return start.view(len(chosen), -1)


@dataclass(frozen=True, eq=False)
class PathPoint:
    """The head of one penalty of a path.

    Attributes:
        index: place of its penalty in the caller's list.
        weights: (K, D) on the features as they came, unless `normalization` does not fold: then on its output.
        biases: (K,); -inf for a class without a training row.
        objective: the objective at the solution.
        normalization: fitted on the training rows.
    """

    index: int
    l2: float
    weights: torch.Tensor
    biases: torch.Tensor
    objective: float
    iterations: int
    converged: bool
    normalization: Normalization | Pca


@dataclass(frozen=True, eq=False)
class Handover:
    """Turns solutions into heads on the features, and gives them to `take`.

    Attributes:
        present: (K',) the classes of [0, `num_classes`) that have a row.
        l2s: the penalties as the caller gave them.
    """

    coordinates: Coordinates
    fitted: Normalization
    objective: Objective
    present: torch.Tensor
    num_classes: int
    l2s: Sequence[float]
    take: Callable[[PathPoint], None]

    def __call__(self, waiting: list[Solved]) -> None:
        """Gives the heads of all that wait, and empties the list; by samples that is one reading of the features."""
        if not waiting:
            return
        chosen = torch.tensor([solved.index for solved in waiting], device=self.present.device)
        weights, biases = self.objective.unpack(chosen, torch.stack([solved.point for solved in waiting]))
        columns = self.coordinates.basis.to_columns(weights.flatten(0, 1))  # (A·K', D)
        del weights
        shaped = columns.view(len(waiting), len(self.present), -1)
        for solved, own, offsets in zip(waiting, shaped, biases[..., 0], strict=True):
            self.take(self._head(solved, own.to(torch.float64), offsets.to(torch.float64)))
        waiting.clear()

    def _head(self, solved: Solved, columns: torch.Tensor, offsets: torch.Tensor) -> PathPoint:
        """From weights (K', D) on the centred, normalised features and biases (K',), both float64."""
        offsets = offsets - columns @ self.coordinates.mean
        if self.fitted.folds:
            columns = columns * self.fitted.scale
        dtype = self.coordinates.samples.dtype
        weights = torch.zeros(self.num_classes, columns.shape[1], dtype=dtype, device=columns.device)
        biases = torch.full((self.num_classes,), -torch.inf, dtype=dtype, device=columns.device)
        weights[self.present], biases[self.present] = columns.to(dtype), offsets.to(dtype)
        return PathPoint(
            index=solved.index,
            l2=self.l2s[solved.index],
            weights=weights,
            biases=biases,
            objective=solved.value,
            iterations=solved.iterations,
            converged=solved.converged,
            normalization=self.fitted,
        )
