"""Google's ViTs as .npz: names with '/', axes of Flax, attention in three parts."""

from __future__ import annotations

import re
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
from richrep.backbones.convert import convert
from richrep.backbones.formats.vit_npz import VitNpzFormat
from richrep.backbones.override import override_preprocessing
from richrep.backbones.run_model import check_can_be_kept, save_run_model
from richrep.data.preprocessing import Geometry, Preprocessing
from richrep.errors import CheckpointError

Arrays = dict[str, np.ndarray]

WIDTH, HEADS, CLASSES = 48, 3, 7
NAME = "vit_48x2_heads3_patch8_40"


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
    backbone = load_backbone(f"{NAME}@{save(arrays, tmp_path / 'x.npz')}")
    assert (backbone.family, backbone.architecture) == ("vit-npz", NAME)
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
    trunk = load_backbone(f"{NAME}@{path}").trunk.state_dict()
    assert trunk.keys() == reference.state_dict().keys()
    assert all(torch.equal(tensor, trunk[name]) for name, tensor in reference.state_dict().items())


def test_the_hidden_layer_of_the_original_paper_is_set_aside_with_the_head(tmp_path: Path, arrays: Arrays) -> None:
    hidden = {"pre_logits/kernel": np.zeros((WIDTH, WIDTH)), "pre_logits/bias": np.zeros(WIDTH)}
    backbone = load_backbone(f"{NAME}@{save(arrays | hidden, tmp_path / 'x.npz')}")
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
        load_backbone(f"{NAME}@{save(rest, tmp_path / 'x.npz')}")


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
        load_backbone(f"{NAME}@{save(arrays | {name: np.zeros(shape, np.float32)}, tmp_path / 'x.npz')}")


def hybrid_to_flax(network: Any) -> Arrays:
    """The ResNet of a hybrid under the names of timm's `load_pretrained`, which are those of the published files."""
    resnet = {n: t.detach().numpy() for n, t in network.patch_embed.backbone.state_dict().items()}
    named = {}
    for name, tensor in resnet.items():
        name = re.sub(r"^stem\.|^(?=conv\.|norm\.)", "root.", name)
        name = re.sub(r"^stages\.(\d)\.blocks\.(\d+)\.", lambda m: f"block{int(m[1]) + 1}/unit{int(m[2]) + 1}/", name)
        name = re.sub(
            r"root\.(conv|norm)\.|downsample\.(conv|norm)\.",
            lambda m: f"{m[1] or m[2]}_{'root' if m[1] else 'proj'}.",
            name,
        )
        name = name.replace("norm", "gn").replace(".", "/")
        is_kernel = tensor.ndim == 4
        name = re.sub(r"weight$", "kernel" if is_kernel else "scale", name).removeprefix("/")
        named[name] = tensor.transpose(2, 3, 1, 0) if is_kernel else tensor.reshape(1, 1, 1, -1)
    return named


@pytest.mark.parametrize(("name", "size_px"), [("vit_tiny_r_s16_p8_224", 224), ("vit_small_r26_s32_224", 224)])
def test_hybrids_open_as_timms(
    tmp_path: Path, randomise: Callable[[nn.Module], nn.Module], name: str, size_px: int
) -> None:
    network: Any = randomise(timm.create_model(name, num_classes=0))
    path = save(to_flax(network) | hybrid_to_flax(network), tmp_path / "R.npz")
    backbone = load_backbone(path)
    assert (backbone.family, backbone.architecture) == ("vit-npz", name)
    half = (0.5, 0.5, 0.5)
    assert backbone.preprocessing == Preprocessing(Geometry((size_px, size_px), 248, "bicubic"), half, half)
    reference: Any = timm.create_model(name, num_classes=0).eval()
    with torch.no_grad():
        reference.load_pretrained(path)
    with torch.inference_mode():
        assert_close(backbone(images_of(size_px)[:1]), network(images_of(size_px)[:1]))
        assert_close(reference(images_of(size_px)[:1]), network(images_of(size_px)[:1]))


def test_timm_in_front_of_the_name_means_the_same(tmp_path: Path, randomise: Callable[[nn.Module], nn.Module]) -> None:
    network: Any = randomise(timm.create_model("vit_tiny_patch16_224", num_classes=0))
    path = save(to_flax(network), tmp_path / "Ti_16.npz")
    backbones = [load_backbone(f"{family}vit_tiny_patch16_224@{path}") for family in ("", "vit/", "timm/")]
    assert len({(b.fingerprint, b.preprocessing) for b in backbones}) == 1
    report = " | ".join(backbones[2].load_report)
    assert "architecture given by hand, images as it expects: resize 224 (bicubic), crop 224x224, mean (0.5" in report
    assert "--preprocess changes that" in report
    with torch.inference_mode():
        assert_close(backbones[2](images_of(224)[:1]), network(images_of(224)[:1]))


def test_a_published_vit_that_lost_its_last_block_is_refused_until_spelled_out(tmp_path: Path) -> None:
    network: Any = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=11)
    path = save(to_flax(network), tmp_path / "Ti_16.npz")
    with pytest.raises(
        CheckpointError, match=r"width 192 with 11 blocks; of the published ViTs, those of .* have 12\."
    ):
        load_backbone(path)
    assert load_backbone(f"vit_192x11_heads3_patch16_224@{path}").architecture == "vit_192x11_heads3_patch16_224"
    with pytest.raises(CheckpointError, match=r"missing in the file: blocks\.11\."):
        load_backbone(f"vit_192x12_heads3_patch16_224@{path}")
    with pytest.raises(CheckpointError, match=r"needs num_heads: 3, which that one cannot do"):
        load_backbone(f"vit_192x11_heads6_patch16_224@{path}")
    with pytest.raises(CheckpointError, match=r"it could be vit_192x11_heads3_patch16_224\. Correct the name"):
        load_backbone(f"vit_192x11_heads3_patch8_224@{path}")


def test_other_archives_are_none_of_ours() -> None:
    assert VitNpzFormat().read({"embedding/kernel": torch.zeros(8, 8, 3, 4)}, {}) == []


def test_heads_that_a_token_cannot_share_are_refused(tmp_path: Path) -> None:
    arrays = to_flax(timm.create_model("vit_tiny_patch16_224", num_classes=0))
    attention = "Transformer/encoderblock_0/MultiHeadDotProductAttention_1"
    shapes = {f"{attention}/{part}/kernel": np.zeros((35, 5, 7), np.float32) for part in ("query", "key", "value")}
    with pytest.raises(CheckpointError, match=r"12 blocks and 5 heads, expected .* heads that share the 192 values"):
        load_backbone(save(arrays | shapes, tmp_path / "x.npz"))


@pytest.mark.parametrize("size_px", [24, 60])  # 60: seven patches of 8 pixels and a half
def test_one_of_unusual_sizes_set_to_other_images_is_written_trained_and_read_again(
    tmp_path: Path, arrays: Arrays, size_px: int
) -> None:
    changed = override_preprocessing(
        load_backbone(f"{NAME}@{save(arrays, tmp_path / 'x.npz')}"), [f"size={size_px}", f"resize={size_px}"]
    )
    again = load_backbone(str(convert(changed, tmp_path / "changed.safetensors")))
    save_run_model(tmp_path / "run" / "model", [changed], None, method="finetune", dataset="digits")
    of_run = load_backbone(f"run:{tmp_path / 'run'}")
    with torch.inference_mode():
        for found in (again, of_run):
            assert torch.equal(found(images_of(size_px)), changed(images_of(size_px)))
            assert found.preprocessing == changed.preprocessing
    check_can_be_kept([changed, again])
