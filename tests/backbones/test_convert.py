"""Converted files: they load back identically, say where they came from, and are written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import save_file

from richrep.backbones.addresses import load_backbone
from richrep.backbones.concat import concat
from richrep.backbones.convert import convert
from richrep.errors import CheckpointError


def plain_resnet(path: Path) -> None:
    torch.save(torchvision.models.resnet18(num_classes=7).state_dict(), path)


def same_padding(path: Path) -> None:
    model = timm.create_model("mobilenetv2_035", num_classes=5)
    save_file(model.state_dict(), path, metadata={"padding": "TensorFlow SAME", "licence": "MIT"})


def squeezenet(path: Path) -> None:
    torch.save({"state_dict": torchvision.models.squeezenet1_1(num_classes=4).state_dict()}, path)


def swav(path: Path) -> None:
    tensors = {f"module.{n}": t for n, t in torchvision.models.resnet18().state_dict().items() if "fc." not in n}
    torch.save({"state_dict": tensors | {"module.prototypes.weight": torch.zeros(30, 16)}}, path)


def several_networks(path: Path) -> None:
    models = [torchvision.models.resnet18() for _ in range(2)]
    tensors = {
        f"module.model{i}.{n}": t for i, m in enumerate(models) for n, t in m.state_dict().items() if "fc." not in n
    }
    head = {f"module.classifier.linear.{n}": t for n, t in torch.nn.Linear(1024, 3).state_dict().items()}
    torch.save({"epoch": 1, "state_dict": tensors | head}, path)


def masked(path: Path) -> None:
    tensors = {}
    for name, tensor in torchvision.models.resnet18().state_dict().items():
        if tensor.ndim in (2, 4) or name == "fc.bias":
            owner, _, kind = name.rpartition(".")
            tensors[f"{owner}._layer.{kind}"] = tensor
            tensors[f"{owner}._{kind}_mask"] = (torch.rand(tensor.shape) > 0.5 * (tensor.ndim > 1)).float()
        else:
            tensors[name] = tensor
    torch.save({"model_config": {"arch": "resnet18", "dataset": "imagenet"}, "model_state_dict": tensors}, path)


def half_precision(path: Path) -> None:
    tensors = torchvision.models.resnet18().state_dict()
    torch.save({name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}, path)


def of_no_project(path: Path) -> None:
    tensors = {f"net.{n}": t for n, t in torchvision.models.resnet18(num_classes=7).state_dict().items()}
    torch.save({"state_dict": tensors | {"criterion.weight": torch.ones(7)}}, path)


def pruned_in_rrl(path: Path) -> None:
    masked(path)
    tensors = torch.load(path)["model_state_dict"]
    tensors = {n.replace("fc.", "classifier.linear."): t for n, t in tensors.items()}
    named = {f"module.{'' if n.startswith('classifier') else 'model0.'}{n}": t for n, t in tensors.items()}
    torch.save({"epoch": 1, "state_dict": named}, path)


MAKERS = [
    of_no_project,
    pruned_in_rrl,
    plain_resnet,
    same_padding,
    squeezenet,
    swav,
    several_networks,
    masked,
    half_precision,
]


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_a_converted_file_loads_back_identically(tmp_path: Path, make: Callable[[Path], None]) -> None:
    torch.manual_seed(0)
    make(tmp_path / "in")
    before = load_backbone(str(tmp_path / "in"))
    after = load_backbone(str(convert(before, tmp_path / "out.safetensors")))
    assert after.fingerprint == before.fingerprint  # family, architecture, variant and every tensor
    for fact in ("preprocessing", "licence", "num_classes", "feature_dim", "mask_source", "parameters", "sparsity"):
        assert getattr(after, fact) == getattr(before, fact), fact
    assert after.masks.keys() == before.masks.keys()
    assert all(torch.equal(after.masks[name], mask) for name, mask in before.masks.items())
    assert before.sha256 in " ".join(after.load_report)
    assert "preprocessing: input, mean and std stated by the file" in after.load_report
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(after(images), before(images))
    again = load_backbone(str(convert(after, tmp_path / "again.safetensors")))
    assert again.fingerprint == before.fingerprint


def test_an_average_is_converted_by_its_name(tmp_path: Path) -> None:
    weights, average = (torchvision.models.resnet18(num_classes=3).state_dict() for _ in range(2))
    torch.save({"model": weights, "model_ema": average}, tmp_path / "in")
    before = load_backbone(f"{tmp_path / 'in'}#ema")
    after = load_backbone(str(convert(before, tmp_path / "out.safetensors")))
    assert after.fingerprint == before.fingerprint
    assert torch.equal(after.trunk.state_dict()["conv1.weight"], average["conv1.weight"])
    assert f"converted from {tmp_path / 'in'}#ema (sha256 {before.sha256})" in " ".join(after.load_report)


def test_a_random_backbone_can_be_converted(tmp_path: Path) -> None:
    before = load_backbone("random/resnet18", seed=3)
    after = load_backbone(str(convert(before, tmp_path / "r.safetensors")))
    assert after.fingerprint == before.fingerprint


def test_the_tensors_have_the_names_of_the_library(tmp_path: Path) -> None:
    swav(tmp_path / "in")
    path = convert(load_backbone(str(tmp_path / "in")), tmp_path / "out.safetensors")
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        assert json.loads(file.metadata()["richrep"])["family"] == "swav"
    missing, unexpected = torchvision.models.resnet18().load_state_dict(tensors, strict=False)
    assert (missing, unexpected) == (["fc.weight", "fc.bias"], [])


def test_what_cannot_be_written_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    plain_resnet(tmp_path / "in")
    backbone = load_backbone(str(tmp_path / "in"))
    with pytest.raises(CheckpointError, match=r"out\.pt does not end in \.safetensors"):
        convert(backbone, tmp_path / "out.pt")
    (tmp_path / "there.safetensors").write_text("mine")
    with pytest.raises(CheckpointError, match=r"there\.safetensors is there already"):
        convert(backbone, tmp_path / "there.safetensors")
    assert (tmp_path / "there.safetensors").read_text() == "mine"
    with pytest.raises(CheckpointError, match=r"Cannot write .*out\.safetensors \(44\.8 MB are needed\)"):
        convert(backbone, tmp_path / "no" / "folder" / "out.safetensors")
    with pytest.raises(CheckpointError, match="is not one network that richrep can lay out again"):
        convert(concat(backbone, backbone), tmp_path / "out.safetensors")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in", "there.safetensors"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 2}', '{"schema": 1, "family": "x"}'])
def test_broken_facts_are_said(tmp_path: Path, text: str) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors", metadata={"richrep": text})
    with pytest.raises(CheckpointError, match=r"its metadata 'richrep' is not what `richrep convert` writes"):
        load_backbone(str(tmp_path / "x.safetensors"))


def test_a_converted_file_with_a_tensor_missing_is_refused(tmp_path: Path) -> None:
    plain_resnet(tmp_path / "in")
    path = convert(load_backbone(str(tmp_path / "in")), tmp_path / "out.safetensors")
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys() if name != "layer1.0.conv1.weight"}  # noqa: SIM118
        metadata = file.metadata()
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(CheckpointError, match=r"missing in the file: layer1\.0\.conv1\.weight"):
        load_backbone(str(path))


@pytest.mark.parametrize(
    "name", ["a\0b.safetensors", "x" * 300 + ".safetensors", "folder.safetensors", "in/x.safetensors"]
)
def test_places_where_no_file_can_be_are_said(tmp_path: Path, name: str) -> None:
    plain_resnet(tmp_path / "in")
    (tmp_path / "folder.safetensors").mkdir()
    backbone = load_backbone(str(tmp_path / "in"))
    with pytest.raises(CheckpointError, match=r"Cannot write|is there and is no file"):
        convert(backbone, tmp_path / name, overwrite=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["folder.safetensors", "in"]


def test_a_backbone_without_origin_stays_as_it_is(tmp_path: Path) -> None:
    plain_resnet(tmp_path / "in")
    with pytest.raises(CheckpointError, match="cannot be converted"):
        convert(replace(load_backbone(str(tmp_path / "in")), origin=None), tmp_path / "out.safetensors")


def test_a_network_opened_by_a_spelled_name_loads_back_without_it(tmp_path: Path) -> None:
    network = timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=128, depth=2, num_heads=4, num_classes=3, global_pool="avg"
    )
    torch.save({"model": network.state_dict()}, tmp_path / "mae.pth")
    before = load_backbone(f"vit_128x2_heads4_patch8_32@{tmp_path / 'mae.pth'}")
    after = load_backbone(str(convert(before, tmp_path / "out.safetensors")))
    assert (after.fingerprint, after.preprocessing) == (before.fingerprint, before.preprocessing)
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.allclose(after.features_and_logits(images)[1], network.eval()(images), atol=1e-5)
