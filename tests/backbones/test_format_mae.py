"""Pretraining files of MAE: a ViT with fixed sines as positions, with or without its decoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.models import VisionTransformer
from torch import nn

from richrep.backbones.addresses import load_backbone
from richrep.backbones.convert import convert
from richrep.backbones.formats.mae import MaeFormat
from richrep.backbones.override import override_preprocessing
from richrep.data.preprocessing import Geometry
from richrep.errors import CheckpointError

Tensors = dict[str, torch.Tensor]

NAME = "vit_128x2_heads2_patch8_32"
DECODER = {
    "mask_token": torch.zeros(1, 1, 8),
    "decoder_embed.weight": torch.zeros(8, 128),
    "decoder_pos_embed": torch.zeros(1, 17, 8),
    "decoder_blocks.0.norm1.weight": torch.ones(8),
    "decoder_pred.bias": torch.zeros(192),
}


def fixed_sines(width: int, grid: int) -> torch.Tensor:
    """He et al. 2022: for every patch sin and cos of its column, then of its row; zeros for the class token."""
    rows = [np.zeros(width)]
    for row in range(grid):
        for column in range(grid):
            angles = [place / 10000 ** (4 * i / width) for place in (column, row) for i in range(width // 4)]
            first, second = np.split(np.array(angles), 2)
            rows.append(np.concatenate([np.sin(first), np.cos(first), np.sin(second), np.cos(second)]))
    return torch.tensor(np.stack(rows), dtype=torch.float32)[None]


@pytest.fixture(scope="module")
def vit(randomise: Callable[[nn.Module], nn.Module]) -> nn.Module:
    network: Any = VisionTransformer(img_size=32, patch_size=8, embed_dim=128, depth=2, num_heads=2, num_classes=0)
    network.pos_embed.data = fixed_sines(128, 4)
    return randomise(network)


def assert_same_features(backbone: Any, network: nn.Module) -> None:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = network(images)
        torch.testing.assert_close(backbone(images), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("decoder", [DECODER, {}])
def test_the_encoder_opens_and_the_decoder_is_set_aside(tmp_path: Path, vit: nn.Module, decoder: Tensors) -> None:
    torch.save({"model": {**vit.state_dict(), **decoder}}, tmp_path / "mae_pretrain_vit.pth")
    backbone = load_backbone(f"{NAME}@{tmp_path / 'mae_pretrain_vit.pth'}")
    assert (backbone.family, backbone.architecture, backbone.head) == ("mae", NAME, None)
    assert backbone.preprocessing.geometry == Geometry((32, 32), 36, "bicubic")
    assert any("decoder set aside: 5 tensors" in line for line in backbone.load_report) == bool(decoder)
    assert_same_features(backbone, vit)


def test_a_decoder_tells_the_project_whatever_the_positions(vit: nn.Module) -> None:
    tensors = {**vit.state_dict(), "pos_embed": torch.zeros(1, 17, 128)}
    assert len(MaeFormat().read({"model": tensors | DECODER}, {})) == 1


def test_other_vits_are_none_of_ours(vit: nn.Module) -> None:
    tensors: Tensors = dict(vit.state_dict())
    head = nn.Linear(128, 3).state_dict(prefix="head.")
    assert MaeFormat().read(tensors, {}) == []
    assert MaeFormat().read({"model": {**tensors, **head}}, {}) == []
    assert MaeFormat().read({"model": tensors | {"pos_embed": torch.randn(1, 17, 128)}}, {}) == []
    assert MaeFormat().read({"model": tensors | {"pos_embed": torch.randn(1, 18, 128)}}, {}) == []
    assert MaeFormat().read({"model": tensors | {"pos_embed": torch.zeros(3)}}, {}) == []


def test_a_tensor_that_is_missing_is_named(tmp_path: Path, vit: nn.Module) -> None:
    tensors = {name: tensor for name, tensor in vit.state_dict().items() if name != "norm.bias"}
    torch.save({"model": tensors}, tmp_path / "mae.pth")
    with pytest.raises(CheckpointError, match=r"missing in the file: norm\.bias"):
        load_backbone(f"{NAME}@{tmp_path / 'mae.pth'}")


@pytest.fixture(scope="module")
def averaging(vit: nn.Module, randomise: Callable[[nn.Module], nn.Module]) -> Any:
    """As MAE fine-tunes: the average of the patches, then `fc_norm`."""
    network: Any = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=128, depth=2, num_heads=2, num_classes=5, global_pool="avg"
    )
    return randomise(network)


def forward_as_mae(network: Any, images: torch.Tensor) -> torch.Tensor:
    """models_vit.py of facebookresearch/mae, forward_features with global_pool."""
    x = network.patch_embed(images)
    x = torch.cat([network.cls_token.expand(len(x), -1, -1), x], dim=1) + network.pos_embed
    for block in network.blocks:
        x = block(x)
    return network.fc_norm(x[:, 1:, :].mean(dim=1))


def test_a_network_fine_tuned_on_averaged_patches_opens_with_its_head(tmp_path: Path, averaging: Any) -> None:
    torch.save({"model": averaging.state_dict(), "epoch": 1}, tmp_path / "ft.pth")
    backbone = load_backbone(f"{NAME}@{tmp_path / 'ft.pth'}")
    assert (backbone.family, backbone.num_classes) == ("mae", 5)
    assert backbone.preprocessing.geometry == Geometry((32, 32), 36, "bicubic")
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        features, logits = backbone.features_and_logits(images)
        expected = forward_as_mae(averaging, images)
        torch.testing.assert_close(features, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
        expected = averaging.head(expected)
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    broken = {name: tensor for name, tensor in averaging.state_dict().items() if name != "fc_norm.bias"}
    torch.save({"model": broken}, tmp_path / "broken.pth")
    with pytest.raises(CheckpointError, match=r"missing in the file: fc_norm\.bias"):
        load_backbone(f"{NAME}@{tmp_path / 'broken.pth'}")


def test_such_a_network_opens_flat_and_under_state_dict_and_others_stay_theirs(averaging: Any) -> None:
    tensors: Tensors = dict(averaging.state_dict())
    for content in (tensors, {"state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()}}):
        (network,) = MaeFormat().read(content, {})
        assert network.tensors.keys() == tensors.keys() and network.hints["pool"] == "avg"
    scale: Tensors = {"blocks.0.ls1.gamma": torch.ones(128)}  # of CaiT, BEiT, DINOv2
    assert MaeFormat().read(tensors | scale, {}) == []
    assert MaeFormat().read({"state_dict": tensors | {"norm.weight": torch.ones(128)}}, {}) == []


def test_a_linear_probe_opens_with_its_batch_norm_folded(tmp_path: Path, vit: nn.Module) -> None:
    probe: Any = nn.Sequential(nn.BatchNorm1d(128, affine=False, eps=1e-6), nn.Linear(128, 3)).eval()
    probe[0].running_mean.normal_(generator=torch.Generator().manual_seed(2))
    probe[0].running_var.uniform_(0.1, 2, generator=torch.Generator().manual_seed(3))
    torch.save({"model": {**vit.state_dict(), **probe.state_dict(prefix="head.")}}, tmp_path / "probe.pth")
    backbone = load_backbone(f"{NAME}@{tmp_path / 'probe.pth'}")
    assert any("BatchNorm folded into its linear layer" in line for line in backbone.load_report)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = probe(vit(images))
        logits = backbone.features_and_logits(images)[1]
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    half = {**vit.state_dict(), "head.1.weight": torch.zeros(3, 128), "head.1.bias": torch.zeros(3)}
    torch.save({"model": half}, tmp_path / "half.pth")
    with pytest.raises(CheckpointError, match=r"its head holds head\.1\.weight .*expected a linear probe"):
        load_backbone(f"{NAME}@{tmp_path / 'half.pth'}")


def test_one_of_averaged_patches_set_to_another_size_is_written_and_read_again(tmp_path: Path, averaging: Any) -> None:
    torch.save({"model": averaging.state_dict()}, tmp_path / "ft.pth")
    small = override_preprocessing(load_backbone(f"{NAME}@{tmp_path / 'ft.pth'}"), ["size=24", "resize=24"])
    again = load_backbone(str(convert(small, tmp_path / "small.safetensors")))
    images = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.equal(again(images), small(images))
        assert again(images).shape == (2, 128) and again.num_classes == 5
