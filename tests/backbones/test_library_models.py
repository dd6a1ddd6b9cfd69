"""torchvision's and timm's architectures through our loader, against their own forward pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torchvision.models
from torch import nn

from richrep.backbones.addresses import load_backbone
from richrep.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Geometry, Preprocessing

Randomise = Callable[[nn.Module], nn.Module]

# One architecture per kind of classifier, small enough for seconds.
TORCHVISION = {
    "densenet121": 1024,
    "efficientnet_b0": 1280,
    "googlenet": 1024,
    "mnasnet0_5": 1280,
    "mobilenet_v3_small": 1024,
    "regnet_x_400mf": 400,
    "resnet18": 512,
    "shufflenet_v2_x0_5": 1024,
    "squeezenet1_1": 512,
    "swin_t": 768,
    "vit_b_16": 768,
}
TIMM = {
    "convnext_atto": 320,
    "edgenext_xx_small": 168,
    "eva02_tiny_patch14_224": 192,
    "mobilenetv3_small_050": 1024,
    "regnetx_002": 368,
    "resnet10t": 512,
    "test_vit": 64,
    "vit_tiny_r_s16_p8_224": 192,
}
NOT_LINEAR = {"deit_tiny_distilled_patch16_224": 192, "dla46_c": 256, "levit_128s": 384}


def save(model: nn.Module, path: Path) -> str:
    torch.save(model.state_dict(), path)
    return str(path)


def assert_same_logits(model: nn.Module, address: str, size_px: int, feature_dim: int) -> None:
    backbone = load_backbone(address)
    images = torch.randn(2, 3, size_px, size_px, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = model(images)
        features, logits = backbone.features_and_logits(images)
    assert features.shape == (2, feature_dim) == (2, backbone.feature_dim)
    assert backbone.num_classes == 11
    assert torch.allclose(logits, expected, atol=1e-5 * float(expected.abs().max()))
    assert backbone.load_report[0].endswith("ignored: none")


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_logits_are_head_of_trunk(tmp_path: Path, randomise: Randomise, name: str) -> None:
    options = {"init_weights": False, "transform_input": True} if name == "googlenet" else {}
    model = torchvision.models.get_model(name, num_classes=11, **options)
    randomise(model)
    address = f"torchvision/{name}@{save(model, tmp_path / 'x.pth')}"
    assert_same_logits(model, address, 224 if name == "vit_b_16" else 64, TORCHVISION[name])


@pytest.mark.parametrize("name", TIMM)
def test_timm_logits_are_head_of_trunk(tmp_path: Path, randomise: Randomise, name: str) -> None:
    model = timm.create_model(name, num_classes=11)
    randomise(model)
    size_px = (
        96 if name in ("convnext_atto", "edgenext_xx_small", "regnetx_002") else model.pretrained_cfg["input_size"][1]
    )
    assert_same_logits(model, f"timm/{name}@{save(model, tmp_path / 'x.pth')}", size_px, TIMM[name])


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050"])
def test_timm_architectures_are_detected(tmp_path: Path, randomise: Randomise, name: str) -> None:
    model = timm.create_model(name, num_classes=11)
    randomise(model)
    backbone = load_backbone(save(model, tmp_path / "x.pth"))
    assert (backbone.family, backbone.architecture) == ("timm", name)


@pytest.mark.parametrize("name", NOT_LINEAR)
def test_a_head_that_is_not_one_linear_layer_is_set_aside_with_a_reason(
    tmp_path: Path, randomise: Randomise, name: str
) -> None:
    model = timm.create_model(name, num_classes=11)
    randomise(model)
    backbone = load_backbone(f"{name}@{save(model, tmp_path / 'x.pth')}")
    assert backbone.head is None and "head: none; ignored: none" in backbone.load_report[0]
    assert any(line.startswith("head set aside, it is not one linear layer:") for line in backbone.load_report)
    model.reset_classifier(0)
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = model(images)
        assert torch.allclose(backbone(images), expected, atol=1e-5 * float(expected.abs().max()))
    assert backbone.feature_dim == expected.shape[1] == NOT_LINEAR[name]


def test_squeezenet_features_are_the_pooled_map_before_the_classifier(tmp_path: Path) -> None:
    model = torchvision.models.squeezenet1_1(num_classes=11).eval()
    backbone = load_backbone(save(model, tmp_path / "x.pth"))
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.allclose(backbone(images), model.features(images).mean(dim=(2, 3)), atol=1e-6)
    assert backbone.load_report[0] == "matched 52 of 52; head: 11 classes (conv); ignored: none"


def test_auxiliary_heads_are_set_aside(tmp_path: Path) -> None:
    model = torchvision.models.googlenet(num_classes=11, aux_logits=True, init_weights=False)
    backbone = load_backbone(save(model, tmp_path / "x.pth"))
    assert backbone.architecture == "googlenet"
    assert any(line.startswith("auxiliary heads set aside: ") for line in backbone.load_report)
    assert backbone.load_report[0].endswith("head: 11 classes (linear); ignored: none")


@pytest.mark.parametrize(
    ("address", "geometry"),
    [
        ("torchvision/resnet18", Geometry((224, 224), 256)),
        ("torchvision/resnet50.IMAGENET1K_V2", Geometry((224, 224), 232)),
        ("torchvision/efficientnet_b0", Geometry((224, 224), 256, "bicubic")),
        ("timm/resnet10t", Geometry((176, 176), 201, "bicubic")),  # floor(176 / 0.875)
    ],
)
def test_preprocessing_of_the_library_is_assumed_and_reported(tmp_path: Path, address: str, geometry: Geometry) -> None:
    library, name = address.split("/")
    stem = name.partition(".")[0]
    model = torchvision.models.get_model(stem) if library == "torchvision" else timm.create_model(stem)
    backbone = load_backbone(f"{address}@{save(model, tmp_path / 'x.pth')}")
    assert backbone.preprocessing == Preprocessing(geometry, IMAGENET_MEAN, IMAGENET_STD)
    assert any("input, mean and std assumed (as " in line for line in backbone.load_report)


def test_timm_squashes_where_it_says_so() -> None:
    from richrep.backbones.families.timm_models import published_preprocessing

    with torch.device("meta"):
        squash = timm.create_model("vit_base_patch16_clip_384")
        squash_and_crop = timm.create_model("dm_nfnet_f1")
    assert published_preprocessing(squash)[0].geometry == Geometry((384, 384), None, "bicubic")
    preprocessing, note = published_preprocessing(squash_and_crop)
    assert preprocessing.geometry == Geometry((224, 224), 246, "bicubic")  # floor(224 / 0.91)
    assert note.endswith("but cropped where timm would squash")
