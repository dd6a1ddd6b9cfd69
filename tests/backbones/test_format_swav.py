"""Files of SwAV: a ResNet with a projection head and prototypes beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision.models
from torch import nn

from richrep.backbones.addresses import load_backbone
from richrep.backbones.checkpoint import Checkpoint
from richrep.backbones.families import FAMILIES
from richrep.backbones.families.detection import find_architecture
from richrep.backbones.families.widened_resnet import WIDTHS, WidenedResNet
from richrep.backbones.formats.swav import SwavFormat
from richrep.data.preprocessing import Geometry
from richrep.errors import CheckpointError

Tensors = dict[str, torch.Tensor]


def swav_names(trunk: nn.Module, width: int, *, several: bool = False) -> Tensors:
    """The state dict of a distributed SwAV model, its prototypes once or (as DeepCluster has them) several times."""
    projection = nn.Sequential(nn.Linear(width, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    prototypes: Tensors = nn.Linear(4, 3, bias=False).state_dict(prefix="prototypes.")
    if several:
        prototypes = {f"prototypes.prototypes{i}.weight": torch.zeros(3, 4) for i in range(3)}
    named = {**trunk.state_dict(), **projection.state_dict(prefix="projection_head."), **prototypes}
    return {f"module.{name}": tensor for name, tensor in named.items()}


@pytest.fixture(scope="module")
def resnet18(randomise: Callable[[nn.Module], nn.Module]) -> nn.Module:
    network = randomise(torchvision.models.resnet18())
    network.fc = nn.Identity()
    return network


@pytest.mark.parametrize("training", [False, True])
def test_projection_head_and_prototypes_are_set_aside(tmp_path: Path, resnet18: nn.Module, training: bool) -> None:
    tensors = swav_names(resnet18, 512, several=training)
    content = {"epoch": 400, "state_dict": tensors, "optimizer": {}, "amp": {}} if training else tensors
    torch.save(content, tmp_path / "s.pth.tar")
    backbone = load_backbone(str(tmp_path / "s.pth.tar"))
    assert (backbone.family, backbone.architecture, backbone.head) == ("swav", "resnet18", None)
    assert backbone.preprocessing.geometry == Geometry((224, 224), 256)
    # projection head: two linear layers of 2 and a batch norm of 5 tensors
    count = 9 + (3 if training else 1)
    assert any(f"projection head and prototypes set aside: {count} tensors" in line for line in backbone.load_report)
    assert ("read from 'state_dict'; set aside: epoch, optimizer, amp" in backbone.load_report) == training
    assert backbone.load_report[0].endswith("ignored: none")
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = resnet18(images)
        assert torch.allclose(backbone(images), expected, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("name", WIDTHS)
def test_widened_networks_are_recognised(name: str) -> None:
    with torch.device("meta"):
        tensors = swav_names(WidenedResNet((3, 4, 6, 3), WIDTHS[name]), 32 * WIDTHS[name])
    (network,) = SwavFormat().read(tensors, {})
    checkpoint = Checkpoint(dict(network.tensors), Path("s.pth"), sha256="", format="swav")
    families = [FAMILIES["widened-resnet"], FAMILIES["torchvision"]]
    assert find_architecture(families, checkpoint)[0].address == f"widened-resnet/{name}"


def test_a_trunk_that_lacks_a_tensor_is_refused(tmp_path: Path, resnet18: nn.Module) -> None:
    tensors = swav_names(resnet18, 512)
    del tensors["module.layer4.1.bn2.running_var"]
    torch.save(tensors, tmp_path / "s.pth")
    with pytest.raises(
        CheckpointError, match=r"torchvision/resnet18.*missing in the file: layer4\.1\.bn2\.running_var"
    ):
        load_backbone(str(tmp_path / "s.pth"))


def test_a_file_of_another_project_is_none_of_ours(resnet18: nn.Module) -> None:
    assert SwavFormat().read({"state_dict": dict(resnet18.state_dict())}, {}) == []
    assert SwavFormat().read({"prototypes.weight": torch.zeros(3, 4)}, {}) == []
