"""AlgoPerf's containers, as time-CAT's ResNets come in them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision.models
from torch import nn

from richrep.backbones.addresses import load_backbone
from richrep.backbones.formats.time_cat import TimeCatFormat
from richrep.data.preprocessing import Geometry
from richrep.errors import CheckpointError

Tensors = dict[str, torch.Tensor]


def container(tensors: Tensors, prefix: str) -> dict[str, object]:
    """What AlgoPerf saves: the names of its own ResNet, and a schedule-free optimiser with moments of half the size."""

    def algoperf_name(name: str) -> str:
        name = re.sub(r"downsample\.0\.", "downsample.conv.", name)
        return re.sub(r"downsample\.1\.", "downsample.bn.", name)

    moments = {"exp_avg_sq": torch.zeros(4, dtype=torch.bfloat16), "z": torch.zeros(4), "x0": torch.zeros(4)}
    return {
        "model_params": {prefix + algoperf_name(name): tensor for name, tensor in tensors.items()},
        "optimizer_state": {"optimizer": {"state": {0: moments}, "param_groups": [{"lr": 0.1, "params": [0]}]}},
        "model_state": None,
        "train_state": {"is_time_remaining": True, "accumulated_submission_time": 12.5},
        "eval_results": ([(100, {"validation/accuracy": 0.7})],),
        "global_step": 200_000,
        "preemption_count": 0,
    }


@pytest.fixture(scope="module")
def resnet18(randomise: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return randomise(torchvision.models.resnet18(num_classes=5))


def test_a_compiled_and_distributed_network_loads_with_its_head(tmp_path: Path, resnet18: nn.Module) -> None:
    torch.save(container(resnet18.state_dict(), "_orig_mod.module."), tmp_path / "t.pth")
    backbone = load_backbone(str(tmp_path / "t.pth"))
    assert (backbone.family, backbone.architecture, backbone.num_classes) == ("time-cat", "resnet18", 5)
    assert backbone.preprocessing.geometry == Geometry((224, 224), 256)
    assert backbone.load_report[1:3] == (
        "read from 'model_params'; set aside: optimizer_state, model_state, train_state, eval_results, global_step, "
        "preemption_count",
        "downsample.conv and downsample.bn renamed to downsample.0 and downsample.1",
    )
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected, found = resnet18(images), backbone.features_and_logits(images)[1]
    assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("prefix", ["_orig_mod.module.", "_orig_mod.", "module.", ""])
def test_every_prefix_gives_the_names_of_torchvision(resnet18: nn.Module, prefix: str) -> None:
    (network,) = TimeCatFormat().read(container(resnet18.state_dict(), prefix), {})
    assert network.tensors.keys() == resnet18.state_dict().keys()


def test_two_names_for_one_tensor_are_refused(tmp_path: Path) -> None:
    tensors = {f"layer2.0.downsample.{name}.weight": torch.zeros(1) for name in ("0", "conv")}
    torch.save({"model_params": tensors}, tmp_path / "t.pth")
    with pytest.raises(CheckpointError, match=r"two tensors would be called 'layer2\.0\.downsample\.0\.weight'"):
        load_backbone(str(tmp_path / "t.pth"))


def test_a_tensor_of_another_shape_is_refused(tmp_path: Path, resnet18: nn.Module) -> None:
    tensors = {**resnet18.state_dict(), "layer2.0.downsample.0.weight": torch.zeros(128, 64, 3, 3)}
    torch.save(container(tensors, "module."), tmp_path / "t.pth")
    with pytest.raises(CheckpointError, match=r"layer2\.0\.downsample\.0\.weight: file \(128, 64, 3, 3\).*Nothing was"):
        load_backbone(str(tmp_path / "t.pth"))


def test_a_file_of_another_project_is_none_of_ours(resnet18: nn.Module) -> None:
    assert TimeCatFormat().read({"state_dict": dict(resnet18.state_dict())}, {}) == []
