"""When to stop before the last step: val no longer rises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Evaluations = Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class EarlyStop:
    """Stop when `metric` on val has not risen for `patience` evaluations, and keep the weights of the best one."""

    patience: int
    metric: str = "accuracy"

    def best_step(self, evaluations: Evaluations) -> int | None:
        """Step of the best of `evaluations`, {"step": …, metric: …} each, the first of equal ones; None for none."""
        if not evaluations:
            return None
        return int(max(evaluations, key=lambda scores: scores[self.metric])["step"])

    def is_over(self, evaluations: Evaluations) -> bool:
        """Whether val has not risen for as long as one waits."""
        best = self.best_step(evaluations)
        return best is not None and sum(scores["step"] > best for scores in evaluations) >= self.patience
