"""Several networks of one file as one backbone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision.models
from torch import nn

from richrep.backbones.blank import shapes_only
from richrep.backbones.checkpoint import Checkpoint
from richrep.backbones.families import FAMILIES
from richrep.backbones.families.cifar_resnet import CifarResNet
from richrep.backbones.families.detection import build_backbone, find_architecture
from richrep.backbones.families.widened_resnet import WidenedResNet
from richrep.errors import AddressError, CheckpointError

Tensors = dict[str, torch.Tensor]
FAMILY = FAMILIES["side-by-side"]


def row_of(*networks: nn.Module) -> Checkpoint:
    tensors = {f"model{i}.{name}": t for i, network in enumerate(networks) for name, t in network.state_dict().items()}
    return Checkpoint(tensors, Path("row.pth"), sha256="")


def find(checkpoint: Checkpoint, wanted: str = "") -> str:
    return find_architecture(list(FAMILIES.values()), checkpoint, wanted=wanted)[0].address


def without_head(network: nn.Module) -> nn.Module:
    network.fc = nn.Identity()
    return network


def test_published_rows_are_found_by_their_networks() -> None:
    with torch.device("meta"):
        resnet50 = without_head(torchvision.models.resnet50())
        wide = [WidenedResNet((3, 4, 6, 3), 64 * times) for times in (2, 4)]
    assert find(row_of(resnet50, resnet50)) == "side-by-side/2resnet50"
    row = row_of(*[resnet50] * 5, *wide)
    assert find(row) == "side-by-side/5resnet50+resnet50w2+resnet50w4"
    with shapes_only():
        layout = FAMILY.lay_out("5resnet50+resnet50w2+resnet50w4", row)
    assert layout.feature_dim == 5 * 2048 + 4096 + 8192
    # RRL's count for the first seven networks
    assert sum(p.numel() for p in layout.trunk.parameters()) == 5 * 23_508_032 + 93_907_072 + 375_378_176


def test_features_and_logits_are_those_of_the_networks_in_order() -> None:
    networks = [CifarResNet(3).eval(), CifarResNet(5).eval()]
    head = nn.Linear(128, 7)
    checkpoint = row_of(*networks)
    checkpoint.tensors.update(head.state_dict(prefix="fc."))
    backbone = build_backbone(FAMILY, "resnet20+resnet32", checkpoint, address="row.pth")
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        features, logits = backbone.features_and_logits(images)
        expected = torch.cat([network(images) for network in networks], dim=1)
        assert torch.allclose(features, expected, atol=1e-6)
        assert torch.allclose(logits, head(expected), atol=1e-5)
    assert (backbone.feature_dim, backbone.num_classes) == (128, 7)


def test_heads_of_single_networks_are_set_aside_and_said() -> None:
    with torch.device("meta"):
        resnet18 = torchvision.models.resnet18(num_classes=4)
    layout = FAMILY.lay_out("2resnet18", row_of(resnet18, resnet18))
    assert layout.head is None
    assert layout.set_aside == ["model0.fc.weight", "model0.fc.bias", "model1.fc.weight", "model1.fc.bias"]
    assert layout.notes[-1] == "heads of single networks set aside: 4 tensors"
    assert find(row_of(resnet18, resnet18)) == "side-by-side/2resnet18"


def test_networks_that_see_images_differently_are_refused() -> None:
    with torch.device("meta"):
        checkpoint = row_of(CifarResNet(3), without_head(torchvision.models.resnet18()))
    with pytest.raises(CheckpointError, match=r"same preprocessing, got model0: resize 32.*model1: resize 256"):
        find(checkpoint)


def test_a_network_that_fits_nothing_is_named_with_what_it_lacks() -> None:
    with torch.device("meta"):
        checkpoint = row_of(CifarResNet(3), CifarResNet(3))
    del checkpoint.tensors["model1.layer3.2.bn2.weight"]
    with pytest.raises(CheckpointError, match=r"Of 2 networks side by side, model1: .*missing.*layer3\.2\.bn2\.weight"):
        find(checkpoint)


def test_a_row_given_by_name_must_have_as_many_networks_as_the_file() -> None:
    with torch.device("meta"):
        checkpoint = row_of(*[without_head(torchvision.models.resnet50())] * 3)
    with pytest.raises(CheckpointError, match=r"does not hold side-by-side/2resnet50.*not in the network: model2\."):
        find(checkpoint, wanted="2resnet50")
    with pytest.raises(CheckpointError, match=r"does not hold side-by-side/4resnet50.*missing in the file: model3\."):
        find(checkpoint, wanted="4resnet50")
    with pytest.raises(AddressError, match=r"Unknown architecture '2resnet51'\. .*'2resnet50'"):
        find(checkpoint, wanted="2resnet51")


def test_the_stem_that_a_file_asks_for_is_used_in_every_network() -> None:
    networks = [without_head(torchvision.models.resnet18()).eval() for _ in range(2)]
    plain = row_of(*networks)
    same = replace(plain, hints={"stem_pool": "tf-same"})
    built = [build_backbone(FAMILY, "2resnet18", checkpoint, address="row.pth") for checkpoint in (plain, same)]
    assert find(same) == "side-by-side/2resnet18"
    assert (built[1].variant, built[0].variant) == ("SAME pooling in the stem", "")
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert not torch.allclose(built[0](images), built[1](images), rtol=0.01)
    with torch.device("meta"):
        small = replace(row_of(CifarResNet(3), CifarResNet(3)), hints={"stem_pool": "tf-same"})
    with pytest.raises(CheckpointError, match="needs stem_pool: tf-same, which that one cannot do"):
        find(small)
