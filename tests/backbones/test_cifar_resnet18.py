"""ResNet-18 for images of 32 pixels, against a pass written out by hand and the published count."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from richrep.backbones.checkpoint import Checkpoint
from richrep.backbones.families import FAMILIES
from richrep.backbones.families.cifar_resnet18 import WIDTHS, CifarResNet18
from richrep.backbones.families.detection import find_architecture
from richrep.errors import CheckpointError


def make_without_weights(width: int) -> CifarResNet18:
    with torch.device("meta"):
        return CifarResNet18(width)


def forward_by_hand(tensors: dict[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """kuangliu's ResNet-18 as functions of its tensors: convolutions of 3x3, shortcuts of 1x1, mean over 4x4."""

    def conv_bn(x: torch.Tensor, conv: str, bn: str, stride: int = 1) -> torch.Tensor:
        weight = tensors[f"{conv}.weight"]
        y = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        mean, variance, scale, shift = (tensors[f"{bn}.{n}"] for n in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(y, mean, variance, scale, shift)

    x = F.relu(conv_bn(images, "conv1", "bn1"))
    for block, stride in [
        ("1.0", 1),
        ("1.1", 1),
        ("2.0", 2),
        ("2.1", 1),
        ("3.0", 2),
        ("3.1", 1),
        ("4.0", 2),
        ("4.1", 1),
    ]:
        name = f"layer{block}"
        shortcut = conv_bn(x, f"{name}.shortcut.0", f"{name}.shortcut.1", stride) if stride > 1 else x
        y = F.relu(conv_bn(x, f"{name}.conv1", f"{name}.bn1", stride))
        x = F.relu(conv_bn(y, f"{name}.conv2", f"{name}.bn2") + shortcut)
    return F.avg_pool2d(x, 4).flatten(1)


def test_the_parameter_count_is_the_published_one() -> None:
    assert sum(p.numel() for p in make_without_weights(64).parameters()) == 11_168_832


def test_the_forward_pass_equals_the_one_by_hand(randomise: Callable[[nn.Module], nn.Module]) -> None:
    network = randomise(CifarResNet18(8))
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected, found = forward_by_hand(network.state_dict(), images), network(images)
    assert found.shape == (3, 64)
    assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("name", "width", "head"),
    [("cifar_resnet18", 64, "linear"), ("cifar_resnet18w2", 128, "fc"), ("cifar_resnet18w4", 256, "linear")],
)
def test_each_width_is_recognised_with_its_head(name: str, width: int, head: str) -> None:
    tensors = dict(make_without_weights(width).state_dict())
    with torch.device("meta"):
        tensors |= nn.Linear(8 * width, 10).state_dict(prefix=f"{head}.")
    families = [FAMILIES["cifar-resnet18"], FAMILIES["torchvision"]]
    found, others = find_architecture(families, Checkpoint(tensors, Path("c.pth"), sha256=""))
    assert (found.address, others) == (f"cifar-resnet18/{name}", ())
    # 20 convolutions, 20 batch norms of 4 tensors, 2 of the head
    assert (found.comparison.matched, found.comparison.ignored) == (102, ())
    assert WIDTHS[name] == width


def test_a_deeper_network_is_refused_by_the_names_that_are_too_many() -> None:
    tensors = dict(make_without_weights(64).state_dict())
    tensors |= {name.replace("layer4.1", "layer4.2"): tensor for name, tensor in tensors.items() if "layer4.1" in name}
    checkpoint = Checkpoint(tensors, Path("c.pth"), sha256="")
    with pytest.raises(CheckpointError, match=r"cifar-resnet18/cifar_resnet18.*not in the network: layer4\.2\.conv1"):
        find_architecture([FAMILIES["cifar-resnet18"], FAMILIES["torchvision"]], checkpoint)
