"""All cells of a grid at once against one at a time, and against running the network again in every epoch, in one run.

    python benchmarks/sgd_heads.py           one network on 10,000 CIFAR images, prints Markdown
    python benchmarks/sgd_heads.py --quick   on 1,000 images, a schedule of 6 epochs

The grids are six weight decays of the rich-representations probe on CIFAR (batch normalisation and a linear layer, 28
epochs of batches of 256), and the same six in sparse transfer's (a linear layer, 150 epochs of batches of 64).

- At once: `SgdHead.along` on cached features.
- One at a time: nn.BatchNorm1d, nn.Linear, autograd and torch.optim.SGD, on the same features and the same batches,
  held in memory as one tensor.
- The network in every epoch, as the papers do: one pass over the training images is measured (batches of 256,
  evaluation mode, no gradients, images decoded beforehand, the faster of two). A grid costs passes x epochs x cells,
  and the heads' own loop on top. That product is computed, not run.
- Random crops need a pass for each view that is kept: ours is also stated with one view an epoch, computed likewise.

Both sides alternate and the faster of two runs of each counts. Reads ../shared/data; without it a network with random
weights and random images stand in, and it says so.
"""

from __future__ import annotations

import argparse
import platform
import time
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import torch
from torch import nn

from richrep.backbones.addresses import load_backbone
from richrep.backbones.backbone import Backbone
from richrep.backbones.small_cnn import make_small_cnn
from richrep.data.datasets import load_dataset
from richrep.evaluation.environment import cpu_model
from richrep.evaluation.protocols.rrl_linear import RRL_LINEAR
from richrep.evaluation.protocols.sgd_linear import SgdLinearProtocol
from richrep.evaluation.protocols.sparse_linear import SPARSE_LINEAR
from richrep.heads.lr_factors import step
from richrep.heads.sgd import SgdHead
from richrep.heads.sgd_grid import SgdCell, SgdRecipe, batches_of_epoch

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
NETWORK = SHARED / "weights" / "akamaster_cifar10_resnet20-12fca82f.th"


def load_images(count: int) -> tuple[Backbone, torch.Tensor, torch.Tensor, str]:
    """A network, `count` images (N, 3, 32, 32) as it takes them, labels, and what they are."""
    if not SHARED.is_dir():
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(count) % 10
        means = torch.randn(10, 3, 32, 32, generator=generator)
        images = torch.randn(count, 3, 32, 32, generator=generator) + means[labels]
        what = "a small network and images, both random (../shared/data is absent)"
        return make_small_cnn(10, widths=(16, 64)), images, labels, what
    backbone = load_backbone(str(NETWORK))
    split = load_dataset(f"parquet:{SHARED / 'cifar10'}").train.first(count)
    geometry = backbone.preprocessing.geometry
    pixels = torch.stack([torch.from_numpy(geometry.apply(split.load_image(row)).copy()) for row in range(count)])
    images = backbone.preprocessing.normalize(pixels)
    return backbone, images, torch.from_numpy(split.labels), "akamaster's ResNet-20 on cifar10 (JPEG)"


def one_pass(backbone: Backbone, images: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Features (N, D) and seconds."""
    start = time.perf_counter()
    with torch.inference_mode():
        features = torch.cat([backbone(batch) for batch in images.split(256)])
    return features.clone(), time.perf_counter() - start


def torch_loop(features: torch.Tensor, labels: torch.Tensor, cell: SgdCell, protocol: SgdLinearProtocol) -> nn.Module:
    """One cell as the papers' scripts train it."""
    with torch.random.fork_rng():
        torch.manual_seed(cell.seed)
        linear = nn.Linear(features.shape[1], 10)
        if protocol.init == "normal":
            nn.init.normal_(linear.weight, std=0.01, generator=torch.Generator().manual_seed(cell.seed))
            nn.init.zeros_(linear.bias)
    norm = nn.BatchNorm1d(features.shape[1]) if protocol.batch_norm else nn.Identity()
    model = nn.Sequential(norm, linear)
    groups = [{"params": list(norm.parameters())}, {"params": linear.parameters(), "weight_decay": cell.weight_decay}]
    optimizer = torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=cell.lr,
        momentum=protocol.momentum,
        nesterov=protocol.nesterov,
    )
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(protocol.milestones), gamma=protocol.gamma)
    recipe = SgdRecipe(batch_size=protocol.batch_size, batch_norm=protocol.batch_norm)
    for epoch in range(protocol.epochs):
        for batch in batches_of_epoch(len(labels), recipe, seed=cell.seed, epoch=epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(features[batch]), labels[batch]).backward()
            optimizer.step()
        scheduler.step()
    return model.eval()


def head_of(protocol: SgdLinearProtocol) -> SgdHead:
    """The head of a protocol, without its learning rate and weight decay."""
    options = {name: getattr(protocol, name) for name in SgdRecipe.__dataclass_fields__ if hasattr(protocol, name)}
    return SgdHead(**options, lr_factors=step(protocol.epochs, protocol.milestones, protocol.gamma))


def compare(protocol: SgdLinearProtocol, features: torch.Tensor, labels: torch.Tensor, pass_s: float) -> None:
    """Prints one table."""
    cells = [SgdCell(protocol.lrs[0], decay) for decay in RRL_LINEAR.weight_decays]
    ours, theirs = [], []
    for _ in range(2):  # alternately
        start = time.perf_counter()
        found = head_of(protocol).along(features, labels, cells, num_classes=10)
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        models = [torch_loop(features, labels, cell, protocol) for cell in cells]
        theirs.append(time.perf_counter() - start)
    apart = max(
        float((head.logits(features) - model(features).detach()).abs().max())
        for head, model in zip(found.heads, models, strict=True)
    )
    at_once, one_by_one = min(ours), min(theirs)
    again = len(cells) * protocol.epochs * pass_s + one_by_one
    print(f"\n## {protocol.name}: {len(cells)} cells, {protocol.epochs} epochs of batches of {protocol.batch_size}\n")
    print("| side | heads | with the network | ratio to ours |")
    print("|---|---:|---:|---:|")
    print(f"| ours, all cells at once on cached features | {at_once:.2f} s | {at_once + pass_s:.2f} s | 1 |")
    many = at_once + protocol.epochs * pass_s
    print(f"| ours, with a random view for every epoch (computed) | {at_once:.2f} s | {many:.0f} s | |")
    print(
        f"| torch, one cell at a time on cached features | {one_by_one:.2f} s | {one_by_one + pass_s:.2f} s | "
        f"{one_by_one / at_once:.1f} (heads alone) |"
    )
    print(
        f"| torch, the network again in every epoch (computed) | {one_by_one:.2f} s | {again:.0f} s | "
        f"{again / (at_once + pass_s):.0f} with one view, {again / many:.1f} with one an epoch |"
    )
    print(f"\nLargest difference of a logit between the first two sides, on the training images: {apart:.1e}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-train", type=int, default=10_000, help="images to train on")
    parser.add_argument("--quick", action="store_true", help="1,000 images and 6 epochs")
    args = parser.parse_args()
    count = 1000 if args.quick else args.num_train
    versions = f"Python {platform.python_version()}, torch {metadata.version('torch')}"
    print(f"{cpu_model()}, {torch.get_num_threads()} threads, {versions}")
    backbone, images, labels, what = load_images(count)
    features, first_s = one_pass(backbone, images)
    pass_s = min(first_s, one_pass(backbone, images)[1])
    print(f"\n{what}, N = {count:,}, D = {features.shape[1]}; one pass of the network over the images: {pass_s:.2f} s.")
    for protocol in (RRL_LINEAR, SPARSE_LINEAR):
        compare(replace(protocol, epochs=6, milestones=(4,)) if args.quick else protocol, features, labels, pass_s)


if __name__ == "__main__":
    main()
