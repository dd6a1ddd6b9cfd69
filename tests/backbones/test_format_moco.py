"""Files of MoCo v1 to v3: the trained encoder, its average, and a projection head in the place of the classifier."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision.models
from timm.models import VisionTransformer
from torch import nn

from richrep.backbones.addresses import load_backbone
from richrep.backbones.formats.moco import MocoFormat
from richrep.data.preprocessing import Geometry
from richrep.errors import CheckpointError

Tensors = dict[str, torch.Tensor]
Randomise = Callable[[nn.Module], nn.Module]


def container(tensors: Tensors) -> dict[str, object]:
    named = {f"module.{name}": tensor for name, tensor in tensors.items()}
    return {"epoch": 200, "arch": "resnet18", "state_dict": named, "optimizer": {"state": {}}}


def make_resnet(randomise: Randomise, head: nn.Module) -> nn.Module:
    network = randomise(torchvision.models.resnet18())
    network.fc = head
    return network


def make_vit(randomise: Randomise, width: int, heads: int) -> nn.Module:
    network: Any = VisionTransformer(
        img_size=32, patch_size=16, embed_dim=width, depth=1, num_heads=heads, num_classes=0
    )
    network.head = nn.Sequential(nn.Linear(width, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    return randomise(network)


def assert_same_features(backbone: Any, network: Any, head: str) -> None:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    setattr(network, head, nn.Identity())
    with torch.inference_mode():
        expected = network(images)
        torch.testing.assert_close(backbone(images), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


# version 1 projects with one linear layer, which must not pass for a classifier of 128 classes
@pytest.mark.parametrize("head", [nn.Linear(512, 128), nn.Sequential(nn.Linear(512, 9), nn.ReLU(), nn.Linear(9, 4))])
def test_both_encoders_of_version_1_and_2_open(tmp_path: Path, randomise: Randomise, head: nn.Module) -> None:
    query, key = make_resnet(randomise, head), make_resnet(randomise, head)
    tensors = {**query.state_dict(prefix="encoder_q."), **key.state_dict(prefix="encoder_k.")}
    queue = {"queue": torch.zeros(4, 16), "queue_ptr": torch.zeros(1, dtype=torch.long)}
    torch.save(container(tensors | queue), tmp_path / "moco.pth.tar")
    backbone = load_backbone(str(tmp_path / "moco.pth.tar"))
    assert (backbone.family, backbone.architecture, backbone.head) == ("moco", "resnet18", None)
    assert backbone.preprocessing.geometry == Geometry((224, 224), 256)
    report = " | ".join(backbone.load_report)
    assert f"projection head set aside: {len(head.state_dict())} tensors (fc." in report
    assert "queue or predictor set aside: 2 tensors (queue, queue_ptr)" in report
    assert "the file also holds #encoder_k" in report
    assert_same_features(backbone, query, "fc")
    assert_same_features(load_backbone(f"{tmp_path / 'moco.pth.tar'}#encoder_k"), key, "fc")


def test_the_published_files_hold_one_encoder(tmp_path: Path, randomise: Randomise) -> None:
    network = make_resnet(randomise, nn.Linear(512, 128))
    torch.save(container(network.state_dict(prefix="encoder_q.")), tmp_path / "moco.pth.tar")
    assert_same_features(load_backbone(str(tmp_path / "moco.pth.tar")), network, "fc")
    with pytest.raises(CheckpointError, match="holds one network, so 'encoder_k' after '#' names nothing"):
        load_backbone(f"{tmp_path / 'moco.pth.tar'}#encoder_k")


# version 3 has 12 heads in its ViT-S, where timm's has 6
@pytest.mark.parametrize(("width", "heads"), [(384, 12), (128, 2)])
def test_the_vits_of_version_3_have_their_own_number_of_heads(
    tmp_path: Path, randomise: Randomise, width: int, heads: int
) -> None:
    base, momentum = make_vit(randomise, width, heads), make_vit(randomise, width, heads)
    tensors = {**base.state_dict(prefix="base_encoder."), **momentum.state_dict(prefix="momentum_encoder.")}
    torch.save(container(tensors | {"predictor.0.weight": torch.zeros(4, 4)}), tmp_path / "m.pth.tar")
    name = f"vit_{width}x1_heads{heads}_patch16_32"
    backbone = load_backbone(f"{name}@{tmp_path / 'm.pth.tar'}")
    assert (backbone.family, backbone.architecture) == ("moco", name)
    assert any("queue or predictor set aside: 1 tensor (predictor.0.weight)" in line for line in backbone.load_report)
    assert_same_features(backbone, base, "head")
    assert_same_features(load_backbone(f"{name}@{tmp_path / 'm.pth.tar'}#momentum_encoder"), momentum, "head")


def test_a_convolutional_stem_is_refused_by_name(tmp_path: Path, randomise: Randomise) -> None:
    tensors = make_vit(randomise, 128, 2).state_dict(prefix="base_encoder.")
    tensors["base_encoder.patch_embed.proj.0.weight"] = tensors.pop("base_encoder.patch_embed.proj.weight")
    torch.save(container(tensors), tmp_path / "m.pth.tar")
    with pytest.raises(CheckpointError, match=r"format of moco: patch_embed\.proj\.weight is missing"):
        load_backbone(str(tmp_path / "m.pth.tar"))


def test_a_trunk_that_lacks_a_tensor_is_refused(tmp_path: Path, randomise: Randomise) -> None:
    tensors = make_resnet(randomise, nn.Linear(512, 128)).state_dict(prefix="encoder_q.")
    del tensors["encoder_q.layer1.0.conv1.weight"]
    torch.save(container(tensors), tmp_path / "m.pth.tar")
    with pytest.raises(CheckpointError, match=r"missing in the file: layer1\.0\.conv1\.weight"):
        load_backbone(str(tmp_path / "m.pth.tar"))


def test_a_plain_resnet_is_none_of_ours(randomise: Randomise) -> None:
    assert MocoFormat().read(container(make_resnet(randomise, nn.Linear(512, 5)).state_dict()), {}) == []


def sines_of_version_3(width: int, grid: int) -> torch.Tensor:
    """vits.py of facebookresearch/moco-v3: for every patch sin and cos of its row, then of its column."""
    rows, columns = torch.meshgrid(torch.arange(grid).float(), torch.arange(grid).float(), indexing="ij")
    omega = 1.0 / 10000 ** (torch.arange(width // 4, dtype=torch.float32) / (width // 4))
    first, second = rows.flatten()[:, None] * omega, columns.flatten()[:, None] * omega
    patches = torch.cat([first.sin(), first.cos(), second.sin(), second.cos()], dim=1)
    return torch.cat([torch.zeros(1, width), patches])[None]


@pytest.mark.parametrize(("key", "prefix"), [("state_dict", "module."), ("model", "")])
def test_a_linear_probe_of_the_small_vit_has_12_heads_by_its_positions(
    tmp_path: Path, randomise: Randomise, key: str, prefix: str
) -> None:
    network: Any = randomise(
        VisionTransformer(img_size=64, patch_size=16, embed_dim=384, depth=1, num_heads=12, num_classes=5)
    )
    network.pos_embed.data = sines_of_version_3(384, 4)
    torch.save({"epoch": 1, key: network.state_dict(prefix=prefix)}, tmp_path / "lincls.pth.tar")
    backbone = load_backbone(f"vit_384x1_heads12_patch16_64@{tmp_path / 'lincls.pth.tar'}")
    assert (backbone.family, backbone.num_classes) == ("moco", 5)
    assert any("MoCo v3's, by its fixed positions" in line for line in backbone.load_report)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = network(images)
        logits = backbone.features_and_logits(images)[1]
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    with pytest.raises(CheckpointError, match="needs num_heads: 12, which that one cannot do"):
        load_backbone(f"vit_384x1_heads6_patch16_64@{tmp_path / 'lincls.pth.tar'}")


def test_the_whole_small_vit_is_refused_as_timms_which_has_6_heads(tmp_path: Path, randomise: Randomise) -> None:
    network: Any = timm.create_model("vit_small_patch16_224", num_classes=0, num_heads=12)
    network.pos_embed.data = sines_of_version_3(384, 14)
    torch.save({"state_dict": network.state_dict(prefix="module.")}, tmp_path / "s.pth.tar")
    assert load_backbone(str(tmp_path / "s.pth.tar")).architecture == "vit_384x12_heads12_patch16_224"
    with pytest.raises(CheckpointError, match="needs num_heads: 12, which that one cannot do"):
        load_backbone(f"timm/vit_small_patch16_224@{tmp_path / 's.pth.tar'}")
