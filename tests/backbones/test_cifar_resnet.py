"""The CIFAR ResNets against counts and passes done by hand."""

from __future__ import annotations

import pytest
import torch

from richrep.backbones.families.cifar_resnet import BLOCKS_PER_STAGE, CifarResNet, Shortcut


def count_parameters(blocks: int) -> int:
    """Trunk: convolutions 9 * in * out, batch norm 2 * channels each."""
    stem = 9 * 3 * 16 + 2 * 16
    stage1 = blocks * (2 * 9 * 16 * 16 + 4 * 16)
    stage2 = (9 * 16 * 32 + 9 * 32 * 32 + 4 * 32) + (blocks - 1) * (2 * 9 * 32 * 32 + 4 * 32)
    stage3 = (9 * 32 * 64 + 9 * 64 * 64 + 4 * 64) + (blocks - 1) * (2 * 9 * 64 * 64 + 4 * 64)
    return stem + stage1 + stage2 + stage3


@pytest.mark.parametrize(
    ("name", "published"),
    # akamaster/pytorch_resnet_cifar10, with the head of 64 * 10 + 10 = 650
    [("resnet20", 269_722), ("resnet32", 464_154), ("resnet44", 658_586), ("resnet56", 853_018)],
)
def test_parameter_counts_are_the_published_ones(name: str, published: int) -> None:
    trunk = CifarResNet(BLOCKS_PER_STAGE[name])
    assert sum(p.numel() for p in trunk.parameters()) == count_parameters(BLOCKS_PER_STAGE[name]) == published - 650


@pytest.mark.parametrize("name", BLOCKS_PER_STAGE)
def test_the_number_in_the_name_counts_the_layers(name: str) -> None:
    with torch.device("meta"):
        trunk = CifarResNet(BLOCKS_PER_STAGE[name])
    convolutions = sum(isinstance(module, torch.nn.Conv2d) for module in trunk.modules())
    assert convolutions + 1 == int(name.removeprefix("resnet"))  # + 1: the linear layer


def test_the_shortcut_takes_every_second_pixel_and_pads_channels_on_both_sides() -> None:
    x = torch.arange(2 * 4 * 4.0).reshape(1, 2, 4, 4)
    y = Shortcut(2, 4, stride=2)(x)
    assert y.shape == (1, 4, 2, 2)
    assert torch.equal(y[0, 0], torch.zeros(2, 2)) and torch.equal(y[0, 3], torch.zeros(2, 2))
    assert torch.equal(y[0, 1], torch.tensor([[0.0, 2.0], [8.0, 10.0]]))
    assert torch.equal(y[0, 2], torch.tensor([[16.0, 18.0], [24.0, 26.0]]))


def test_features_have_64_columns_and_do_not_depend_on_the_batch() -> None:
    trunk = CifarResNet(3).eval()
    images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        together, alone = trunk(images), torch.cat([trunk(image[None]) for image in images])
    assert together.shape == (5, 64)
    assert torch.allclose(together, alone, atol=1e-5)
