"""Google's ViTs as .npz: names with '/', axes of Flax, attention in three parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.models import VisionTransformer
from torch import nn

from richrep.backbones.addresses import load_backbone
from richrep.backbones.formats.vit_npz import VitNpzFormat
from richrep.data.preprocessing import Geometry, Preprocessing
from richrep.errors import CheckpointError

Arrays = dict[str, np.ndarray]

WIDTH, HEADS, CLASSES = 48, 3, 7


def to_flax(network: Any) -> Arrays:
    """The arrays of google-research/vision_transformer for one of timm's ViTs."""
    tensors = {name: tensor.detach().numpy() for name, tensor in network.state_dict().items()}
    heads = network.blocks[0].attn.num_heads
    width = network.embed_dim
    arrays = {
        "cls": tensors["cls_token"],
        "embedding/kernel": tensors["patch_embed.proj.weight"].transpose(2, 3, 1, 0),  # HWIO
        "embedding/bias": tensors["patch_embed.proj.bias"],
        "Transformer/posembed_input/pos_embedding": tensors["pos_embed"],
        "Transformer/encoder_norm/scale": tensors["norm.weight"],
        "Transformer/encoder_norm/bias": tensors["norm.bias"],
    }
    if "head.weight" in tensors:
        arrays |= {"head/kernel": tensors["head.weight"].T, "head/bias": tensors["head.bias"]}
    for i in range(len(network.blocks)):
        ours, theirs = f"blocks.{i}", f"Transformer/encoderblock_{i}"
        attention = f"{theirs}/MultiHeadDotProductAttention_1"
        for norm, number in (("norm1", 0), ("norm2", 2)):
            arrays[f"{theirs}/LayerNorm_{number}/scale"] = tensors[f"{ours}.{norm}.weight"]
            arrays[f"{theirs}/LayerNorm_{number}/bias"] = tensors[f"{ours}.{norm}.bias"]
        for part, row in (("query", 0), ("key", width), ("value", 2 * width)):
            rows = slice(row, row + width)
            weight, bias = tensors[f"{ours}.attn.qkv.weight"][rows], tensors[f"{ours}.attn.qkv.bias"][rows]
            arrays[f"{attention}/{part}/kernel"] = weight.T.reshape(width, heads, -1)
            arrays[f"{attention}/{part}/bias"] = bias.reshape(heads, -1)
        arrays[f"{attention}/out/kernel"] = tensors[f"{ours}.attn.proj.weight"].T.reshape(heads, -1, width)
        arrays[f"{attention}/out/bias"] = tensors[f"{ours}.attn.proj.bias"]
        for j in (0, 1):
            arrays[f"{theirs}/MlpBlock_3/Dense_{j}/kernel"] = tensors[f"{ours}.mlp.fc{j + 1}.weight"].T
            arrays[f"{theirs}/MlpBlock_3/Dense_{j}/bias"] = tensors[f"{ours}.mlp.fc{j + 1}.bias"]
    return arrays


@pytest.fixture(scope="module")
def vit(randomise: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """48 features, heads of 16 instead of 64, a 5x5 grid of patches of 8 pixels."""
    return randomise(
        VisionTransformer(
            img_size=40, patch_size=8, embed_dim=WIDTH, depth=2, num_heads=HEADS, mlp_ratio=3, num_classes=CLASSES
        )
    )


@pytest.fixture(scope="module")
def arrays(vit: nn.Module) -> Arrays:
    return to_flax(vit)


def save(arrays: Arrays, path: Path) -> str:
    np.savez(path, **arrays)
    return str(path)


def images_of(size_px: int) -> torch.Tensor:
    return torch.randn(2, 3, size_px, size_px, generator=torch.Generator().manual_seed(1))


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_features_and_logits_are_those_of_the_network(tmp_path: Path, vit: Any, arrays: Arrays) -> None:
    backbone = load_backbone(save(arrays, tmp_path / "x.npz"))
    assert (backbone.family, backbone.architecture) == ("vit-npz", "vit_48x2_heads3_patch8_40")
    assert (backbone.feature_dim, backbone.num_classes) == (WIDTH, CLASSES)
    half = (0.5, 0.5, 0.5)
    assert backbone.preprocessing == Preprocessing(Geometry((40, 40), 40, "bicubic"), half, half)
    with torch.inference_mode():
        features, logits = backbone.features_and_logits(images_of(40))
        hidden = vit.forward_features(images_of(40))
        assert_close(features, hidden[:, 0])
        assert_close(logits, vit(images_of(40)))


def test_the_weights_are_those_that_timm_reads(tmp_path: Path, arrays: Arrays) -> None:
    path = save(arrays, tmp_path / "x.npz")
    reference = VisionTransformer(
        img_size=40, patch_size=8, embed_dim=WIDTH, depth=2, num_heads=HEADS, mlp_ratio=3, num_classes=CLASSES
    )
    with torch.no_grad():
        reference.load_pretrained(path)
    reference.reset_classifier(0)
    trunk = load_backbone(path).trunk.state_dict()
    assert trunk.keys() == reference.state_dict().keys()
    assert all(torch.equal(tensor, trunk[name]) for name, tensor in reference.state_dict().items())


def test_the_hidden_layer_of_the_original_paper_is_set_aside_with_the_head(tmp_path: Path, arrays: Arrays) -> None:
    hidden = {"pre_logits/kernel": np.zeros((WIDTH, WIDTH)), "pre_logits/bias": np.zeros(WIDTH)}
    backbone = load_backbone(save(arrays | hidden, tmp_path / "x.npz"))
    assert backbone.head is None
    assert any("pre_logits and the head behind it set aside: 4 tensors" in line for line in backbone.load_report)


def test_timms_names_resample_the_positions(tmp_path: Path, randomise: Callable[[nn.Module], nn.Module]) -> None:
    network: Any = randomise(timm.create_model("vit_tiny_patch16_224", num_classes=0))
    path = save(to_flax(network), tmp_path / "Ti_16.npz")
    assert load_backbone(path).architecture == "vit_tiny_patch16_224"
    backbone = load_backbone(f"vit_tiny_patch16_384@{path}")
    assert backbone.preprocessing.geometry == Geometry((384, 384), 384, "bicubic")
    assert "positions resampled from 14x14 to 24x24 (bicubic)" in backbone.load_report
    grid = network.pos_embed[:, 1:].reshape(1, 14, 14, -1).permute(0, 3, 1, 2)
    grid = nn.functional.interpolate(grid, size=(24, 24), mode="bicubic", antialias=True)
    positions = torch.cat([network.pos_embed[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
    assert_close(backbone.trunk.pos_embed.detach(), positions.detach())
    network.patch_embed.set_input_size(img_size=(384, 384))
    network.pos_embed = nn.Parameter(positions)
    with torch.inference_mode():
        assert_close(backbone(images_of(384)[:1]), network(images_of(384)[:1]))


def test_an_architecture_with_other_heads_is_refused(tmp_path: Path) -> None:
    network = timm.create_model("vit_tiny_patch16_224", num_classes=0, num_heads=6)
    path = save(to_flax(network), tmp_path / "x.npz")
    assert load_backbone(path).architecture == "vit_192x12_heads6_patch16_224"
    with pytest.raises(CheckpointError, match="needs num_heads: 6, which that one cannot do"):
        load_backbone(f"vit/vit_tiny_patch16_224@{path}")


def test_a_missing_array_is_named_as_timm_calls_it(tmp_path: Path, arrays: Arrays) -> None:
    rest = {name: array for name, array in arrays.items() if "encoderblock_1/MlpBlock_3/Dense_0/kernel" not in name}
    with pytest.raises(CheckpointError, match=r"missing in the file: blocks\.1\.mlp\.fc1\.weight"):
        load_backbone(save(rest, tmp_path / "x.npz"))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("Transformer/posembed_input/pos_embedding", (1, 25, WIDTH), "pos_embed has 25 positions, expected"),
        ("Transformer/posembed_input/pos_embedding", (25, WIDTH), r"pos_embed has shape \(25, 48\), expected \(1, 1"),
        (
            "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel",
            (WIDTH, WIDTH),
            "expected .D, heads",
        ),
        ("Transformer/encoderblock_1/MultiHeadDotProductAttention_1/key/kernel", (WIDTH, 3, 8), "have the shapes"),
        ("Transformer/encoderblock_1/LayerNorm_2/scale", (9,), r"norm2\.weight: file \(9,\), network \(48,\)"),
    ],
)
def test_an_odd_array_is_named(tmp_path: Path, arrays: Arrays, name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_backbone(save(arrays | {name: np.zeros(shape, np.float32)}, tmp_path / "x.npz"))


def test_hybrids_are_refused(tmp_path: Path, arrays: Arrays) -> None:
    with pytest.raises(CheckpointError, match="this is a hybrid"):
        load_backbone(save(arrays | {"conv_root/kernel": np.zeros((7, 7, 3, 64))}, tmp_path / "x.npz"))


def test_other_archives_are_none_of_ours() -> None:
    assert VitNpzFormat().read({"embedding/kernel": torch.zeros(8, 8, 3, 4)}, {}) == []
