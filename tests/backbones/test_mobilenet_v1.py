"""MobileNetV1 in its two spellings and any width, against a network built here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from richrep.backbones.addresses import load_backbone
from richrep.backbones.blank import shapes_only
from richrep.backbones.checkpoint import Checkpoint
from richrep.backbones.families.mobilenet_v1 import WIDTHS, MobileNetV1, MobileNetV1Family
from richrep.errors import CheckpointError

Tensors = dict[str, torch.Tensor]
# AMC's profile with half of the FLOPs, from mit-han-lab/amc
AMC_HALF = (24, 48, 96, 80, 192, 200, 328, 352, 368, 360, 328, 400, 736, 752)
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)


def scaled(multiplier: float) -> tuple[int, ...]:
    """Channels rounded down, at least 8."""
    return tuple(max(int(width * multiplier), 8) for width in WIDTHS)


def make_amc(widths: Sequence[int], num_classes: int) -> nn.ModuleDict:
    """The network in AMC's names: conv1, features, classifier."""

    def layers(before: int, after: int, kernel: int, stride: int, groups: int) -> list[nn.Module]:
        conv = nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False)
        return [conv, nn.BatchNorm2d(after), nn.ReLU()]

    blocks = [
        nn.Sequential(*layers(before, before, 3, stride, before), *layers(before, after, 1, 1, 1))
        for before, after, stride in zip(widths[:-1], widths[1:], STRIDES, strict=True)
    ]
    stem, head = nn.Sequential(*layers(3, widths[0], 3, 2, 1)), nn.Sequential(nn.Linear(widths[-1], num_classes))
    return nn.ModuleDict({"conv1": stem, "features": nn.Sequential(*blocks), "classifier": head})


def features_of(network: nn.ModuleDict, images: torch.Tensor) -> torch.Tensor:
    return network["features"](network["conv1"](images)).mean(3).mean(2)


def as_model(tensors: Tensors) -> Tensors:
    """The names of the other files: `model.0` is the stem."""
    renamed = {}
    for name, tensor in tensors.items():
        top, _, rest = name.partition(".")
        if top == "features":
            number, _, rest = rest.partition(".")
            renamed[f"model.{int(number) + 1}.{rest}"] = tensor
        else:
            renamed[f"model.0.{rest}" if top == "conv1" else f"fc.{rest.removeprefix('0.')}"] = tensor
    return renamed


@pytest.mark.parametrize("naming", ["amc", "model"])
@pytest.mark.parametrize("widths", [scaled(0.25), tuple(width // 16 + 8 for width in AMC_HALF)], ids=["0.25", "uneven"])
def test_features_and_logits_are_those_of_the_same_tensors(
    tmp_path: Path, randomise: Callable[[nn.Module], nn.Module], widths: tuple[int, ...], naming: str
) -> None:
    network = randomise(make_amc(widths, num_classes=5))
    tensors = dict(network.state_dict())
    torch.save({"state_dict": tensors if naming == "amc" else as_model(tensors)}, tmp_path / "m.pth")
    backbone = load_backbone(str(tmp_path / "m.pth"))
    assert (backbone.family, backbone.architecture) == ("mobilenet-v1", "mobilenet_v1")
    assert (backbone.feature_dim, backbone.num_classes) == (widths[-1], 5)
    # 27 convolutions, 27 batch norms of 4 tensors, the head's 2
    assert backbone.load_report[0] == "matched 137 of 137; head: 5 classes (linear); ignored: none"
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = features_of(network, images)  # type: ignore[arg-type]
        features, logits = backbone.features_and_logits(images)
        assert torch.allclose(features, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))
        assert torch.allclose(logits, network["classifier"](expected), rtol=1e-4, atol=1e-4)  # type: ignore[index]


@pytest.mark.parametrize(
    ("widths", "parameters"),
    # stem 864, depthwise 44,640, pointwise 3,139,584, batch norms 21,888, head 1,025,000
    [(WIDTHS, 4_231_976), (AMC_HALF, 2_408_232)],
    ids=["full", "amc-half"],
)
def test_the_published_profiles_have_their_number_of_parameters(widths: tuple[int, ...], parameters: int) -> None:
    with shapes_only():
        tensors = make_amc(widths, num_classes=1000).state_dict()
    checkpoint = Checkpoint(tensors=dict(tensors), path=Path("x"), sha256="")
    assert len(tensors) == 164
    assert MobileNetV1Family().detect(checkpoint) == ["mobilenet_v1"]
    with shapes_only():
        layout = MobileNetV1Family().lay_out("mobilenet_v1", checkpoint)
    assert layout.head is not None
    assert sum(p.numel() for module in (layout.trunk, layout.head) for p in module.parameters()) == parameters


@pytest.mark.parametrize("multiplier", [0.25, 0.5, 0.75, 1.0])
def test_every_width_is_read_from_the_tensors(multiplier: float) -> None:
    with shapes_only():
        tensors = dict(MobileNetV1(scaled(multiplier)).state_dict())
        layout = MobileNetV1Family().lay_out("mobilenet_v1", Checkpoint(tensors=tensors, path=Path("x"), sha256=""))
    assert layout.feature_dim == 1024 * multiplier and layout.head is None
    assert {n: t.shape for n, t in layout.trunk.state_dict().items()} == {n: t.shape for n, t in tensors.items()}


def test_a_wrong_shape_and_a_missing_block_are_named(tmp_path: Path) -> None:
    tensors = dict(MobileNetV1(scaled(0.25)).state_dict())
    torch.save(tensors | {"model.3.3.weight": torch.zeros(1, 2, 1, 1)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"model\.3\.3\.weight: file \(1, 2, 1, 1\), network \(32, 32, 1, 1\)"):
        load_backbone(str(tmp_path / "w.pth"))
    torch.save({name: t for name, t in tensors.items() if not name.startswith("model.13.")}, tmp_path / "s.pth")
    with pytest.raises(CheckpointError, match=r"10 in the network but missing in the file: model\.13\.0\.weight"):
        load_backbone(f"mobilenet_v1@{tmp_path / 's.pth'}")


def test_a_file_of_another_network_is_refused_with_all_mismatches(tmp_path: Path, resnet20_tensors: Tensors) -> None:
    torch.save(resnet20_tensors, tmp_path / "r.pth")
    with pytest.raises(CheckpointError, match="does not hold mobilenet-v1/mobilenet_v1"):
        load_backbone(f"mobilenet_v1@{tmp_path / 'r.pth'}")
