"""Supervised pretraining: trains trunk and head with cross-entropy."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch.nn import functional as F

from richrep.backbones.backbone import Backbone
from richrep.backbones.blank import isolated_rng
from richrep.backbones.hashing import sha256_of_tensors
from richrep.data.split import Split
from richrep.errors import RichrepError
from richrep.training.loop import cosine_lr, load_pixels, shuffled_batches, train_steps


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
    network = torch.nn.ModuleDict({"trunk": trained.trunk, "pool": trained.pool, "head": trained.head}).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=weight_decay)
    head, trunk = trained.head, trained.trunk

    def loss_of_batch(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(head(trunk(images)), labels)

    warmup = max(1, num_steps // 10)
    with isolated_rng(seed):
        train_steps(
            loss_of_batch,
            _batches(trained, split, batch_size, torch.Generator().manual_seed(seed)),
            optimizer,
            num_steps=num_steps,
            lr_factor=lambda step: cosine_lr(step, num_steps=num_steps, warmup_steps=warmup),
        )
    network.eval()
    return replace(
        trained,
        address=f"pretrain({backbone.address}, {split.dataset}, steps={num_steps}, seed={seed})",
        sha256=sha256_of_tensors(network.state_dict()),
        load_report=(
            f"trained for {num_steps} steps of {batch_size} images of {split.dataset}/{split.part}, seed {seed}",
        ),
    )


def _batches(
    backbone: Backbone, split: Split, batch_size: int, generator: torch.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    pixels, labels = load_pixels(split, backbone.preprocessing.geometry), torch.from_numpy(split.labels)
    for rows in shuffled_batches(len(split), batch_size, generator):
        yield backbone.preprocessing.normalize(pixels[rows]), labels[rows]
