"""CLIP's visual towers in the names of OpenAI and open_clip."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models.byobnet import _convert_openai_clip
from torch import nn

from richrep.backbones.addresses import load_backbone
from richrep.backbones.blank import shapes_only
from richrep.backbones.checkpoint import Checkpoint
from richrep.backbones.families import FAMILIES
from richrep.backbones.families.detection import find_architecture
from richrep.backbones.families.timm_models import make_model
from richrep.backbones.formats.clip import ClipFormat
from richrep.data.preprocessing import Geometry, Preprocessing
from richrep.errors import CheckpointError

Tensors = dict[str, torch.Tensor]

WIDTH, HEADS, DEPTH, PATCH, SIZE = 128, 2, 2, 8, 32
TEXT_TOWER = {
    "positional_embedding": torch.zeros(77, 4),
    "text_projection": torch.zeros(4, 4),
    "logit_scale": torch.tensor(4.6),
    "token_embedding.weight": torch.zeros(9, 4),
    "transformer.resblocks.0.ln_1.weight": torch.zeros(4),
    "ln_final.weight": torch.zeros(4),
}
OPENAI_ONLY = {
    name: torch.tensor(n) for name, n in (("input_resolution", 32), ("context_length", 77), ("vocab_size", 9))
}


class QuickGELU(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        layers = {"c_fc": nn.Linear(WIDTH, 4 * WIDTH), "gelu": activation, "c_proj": nn.Linear(4 * WIDTH, WIDTH)}
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class VisualTower(nn.Module):
    """Radford et al. 2021, with OpenAI's names; returns what the projection would take."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, PATCH, stride=PATCH, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(WIDTH))
        self.positional_embedding = nn.Parameter(torch.randn((SIZE // PATCH) ** 2 + 1, WIDTH))
        self.ln_pre, self.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.Sequential(*(Block(activation) for _ in range(DEPTH)))
        self.proj = nn.Parameter(torch.randn(WIDTH, 4))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patches = self.conv1(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_embedding.expand(len(images), 1, -1), patches], dim=1)
        tokens = self.transformer.resblocks(self.ln_pre(tokens + self.positional_embedding))
        return self.ln_post(tokens[:, 0])


@pytest.fixture(scope="module")
def towers(randomise: Callable[[nn.Module], nn.Module]) -> dict[str, nn.Module]:
    """The same weights with either activation."""
    quick, exact = VisualTower(QuickGELU()), VisualTower(nn.GELU())
    exact.load_state_dict(randomise(quick).state_dict())
    return {"quickgelu": quick, "gelu": exact.eval()}


@pytest.fixture(scope="module")
def visual(towers: dict[str, nn.Module]) -> Tensors:
    return dict(towers["gelu"].state_dict(prefix="visual."))


def assert_same_features(backbone: Any, network: nn.Module) -> None:
    images = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = network(images)
        torch.testing.assert_close(backbone(images), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def module_names(tensors: Tensors) -> Tensors:
    return {f"module.{name}": tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("wrap", "activation", "reason"),
    [
        (lambda v: v | TEXT_TOWER | OPENAI_ONLY, "quickgelu", "QuickGELU, as the file has the tensors of OpenAI's"),
        (lambda v: v | TEXT_TOWER, "quickgelu", "not said by the file, so as in the architecture's name"),
        (
            lambda v: v | {"text.logit": torch.zeros(1)},
            "gelu",
            "not said by the file, so as in the architecture's name",
        ),
        (
            lambda v: {
                "epoch": 32,
                "name": "run-ViT-B-32",
                "state_dict": module_names(v | TEXT_TOWER),
                "optimizer": {},
            },
            "gelu",
            "GELU, by open_clip's name of the run 'run-ViT-B-32'",
        ),
        (
            lambda v: {"epoch": 32, "name": "ViT-B-32-quickgelu", "state_dict": module_names(v | TEXT_TOWER)},
            "quickgelu",
            "QuickGELU, by open_clip's name of the run 'ViT-B-32-quickgelu'",
        ),
    ],
)
def test_the_visual_tower_opens_with_the_activation_that_the_file_suggests(
    tmp_path: Path,
    towers: dict[str, nn.Module],
    visual: Tensors,
    wrap: Callable[[Tensors], dict[str, object]],
    activation: str,
    reason: str,
) -> None:
    torch.save(wrap(visual), tmp_path / "clip.pt")
    quick = "quickgelu_" if activation == "quickgelu" else ""
    with pytest.raises(CheckpointError, match="published ViTs, none has this width"):
        load_backbone(str(tmp_path / "clip.pt"))
    backbone = load_backbone(f"vit_128x2_heads2_patch8_clip_{quick}32@{tmp_path / 'clip.pt'}")
    assert backbone.architecture == f"vit_128x2_heads2_patch8_clip_{quick}32"
    assert (backbone.family, backbone.feature_dim, backbone.head) == ("clip", WIDTH, None)
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    assert backbone.preprocessing == Preprocessing(Geometry((SIZE, SIZE), SIZE, "bicubic"), mean, std)
    report = " | ".join(backbone.load_report)
    assert f"activation: {reason}" in report
    assert "projection set aside: 1 tensor (proj)" in report and "text tower set aside: " in report
    assert_same_features(backbone, towers[activation])


def test_half_precision_is_cast(tmp_path: Path, visual: Tensors) -> None:
    torch.save({name: tensor.half() for name, tensor in (visual | TEXT_TOWER).items()}, tmp_path / "clip.pt")
    backbone = load_backbone(f"vit_128x2_heads2_patch8_clip_32@{tmp_path / 'clip.pt'}")
    assert all(p.dtype == torch.float32 for p in backbone.trunk.parameters())


@pytest.mark.parametrize("said", [OPENAI_ONLY, {}], ids=["quickgelu", "nothing"])
def test_timms_names_choose_the_activation(said: Tensors) -> None:
    """ViT-B/32 by shapes alone: the name that is given decides where the file does not show QuickGELU."""
    with shapes_only():
        model: Any = make_model("vit_base_patch32_clip_224")
    (network,) = ClipFormat().read(to_openai(model.state_dict()) | said, {})
    checkpoint = Checkpoint(
        dict(network.tensors), Path("c.pt"), sha256="", format="clip",
        preprocessing=network.preprocessing, hints=network.hints,
    )  # fmt: skip
    families = list(FAMILIES.values())
    if said:
        assert find_architecture(families, checkpoint)[0].address == "vit/vit_base_patch32_clip_quickgelu_224"
    else:
        both = r"vit_base_patch32_clip_quickgelu_224@c\.pt or vit_base_patch32_clip_224@c\.pt"
        with pytest.raises(CheckpointError, match=f"does not say which activation its MLPs have.*{both}"):
            find_architecture(families, checkpoint)
    for name, activation in (("clip_quickgelu", "QuickGELU"), ("clip", "GELU")):
        for family in ("", "timm/"):
            wanted = f"{family}vit_base_patch32_{name}_224"
            if said and activation == "GELU":
                with pytest.raises(CheckpointError, match="needs activation: quick_gelu, which that one cannot do"):
                    find_architecture(families, checkpoint, wanted=wanted)
                continue
            candidate, _ = find_architecture(families, checkpoint, wanted=wanted)
            with shapes_only():
                trunk: Any = candidate.family.lay_out(candidate.architecture, checkpoint).trunk
            assert type(trunk.blocks[0].mlp.act).__name__ == activation


def to_openai(tensors: Tensors) -> Tensors:
    """OpenAI's names for timm's of a CLIP ViT."""
    rules = (
        (r"^patch_embed\.proj\.", "conv1."),
        (r"^cls_token$", "class_embedding"),
        (r"^pos_embed$", "positional_embedding"),
        (r"^norm_pre\.", "ln_pre."),
        (r"^norm\.", "ln_post."),
        (r"^blocks\.", "transformer.resblocks."),
        (r"\.norm([12])\.", r".ln_\1."),
        (r"\.attn\.qkv\.", ".attn.in_proj_"),
        (r"\.attn\.proj\.", ".attn.out_proj."),
        (r"\.mlp\.fc1\.", ".mlp.c_fc."),
        (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    )
    named = {}
    for name, tensor in tensors.items():
        if name.startswith("head."):
            continue
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        named[f"visual.{name}"] = tensor
    named["visual.class_embedding"] = named["visual.class_embedding"][0, 0]
    named["visual.positional_embedding"] = named["visual.positional_embedding"][0]
    return named


def modified_resnet_names(tensors: Tensors) -> Tensors:
    """OpenAI's names for timm's of a CLIP ResNet."""
    parts = {"conv1_1x1": 1, "conv2_kxk": 2, "conv3_1x1": 3}
    named = {}
    for name, tensor in tensors.items():
        if match := re.fullmatch(r"stem\.conv(\d)\.(conv|bn)\.(\w+)", name):
            new = f"{match[2]}{match[1]}.{match[3]}"
        elif match := re.fullmatch(r"stages\.(\d)\.(\d+)\.shortcut\.conv\.(conv|bn)\.(\w+)", name):
            number = 0 if match[3] == "conv" else 1
            new = f"layer{int(match[1]) + 1}.{match[2]}.downsample.{number}.{match[4]}"
        elif match := re.fullmatch(r"stages\.(\d)\.(\d+)\.(\w+)\.(conv|bn)\.(\w+)", name):
            new = f"layer{int(match[1]) + 1}.{match[2]}.{match[4]}{parts[match[3]]}.{match[5]}"
        elif name == "head.pos_embed":
            new = "attnpool.positional_embedding"
        else:
            new = re.sub(r"^head\.(proj|\w)\.", lambda m: f"attnpool.{m[1][0] if m[1] != 'proj' else 'c'}_proj.", name)
        named[f"visual.{new}"] = tensor
    return named


@pytest.mark.parametrize(("name", "size_px"), [("resnet50_clip", 224), ("resnet50x4_clip", 288)])
def test_the_modified_resnets_get_the_names_that_timm_gives_them(name: str, size_px: int) -> None:
    with shapes_only():
        model: Any = make_model(name)
    names = modified_resnet_names(model.state_dict())
    (network,) = ClipFormat().read(names | TEXT_TOWER, {})
    expected = {n: t for n, t in _convert_openai_clip(names, model).items() if not n.startswith("head.proj.")}
    assert network.tensors.keys() == expected.keys()
    assert all(network.tensors[n] is tensor for n, tensor in expected.items())
    assert network.preprocessing is not None
    assert network.preprocessing.geometry == Geometry((size_px, size_px), size_px, "bicubic")
    assert any("projection set aside: 2 tensors" in note for note in network.notes)
    checkpoint = Checkpoint(dict(network.tensors), Path("c.pt"), sha256="", format="clip")
    assert find_architecture(list(FAMILIES.values()), checkpoint)[0].address == f"timm/{name}"


def test_a_tower_with_its_own_pooling_is_refused(tmp_path: Path, visual: Tensors) -> None:
    torch.save(visual | TEXT_TOWER | {"visual.attn_pool.query": torch.zeros(2, 4)}, tmp_path / "coca.pt")
    with pytest.raises(CheckpointError, match=r"also holds attn_pool\.query; expected CLIP's ViT and nothing else"):
        load_backbone(str(tmp_path / "coca.pt"))


def test_a_tower_of_timm_is_refused_with_advice(tmp_path: Path) -> None:
    torch.save(TEXT_TOWER | {"visual.trunk.stem.0.weight": torch.zeros(4, 3, 4, 4)}, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=r"network of timm .*Open it as PATH#visual\.trunk, or timm/NAME@PATH"):
        load_backbone(str(tmp_path / "c.pt"))


def test_an_odd_tensor_is_named(tmp_path: Path, visual: Tensors) -> None:
    odd = {"visual.transformer.resblocks.1.attn.in_proj_weight": torch.zeros(7, WIDTH)}
    torch.save(visual | TEXT_TOWER | odd, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=r"blocks\.1\.attn\.qkv\.weight: file \(7, 128\), network \(384, 128\)"):
        load_backbone(f"vit_128x2_heads2_patch8_clip_32@{tmp_path / 'c.pt'}")


def test_a_tower_without_its_first_norm_is_refused(tmp_path: Path, visual: Tensors) -> None:
    torch.save({n: t for n, t in (visual | TEXT_TOWER).items() if "ln_pre" not in n}, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=r"no ln_pre\.weight, expected CLIP's ViT"):
        load_backbone(str(tmp_path / "c.pt"))


def test_a_text_tower_alone_is_none_of_ours() -> None:
    assert ClipFormat().read(TEXT_TOWER, {}) == []
