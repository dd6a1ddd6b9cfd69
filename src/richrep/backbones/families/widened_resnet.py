"""ResNets with every width multiplied: 2, 4 and 5 times ResNet-50. Not torchvision's wide ResNets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.resnet import Bottleneck

from richrep.backbones.checkpoint import Checkpoint
from richrep.backbones.families.family import Layout, linear_head
from richrep.backbones.families.metadata import read_preprocessing
from richrep.backbones.families.stem_pool import heed_stem_pool
from richrep.data.preprocessing import Geometry, Preprocessing

WIDTHS = {f"resnet50w{times}": 64 * times for times in (2, 4, 5)}  # channels after the first convolution
_BLOCKS_PER_STAGE = (3, 4, 6, 3)
_IMAGENET = Preprocessing(Geometry(size_px=(224, 224), resize_px=256))


class WidenedResNet(nn.Module):
    """Caron, Misra, Mairal, Goyal, Bojanowski, Joulin. Unsupervised Learning of Visual Features by Contrasting Cluster
    Assignments, NeurIPS 2020, https://arxiv.org/abs/2006.09882.

    torchvision's ResNet of bottlenecks with all widths in proportion to the first; where torchvision's
    wide_resnet50_2 widens only the inner convolution of each block, this one widens the outputs too. Names of the
    parameters as in torchvision. Differs from the paper: nothing.

    Args:
        width: channels after the first convolution; 64 gives torchvision's ResNet.
    """

    def __init__(self, blocks_per_stage: Sequence[int], width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        in_channels = width
        for i, num_blocks in enumerate(blocks_per_stage):
            self.add_module(f"layer{i + 1}", _make_stage(in_channels, width * 2**i, num_blocks, stride=2 if i else 1))
            in_channels = width * 2**i * Bottleneck.expansion
        self.num_stages = len(blocks_per_stage)
        self.feature_dim = in_channels

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> features (B, 32 * width)."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(images))))  # (B, width, H/4, W/4)
        for i in range(self.num_stages):
            x = self.get_submodule(f"layer{i + 1}")(x)
        return torch.mean(x, dim=(2, 3))


def _make_stage(in_channels: int, channels: int, num_blocks: int, *, stride: int) -> nn.Sequential:
    """Bottlenecks of `channels` inner channels; the first one strides and projects its input."""
    out_channels = channels * Bottleneck.expansion
    downsample = nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
    )
    first = Bottleneck(in_channels, channels, stride, downsample)
    return nn.Sequential(first, *(Bottleneck(out_channels, channels) for _ in range(num_blocks - 1)))


class WidenedResNetFamily:
    """Checkpoints with torchvision's names whose first convolution has 2, 4 or 5 times 64 channels."""

    name = "widened-resnet"
    yields_to: tuple[str, ...] = ()
    spelled = ""

    def architectures(self) -> Mapping[str, str]:
        """resnet50w2, resnet50w4 and resnet50w5."""
        return {
            name: f"ResNet-50, every width {width // 64} times, {32 * width} features" for name, width in WIDTHS.items()
        }

    def tags(self, architecture: str) -> Sequence[str]:
        """None: one preprocessing for all."""
        return ()

    def detect(self, checkpoint: Checkpoint) -> Sequence[str]:
        """By the first convolution, when the blocks are bottlenecks."""
        stem = checkpoint.tensors.get("conv1.weight")
        if stem is None or "layer1.0.conv3.weight" not in checkpoint.tensors:
            return []
        return [name for name, width in WIDTHS.items() if stem.shape == (width, 3, 7, 7)]

    def nearest(self, checkpoint: Checkpoint) -> Sequence[str]:
        """None: `detect` names the nearest already."""
        return ()

    def lay_out(self, architecture: str, checkpoint: Checkpoint) -> Layout:
        """Trunk up to the pooled features; head `fc`."""
        preprocessing, note = read_preprocessing(checkpoint, _IMAGENET, "resize 256, crop 224, ImageNet mean and std")
        trunk = WidenedResNet(_BLOCKS_PER_STAGE, WIDTHS[architecture])
        hinted = heed_stem_pool(trunk, checkpoint.hints)
        return Layout(
            trunk=trunk,
            preprocessing=preprocessing,
            feature_dim=trunk.feature_dim,
            tensors=checkpoint.tensors,
            notes=(note,),
            **linear_head(checkpoint.tensors, "fc", width=trunk.feature_dim),
            **hinted,
        )
