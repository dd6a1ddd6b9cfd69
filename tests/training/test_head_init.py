from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn

import richrep
from richrep.backbones.backbone import Backbone
from richrep.backbones.families.cifar_resnet import CifarResNet
from richrep.backbones.families.mobilenet_v1 import MobileNetV1
from richrep.backbones.small_cnn import make_small_cnn
from richrep.errors import RichrepError
from richrep.training.head_init import HEAD_INITS, check_same_classes, linear_of_head, make_head
from richrep.training.norms import set_training

WEIGHTS = Path(__file__).parents[3] / "shared" / "data" / "weights"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def check_against_the_head(backbone: Backbone) -> None:
    images = torch.randn(2, 3, *backbone.preprocessing.geometry.size_px, generator=generator())
    weight, bias = linear_of_head(backbone)
    with torch.no_grad():
        features, logits = backbone.features_and_logits(images)
    scale = float((features.abs() @ weight.abs().T + bias.abs()).max())
    torch.testing.assert_close(features @ weight.T + bias, logits, rtol=0, atol=1e-5 * scale)


def with_head(head: Callable[[int], nn.Module], *, pooled: bool) -> Backbone:
    """A small network with another head, on pooled features or on the map before them."""
    backbone = make_small_cnn(5, widths=(4, 6))
    torch.manual_seed(1)
    trunk, pool = backbone.trunk, backbone.pool
    if not pooled:
        trunk, pool = backbone.trunk.stages, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    module = head(6)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                values.data.uniform_(0.5, 2.0)
    return replace(backbone, trunk=trunk, pool=pool, head=module.eval())


POOLED = {
    "linear": lambda width: nn.Linear(width, 5),
    "no bias": lambda width: nn.Linear(width, 5, bias=False),
    "dropout": lambda width: nn.Sequential(nn.Dropout(0.5), nn.Linear(width, 5)),
    "norm": lambda width: nn.Sequential(nn.BatchNorm1d(width), nn.Linear(width, 5)),
    "two layers": lambda width: nn.Sequential(nn.Linear(width, 3), nn.Identity(), nn.Linear(3, 5)),
}
ON_MAPS = {
    "pool and linear": lambda width: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5)),
    "convolution": lambda width: nn.Sequential(nn.Conv2d(width, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    "norm and convolution": lambda width: nn.Sequential(
        nn.BatchNorm2d(width), nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, 5, 1), nn.Flatten()
    ),
    "timm": lambda width: timm.layers.ClassifierHead(width, 5, drop_rate=0.1),
}
NOT_LINEAR = {
    "relu": lambda width: nn.Sequential(nn.Conv2d(width, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    "maximum": lambda width: nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(width, 5)),
    "layer norm": lambda width: timm.layers.NormMlpClassifierHead(width, 5),
}


@pytest.mark.parametrize("name", [*POOLED, *ON_MAPS])
def test_the_linear_layer_gives_the_heads_logits_from_the_features(name: str) -> None:
    check_against_the_head(with_head((POOLED | ON_MAPS)[name], pooled=name in POOLED))


def test_a_norm_is_folded_by_the_formula() -> None:
    backbone = with_head(POOLED["norm"], pooled=True)
    norm, linear = backbone.head  # type: ignore[misc]
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    weight, bias = linear_of_head(backbone)
    torch.testing.assert_close(weight, linear.weight * scale)
    torch.testing.assert_close(bias, linear.bias + linear.weight @ (norm.bias - scale * norm.running_mean))


@pytest.mark.parametrize(
    ("name", "layer"), [("relu", "ReLU"), ("maximum", "AdaptiveMaxPool2d"), ("layer norm", "Norm")]
)
def test_a_head_that_is_not_linear_is_refused_with_its_layers(name: str, layer: str) -> None:
    with pytest.raises(RichrepError, match=rf"small-cnn-4-6 \(.*{layer}.*\) is not linear in the pooled features"):
        linear_of_head(with_head(NOT_LINEAR[name], pooled=False))


def test_measuring_leaves_the_network_as_it_was() -> None:
    backbone = with_head(ON_MAPS["convolution"], pooled=False)
    set_training(backbone.trunk, norms_in_eval=True)
    before, modes = backbone.fingerprint, [module.training for module in backbone.trunk.modules()]
    linear_of_head(backbone)
    assert backbone.fingerprint == before
    assert [module.training for module in backbone.trunk.modules()] == modes


def full_networks() -> dict[str, Callable[[], nn.Module | dict[str, torch.Tensor]]]:
    return {
        "cifar-resnet": lambda: CifarResNet(3).state_dict() | nn.Linear(64, 3).state_dict(prefix="linear."),
        "torchvision mobilenet": lambda: torchvision.models.mobilenet_v3_small(num_classes=3).state_dict(),
        "torchvision shufflenet": lambda: torchvision.models.shufflenet_v2_x0_5(num_classes=3).state_dict(),
        "mobilenet-v1": lambda: MobileNetV1().state_dict() | nn.Linear(1024, 3).state_dict(prefix="fc."),
        "timm/vit_tiny_patch16_224": lambda: timm.create_model("vit_tiny_patch16_224", num_classes=3).state_dict(),
    }


@pytest.mark.parametrize("family", list(full_networks()))
def test_every_family_gives_the_head_of_its_file(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(full_networks()[family](), tmp_path / "a.pth")
    architecture = f"{family}@" if "/" in family else ""  # where the file alone does not say
    backbone = richrep.load_backbone(f"{architecture}{tmp_path / 'a.pth'}")
    assert linear_of_head(backbone)[0].shape == (3, backbone.feature_dim)
    check_against_the_head(backbone)


@pytest.mark.skipif(not WEIGHTS.is_dir(), reason=f"the shared real weights are not at {WEIGHTS}")
@pytest.mark.parametrize("path", sorted(WEIGHTS.glob("*.*")), ids=lambda path: path.name)
def test_real_heads_become_linear_layers_or_say_why_not(path: Path) -> None:
    backbone = richrep.load_backbone(str(path))
    if backbone.head is None:
        assert "trunk" in path.name
        with pytest.raises(RichrepError, match="has no head of its own"):
            linear_of_head(backbone)
    elif "squeezenet" in path.name:
        with pytest.raises(RichrepError, match=r"\(Conv2d, ReLU, AdaptiveAvgPool2d, Flatten\) is not linear"):
            linear_of_head(backbone)
    else:
        check_against_the_head(backbone)


def test_default_is_torchs_own_start() -> None:
    head = make_head(50, 7, "default", members=(), generator=generator(3))
    torch.manual_seed(3)
    expected = nn.Linear(50, 7)
    torch.testing.assert_close(head.weight, expected.weight)
    torch.testing.assert_close(head.bias, expected.bias)


def test_normal_has_a_spread_of_a_hundredth_and_no_bias() -> None:
    head = make_head(500, 100, "normal", members=(), generator=generator())
    # 50,000 values: the standard error of the spread is 0.01 / sqrt(100,000) = 3e-5
    assert head.weight.std().item() == pytest.approx(0.01, abs=2e-4)
    assert head.weight.mean().item() == pytest.approx(0, abs=3e-4)
    assert not head.bias.any()


@pytest.mark.parametrize("mode", HEAD_INITS)
def test_a_head_depends_on_its_generator_alone_and_draws_nothing_else(mode: str) -> None:
    member, state = make_small_cnn(3), torch.get_rng_state()
    first, second = (make_head(64, 3, mode, members=[member], generator=generator(1)) for _ in range(2))
    assert torch.equal(first.weight, second.weight) and torch.equal(first.bias, second.bias)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.weight.requires_grad


def test_concatenated_heads_give_the_mean_of_the_members_logits() -> None:
    members = [make_small_cnn(3, widths=(4, width), seed=width) for width in (5, 6, 7)]
    joint = richrep.concat(*members)
    head = make_head(18, 3, "cat-weights", members=members, generator=generator())
    images = torch.randn(8, 3, 8, 8, generator=generator())
    with torch.no_grad():
        expected = torch.stack([member.features_and_logits(images)[1] for member in members]).mean(0)
        torch.testing.assert_close(head(joint(images)), expected)


def test_concatenated_heads_of_one_class_by_hand() -> None:
    members = [make_small_cnn(1, widths=(2,), seed=seed) for seed in (0, 1)]
    for member, value in zip(members, (1.0, 3.0), strict=True):
        nn.init.constant_(member.head.weight, value)  # type: ignore[union-attr]
        nn.init.constant_(member.head.bias, 10 * value)  # type: ignore[union-attr]
    head = make_head(4, 1, "cat-weights", members=members, generator=generator())
    assert head.weight.tolist() == [[0.5, 0.5, 1.5, 1.5]]  # each half of its own
    assert head.bias.tolist() == [20.0]


def test_the_head_of_the_checkpoint_is_kept_as_it_is() -> None:
    member = make_small_cnn(3)
    head = make_head(64, 3, "from-checkpoint", members=[member], generator=generator())
    assert torch.equal(head.weight, member.head.weight)  # type: ignore[union-attr]
    head.weight.data.zero_()  # a copy: the member keeps its own
    assert member.head.weight.any()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("mode", "classes", "num_classes", "message"),
    [
        ("cat-weight", [3], 3, "Unknown head init 'cat-weight'. Did you mean 'cat-weights'"),
        ("cat-weights", [3, 4], 3, "different numbers of classes cannot be averaged: .* 3, .* 4. Start afresh with"),
        ("cat-weights", [3, 3], 10, "has 3 classes, the data 10; a head is kept only for"),
        ("from-checkpoint", [3], 10, "has 3 classes, the data 10; .* Start afresh with head init 'default'"),
        ("from-checkpoint", [3, 3], 3, "keeps the head of one network, got 2. Use 'cat-weights'"),
    ],
)
def test_heads_that_do_not_fit_are_refused(mode: str, classes: list[int], num_classes: int, message: str) -> None:
    members = [replace(make_small_cnn(k), address=f"{k}.pth") for k in classes]
    with pytest.raises(RichrepError, match=message):
        make_head(64 * len(members), num_classes, mode, members=members, generator=generator())


def test_heads_of_other_widths_are_refused() -> None:
    with pytest.raises(RichrepError, match="takes 64 features, the backbone gives 65"):
        make_head(65, 3, "from-checkpoint", members=[make_small_cnn(3)], generator=generator())


def test_classes_in_another_order_are_refused_with_their_places() -> None:
    check_same_classes({"a.pth": ("cat", "dog"), "b.pth": ["cat", "dog"], "data": ("cat", "dog")})
    with pytest.raises(
        RichrepError, match=r"a.pth and b.pth have the same classes in another order: 1: 'dog' and 'emu', 2"
    ):
        check_same_classes({"a.pth": ("cat", "dog", "emu"), "b.pth": ("cat", "emu", "dog")})
    with pytest.raises(RichrepError, match="have other classes: 1: 'dog' and 'wolf'"):
        check_same_classes({"a.pth": ("cat", "dog"), "b.pth": ("cat", "wolf")})
    with pytest.raises(RichrepError, match=r"a.pth has 2 classes, data 3"):
        check_same_classes({"a.pth": ("cat", "dog"), "data": ("cat", "dog", "emu")})
    with pytest.raises(RichrepError, match=r"5: '5' and '14', … \(20 in all\)"):
        check_same_classes({"a": [str(i) for i in range(20)], "b": [str(19 - i) for i in range(20)]})
