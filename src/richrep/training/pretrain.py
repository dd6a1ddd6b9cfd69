"""Supervised pretraining: trains trunk and head with cross-entropy."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import nn

from richrep.backbones.backbone import Backbone
from richrep.backbones.hashing import sha256_of_tensors
from richrep.data.split import Split
from richrep.errors import RichrepError
from richrep.training.batches import ImageBatches
from richrep.training.loop import train
from richrep.training.loop_values import LoopOptions
from richrep.training.losses import cross_entropy_loss
from richrep.training.optimizers import OptimizerOptions, make_optimizer
from richrep.training.parameter_groups import make_parameter_groups
from richrep.training.schedules import Schedule


def pretrain_supervised(
    backbone: Backbone,
    split: Split,
    *,
    num_steps: int,
    batch_size: int = 64,
    lr: float = 0.1,
    weight_decay: float = 5e-4,
    seed: int = 0,
) -> Backbone:
    """A copy of `backbone` whose trunk and head were trained on `split` with cross-entropy; images are not augmented.

    SGD with Nesterov momentum 0.9, the learning rate warmed up over the first tenth of the steps, then half a cosine
    to 0. Runs on the CPU; the same seed gives the same weights on the same machine.

    Args:
        backbone: with a head of as many classes as `split` has.
        split: labelled images, held decoded in memory.
        num_steps: steps of the optimizer; batch_size: images in each.
        lr: peak learning rate. weight_decay: on all parameters.
        seed: order of the images, and dropout where the network has it; the global generators are not disturbed.

    Raises:
        RichrepError: the head does not fit the classes, or training diverged.
    """
    if backbone.head is None or backbone.num_classes != split.num_classes:
        raise RichrepError(
            f"{backbone.name} has a head of {backbone.num_classes or 'no'} classes, {split.dataset}/{split.part} has "
            f"{split.num_classes}. Make the backbone with as many classes."
        )
    trained = replace(
        backbone,
        trunk=copy.deepcopy(backbone.trunk),
        pool=copy.deepcopy(backbone.pool),
        head=copy.deepcopy(backbone.head),
    )
    assert trained.head is not None
    objective = _Supervised(trained.trunk, trained.head)
    groups = make_parameter_groups(trained.trunk, trained.head, lr=lr, weight_decay=weight_decay)
    train(
        objective,
        ImageBatches(split, backbone.preprocessing, batch_size, seed=seed, drop_last=True),
        make_optimizer(groups, OptimizerOptions("sgd", momentum=0.9, nesterov=True)),
        LoopOptions(num_steps=num_steps, seed=seed, device="cpu"),
        schedule=Schedule("cosine", warmup_steps=max(1, num_steps // 10)),
    )
    tensors = torch.nn.ModuleDict({"trunk": trained.trunk, "pool": trained.pool, "head": trained.head}).eval()
    return replace(
        trained,
        address=f"pretrain({backbone.address}, {split.dataset}, steps={num_steps}, seed={seed})",
        sha256=sha256_of_tensors(tensors.state_dict()),
        load_report=(
            f"trained for {num_steps} steps of {batch_size} images of {split.dataset}/{split.part}, seed {seed}",
        ),
    )


class _Supervised(nn.Module):
    """Cross-entropy of trunk and head."""

    def __init__(self, trunk: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) and labels (B,) -> mean loss."""
        return cross_entropy_loss(self.head(self.trunk(images)), labels)
