"""Checkpoints of Barlow Twins: backbone, projector and a batch norm; the backbone alone is a plain ResNet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision.models
from torch import nn

from richrep.backbones.addresses import load_backbone
from richrep.backbones.formats.barlow_twins import BarlowTwinsFormat
from richrep.errors import CheckpointError


@pytest.fixture(scope="module")
def resnet18(randomise: Callable[[nn.Module], nn.Module]) -> nn.Module:
    network = randomise(torchvision.models.resnet18())
    network.fc = nn.Identity()
    return network


def container(backbone: nn.Module) -> dict[str, object]:
    projector = nn.Sequential(nn.Linear(512, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8, bias=False))
    named = {
        **backbone.state_dict(prefix="module.backbone."),
        **projector.state_dict(prefix="module.projector."),
        **nn.BatchNorm1d(8, affine=False).state_dict(prefix="module.bn."),
    }
    return {"epoch": 1000, "model": named, "optimizer": {"state": {}}}


def assert_same_features(backbone: nn.Module, network: nn.Module) -> None:
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = network(images)
        torch.testing.assert_close(backbone(images), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_projector_and_batch_norm_are_set_aside(tmp_path: Path, resnet18: nn.Module) -> None:
    torch.save(container(resnet18), tmp_path / "checkpoint.pth")
    backbone = load_backbone(str(tmp_path / "checkpoint.pth"))
    assert (backbone.family, backbone.architecture, backbone.head) == ("barlow-twins", "resnet18", None)
    # two linear layers of 1, a batch norm of 5 and one without weights of 3 tensors
    assert any("projector and batch norm set aside: 10 tensors" in line for line in backbone.load_report)
    assert "read from 'model'; set aside: epoch, optimizer" in backbone.load_report
    assert_same_features(backbone, resnet18)


def test_the_published_backbone_is_a_plain_resnet(tmp_path: Path, resnet18: nn.Module) -> None:
    torch.save(resnet18.state_dict(), tmp_path / "resnet18.pth")
    backbone = load_backbone(str(tmp_path / "resnet18.pth"))
    assert (backbone.family, backbone.architecture, backbone.head) == ("torchvision", "resnet18", None)
    assert_same_features(backbone, resnet18)


def test_a_backbone_that_lacks_a_tensor_is_refused(tmp_path: Path, resnet18: nn.Module) -> None:
    content = container(resnet18)
    del content["model"]["module.backbone.bn1.bias"]  # type: ignore[attr-defined]
    torch.save(content, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match=r"missing in the file: bn1\.bias"):
        load_backbone(str(tmp_path / "b.pth"))


def test_other_networks_with_a_projector_are_none_of_ours(resnet18: nn.Module) -> None:
    content = container(resnet18)
    content["model"]["module.predictor.weight"] = torch.zeros(1)  # type: ignore[index]
    assert BarlowTwinsFormat().read(content, {}) == []
