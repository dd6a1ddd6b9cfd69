"""The members after stage 1: their networks, features and scores, read from their runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from richrep.backbones.addresses import load_backbone
from richrep.backbones.backbone import Backbone
from richrep.evaluation.metrics import accuracy
from richrep.evaluation.task import ExtractOptions, TaskFeatures, extract_task, with_cache
from richrep.evaluation.transfer.stage2 import TunedMembers, logits_of
from richrep.evaluation.transfer.two_stage_plan import Plan
from richrep.features.extract import extract_features
from richrep.features.feature_set import FeatureSet, concat_features
from richrep.features.memory import MemoryBudget
from richrep.heads.estimator import make_linear
from richrep.training.head_init import linear_of_head


@dataclass(frozen=True, eq=False)
class Tuned:
    """What stage 2 and its controls are made of.

    Attributes:
        selected, tuned: as in `Stage2`.
        features: of the tuned members, each by itself. test: of all side by side.
        val_labels: (N_val,). val_accuracy: of each selected member by its own head.
        member_logits: (M, N, K) on test, of each tuned member by its own head.
        elapsed_s: of loading and extracting.
    """

    selected: TunedMembers
    tuned: TunedMembers
    features: TaskFeatures
    test: FeatureSet
    val_labels: torch.Tensor
    val_accuracy: tuple[float, ...]
    member_logits: torch.Tensor
    elapsed_s: float

    @property
    def member_correct(self) -> torch.Tensor:
        """(M, N) bool, which test images each tuned member has right."""
        return self.member_logits.argmax(2) == self.test.labels

    @property
    def mean_correct(self) -> torch.Tensor:
        """(N,) bool, the same of the mean of the members' logits."""
        return self.member_logits.mean(0).argmax(1) == self.test.labels


def load_tuned(plan: Plan, extraction: ExtractOptions, memory: MemoryBudget) -> Tuned:
    """The members of finished runs, extracted: all of the data with the tuned, train and val with the selected."""
    start = time.perf_counter()
    tuned = _load(plan, "")
    features = extract_task(tuned, plan.task, extraction, val_fraction=plan.protocol.val_fraction, seed=plan.seed)
    selected, on_selected = tuned, list(features.trainval)
    if plan.protocol.refit:  # else the networks that the runs kept are those trained on train alone
        selected = _load(plan, "/selected")
        on_selected = extract_features(selected, plan.task.trainval, **with_cache(extraction))
    val = [found.take(features.val_rows) for found in on_selected]
    of_selected = [logits_of(own_head(one), found.features) for one, found in zip(selected, val, strict=True)]
    of_tuned = [logits_of(own_head(one), found.features) for one, found in zip(tuned, features.test, strict=True)]
    return Tuned(
        selected=TunedMembers(selected, concat_features(on_selected, max_bytes=memory.kept)),
        tuned=TunedMembers(tuned, concat_features(features.trainval, max_bytes=memory.kept)),
        features=features,
        test=concat_features(features.test, max_bytes=memory.kept),
        val_labels=val[0].labels,
        val_accuracy=tuple(accuracy(preds=logits.argmax(1), labels=val[0].labels) for logits in of_selected),
        member_logits=torch.stack(of_tuned),
        elapsed_s=time.perf_counter() - start,
    )


def own_head(backbone: Backbone) -> nn.Linear:
    """The backbone's own head as one layer on its features."""
    return make_linear(*linear_of_head(backbone))


def _load(plan: Plan, part: str) -> Sequence[Backbone]:
    out = Path(plan.where.out).expanduser()
    return [
        replace(load_backbone(f"run:{out / run}{part}"), name=member.name)
        for run, member in zip(plan.member_runs, plan.members, strict=True)
    ]
