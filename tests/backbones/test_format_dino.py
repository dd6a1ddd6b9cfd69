"""Checkpoints of DINO: teacher and student, each a backbone with a projection head."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision.models
from timm.models import VisionTransformer
from torch import nn

from richrep.backbones.addresses import load_backbone
from richrep.backbones.formats.dino import DinoFormat
from richrep.data.preprocessing import Geometry
from richrep.errors import CheckpointError

Tensors = dict[str, torch.Tensor]
Randomise = Callable[[nn.Module], nn.Module]

NAME = "vit_128x2_heads2_patch8_32"
HEAD = {
    "head.mlp.0.weight": torch.zeros(8, 64),
    "head.last_layer.weight_g": torch.ones(5, 1),
    "head.last_layer.weight_v": torch.zeros(5, 8),
}


def make_vit(randomise: Randomise) -> nn.Module:
    return randomise(VisionTransformer(img_size=32, patch_size=8, embed_dim=128, depth=2, num_heads=2, num_classes=0))


def multi_crop_names(backbone: nn.Module, prefix: str = "", head: Tensors = HEAD) -> Tensors:
    return {f"{prefix}{name}": t for name, t in {**backbone.state_dict(prefix="backbone."), **head}.items()}


def full_checkpoint(teacher: Tensors, student: Tensors) -> dict[str, object]:
    args = argparse.Namespace(arch="vit_small", patch_size=8)
    return {
        "student": student,
        "teacher": teacher,
        "optimizer": {},
        "epoch": 100,
        "args": args,
        "dino_loss": {"center": HEAD},
    }


def assert_same_features(backbone: nn.Module, network: nn.Module) -> None:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = network(images)
        torch.testing.assert_close(backbone(images), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_the_teacher_comes_first_and_the_student_by_name(tmp_path: Path, randomise: Randomise) -> None:
    teacher, student = make_vit(randomise), make_vit(randomise)
    path = tmp_path / "dino.pth"
    torch.save(full_checkpoint(multi_crop_names(teacher), multi_crop_names(student, "module.")), path)
    with pytest.raises(CheckpointError, match=r"none has this width\. .*say so.*: vit_128x2_heads2_patch8_32@/"):
        load_backbone(str(path))
    backbone = load_backbone(f"{NAME}@{path}")
    assert (backbone.family, backbone.architecture) == ("dino", NAME)
    assert backbone.head is None
    assert backbone.preprocessing.geometry == Geometry((32, 32), 36, "bicubic")
    assert any("projection head set aside: 3 tensors" in line for line in backbone.load_report)
    assert any("the file also holds #student" in line for line in backbone.load_report)
    assert_same_features(backbone, teacher)
    assert_same_features(load_backbone(f"{NAME}@{path}#teacher"), teacher)
    assert_same_features(load_backbone(f"{NAME}@{path}#student"), student)


@pytest.mark.parametrize("head", [HEAD, {}])
def test_a_resnet_teacher_alone_opens(tmp_path: Path, randomise: Randomise, head: Tensors) -> None:
    network = randomise(torchvision.models.resnet18())
    network.fc = nn.Identity()
    torch.save({"teacher": multi_crop_names(network, "module.", head), "epoch": 1}, tmp_path / "d.pth")
    backbone = load_backbone(str(tmp_path / "d.pth"))
    assert (backbone.family, backbone.architecture) == ("dino", "resnet18")
    assert backbone.preprocessing.geometry == Geometry((224, 224), 256, "bicubic")
    assert_same_features(backbone, network)


def test_an_odd_tensor_is_named(tmp_path: Path, randomise: Randomise) -> None:
    teacher = multi_crop_names(make_vit(randomise)) | {"backbone.blocks.1.attn.qkv.bias": torch.zeros(5)}
    torch.save({"teacher": teacher}, tmp_path / "d.pth")
    with pytest.raises(CheckpointError, match=r"blocks\.1\.attn\.qkv\.bias: file \(5,\), network \(384,\)"):
        load_backbone(f"{NAME}@{tmp_path / 'd.pth'}")


def test_a_backbone_alone_and_other_teachers_are_none_of_ours(randomise: Randomise) -> None:
    vit = make_vit(randomise)
    assert DinoFormat().read(vit.state_dict(), {}) == []
    assert DinoFormat().read({"teacher": vit.state_dict(), "student": vit.state_dict()}, {}) == []
    assert (
        DinoFormat().read({"teacher": multi_crop_names(vit, head={"dino_head.mlp.0.bias": torch.zeros(1)})}, {}) == []
    )


def test_a_width_that_heads_cannot_share_is_refused(tmp_path: Path) -> None:
    odd = VisionTransformer(img_size=32, patch_size=8, embed_dim=200, depth=1, num_heads=2, num_classes=0)
    torch.save({"teacher": multi_crop_names(odd)}, tmp_path / "d.pth")
    with pytest.raises(
        CheckpointError, match="1 blocks and 3 heads, expected 1 to 200 blocks, and heads that share the 200 values"
    ):
        load_backbone(f"vit_200x1_heads3_patch8_32@{tmp_path / 'd.pth'}")
