from __future__ import annotations

from collections import Counter

import pytest
import timm
import torchvision
from timm.optim import param_groups_weight_decay
from torch import nn

from richrep.backbones.blank import constant_weights
from richrep.backbones.concat import concat
from richrep.backbones.families.cifar_resnet import CifarResNet
from richrep.backbones.small_cnn import make_small_cnn
from richrep.errors import RichrepError
from richrep.training.parameter_groups import GroupOptions, make_parameter_groups

TRUNKS = {
    "cifar-resnet": lambda: CifarResNet(3),
    "resnet18": lambda: torchvision.models.resnet18(),
    "mobilenet_v2": lambda: torchvision.models.mobilenet_v2(),
    "timm resnet18": lambda: timm.create_model("resnet18", num_classes=0),
    "vit": lambda: timm.create_model("vit_tiny_patch16_224", num_classes=0),
    "swin": lambda: timm.create_model("swin_tiny_patch4_window7_224", num_classes=0),
    "cat": lambda: concat(make_small_cnn(3), make_small_cnn(2)).trunk,
}
NO_DECAY = GroupOptions(decay_norms=False, decay_biases=False)


@pytest.fixture(params=TRUNKS, scope="module")
def built(request: pytest.FixtureRequest) -> nn.Module:
    with constant_weights():
        return TRUNKS[request.param]()


@pytest.fixture
def trunk(built: nn.Module) -> nn.Module:
    return built.requires_grad_(True)


def head_with_norm() -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))


@pytest.mark.parametrize("options", [GroupOptions(), NO_DECAY, GroupOptions(layer_decay=0.7, head_lr=0.5)])
def test_every_trainable_parameter_is_in_exactly_one_group(trunk: nn.Module, options: GroupOptions) -> None:
    head = head_with_norm()
    next(trunk.parameters()).requires_grad_(False)
    groups = make_parameter_groups(trunk, head, lr=0.1, weight_decay=1e-4, options=options)
    grouped = Counter(parameter for group in groups for parameter in group["params"])
    trainable = [*head.parameters(), *trunk.parameters()]
    assert grouped == Counter(parameter for parameter in trainable if parameter.requires_grad)
    assert all(group["params"] and group["initial_lr"] == group["lr"] for group in groups)
    assert len({group["name"] for group in groups}) == len(groups)


def test_without_decay_on_norms_and_biases_the_groups_are_timms(trunk: nn.Module) -> None:
    exempt = trunk.no_weight_decay() if hasattr(trunk, "no_weight_decay") else ()
    theirs = param_groups_weight_decay(trunk, 1e-4, no_weight_decay_list=exempt)
    ours = make_parameter_groups(trunk, None, lr=0.1, weight_decay=1e-4, options=NO_DECAY)
    assert {p: g["weight_decay"] for g in ours for p in g["params"]} == {
        p: g["weight_decay"] for g in theirs for p in g["params"]
    }


def test_norms_of_shortcuts_are_norms_whatever_their_name() -> None:
    trunk = torchvision.models.resnet18()
    groups = make_parameter_groups(trunk, None, lr=0.1, weight_decay=1e-4, options=GroupOptions(decay_norms=False))
    named = {group["name"]: group for group in groups}
    norms = [p for module in trunk.modules() if isinstance(module, nn.BatchNorm2d) for p in module.parameters()]
    assert {id(p) for p in named["trunk.norms"]["params"]} == {id(p) for p in norms}
    assert id(trunk.layer2[0].downsample[1].weight) in {id(p) for p in named["trunk.norms"]["params"]}
    decays = {name: group["weight_decay"] for name, group in named.items()}
    assert decays == {"trunk.norms": 0.0, "trunk.weights": 1e-4, "trunk.biases": 1e-4}


def test_a_head_has_its_own_learning_rate_and_its_norms_and_biases_their_own_decay() -> None:
    options = GroupOptions(decay_norms=False, decay_biases=True, head_lr=0.5)
    groups = make_parameter_groups(nn.Linear(3, 4), head_with_norm(), lr=0.1, weight_decay=1e-4, options=options)
    assert {group["name"]: (group["lr"], group["weight_decay"], len(group["params"])) for group in groups} == {
        "head.norms": (0.5, 0.0, 2),
        "head.weights": (0.5, 1e-4, 1),
        "head.biases": (0.5, 1e-4, 1),
        "trunk.weights": (0.1, 1e-4, 1),
        "trunk.biases": (0.1, 1e-4, 1),
    }


def test_layer_decay_falls_from_the_head_to_the_first_layer() -> None:
    trunk, head = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), nn.Linear(2, 2)
    options = GroupOptions(layer_decay=0.5)
    groups = make_parameter_groups(trunk, head, lr=0.8, weight_decay=0.0, options=options)
    lrs = {p: group["lr"] for group in groups for p in group["params"]}
    assert [lrs[layer.weight] for layer in (head, trunk[1], trunk[0])] == pytest.approx([0.8, 0.4, 0.2])
    assert {group["name"] for group in groups if group["lr"] == 0.2} == {"trunk.weights.2", "trunk.biases.2"}


def test_a_parameter_of_trunk_and_head_is_the_heads() -> None:
    shared = nn.Linear(2, 2)
    groups = make_parameter_groups(nn.Sequential(shared, nn.Linear(2, 2)), shared, lr=0.1, weight_decay=0.0)
    assert Counter(group["name"] for group in groups for _ in group["params"]) == {
        "head.weights": 1,
        "head.biases": 1,
        "trunk.weights": 1,
        "trunk.biases": 1,
    }


def test_training_only_the_head_needs_no_trunk() -> None:
    groups = make_parameter_groups(
        None, nn.Linear(2, 2), lr=0.1, weight_decay=0.0, options=GroupOptions(layer_decay=0.5)
    )
    assert [group["name"] for group in groups] == ["head.weights", "head.biases"]


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(RichrepError, match="nothing to train: all parameters are frozen"):
        make_parameter_groups(nn.Linear(2, 2).requires_grad_(False), None, lr=0.1, weight_decay=0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer_decay": 0.0}, r"layer_decay must be in \(0, 1\], 1 for none, got 0.0"),
        ({"layer_decay": 1.5}, "got 1.5"),
        ({"head_lr": -1.0}, "head_lr must be a number >= 0, got -1.0"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(RichrepError, match=message):
        GroupOptions(**options)  # type: ignore[arg-type]
