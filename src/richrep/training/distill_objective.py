"""The loss of a student with a linear head for each of several teachers, and perhaps one for the labels."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from richrep.backbones.backbone import Backbone
from richrep.training.head_init import make_head
from richrep.training.losses import (
    cosine_feature_loss,
    cross_entropy_loss,
    distillation_loss,
    hard_label_loss,
    mse_feature_loss,
)
from richrep.training.teachers import Match, TeachersInStep


class DistillObjective(nn.Module):
    """The sum over teachers of the losses of the student's heads, and perhaps that of its head for the labels.

    Attributes:
        body: images (B, 3, H, W) -> the student's features (B, D).
        heads: features -> what each teacher says of the image. label_head: features -> logits (B, K).
        in_step: teachers that run here; None: batches bring their outputs.
    """

    def __init__(
        self,
        student: Backbone,
        matches: Sequence[Match],
        *,
        num_classes: int,
        head_init: str,
        temperature: float,
        label_weight: float,
        seed: int,
        in_step: TeachersInStep | None = None,
    ) -> None:
        super().__init__()
        self.body = nn.Sequential(student.trunk, student.pool)
        generator = torch.Generator().manual_seed(seed)
        self.heads = nn.ModuleList(_first_head(student, match, head_init, generator) for match in matches)
        self.label_head = None
        if label_weight:
            self.label_head = make_head(
                student.feature_dim, num_classes, head_init, members=[student], generator=generator
            )
        self.losses = [match.loss for match in matches]
        self.temperature, self.label_weight, self.in_step = temperature, label_weight, in_step

    @property
    def all_heads(self) -> list[nn.Linear]:
        """Those of the teachers, then that of the labels."""
        return [*self.heads, *([self.label_head] if self.label_head is not None else [])]

    def forward(self, images: torch.Tensor, labels: torch.Tensor, *given: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W), labels (B,), outputs of the teachers or what they need to be computed -> mean loss."""
        targets = given if self.in_step is None else self.in_step.outputs((images, *given))
        features = self.body(images)  # (B, D)
        total = torch.zeros((), device=images.device)
        for head, loss, target in zip(self.heads, self.losses, targets, strict=True):
            total = total + self._loss(loss, head(features).float(), target.float())
        if self.label_head is not None:
            total = total + self.label_weight * cross_entropy_loss(self.label_head(features).float(), labels)
        return total

    def _loss(self, name: str, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        if name == "kl":
            return distillation_loss(student, teacher, temperature=self.temperature)
        return {"hard": hard_label_loss, "cosine": cosine_feature_loss, "mse": mse_feature_loss}[name](student, teacher)


@torch.no_grad()
def average_heads(heads: Sequence[nn.Linear]) -> nn.Linear:
    """One head whose weights and biases are the means of those of `heads`, so its logits are the mean of theirs."""
    average = copy.deepcopy(heads[0])
    average.weight.copy_(torch.stack([head.weight for head in heads]).mean(0))
    average.bias.copy_(torch.stack([head.bias for head in heads]).mean(0))
    return average


def _first_head(student: Backbone, match: Match, mode: str, generator: torch.Generator) -> nn.Linear:
    """The head that training for one teacher starts from."""
    is_logits = match.request.layer == "logits"
    mode = mode if is_logits else "default"
    head = make_head(student.feature_dim, match.dim, mode, members=[student], generator=generator)
    if not is_logits and match.dim == student.feature_dim:
        nn.init.eye_(head.weight)
        nn.init.zeros_(head.bias)
    return head
