"""Every format's file, with a tensor or a block less or a tensor more: nothing is loaded silently wrong."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.models
from timm.models import VisionTransformer
from torch import nn
from torchvision.models.regnet import BlockParams, RegNet

import richrep.backbones.checkpoint
from richrep.backbones.addresses import load_file
from richrep.backbones.backbone import Backbone
from richrep.backbones.families.cifar_resnet import CifarResNet
from richrep.backbones.families.cifar_resnet18 import CifarResNet18
from richrep.backbones.families.mobilenet_v1 import MobileNetV1
from richrep.backbones.files.reading import Content
from richrep.backbones.formats import FORMATS
from richrep.errors import CheckpointError

Tensors = dict[str, torch.Tensor]
Wrap = Callable[[Tensors], dict[str, Any]]

_DROPPED = 5  # tensors, one at a time, of every sample


@dataclass(frozen=True)
class Sample:
    """One file.

    Attributes:
        tensors: the names and tensors that a test may change, as the file has them.
        wrap: those -> the contents of the file.
        prefix: of the network's names.
        last_block: regular expression of the names of the last block.
        spelled: architecture for the address, where the network is no published one.
    """

    tensors: Tensors
    wrap: Wrap
    prefix: str
    last_block: str
    spelled: str = ""
    size_px: int = field(default=32)


def under(key: str, **beside: Any) -> Wrap:
    return lambda tensors: {key: tensors, **beside}


def flat(tensors: Tensors) -> dict[str, Any]:
    return dict(tensors)


def named(network: nn.Module, prefix: str, *rules: tuple[str, Any], **others: torch.Tensor) -> Tensors:
    tensors = {}
    for name, tensor in network.state_dict().items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        tensors[f"{prefix}{name}"] = tensor
    return tensors | {name.replace("__", "."): tensor for name, tensor in others.items()}


def resnet(**options: Any) -> nn.Module:
    network = torchvision.models.resnet18(**options)
    if not options:
        network.fc = nn.Identity()
    return network


def vit(**options: Any) -> Any:
    return VisionTransformer(
        **{"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 1, "num_classes": 0, **options}
    )


def cifar_sample() -> Sample:
    tensors = named(CifarResNet(3), "module.") | named(nn.Linear(64, 4), "module.linear.")
    return Sample(tensors, under("state_dict"), "module.", r"module\.layer3\.2\.")


def mobilenet_sample() -> Sample:
    widths = (8, 8, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 24, 24)
    tensors = named(MobileNetV1(widths), "") | named(nn.Linear(24, 3), "fc.")
    return Sample(tensors, flat, "", r"model\.13\.", size_px=64)


def torchvision_sample() -> Sample:
    tensors = dict(torchvision.models.mobilenet_v3_small(num_classes=3).state_dict())
    return Sample(tensors, flat, "", r"features\.12\.", size_px=64)


def rrl_sample() -> Sample:
    tensors = named(resnet(), "module.model0.") | named(nn.Linear(512, 3), "module.classifier.linear.")
    return Sample(tensors, under("state_dict", epoch=1), "module.model0.", r".*layer4\.1\.", size_px=64)


def rrl_row_sample() -> Sample:
    tensors = named(CifarResNet(3), "module.model0.") | named(CifarResNet(3), "module.model1.")
    tensors |= named(nn.Linear(128, 3), "module.classifier.linear.")
    return Sample(tensors, under("state_dict"), "module.model1.", r"module\.model1\.")


def rrl_cifar_sample() -> Sample:
    return Sample(named(CifarResNet18(64), "backbone."), under("state_dict"), "backbone.", r"backbone\.layer4\.1\.")


def swav_sample() -> Sample:
    beside = {
        "module__prototypes__weight": torch.zeros(3, 4),
        "module__projection_head__0__weight": torch.zeros(4, 512),
    }
    return Sample(named(resnet(), "module.", **beside), flat, "module.", r"module\.layer4\.1\.", size_px=64)


def time_cat_sample() -> Sample:
    rules = ((r"downsample\.0", "downsample.conv"), (r"downsample\.1", "downsample.bn"))
    tensors = named(resnet(num_classes=3), "_orig_mod.module.", *rules)
    return Sample(tensors, under("model_params", global_step=1), "_orig_mod.module.", r".*layer4\.1\.", size_px=64)


def trex_sample() -> Sample:
    tensors = named(resnet(), "module.model.encoder.", module__model__head__layers__0__weight=torch.zeros(4, 512))
    return Sample(tensors, under("model"), "module.model.encoder.", r".*encoder\.layer4\.1\.", size_px=64)


def vissl_sample() -> Sample:
    network: Any = RegNet(BlockParams([1, 1, 2, 1], [8, 16, 24, 32], [8] * 4, [1.0] * 4, [2] * 4, se_ratio=0.25))
    network.fc = nn.Identity()
    rules = (
        (r"^stem\.", "conv1.stem."),
        *((rf"^trunk_output\.block{stage}\.", f"res{stage + 1}.") for stage in (1, 2, 3, 4)),
        (r"\.proj\.0\.", ".proj."),
        (r"\.proj\.1\.", ".bn."),
        (r"\.f\.se\.fc1\.", ".f.se.excitation.0."),
        (r"\.f\.se\.fc2\.", ".f.se.excitation.2."),
        (r"\.f\.c\.0\.", ".f.c."),
        (r"\.f\.c\.1\.", ".f.final_bn."),
    )
    return Sample(
        named(network, "_feature_blocks.", *rules),
        lambda tensors: {"classy_state_dict": {"base_model": {"model": {"trunk": tensors, "heads": {}}}}},
        "_feature_blocks.",
        r".*block3-1\.",
        "regnet_y_depths1-1-2-1_widths8-16-24-32",
    )


def npz_sample() -> Sample:
    """Names and axes of Flax; what is 1-dimensional or a matrix but in the attention is only renamed or transposed."""
    rules = (
        (r"^cls_token$", "cls"),
        (r"^patch_embed\.proj\.", "embedding/"),
        (r"^pos_embed$", "Transformer/posembed_input/pos_embedding"),
        (r"^norm\.", "Transformer/encoder_norm/"),
        (r"^blocks\.(\d)\.", r"Transformer/encoderblock_\1/"),
        (r"norm([12])\.", lambda match: f"LayerNorm_{2 * int(match[1]) - 2}/"),
        (r"mlp\.fc([12])\.", lambda match: f"MlpBlock_3/Dense_{int(match[1]) - 1}/"),
        (r"attn\.(qkv|proj)\.", r"MultiHeadDotProductAttention_1/\1/"),
        (r"^head\.", "head/"),
        (r"(orm\w*/)weight$", r"\1scale"),
        (r"weight$", "kernel"),
    )
    arrays: Tensors = {}
    for name, tensor in named(vit(num_classes=3), "", *rules).items():
        if "/qkv/" in name:
            for part, rows in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                arrays[name.replace("qkv", part)] = rows.T[:, None] if rows.ndim == 2 else rows[None]  # one head
        elif tensor.ndim == 4:
            arrays[name] = tensor.permute(2, 3, 1, 0)
        elif tensor.ndim == 2:
            arrays[name.replace("/proj/", "/out/")] = tensor.T[None] if "/proj/" in name else tensor.T
        else:
            arrays[name.replace("/proj/", "/out/")] = tensor
    return Sample(
        {name: array.clone() for name, array in arrays.items()},
        flat,
        "",
        r"Transformer/encoderblock_1/",
        "vit_64x2_heads1_patch8_32",
    )


def dino_sample() -> Sample:
    tensors = named(vit(), "backbone.", head__mlp__0__weight=torch.zeros(8, 64))
    return Sample(tensors, under("teacher"), "backbone.", r"backbone\.blocks\.1\.", "vit_64x2_heads1_patch8_32")


def moco_sample() -> Sample:
    tensors = named(resnet(), "module.encoder_q.", module__queue=torch.zeros(4, 4))
    return Sample(tensors, under("state_dict"), "module.encoder_q.", r".*layer4\.1\.", size_px=64)


def moco_vit_sample() -> Sample:
    tensors = named(vit(), "module.base_encoder.", module__predictor__0__weight=torch.zeros(4, 4))
    return Sample(tensors, under("state_dict"), "module.base_encoder.", r".*\.blocks\.1\.", "vit_64x2_heads1_patch8_32")


def mae_sample() -> Sample:
    tensors = named(vit(global_pool="avg", num_classes=3), "")
    return Sample(tensors, under("model"), "", r"blocks\.1\.", "vit_64x2_heads1_patch8_32")


def clip_sample() -> Sample:
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
    tensors = named(vit(pre_norm=True), "visual.", *rules, **dict.fromkeys(("text_projection",), torch.zeros(4, 4)))
    for name in ("class_embedding", "positional_embedding"):
        tensors[f"visual.{name}"] = tensors[f"visual.{name}"][0]
    tensors["visual.class_embedding"] = tensors["visual.class_embedding"][0]
    return Sample(tensors, flat, "visual.", r".*resblocks\.1\.", "vit_64x2_heads1_patch8_clip_32")


def simsiam_sample() -> Sample:
    tensors = named(resnet(), "module.encoder.", module__predictor__0__weight=torch.zeros(4, 4))
    return Sample(tensors, under("state_dict"), "module.encoder.", r".*layer4\.1\.", size_px=64)


def byol_sample() -> Sample:
    tensors = named(resnet(), "online_network.encoder.")
    return Sample(tensors, under("state_dict"), "online_network.encoder.", r".*layer4\.1\.", size_px=64)


def barlow_twins_sample() -> Sample:
    beside = {"module__projector__0__weight": torch.zeros(4, 512), "module__bn__running_mean": torch.zeros(4)}
    tensors = named(resnet(), "module.backbone.", **beside)
    return Sample(tensors, under("model"), "module.backbone.", r".*layer4\.1\.", size_px=64)


def vicreg_sample() -> Sample:
    tensors = named(resnet(), "module.backbone.", module__projector__0__weight=torch.zeros(4, 512))
    return Sample(tensors, under("model"), "module.backbone.", r".*layer4\.1\.", size_px=64)


SAMPLES: dict[str, Callable[[], Sample]] = {
    "cifar-resnet": cifar_sample,
    "mobilenet-v1": mobilenet_sample,
    "torchvision": torchvision_sample,
    "rrl": rrl_sample,
    "rrl-row": rrl_row_sample,
    "rrl-cifar": rrl_cifar_sample,
    "swav": swav_sample,
    "time-cat": time_cat_sample,
    "trex": trex_sample,
    "vissl": vissl_sample,
    "vit-npz": npz_sample,
    "dino": dino_sample,
    "moco": moco_sample,
    "moco-vit": moco_vit_sample,
    "mae": mae_sample,
    "clip": clip_sample,
    "simsiam": simsiam_sample,
    "byol": byol_sample,
    "barlow-twins": barlow_twins_sample,
    "vicreg": vicreg_sample,
}
PLAIN = {"cifar-resnet", "mobilenet-v1", "torchvision"}  # where nobody knows where the network ends


def test_every_format_without_masks_has_a_sample() -> None:
    # Those with masks: test_format_sparse.py, test_format_rigl_tensorflow.py and test_convert.py.
    masked = {
        "sparse",
        "str",
        "lottery",
        "m-fac",
        "rigl",
        "rigl-tf",
        "richrep",
    }  # test_format_sparse.py and test_convert.py
    assert FORMATS.keys() - masked == SAMPLES.keys() - PLAIN - {"rrl-row", "rrl-cifar", "moco-vit"}


@pytest.fixture(scope="module", params=SAMPLES)
def sample(request: pytest.FixtureRequest) -> tuple[str, Sample]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = SAMPLES[request.param]()
    generator = torch.Generator().manual_seed(1)
    for name, tensor in made.tensors.items():
        if tensor.is_floating_point():  # no tensor may be what a new network has there
            tensor += torch.rand(tensor.shape, generator=generator) * (0.5 if "var" in name else 0.05)
    return request.param, made


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sample, Tensors], Backbone]:
    def load_changed(sample: Sample, tensors: Tensors) -> Backbone:
        content = Content(sample.wrap(tensors), Path("changed.pth"), ())
        monkeypatch.setattr(richrep.backbones.checkpoint, "read_content", lambda path: content)
        return load_file(Path("changed.pth"), address="changed.pth", architecture=sample.spelled)

    return load_changed


def images_of(sample: Sample) -> torch.Tensor:
    return torch.randn(1, 3, sample.size_px, sample.size_px, generator=torch.Generator().manual_seed(2))


def test_a_tensor_less_is_refused_or_changes_no_feature(
    sample: tuple[str, Sample], load: Callable[[Sample, Tensors], Backbone]
) -> None:
    name, made = sample
    whole = load(made, made.tensors)
    images = images_of(made)
    with torch.inference_mode():
        expected = whole(images)
    refused = 0
    for dropped in random.Random(name).sample(sorted(made.tensors), _DROPPED):
        try:
            rest = load(made, {n: tensor for n, tensor in made.tensors.items() if n != dropped})
        except CheckpointError:
            refused += 1
            continue
        with torch.inference_mode():
            assert torch.equal(rest(images), expected), dropped
        is_said = rest.head is None or rest.load_report[0] != whole.load_report[0]
        assert is_said or not dropped.startswith(made.prefix) or dropped.endswith("num_batches_tracked"), dropped
    assert refused > 0


def test_without_its_last_block_a_network_is_refused(
    sample: tuple[str, Sample], load: Callable[[Sample, Tensors], Backbone]
) -> None:
    _, made = sample
    rest = {n: tensor for n, tensor in made.tensors.items() if not re.match(made.last_block, n)}
    assert len(rest) < len(made.tensors)
    with pytest.raises(CheckpointError):
        load(made, rest)


@pytest.mark.parametrize("surplus", ["foreign.weight", "projector.weight", "deep"])
def test_a_tensor_more_inside_the_network_is_refused(
    sample: tuple[str, Sample], load: Callable[[Sample, Tensors], Backbone], surplus: str
) -> None:
    name, made = sample
    if surplus == "deep":  # beside the first tensor of the last block
        first = next(n for n in made.tensors if re.match(made.last_block, n))
        added = re.sub(r"[^./]+([./])[^./]+$", r"foreign\1weight", first)
    else:
        added = f"{made.prefix}{surplus}"
    tensors = made.tensors | {added: torch.ones(3)}
    if surplus == "projector.weight":
        if name not in PLAIN:  # what each format sets aside is tested with it
            return
        assert "ignored: 1 tensor (projector.weight)" in load(made, tensors).load_report[0]
        return
    with pytest.raises(CheckpointError, match="foreign"):
        load(made, tensors)
