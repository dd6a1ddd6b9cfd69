"""Checkpoints of VICReg: backbone and expander; the backbone alone is a plain ResNet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision.models
from torch import nn

from richrep.backbones.addresses import load_backbone
from richrep.backbones.formats.vicreg import VicregFormat
from richrep.errors import CheckpointError


@pytest.fixture(scope="module")
def resnet18(randomise: Callable[[nn.Module], nn.Module]) -> nn.Module:
    network = randomise(torchvision.models.resnet18())
    network.fc = nn.Identity()
    return network


def container(backbone: nn.Module) -> dict[str, object]:
    expander = nn.Sequential(nn.Linear(512, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8, bias=False))
    named = {**backbone.state_dict(prefix="module.backbone."), **expander.state_dict(prefix="module.projector.")}
    return {"epoch": 1000, "model": named, "optimizer": {"state": {}}}


def test_the_expander_is_set_aside(tmp_path: Path, resnet18: nn.Module) -> None:
    torch.save(container(resnet18), tmp_path / "model.pth")
    backbone = load_backbone(str(tmp_path / "model.pth"))
    assert (backbone.family, backbone.architecture, backbone.head) == ("vicreg", "resnet18", None)
    # linear layers of 2 and 1, a batch norm of 5 tensors
    assert any("expander set aside: 8 tensors (projector.0.weight" in line for line in backbone.load_report)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = resnet18(images)
        torch.testing.assert_close(backbone(images), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_a_surplus_tensor_is_refused(tmp_path: Path, resnet18: nn.Module) -> None:
    content = container(resnet18)
    content["model"]["module.backbone.layer4.2.conv1.weight"] = torch.zeros(512, 512, 3, 3)  # type: ignore[index]
    torch.save(content, tmp_path / "v.pth")
    with pytest.raises(CheckpointError, match=r"in the file but not in the network: layer4\.2\.conv1\.weight"):
        load_backbone(str(tmp_path / "v.pth"))


def test_a_projector_in_another_container_is_none_of_ours(resnet18: nn.Module) -> None:
    content = container(resnet18)
    assert VicregFormat().read({"state_dict": content["model"]}, {}) == []
    assert VicregFormat().read(content["model"], {}) == []  # type: ignore[arg-type]
