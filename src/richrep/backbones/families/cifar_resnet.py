"""CIFAR ResNets with parameter-free shortcuts (option A): 20, 32, 44, 56, 110 and 1202 layers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from richrep.backbones.checkpoint import Checkpoint
from richrep.backbones.families.family import Layout, linear_head
from richrep.backbones.families.metadata import read_preprocessing
from richrep.data.preprocessing import Geometry, Preprocessing

# layers = 6n + 2: three stages of n blocks of two convolutions, the first convolution, the linear layer
BLOCKS_PER_STAGE = {f"resnet{6 * n + 2}": n for n in (3, 5, 7, 9, 18, 200)}
WIDTHS = (16, 32, 64)
_ASSUMED = Preprocessing(Geometry(size_px=(32, 32), resize_px=32))  # ImageNet's mean and std, as akamaster trained


class Shortcut(nn.Module):
    """Option A: every second pixel, and zero channels on both sides; no parameters."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.channels_per_side = (channels - in_channels) // 2  # channels / 4, as the width doubles

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C + 2 * channels_per_side, H / stride, W / stride)."""
        side = self.channels_per_side
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, side, side))


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm, added to the shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = Shortcut(in_channels, channels, stride) if stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, channels, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """He, Zhang, Ren, Sun. Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2.

    https://arxiv.org/abs/1512.03385. A 3x3 convolution, three stages of 16, 32 and 64 channels at 32, 16 and 8 pixels,
    average pooling. Names of the parameters as in akamaster/pytorch_resnet_cifar10. Differs from the paper: nothing.
    """

    def __init__(self, blocks_per_stage: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.layer1 = _make_stage(WIDTHS[0], WIDTHS[0], blocks_per_stage)
        self.layer2 = _make_stage(WIDTHS[0], WIDTHS[1], blocks_per_stage)
        self.layer3 = _make_stage(WIDTHS[1], WIDTHS[2], blocks_per_stage)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, 32, 32) -> features (B, 64)."""
        x = F.relu(self.bn1(self.conv1(images)))  # (B, 16, 32, 32)
        x = self.layer3(self.layer2(self.layer1(x)))  # (B, 64, 8, 8)
        return torch.mean(x, dim=(2, 3))


def _make_stage(in_channels: int, channels: int, num_blocks: int) -> nn.Sequential:
    """`num_blocks` blocks; the first one halves the picture where the width changes."""
    stride = 1 if in_channels == channels else 2
    return nn.Sequential(
        *(Block(in_channels if i == 0 else channels, channels, stride if i == 0 else 1) for i in range(num_blocks))
    )


class CifarResNetFamily:
    """Checkpoints with the names of akamaster/pytorch_resnet_cifar10: conv1, bn1, layer1 to layer3, linear."""

    name = "cifar-resnet"
    yields_to: tuple[str, ...] = ()
    spelled = ""

    def architectures(self) -> Mapping[str, str]:
        """resnet20 to resnet1202."""
        return {
            name: f"CIFAR ResNet, {3 * n} blocks, 32x32 images, 64 features" for name, n in BLOCKS_PER_STAGE.items()
        }

    def tags(self, architecture: str) -> Sequence[str]:
        """None: one preprocessing for all."""
        return ()

    def detect(self, checkpoint: Checkpoint) -> Sequence[str]:
        """The depth whose number of blocks is nearest, when a first block has the names and the width of the family."""
        first = checkpoint.tensors.get("layer1.0.conv1.weight")
        if first is None or first.shape != (WIDTHS[0], WIDTHS[0], 3, 3):
            return []
        blocks = {match[0] for name in checkpoint.tensors if (match := re.match(r"layer[123]\.\d+\.", name))}
        return [min(BLOCKS_PER_STAGE, key=lambda name: abs(3 * BLOCKS_PER_STAGE[name] - len(blocks)))]

    def nearest(self, checkpoint: Checkpoint) -> Sequence[str]:
        """None: `detect` names the nearest already."""
        return ()

    def lay_out(self, architecture: str, checkpoint: Checkpoint) -> Layout:
        """Trunk up to the pooled 64 features; head `linear`."""
        preprocessing, note = read_preprocessing(checkpoint, _ASSUMED, "32x32, ImageNet mean and std, as akamaster's")
        return Layout(
            trunk=CifarResNet(BLOCKS_PER_STAGE[architecture]),
            preprocessing=preprocessing,
            feature_dim=WIDTHS[-1],
            tensors=checkpoint.tensors,
            notes=(note,),
            **linear_head(checkpoint.tensors, "linear", width=WIDTHS[-1]),
        )
