"""Files of t-ReX: encoders alone, and training checkpoints with an average and a memory."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.models
from torch import nn

from richrep.backbones.addresses import load_backbone
from richrep.backbones.checkpoint import load_checkpoint
from richrep.backbones.formats.trex import TrexFormat
from richrep.data.preprocessing import Geometry
from richrep.errors import CheckpointError

Tensors = dict[str, torch.Tensor]


def projector() -> Tensors:
    """One hidden block and the last layer, after the L2 norm at index 0, which has no parameters."""
    hidden: Tensors = nn.Linear(512, 6).state_dict(prefix="head.layers.1.fc.")
    return {
        **hidden,
        **nn.BatchNorm1d(6).state_dict(prefix="head.layers.1.bn."),
        "head.layers.2.weight": torch.ones(4, 6),
    }


def model_of(online: nn.Module, average: nn.Module | None) -> Tensors:
    """The state dict of the distributed model; without an average, of the loss with class weights."""
    named = {f"model.{name}": t for name, t in {**online.state_dict(prefix="encoder."), **projector()}.items()}
    if average is None:
        named["clf.fc.weight"] = torch.zeros(10, 4)
    else:
        named |= {"memory.features": torch.zeros(8, 4), "memory.labels": torch.zeros(8, dtype=torch.int64)}
        named["memory.ptr"] = torch.zeros(1, dtype=torch.int64)
        named |= {
            f"model_ema.{name}": t for name, t in {**average.state_dict(prefix="encoder."), **projector()}.items()
        }
    return {f"module.{name}": tensor for name, tensor in named.items()}


def container(model: Tensors) -> dict[str, object]:
    optimizer = {"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    return {"model": model, "optimizer": optimizer, "epoch": 100, "fp16_scaler": {"scale": 65536.0}}


def encoder(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network: nn.Module = torchvision.models.resnet18().eval()
    network.fc = nn.Identity()
    return network


@pytest.fixture(scope="module")
def online() -> nn.Module:
    return encoder(0)


@pytest.fixture(scope="module")
def average() -> nn.Module:
    return encoder(1)


def assert_same_features(address: str, network: nn.Module) -> tuple[str, ...]:
    """The load report, after comparing the features."""
    backbone = load_backbone(address)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = network(images)
        assert torch.allclose(backbone(images), expected, atol=1e-5 * float(expected.abs().max()))
    assert (backbone.family, backbone.architecture, backbone.head) == ("trex", "resnet18", None)
    assert backbone.preprocessing.geometry == Geometry((224, 224), 224, "bicubic")
    return backbone.load_report


def test_the_network_and_its_average_are_addressed_separately(
    tmp_path: Path, online: nn.Module, average: nn.Module
) -> None:
    path = tmp_path / "trex.pth"
    torch.save(container(model_of(online, average)), path)
    report = assert_same_features(str(path), online)
    assert report[1] == "read from 'model'; set aside: optimizer, epoch, fp16_scaler"
    # the hidden block's 2 + 5 tensors and the last layer's one
    assert report[2].startswith("projector set aside: 8 tensors (model.head.layers.1.fc.weight")
    assert report[3].startswith("projector of the average set aside: 8 tensors")
    assert report[4] == "memory set aside: 3 tensors (memory.features, memory.labels, memory.ptr)"
    assert "the file also holds #ema, #memory" in report
    assert_same_features(f"{path}#online", online)
    assert_same_features(f"{path}#ema", average)
    assert load_checkpoint(path, network="memory").tensors.keys() == {"features", "labels", "ptr"}
    with pytest.raises(
        CheckpointError, match=r"resembles no known architecture: it holds 3 tensors \(features, labels"
    ):
        load_backbone(f"{path}#memory")


def test_the_loss_with_class_weights_has_no_average(tmp_path: Path, online: nn.Module) -> None:
    path = tmp_path / "trex.pth"
    torch.save(container(model_of(online, None)), path)
    report = assert_same_features(str(path), online)
    assert "class weights set aside: 1 tensor (clf.fc.weight)" in report
    with pytest.raises(CheckpointError, match=r"Unknown network in .* 'ema'\. .*Known: online"):
        load_backbone(f"{path}#ema")


def test_options_and_schedule_in_the_file_do_no_harm(tmp_path: Path, online: nn.Module) -> None:
    args = argparse.Namespace(lr=0.1, mc_global_scale=(0.25, 1.0), lr_schedule=np.linspace(0.1, 0.0, 5), rank=0)
    torch.save({**container(model_of(online, None)), "args": args}, tmp_path / "trex.pth")
    report = assert_same_features(str(tmp_path / "trex.pth"), online)
    assert report[1] == "read from 'model'; set aside: optimizer, epoch, fp16_scaler, args"


def test_an_encoder_alone_is_a_plain_resnet50(tmp_path: Path) -> None:
    network = torchvision.models.resnet50().eval()
    network.fc = nn.Identity()
    assert len(network.state_dict()) == 318
    torch.save(network.state_dict(), tmp_path / "trex.pth")
    backbone = load_backbone(str(tmp_path / "trex.pth"))
    assert (backbone.family, backbone.architecture, backbone.head) == ("torchvision", "resnet50", None)
    assert backbone.load_report[0].endswith("head: none; ignored: none")


def test_a_tensor_of_another_shape_is_refused(tmp_path: Path, online: nn.Module) -> None:
    model = model_of(online, None) | {"module.model.encoder.bn1.bias": torch.zeros(65)}
    torch.save(container(model), tmp_path / "trex.pth")
    with pytest.raises(CheckpointError, match=r"bn1\.bias: file \(65,\), network \(64,\).*Nothing was loaded"):
        load_backbone(str(tmp_path / "trex.pth"))


def test_a_file_of_another_project_is_none_of_ours(online: nn.Module) -> None:
    assert TrexFormat().read({"model": dict(online.state_dict())}, {}) == []
    assert TrexFormat().read({"model": dict(online.state_dict(prefix="model.encoder."))}, {}) == []
