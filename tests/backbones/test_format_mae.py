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
from richrep.backbones.formats.mae import MaeFormat
from richrep.data.preprocessing import Geometry
from richrep.errors import CheckpointError

Tensors = dict[str, torch.Tensor]

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
    backbone = load_backbone(str(tmp_path / "mae_pretrain_vit.pth"))
    assert (backbone.family, backbone.architecture, backbone.head) == ("mae", "vit_128x2_heads2_patch8_32", None)
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
        load_backbone(str(tmp_path / "mae.pth"))
