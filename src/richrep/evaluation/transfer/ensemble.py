"""The control of two-stage fine-tuning: the mean of the members' logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from richrep.evaluation.transfer.stage2 import JointHead, Stage2


@dataclass(frozen=True)
class Ensemble:
    """The mean of the fine-tuned members' logits; nothing is trained or chosen.

    Source: TjuJianyu/RRL, cat_sub. It is where the joint head starts, so what that gains over it is the second stage's.
    """

    name: str = "ensemble"
    trains_on_images: ClassVar[bool] = False

    def fit(self, stage: Stage2) -> JointHead:
        """The members' heads side by side, divided by their number."""
        return JointHead(stage.mean_head(stage.tuned), stage.val_logits(stage.mean_head(stage.selected)))
