"""ResNet-18 for images of 32 pixels, also 2 and 4 times as wide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from richrep.backbones.checkpoint import Checkpoint
from richrep.backbones.families.family import Layout, linear_head
from richrep.backbones.families.metadata import read_preprocessing
from richrep.data.preprocessing import Geometry, Preprocessing

WIDTHS = {"cifar_resnet18": 64, "cifar_resnet18w2": 128, "cifar_resnet18w4": 256}  # channels of the first convolution
_BLOCKS_PER_STAGE = 2
_CIFAR = Preprocessing(
    Geometry(size_px=(32, 32), resize_px=32), mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010)
)


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm, added to the input or, where the shape changes, to its projection."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride > 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, channels, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class CifarResNet18(nn.Module):
    """He, Zhang, Ren, Sun. Deep Residual Learning for Image Recognition, CVPR 2016. https://arxiv.org/abs/1512.03385.

    ResNet-18 with a first convolution of 3x3 and stride 1, and no pooling after it. Names of the parameters as in
    kuangliu/pytorch-cifar. Differs from that: the last map is averaged whole, which is the same at 32 pixels.

    Args:
        width: channels of the first convolution, 64 in the original.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _make_stage(width, width, stride=1)
        self.layer2 = _make_stage(width, 2 * width, stride=2)
        self.layer3 = _make_stage(2 * width, 4 * width, stride=2)
        self.layer4 = _make_stage(4 * width, 8 * width, stride=2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, 32, 32) -> features (B, 8 * width)."""
        x = F.relu(self.bn1(self.conv1(images)))  # (B, width, 32, 32)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # (B, 8 * width, 4, 4)
        return torch.mean(x, dim=(2, 3))


def _make_stage(in_channels: int, channels: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(
        Block(in_channels, channels, stride), *(Block(channels, channels, 1) for _ in range(_BLOCKS_PER_STAGE - 1))
    )


class CifarResNet18Family:
    """Checkpoints with the names of kuangliu/pytorch-cifar; the head is `linear`, or `fc` where a format says so."""

    name = "cifar-resnet18"
    yields_to: tuple[str, ...] = ()
    spelled = ""

    def architectures(self) -> Mapping[str, str]:
        """cifar_resnet18, and 2 and 4 times as wide."""
        return {
            name: f"ResNet-18 for 32x32 images, width {width // 64}, {8 * width} features"
            for name, width in WIDTHS.items()
        }

    def tags(self, architecture: str) -> Sequence[str]:
        """None: one preprocessing for all."""
        return ()

    def detect(self, checkpoint: Checkpoint) -> Sequence[str]:
        """By the first convolution, when the shortcuts have the names of the family."""
        stem = checkpoint.tensors.get("conv1.weight")
        if stem is None or "layer2.0.shortcut.0.weight" not in checkpoint.tensors:
            return []
        return [name for name, width in WIDTHS.items() if stem.shape == (width, 3, 3, 3)]

    def nearest(self, checkpoint: Checkpoint) -> Sequence[str]:
        """None: `detect` names the nearest already."""
        return ()

    def lay_out(self, architecture: str, checkpoint: Checkpoint) -> Layout:
        """Trunk up to the pooled features, and the head."""
        preprocessing, note = read_preprocessing(checkpoint, _CIFAR, "32x32, CIFAR mean and std")
        feature_dim = 8 * WIDTHS[architecture]
        prefix = "fc" if "fc.weight" in checkpoint.tensors else "linear"
        return Layout(
            trunk=CifarResNet18(WIDTHS[architecture]),
            preprocessing=preprocessing,
            feature_dim=feature_dim,
            tensors=checkpoint.tensors,
            notes=(note,),
            **linear_head(checkpoint.tensors, prefix, width=feature_dim),
        )
