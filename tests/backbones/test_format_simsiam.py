"""Files of SimSiam: an encoder with its projection head, and a predictor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision.models
from torch import nn

from richrep.backbones.addresses import load_backbone
from richrep.backbones.formats.simsiam import SimSiamFormat
from richrep.errors import CheckpointError

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def resnet18(randomise: Callable[[nn.Module], nn.Module]) -> nn.Module:
    network = randomise(torchvision.models.resnet18())
    network.fc = nn.Identity()
    return network


def container(encoder: nn.Module) -> dict[str, object]:
    projection = nn.Sequential(nn.Linear(512, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    named = {
        **encoder.state_dict(prefix="module.encoder."),
        **projection.state_dict(prefix="module.encoder.fc."),
        **nn.Sequential(nn.Linear(4, 4)).state_dict(prefix="module.predictor."),
    }
    return {"epoch": 100, "arch": "resnet18", "state_dict": named, "optimizer": {}}


def test_projection_head_and_predictor_are_set_aside(tmp_path: Path, resnet18: nn.Module) -> None:
    torch.save(container(resnet18), tmp_path / "checkpoint_0099.pth.tar")
    backbone = load_backbone(str(tmp_path / "checkpoint_0099.pth.tar"))
    assert (backbone.family, backbone.architecture, backbone.head) == ("simsiam", "resnet18", None)
    report = " | ".join(backbone.load_report)
    # projection head: a linear layer of 1, a batch norm of 5 and a linear layer of 2 tensors
    assert "projection head set aside: 8 tensors" in report and "predictor set aside: 2 tensors" in report
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = resnet18(images)
        torch.testing.assert_close(backbone(images), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_an_odd_tensor_is_named(tmp_path: Path, resnet18: nn.Module) -> None:
    content = container(resnet18)
    content["state_dict"]["module.encoder.conv1.weight"] = torch.zeros(64, 3, 5, 5)  # type: ignore[index]
    torch.save(content, tmp_path / "s.pth")
    with pytest.raises(CheckpointError, match=r"conv1\.weight: file \(64, 3, 5, 5\), network \(64, 3, 7, 7\)"):
        load_backbone(str(tmp_path / "s.pth"))


def test_other_encoders_are_none_of_ours(resnet18: nn.Module) -> None:
    assert SimSiamFormat().read({"state_dict": resnet18.state_dict(prefix="encoder.")}, {}) == []
    text = {"encoder.embed.weight": torch.zeros(2, 2), "predictor.weight": torch.zeros(2, 2)}
    assert SimSiamFormat().read({"state_dict": text}, {}) == []
