"""MobileNetV1 of any width: 13 blocks of a depthwise and a pointwise convolution, in the names of three projects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from richrep.backbones.checkpoint import Checkpoint
from richrep.backbones.families.family import Layout, linear_head
from richrep.backbones.families.metadata import read_preprocessing
from richrep.backbones.formats.format import renamed
from richrep.backbones.formats.pruned import AMC_NAMES
from richrep.data.preprocessing import Geometry, Preprocessing

ARCHITECTURE = "mobilenet_v1"
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)  # of the 13 blocks; the stem has stride 2 as well
WIDTHS = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)  # of the stem and the blocks
_ASSUMED = Preprocessing(Geometry(size_px=(224, 224), resize_px=256))


class MobileNetV1(nn.Module):
    """Howard et al. MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications, 2017.

    https://arxiv.org/abs/1704.04861. Differs from the paper: widths may be any, as pruning leaves them.

    Args:
        widths: channels after the stem and after each of the 13 blocks.
    """

    def __init__(self, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        blocks = zip(widths, widths[1:], STRIDES, strict=False)
        self.model = nn.Sequential(
            nn.Sequential(*_convolve(3, widths[0], 3, stride=2)),
            *(
                nn.Sequential(*_convolve(before, before, 3, stride=stride, groups=before), *_convolve(before, after, 1))
                for before, after, stride in blocks
            ),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> features (B, widths[-1])."""
        return torch.mean(self.model(images), dim=(2, 3))


def _convolve(before: int, after: int, kernel: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(before, after, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]


class MobileNetV1Family:
    """Names `model.0.*` to `model.13.*` and `fc`, or AMC's `conv1`, `features.0.*` to `features.12.*`, `classifier.0`.

    The widths are those of the file: published multipliers (0.25, 0.5, 0.75), AMC's profiles, or any other.
    """

    name = "mobilenet-v1"
    yields_to: tuple[str, ...] = ()
    spelled = ""

    def architectures(self) -> Mapping[str, str]:
        """One, of any width."""
        return {ARCHITECTURE: "MobileNetV1, 13 blocks, widths as in the file, 1024 features at full width"}

    def tags(self, architecture: str) -> Sequence[str]:
        """None: one preprocessing for all."""
        return ()

    def detect(self, checkpoint: Checkpoint) -> Sequence[str]:
        """By the first depthwise convolution, which no other network has under these names."""
        tensors = _canonical(checkpoint.tensors)
        depthwise, norm = tensors.get("model.1.0.weight"), tensors.get("model.1.1.weight")
        is_depthwise = depthwise is not None and norm is not None and depthwise.numel() == 9 * norm.numel()
        return [ARCHITECTURE] if is_depthwise else []

    def nearest(self, checkpoint: Checkpoint) -> Sequence[str]:
        """None: `detect` names the nearest already."""
        return ()

    def lay_out(self, architecture: str, checkpoint: Checkpoint) -> Layout:
        """Trunk up to the average over the last map; head `fc`, with or without bias."""
        tensors = _canonical(checkpoint.tensors)
        widths = _widths(tensors)
        preprocessing, note = read_preprocessing(checkpoint, _ASSUMED, "256/224, ImageNet mean and std")
        multiplier = f"{widths[0]}, …, {widths[-1]} channels"
        return Layout(
            trunk=MobileNetV1(widths),
            preprocessing=preprocessing,
            feature_dim=widths[-1],
            tensors=tensors,
            notes=(note,) if widths == WIDTHS else (note, f"widths of the file: {multiplier}"),
            **linear_head(tensors, "fc", width=widths[-1]),
        )


def _canonical(tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """AMC's names as those of the network; others stay."""
    return (
        renamed(tensors, *AMC_NAMES) if "features.12.3.weight" in tensors and "conv1.0.weight" in tensors else tensors
    )


def _widths(tensors: Mapping[str, torch.Tensor]) -> tuple[int, ...]:
    """Channels after the stem and each block, by the batch norms; full width where the file has none."""
    names = ("model.0.1.weight", *(f"model.{i}.4.weight" for i in range(1, len(WIDTHS))))
    norms = [tensors.get(name) for name in names]
    return tuple(
        norm.numel() if norm is not None and norm.numel() else width for norm, width in zip(norms, WIDTHS, strict=True)
    )
