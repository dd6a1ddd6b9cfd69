"""Our second stage: logistic regression on the frozen features, side by side."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from richrep.evaluation.selection import DEFAULT_CS, refit_logistic, select_logistic
from richrep.evaluation.transfer.stage2 import JointHead, Stage2
from richrep.heads.linear import Linear


@dataclass(frozen=True)
class TwoStageLogistic:
    """Two-stage fine-tuning, ours: a logistic head on the members' features, penalty and normalisation chosen on val.

    They are chosen with members trained on train alone, heads fitted on train; the head that is kept is fitted with
    them on train and val, on the features of the members that stage 1 trained on both. Both begin at the members'
    averaged heads, which changes the time and not the result, as the objective is convex.

    Attributes:
        cs: scikit-learn's C; the penalty is l2 = 1/(N_train·C).
        normalizations: those of the logistic probe that a linear layer can hold, since the joint head is kept as one.

    Source: ours, after the two-stage fine-tuning of TjuJianyu/RRL: the same features and start, but the optimum of a
    tuned objective in place of 1 or 2 epochs of SGD.
    """

    name: str = "two-stage-logistic"
    cs: tuple[float, ...] = DEFAULT_CS
    normalizations: tuple[str, ...] = ("none", "standard", "block-rms")
    trains_on_images: ClassVar[bool] = False

    def fit(self, stage: Stage2) -> JointHead:
        """The head fitted on train and val."""
        start = time.perf_counter()
        found = select_logistic(
            stage.selected.features,
            stage.train_rows,
            stage.val_rows,
            cs=self.cs,
            normalizations=self.normalizations,
            near=_tensors(stage.mean_head(stage.selected)),
            memory=stage.memory,
        )
        select_s = time.perf_counter() - start
        chosen = {"l2": found.best.l2, "normalization": found.best.normalization}
        near = _tensors(stage.mean_head(stage.tuned))
        head = refit_logistic(stage.tuned.features, chosen, near, memory=stage.memory)
        return JointHead(head.to_linear(), found.val_logits, chosen, found.solver, select_s)


def _tensors(head: nn.Linear) -> Linear:
    return head.weight.detach(), head.bias.detach()
