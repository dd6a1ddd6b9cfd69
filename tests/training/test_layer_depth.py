from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from timm.optim import param_groups_layer_decay
from torch import nn

from richrep.backbones.concat import concat
from richrep.backbones.families.family import Layout
from richrep.backbones.families.side_by_side import SideBySide
from richrep.backbones.small_cnn import make_small_cnn
from richrep.training.layer_depth import distances_from_head


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "mobilenetv2_100", "convnext_atto"])
def test_trunks_of_timm_have_the_layers_of_timms_own_layer_decay(name: str) -> None:
    model = timm.create_model(name, num_classes=3)
    scales = {
        p: group["lr_scale"] for group in param_groups_layer_decay(model, layer_decay=0.5) for p in group["params"]
    }
    model.reset_classifier(0)  # as the backbones of this project: the head is a module of its own
    distances = distances_from_head(nn.Sequential(model, nn.Identity()))
    assert {p: 0.5**distance for p, distance in distances.items()} == {p: scales[p] for p in model.parameters()}


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_the_rule_for_other_networks_agrees_with_timm_on_resnets_and_vits(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = timm.create_model(name, num_classes=0)
    by_timm = distances_from_head(model)
    monkeypatch.delattr(type(model), "group_matcher")
    assert distances_from_head(model) == by_timm


@pytest.mark.parametrize(
    ("name", "num_layers"),
    # stem, blocks (8; 12; 17 and the last convolution; 8 Fire modules), and the classifier that torchvision has inside
    [("resnet18", 1 + 8 + 1), ("vit_b_16", 1 + 12 + 1), ("mobilenet_v2", 1 + 17 + 1 + 1), ("squeezenet1_1", 1 + 8 + 1)],
)
def test_every_block_of_a_torchvision_network_is_one_layer(name: str, num_layers: int) -> None:
    with torch.device("meta"):
        model = torchvision.models.get_model(name, weights=None)
    distances = distances_from_head(model)
    assert set(distances) == set(model.parameters())
    assert sorted(set(distances.values())) == list(range(1, num_layers + 1))


def test_norms_join_the_layer_before_them_and_tokens_the_first() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.zeros(1))
            self.first, self.norm = nn.Linear(2, 2), nn.BatchNorm1d(2)
            self.blocks = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.LayerNorm(2))

    network = Network()
    distances = distances_from_head(network)
    named = {name: distances[parameter] for name, parameter in network.named_parameters() if "bias" not in name}
    assert named == {
        "token": 3,
        "first.weight": 3,
        "norm.weight": 3,
        "blocks.0.weight": 2,
        "blocks.2.weight": 1,
        "blocks.3.weight": 1,
    }


def test_members_of_a_concatenation_are_counted_each_by_itself() -> None:
    members = [make_small_cnn(3, widths=(4,) * depth) for depth in (2, 3)]
    found = distances_from_head(concat(concat(*members), members[1]).trunk)
    assert found == {**distances_from_head(members[0].trunk), **distances_from_head(members[1].trunk)}
    assert sorted(set(distances_from_head(members[0].trunk).values())) == [1, 2]


def test_networks_of_one_file_side_by_side_are_counted_each_by_itself() -> None:
    members = [make_small_cnn(3, widths=(4,) * depth) for depth in (2, 3)]
    layouts = [Layout(each.trunk, each.preprocessing, each.feature_dim, {}) for each in members]
    found = distances_from_head(SideBySide(layouts))
    assert found == {**distances_from_head(members[0].trunk), **distances_from_head(members[1].trunk)}


def test_a_network_of_one_stack_keeps_the_parameters_beside_it() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.zeros(1))
            self.blocks = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))

    network = Network()
    assert list(map(distances_from_head(nn.Sequential(network)).get, network.parameters())) == [2, 2, 1]
