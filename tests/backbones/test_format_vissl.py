"""Files of VISSL and SEER: a RegNet-Y or ResNet trunk and its heads, deep inside a training checkpoint."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision.models
from torch import nn
from torchvision.models.regnet import BlockParams, RegNet

from richrep.backbones.addresses import load_backbone
from richrep.backbones.blank import shapes_only
from richrep.backbones.checkpoint import Checkpoint
from richrep.backbones.families import FAMILIES
from richrep.backbones.families.detection import find_architecture
from richrep.backbones.families.regnet import KNOWN
from richrep.backbones.formats.vissl import VisslFormat
from richrep.data.preprocessing import Geometry
from richrep.errors import CheckpointError

Tensors = dict[str, torch.Tensor]

NAME = "regnet_y_depths2-1-3-1_widths16-24-48-64"
# torchvision's name -> VISSL's; stage s of the network is called res{s + 1}
TO_VISSL = {
    r"^stem\.": "conv1.stem.",
    r"^trunk_output\.block1\.": "res2.",
    r"^trunk_output\.block2\.": "res3.",
    r"^trunk_output\.block3\.": "res4.",
    r"^trunk_output\.block4\.": "res5.",
    r"\.proj\.0\.": ".proj.",
    r"\.proj\.1\.": ".bn.",
    r"\.f\.se\.fc1\.": ".f.se.excitation.0.",
    r"\.f\.se\.fc2\.": ".f.se.excitation.2.",
    r"\.f\.c\.0\.": ".f.c.",
    r"\.f\.c\.1\.": ".f.final_bn.",
}
PRETRAINING_HEAD = {"0.projection_head.0.weight": torch.zeros(4, 64), "0.prototypes0.weight": torch.zeros(3, 4)}


def trunk_names(network: nn.Module) -> Tensors:
    named = {}
    for name, tensor in network.state_dict().items():
        for pattern, replacement in TO_VISSL.items():
            name = re.sub(pattern, replacement, name)
        named[f"_feature_blocks.{name}"] = tensor
    return named


def container(trunk: Tensors, heads: Tensors, *, consolidated: bool = False) -> dict[str, object]:
    inner = {"base_model": {"model": {"trunk": trunk, "heads": heads}, "meta": {}}, "optim": {"lr": 0.1}}
    if consolidated:
        return {"type": "consolidated", "classy_state_dict": inner}
    counts = {"phase_idx": 0, "iteration": 244000, "loss": 5.1, "iteration_num": 1, "train_phase_idx": 0}
    return {**counts, "classy_state_dict": inner}


def make_regnet(depths: tuple[int, ...], widths: tuple[int, ...], group_widths: tuple[int, ...]) -> RegNet:
    params = BlockParams(list(depths), list(widths), list(group_widths), [1.0] * 4, [2] * 4, se_ratio=0.25)
    network = RegNet(params)
    network.fc = nn.Identity()
    return network


@pytest.fixture(scope="module")
def regnet(randomise: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return randomise(make_regnet((2, 1, 3, 1), (16, 24, 48, 64), (8, 8, 16, 16)))


@pytest.fixture(scope="module")
def resnet18(randomise: Callable[[nn.Module], nn.Module]) -> nn.Module:
    network = randomise(torchvision.models.resnet18())
    network.fc = nn.Identity()
    return network


def assert_same_features(found: Callable[[torch.Tensor], torch.Tensor], network: nn.Module) -> None:
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = network(images)
        torch.testing.assert_close(found(images), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("consolidated", [False, True])
def test_a_regnet_of_any_size_opens_without_its_pretraining_head(
    tmp_path: Path, regnet: nn.Module, consolidated: bool
) -> None:
    content = container(trunk_names(regnet), PRETRAINING_HEAD, consolidated=consolidated)
    torch.save(content, tmp_path / "seer.torch")
    with pytest.raises(CheckpointError, match=f"never published: of timm's, none .*say so: {NAME}@/"):
        load_backbone(str(tmp_path / "seer.torch"))
    backbone = load_backbone(f"{NAME}@{tmp_path / 'seer.torch'}")
    assert (backbone.family, backbone.feature_dim, backbone.head) == ("vissl", 64, None)
    assert backbone.architecture == NAME
    assert backbone.preprocessing.geometry == Geometry((224, 224), 256)
    assert any(
        "head that is not one linear layer set aside: 2 tensors (0.projection_head.0.weight, 0.prototypes0" in line
        for line in backbone.load_report
    )
    assert_same_features(backbone, regnet)


def test_a_fine_tuned_network_brings_its_head_and_its_384_pixels(tmp_path: Path, regnet: nn.Module) -> None:
    head = nn.Linear(64, 5)
    torch.save(container(trunk_names(regnet), head.state_dict(prefix="0.clf.0.")), tmp_path / "ft.torch")
    backbone = load_backbone(f"{NAME}@{tmp_path / 'ft.torch'}")
    assert backbone.num_classes == 5
    assert backbone.preprocessing.geometry == Geometry((384, 384), 384, "bicubic")
    assert_same_features(lambda images: backbone.features_and_logits(images)[1], nn.Sequential(regnet, head))


# parameters without head, from SEER's widths and depths
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("regnet_y_32gf", 141_333_770),
        ("regnet_y_64gf", 276_457_786),
        ("regnet_y_128gf", 637_419_894),
        ("regnet_y_256gf", 1_272_156_138),
    ],
)
def test_the_four_seers_are_recognised(name: str, parameters: int) -> None:
    shape = KNOWN[name]
    with shapes_only():
        network = make_regnet(shape.depths, shape.widths, shape.group_widths)
        assert sum(parameter.numel() for parameter in network.parameters()) == parameters
        (found,) = VisslFormat().read(container(trunk_names(network), {}), {})
    checkpoint = Checkpoint(dict(found.tensors), Path("seer.torch"), sha256="", format="vissl")
    candidate, _ = find_architecture(list(FAMILIES.values()), checkpoint)
    assert candidate.address in (f"regnet/{name}", f"torchvision/{name}")
    last = max(number for number in range(20) if f"trunk_output.block3.block3-{number}.f.c.0.weight" in found.tensors)
    for part in [tensor for tensor in found.tensors if f"block3-{last}." in tensor]:
        del checkpoint.tensors[part]
    with pytest.raises(CheckpointError, match=rf"missing in the file: trunk_output\.block3\.block3-{last}\."):
        find_architecture(list(FAMILIES.values()), checkpoint)


@pytest.mark.parametrize("with_head", [False, True])
def test_a_resnet_opens_with_a_linear_head_or_without(tmp_path: Path, resnet18: nn.Module, with_head: bool) -> None:
    heads = nn.Linear(512, 4).state_dict(prefix="0.clf.0.") if with_head else PRETRAINING_HEAD
    torch.save(container(trunk_names(resnet18), heads), tmp_path / "r.torch")
    backbone = load_backbone(str(tmp_path / "r.torch"))
    assert (backbone.family, backbone.architecture) == ("vissl", "resnet18")
    assert backbone.num_classes == (4 if with_head else None)
    assert_same_features(backbone, resnet18)


def test_a_classifier_behind_a_batch_norm_is_set_aside(tmp_path: Path, resnet18: nn.Module) -> None:
    heads = nn.Linear(512, 4).state_dict(prefix="0.clf.0.") | {"0.channel_bn.weight": torch.ones(512)}
    torch.save(container(trunk_names(resnet18), heads), tmp_path / "r.torch")
    assert load_backbone(str(tmp_path / "r.torch")).head is None


def test_a_squeeze_that_is_not_a_quarter_of_the_input_is_refused(tmp_path: Path, regnet: nn.Module) -> None:
    trunk = trunk_names(regnet)
    # the second block of stage 3 takes 48 channels, so squeezes to 12
    trunk["_feature_blocks.res4.block3-1.f.se.excitation.0.weight"] = torch.zeros(6, 48, 1, 1)
    torch.save(container(trunk, {}), tmp_path / "seer.torch")
    with pytest.raises(CheckpointError, match=r"se\.fc1\.weight: file \(6, 48, 1, 1\), network \(12, 48, 1, 1\)"):
        load_backbone(f"{NAME}@{tmp_path / 'seer.torch'}")


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("res4.block3-0.f.b.0.weight", torch.zeros(48, 13, 3, 3), "a stage of 48 channels in groups of 13"),
        ("res4.block3-0.f.b.0.weight", torch.zeros(48), r"is of shape \(48,\), expected the weight of a convolution"),
        ("res3.block2-0.f.c.weight", None, r"has blocks in the stages \[1, 3, 4\]"),
    ],
)
def test_a_regnet_with_impossible_shapes_is_refused(
    tmp_path: Path, regnet: nn.Module, name: str, tensor: torch.Tensor | None, message: str
) -> None:
    trunk = trunk_names(regnet)
    del trunk[f"_feature_blocks.{name}"]
    if tensor is not None:
        trunk[f"_feature_blocks.{name}"] = tensor
    torch.save(container(trunk, {}), tmp_path / "seer.torch")
    with pytest.raises(CheckpointError, match=message):
        load_backbone(str(tmp_path / "seer.torch"))


@pytest.mark.parametrize("trunk", [{}, {"blocks.0.norm1.weight": torch.ones(3)}])
def test_other_trunks_and_heads_alone_are_refused(tmp_path: Path, trunk: Tensors) -> None:
    torch.save(container(trunk, PRETRAINING_HEAD), tmp_path / "v.torch")
    with pytest.raises(CheckpointError, match=r"format of vissl: its trunk holds .*expected a RegNet"):
        load_backbone(str(tmp_path / "v.torch"))


def test_a_plain_regnet_is_none_of_ours(regnet: nn.Module) -> None:
    assert VisslFormat().read({"state_dict": regnet.state_dict()}, {}) == []


def test_a_small_published_one_opens_and_is_refused_without_its_last_block(tmp_path: Path) -> None:
    network = torchvision.models.regnet_y_400mf()
    network.fc = nn.Identity()
    trunk = trunk_names(network)
    torch.save(container(trunk, {}), tmp_path / "small.torch")
    assert load_backbone(str(tmp_path / "small.torch")).architecture == "regnet_y_400mf"
    last = max(name for name in trunk if ".res5.block4-" in name).split(".")[2]
    torch.save(container({n: t for n, t in trunk.items() if f".{last}." not in n}, {}), tmp_path / "cut.torch")
    with pytest.raises(CheckpointError, match=r"1-3-6-5 blocks .*regnety_004 has as many channels but other stages"):
        load_backbone(str(tmp_path / "cut.torch"))
    with pytest.raises(CheckpointError, match=r"missing in the file: trunk_output\.block4\.block4-5\."):
        load_backbone(f"regnet_y_depths1-3-6-6_widths48-104-208-440@{tmp_path / 'cut.torch'}")
    with pytest.raises(CheckpointError, match=r"its stages have 48-104-208-440 channels"):
        load_backbone(f"regnet_y_depths1-3-6-5_widths48-104-208-441@{tmp_path / 'cut.torch'}")
