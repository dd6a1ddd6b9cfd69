"""The contract of the second stage: fine-tuned members, frozen and side by side, get one head.

What is chosen must not be chosen on images that the networks were trained on. So a protocol is handed every member
twice: as trained on train alone, whose features of val are those of images it has not seen, for choosing and for the
score on val; and as trained on train and val, for the head that is kept. Test is not handed at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import nn

from richrep.backbones.backbone import Backbone
from richrep.evaluation.task import Task
from richrep.evaluation.transfer.cells import OnProgress
from richrep.features.feature_set import FeatureSet
from richrep.features.manifest import Precision
from richrep.features.memory import MemoryBudget
from richrep.features.rows import Features
from richrep.heads.linear import mapped_logits
from richrep.training.finetune import first_head
from richrep.training.run_folder import RunFolder


@dataclass(frozen=True, eq=False)
class TunedMembers:
    """Networks as stage 1 left them.

    Attributes:
        backbones: M, each with the head that it was trained with.
        features: of train and val together, the members' side by side, (N, D1 + D2 + …).
    """

    backbones: Sequence[Backbone]
    features: FeatureSet


@dataclass(frozen=True, eq=False)
class Stage2:
    """What a protocol of the second stage is handed.

    Attributes:
        selected: trained on train alone; tuned: trained on train and val (the same, where stage 1 does not refit).
        train_rows, val_rows: rows of the trainval images.
        weight_decay: that of stage 1; the middle one where val chose different ones for the members.
        folder: of the run, for the states of trainings.
    """

    task: Task
    selected: TunedMembers
    tuned: TunedMembers
    train_rows: np.ndarray
    val_rows: np.ndarray
    weight_decay: float
    seed: int
    folder: RunFolder
    memory: MemoryBudget
    device: str | None = None
    num_workers: int | None = None
    precision: Precision = "fp32"
    on_progress: OnProgress | None = None

    def mean_head(self, members: TunedMembers) -> nn.Linear:
        """The members' heads as one on their features side by side: its logits are the mean of theirs.

        Raises:
            RichrepError: heads of other classes than the data's, or of the same in another order.
        """
        return first_head(members.backbones, self.task.trainval, "cat-weights", seed=self.seed)

    def val_logits(self, head: nn.Linear) -> torch.Tensor:
        """Logits (N_val, K) of a head on the features of the selected members."""
        return logits_of(head, self.selected.features.take(self.val_rows).features)


@dataclass(frozen=True, eq=False)
class JointHead:
    """What came of the second stage.

    Attributes:
        head: on the features of the tuned members.
        val_logits: (N_val, K) of a head made in the same way, of selected members and train alone.
        hyperparameters, solver: as the record states them. select_s: seconds it took to get `val_logits`.
    """

    head: nn.Linear
    val_logits: torch.Tensor
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    solver: dict[str, Any] = field(default_factory=dict)
    select_s: float = 0.0


class Stage2Protocol(Protocol):
    """What every member of STAGE2_PROTOCOLS can do. A member is a dataclass: its fields are its options."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def name(self) -> str:
        """The key in STAGE2_PROTOCOLS."""
        ...

    @property
    def trains_on_images(self) -> bool:
        """Whether the members must take the same images, because they look at common random views."""
        ...

    def fit(self, stage: Stage2) -> JointHead:
        """The joint head."""
        ...


def logits_of(head: nn.Linear, features: Features) -> torch.Tensor:
    """Logits (N, K) of features (N, D), by the chunk."""
    return mapped_logits(features, head.weight.detach(), head.bias.detach(), lambda chunk: chunk)
