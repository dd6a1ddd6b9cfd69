"""Masks inferred from zeros, and sparsity counted by hand and on a real pruned network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from richrep.backbones.addresses import load_backbone
from richrep.backbones.backbone import Backbone
from richrep.backbones.families.mobilenet_v1 import MobileNetV1
from richrep.backbones.sparsity import describe_masks, infer_masks, measure_sparsity
from richrep.data.preprocessing import Geometry, Preprocessing


def make_backbone(trunk: nn.Module, head: nn.Module | None = None, **facts: object) -> Backbone:
    return Backbone(
        trunk=trunk,
        head=head,
        preprocessing=Preprocessing(Geometry((8, 8), 8)),
        address="x",
        name="x",
        family="x",
        architecture="x",
        feature_dim=2,
        **facts,  # type: ignore[arg-type]
    )


def make_parts() -> tuple[nn.Sequential, nn.Linear]:
    """A convolution of 12 weights, 3 zero; a batch norm of 2 + 2, 2 zero; a head of 4 + 2, none zero."""
    conv, norm, head = nn.Conv2d(3, 2, (1, 2), bias=False), nn.BatchNorm2d(2), nn.Linear(2, 2)
    conv.weight.data = torch.arange(1.0, 13.0).reshape(2, 3, 1, 2)
    conv.weight.data.view(-1)[:3] = 0
    head.weight.data.fill_(1.0)
    head.bias.data.fill_(1.0)
    return nn.Sequential(conv, norm), head


def test_sparsity_by_hand() -> None:
    trunk, head = make_parts()
    backbone = make_backbone(trunk, head, masks=infer_masks(trunk, head), mask_source="zeros")
    assert backbone.masks.keys() == {"trunk.0.weight"}
    assert backbone.masks["trunk.0.weight"].flatten().tolist() == [False] * 3 + [True] * 9
    sparsity = measure_sparsity(backbone)
    assert [(layer.name, layer.weights, layer.zeros, layer.sparsity) for layer in sparsity.layers] == [
        ("trunk.0", 12, 3, 0.25),
        ("head", 4, 0, 0.0),
    ]
    assert sparsity.backbone == 3 / 12
    assert sparsity.prunable == 3 / 16
    # 3 of the convolution and 2 of the batch norm's biases, of 12 + 4 + 4 + 2 values
    assert (sparsity.overall, sparsity.values) == (5 / 22, 22)
    assert sparsity.source == "zeros"


def test_masks_of_the_file_count_and_not_the_zeros() -> None:
    trunk, head = make_parts()
    mask = torch.tensor([[True, False], [True, True]])
    bias_mask = torch.tensor([False, True])
    masks = {"head.weight": mask, "head.bias": bias_mask}
    sparsity = measure_sparsity(make_backbone(trunk, head, masks=masks, mask_source="file"))
    assert sparsity.backbone == 0  # the file has no mask for the convolution: its zeros are chance
    assert sparsity.prunable == 1 / 16
    assert sparsity.overall == (1 + 1 + 2) / 22  # the mask's zero, the bias mask's, those of the batch norm


@pytest.mark.parametrize(("zeros", "inferred"), [(0, False), (9, False), (10, True), (1000, True)])
def test_a_mask_is_inferred_from_one_percent_of_zeros(zeros: int, inferred: bool) -> None:
    layer = nn.Linear(100, 10)
    layer.weight.data.fill_(1.0)
    layer.weight.data.view(-1)[:zeros] = 0
    assert ("trunk.weight" in infer_masks(layer, None)) == inferred


def test_biases_and_norms_are_never_inferred_to_be_pruned() -> None:
    layer = nn.Linear(3, 2)
    layer.weight.data.fill_(1.0)
    layer.bias.data.zero_()
    assert not infer_masks(nn.Sequential(layer, nn.LayerNorm(2)), None)


@pytest.mark.parametrize(
    ("masks", "source", "line"),
    [
        ({}, "", ()),
        ({}, "file", ("masks in the file prune nothing",)),
        (
            {"a": torch.tensor([True, False]), "b": torch.tensor([False, False])},
            "file",
            ("masks: 2 weights, 75.0% of their values pruned, from the file",),
        ),
    ],
)
def test_the_load_report_says_where_masks_come_from(masks, source, line) -> None:
    assert describe_masks(masks, source, trunk=nn.Identity(), head=None) == line


def test_layers_with_few_zeros_are_said_to_have_no_mask() -> None:
    trunk = nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 10))
    for layer, zeros in zip(trunk, (1, 50), strict=True):  # of 200 values: 0.5 %, 25 %
        layer.weight.data.fill_(1.0)
        layer.weight.data.view(-1)[:zeros] = 0.0
    masks = infer_masks(trunk, None)
    assert describe_masks(masks, "zeros", trunk=trunk, head=None) == (
        "masks: 1 weights, 25.0% of their values pruned, inferred from weights that are exactly zero; none for 1 layer "
        "with under 1% zeros",
    )


def test_mobilenet_is_counted_as_published() -> None:
    sparsity = measure_sparsity(make_backbone(MobileNetV1(), nn.Linear(1024, 1000)))
    assert sparsity.values == 4_231_976
    # stem 864, depthwise 44,640, pointwise 3,139,584, head 1,024,000
    assert sum(layer.weights for layer in sparsity.layers) == 864 + 44_640 + 3_139_584 + 1_024_000


def test_the_real_pruned_squeezenet_shows_its_published_sparsity(shared_data: Path) -> None:
    backbone = load_backbone(str(shared_data / "weights" / "squeezenet1_0_imagenet_sparse67.safetensors"))
    sparsity = measure_sparsity(backbone)
    assert sparsity.prunable == pytest.approx(0.666, abs=5e-4)  # "66.6 % of conv weights exactly zero"
    assert backbone.mask_source == sparsity.source == "zeros"
    for name, mask in backbone.masks.items():
        part, _, parameter = name.partition(".")
        weight = (backbone.trunk if part == "trunk" else backbone.head).get_parameter(parameter)  # type: ignore[union-attr]
        assert torch.equal(weight != 0, mask)


def test_the_dense_squeezenet_has_no_masks(shared_data: Path) -> None:
    backbone = load_backbone(str(shared_data / "weights" / "squeezenet1_1_imagenet.safetensors"))
    assert backbone.mask_source == "" and not backbone.masks
