"""The ensemble of several networks' own probes: what averaging predictions gives without a joint probe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from richrep.backbones.backbone import Backbone
from richrep.evaluation.facts import backbone_facts
from richrep.evaluation.measure import Outcome
from richrep.evaluation.metrics import score
from richrep.evaluation.record import Record


def mean_logits(logits: Sequence[torch.Tensor]) -> torch.Tensor:
    """(N, K), the ensemble of members' own probes: the mean of their logits (N, K).

    Source: the "cat_sub" control of rich representations (TjuJianyu/RRL), which tells the gain of a joint probe from
    that of averaging predictions.
    """
    return torch.stack(list(logits)).mean(0)


def measure_ensemble(backbones: Sequence[Backbone], members: Sequence[Outcome], common: dict[str, Any]) -> Outcome:
    """The mean of the members' logits as a record of kind "ensemble"; nothing is chosen or fitted beyond the members.

    Args:
        members: outcomes of the probes of `backbones`, in their order, which still have their logits.
    """
    parts = members[0].scored
    means = {part: mean_logits([member.scored[part][0] for member in members]) for part in parts}
    record = Record(
        kind="ensemble",
        representation=f"ensemble({'+'.join(backbone.name for backbone in backbones)})",
        backbones=tuple(backbone_facts(backbone, backbone.name) for backbone in backbones),
        feature_dim=sum(backbone.feature_dim for backbone in backbones),
        protocol=members[0].record.protocol,
        hyperparameters={"of_members": [member.record.hyperparameters for member in members]},
        metrics={part: score(means[part], labels, means[part].shape[1]) for part, (_, labels) in parts.items()},
        elapsed_s={
            name: round(max(values) if name == "extract" else sum(values), 3)  # one pass served all members
            for name in ("extract", "select", "fit")
            if (values := [member.record.elapsed_s.get(name, 0.0) for member in members])
        },
        **common,
    )
    total = round(sum(record.elapsed_s.values()), 3)
    record = record.model_copy(update={"elapsed_s": record.elapsed_s | {"total": total}})
    return Outcome(record, means["test"].argmax(1) == parts["test"][1])
