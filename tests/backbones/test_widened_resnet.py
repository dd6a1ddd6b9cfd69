"""ResNets with every width multiplied, against torchvision's and against the published counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision.models
from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet

from richrep.backbones.checkpoint import Checkpoint
from richrep.backbones.families import FAMILIES
from richrep.backbones.families.detection import find_architecture
from richrep.backbones.families.widened_resnet import WIDTHS, WidenedResNet
from richrep.errors import CheckpointError


def make_without_weights(width: int) -> WidenedResNet:
    with torch.device("meta"):
        return WidenedResNet((3, 4, 6, 3), width)


def as_checkpoint(network: nn.Module) -> Checkpoint:
    return Checkpoint(dict(network.state_dict()), Path("w.pth"), sha256="")


@pytest.mark.parametrize(
    ("name", "published"),
    [("resnet50w2", 93_907_072), ("resnet50w4", 375_378_176), ("resnet50w5", 586_450_240)],
)
def test_parameter_counts_are_the_published_ones(name: str, published: int) -> None:
    assert sum(p.numel() for p in make_without_weights(WIDTHS[name]).parameters()) == published


def test_width_64_has_the_names_and_shapes_of_torchvision() -> None:
    with torch.device("meta"):
        theirs = torchvision.models.resnet50()
    theirs.fc = nn.Identity()
    found = {name: tensor.shape for name, tensor in make_without_weights(64).state_dict().items()}
    assert found == {name: tensor.shape for name, tensor in theirs.state_dict().items()}


def test_the_forward_pass_is_that_of_torchvision(randomise: Callable[[nn.Module], nn.Module]) -> None:
    theirs = randomise(ResNet(Bottleneck, [1, 2, 1, 1]))
    theirs.fc = nn.Identity()
    ours = WidenedResNet((1, 2, 1, 1), 64).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected, found = theirs(images), ours(images)
    assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))


def test_a_narrow_one_gives_32_features_per_channel() -> None:
    narrow = WidenedResNet((1, 1, 1, 1), 8).eval()
    with torch.inference_mode():
        assert narrow(torch.zeros(2, 3, 32, 32)).shape == (2, 256) == (2, narrow.feature_dim)


@pytest.mark.parametrize("name", WIDTHS)
def test_each_width_is_recognised(name: str) -> None:
    found, others = find_architecture(list(FAMILIES.values()), as_checkpoint(make_without_weights(WIDTHS[name])))
    assert (found.address, others) == (f"widened-resnet/{name}", ())


def test_the_wide_resnet_of_torchvision_goes_on_as_that() -> None:
    with torch.device("meta"):
        wide = torchvision.models.wide_resnet50_2()
    found, _ = find_architecture(list(FAMILIES.values()), as_checkpoint(wide))
    assert found.address == "torchvision/wide_resnet50_2"


def test_another_depth_is_refused_with_the_nearest_and_what_differs() -> None:
    with torch.device("meta"):
        deeper = WidenedResNet((3, 4, 7, 3), 128)
    with pytest.raises(CheckpointError, match=r"widened-resnet/resnet50w2.* layer3\.6\.conv1\.weight"):
        find_architecture(list(FAMILIES.values()), as_checkpoint(deeper))


def test_the_stem_that_a_file_asks_for_is_used() -> None:
    checkpoint = replace(as_checkpoint(make_without_weights(128)), hints={"stem_pool": "tf-same"})
    candidate, _ = find_architecture(list(FAMILIES.values()), checkpoint)
    with torch.device("meta"):
        layout = candidate.family.lay_out("resnet50w2", checkpoint)
    assert (candidate.fits, layout.variant) == (True, "SAME pooling in the stem")
    pool = layout.trunk.get_submodule("maxpool")
    rows = torch.arange(6.0).expand(1, 1, 6, 6)
    assert pool(rows)[0, 0, 0].tolist() == [2, 4, 5]  # windows 0-2, 2-4, 4-6: padded on the right
