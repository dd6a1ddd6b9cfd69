"""BYOL in the names of its four common PyTorch ports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.models
from torch import nn

from richrep.backbones.addresses import load_backbone
from richrep.backbones.formats.byol import ByolFormat
from richrep.errors import CheckpointError

Tensors = dict[str, torch.Tensor]

PROJECTOR = nn.Sequential(nn.Linear(512, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))  # 9 tensors


@pytest.fixture(scope="module")
def networks(randomise: Callable[[nn.Module], nn.Module]) -> tuple[Any, Any]:
    """Online and target, each with torchvision's `fc`."""
    return randomise(torchvision.models.resnet18()), randomise(torchvision.models.resnet18())


def without_fc(network: nn.Module) -> Tensors:
    return {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("fc.")}


def as_children(network: nn.Module) -> Tensors:
    """The names within nn.Sequential(*list(network.children())[:-1])."""
    return dict(nn.Sequential(*list(network.children())[:-1]).state_dict())


def prefixed(prefix: str, tensors: Tensors) -> Tensors:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def lightning_bolts(online: nn.Module, target: nn.Module) -> dict[str, object]:
    tensors = {}
    for name, network in (("online_network", online), ("target_network", target)):
        tensors |= prefixed(f"{name}.encoder.", without_fc(network))
        tensors |= prefixed(f"{name}.projector.model.", dict(PROJECTOR.state_dict()))
    return {"epoch": 1, "global_step": 2, "state_dict": tensors | {"predictor.model.0.bias": torch.zeros(1)}}


def yaox12(online: nn.Module, target: nn.Module) -> dict[str, object]:
    tensors = {}
    for name, network in (("online_network", online), ("target_network", target)):
        tensors |= prefixed(f"module.{name}.encoder.", as_children(network))
        tensors |= prefixed(f"module.{name}.projetion.net.", dict(PROJECTOR.state_dict()))
    return {"epoch": 1, "steps": 2, "model": tensors, "optimizer": {}}


def lucidrains(online: nn.Module, target: nn.Module) -> dict[str, object]:
    tensors = {}
    for name, network in (("online_encoder", online), ("target_encoder", target)):
        tensors |= prefixed(f"{name}.net.", dict(network.state_dict()))
        tensors |= prefixed(f"{name}.projector.", dict(PROJECTOR.state_dict()))
    return tensors


def sthalles(online: nn.Module, target: nn.Module) -> dict[str, object]:
    content: dict[str, object] = {"optimizer_state_dict": {}}
    for name, network in (("online_network", online), ("target_network", target)):
        tensors = prefixed("encoder.", as_children(network))
        content[f"{name}_state_dict"] = tensors | prefixed("projetion.net.", dict(PROJECTOR.state_dict()))
    return content


def assert_same_features(backbone: Any, network: Any) -> None:
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = nn.Sequential(*list(network.children())[:-1])(images).flatten(1)
        torch.testing.assert_close(backbone(images), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("port", "second", "aside"),
    [
        (lightning_bolts, "target_network", 9),
        (yaox12, "target_network", 9),
        (lucidrains, "target_encoder", 11),  # with weight and bias of `fc`, which BYOL does not train
        (sthalles, "target_network", 9),
    ],
)
def test_online_and_target_network_open(
    tmp_path: Path, networks: tuple[Any, Any], port: Callable[..., dict[str, object]], second: str, aside: int
) -> None:
    torch.save(port(*networks), tmp_path / "b.pth")
    backbone = load_backbone(str(tmp_path / "b.pth"))
    assert (backbone.family, backbone.architecture, backbone.head) == ("byol", "resnet18", None)
    assert any(f"projector or unused fc set aside: {aside} tensors" in line for line in backbone.load_report)
    assert any(f"the file also holds #{second}" in line for line in backbone.load_report)
    assert_same_features(backbone, networks[0])
    assert_same_features(load_backbone(f"{tmp_path / 'b.pth'}#{second}"), networks[1])


def test_an_online_network_alone_opens(tmp_path: Path, networks: tuple[Any, Any]) -> None:
    torch.save({"state_dict": prefixed("online_network.", without_fc(networks[0]))}, tmp_path / "b.pth")
    assert_same_features(load_backbone(str(tmp_path / "b.pth")), networks[0])


def test_an_odd_tensor_is_named(tmp_path: Path, networks: tuple[Any, Any]) -> None:
    content = sthalles(*networks)
    content["online_network_state_dict"]["encoder.4.0.bn1.weight"] = torch.zeros(3)  # type: ignore[index]
    torch.save(content, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match=r"layer1\.0\.bn1\.weight: file \(3,\), network \(64,\)"):
        load_backbone(str(tmp_path / "b.pth"))


def test_other_files_are_none_of_ours(networks: tuple[Any, Any]) -> None:
    assert ByolFormat().read({"state_dict": networks[0].state_dict()}, {}) == []
    assert ByolFormat().read({"online_network.embed.weight": torch.zeros(2, 2)}, {}) == []
