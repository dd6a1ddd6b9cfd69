"""Files of rich representations (RRL): one network, several side by side, widened ones, heads alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision.models
from torch import nn

from richrep.backbones.addresses import load_backbone
from richrep.backbones.backbone import Backbone
from richrep.backbones.checkpoint import Checkpoint
from richrep.backbones.families import FAMILIES
from richrep.backbones.families.cifar_resnet import CifarResNet
from richrep.backbones.families.cifar_resnet18 import CifarResNet18
from richrep.backbones.families.detection import find_architecture
from richrep.backbones.families.widened_resnet import WidenedResNet
from richrep.backbones.formats.rrl import RrlFormat
from richrep.data.preprocessing import IMAGENET_MEAN, Geometry
from richrep.errors import CheckpointError

Tensors = dict[str, torch.Tensor]


def container(**parts: nn.Module) -> dict[str, object]:
    """What RRL's training saves, of modules by name; "__" stands for "."."""
    named = {name.replace("__", "."): module.state_dict() for name, module in parts.items()}
    state_dict = {f"module.{name}.{n}": t for name, tensors in named.items() for n, t in tensors.items()}
    optimizer = {"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    return {"epoch": 99, "state_dict": state_dict, "optimizer": optimizer, "scheduler": {"step": 1}, "best_acc": 75.6}


def save(content: object, path: Path) -> str:
    torch.save(content, path)
    return str(path)


def find(content: dict[str, object]) -> str:
    """The architecture in a file whose tensors have no memory; timm takes long and yields to torchvision's."""
    (network,) = RrlFormat().read(content, {})
    checkpoint = Checkpoint(
        dict(network.tensors), Path("r.pth"), sha256="", format="rrl", preprocessing=network.preprocessing
    )
    families = [family for family in FAMILIES.values() if family.name != "timm"]
    return find_architecture(families, checkpoint)[0].address


def assert_same(backbone: Backbone, features: nn.Module, head: nn.Module | None, images: torch.Tensor) -> None:
    with torch.inference_mode():
        expected = features(images)
        assert torch.allclose(backbone(images), expected, atol=1e-5 * float(expected.abs().max()))
        if head is not None:
            logits = head(expected)
            assert torch.allclose(
                backbone.features_and_logits(images)[1], logits, atol=1e-5 * float(logits.abs().max())
            )


class Together(nn.Module):
    """Networks on the same images, by torch's own means."""

    def __init__(self, *networks: nn.Module) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([network(images) for network in self.networks], dim=1)


@pytest.fixture(scope="module")
def resnet18(randomise: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """torchvision's, without head, as RRL builds its deep networks."""
    network = randomise(torchvision.models.resnet18())
    network.fc = nn.Identity()
    return network


@pytest.fixture
def small(randomise: Callable[[nn.Module], nn.Module]) -> list[nn.Module]:
    """Four networks of different weights."""
    return [randomise(CifarResNet(3)) for _ in range(4)]


def images_of(size_px: int) -> torch.Tensor:
    return torch.randn(2, 3, size_px, size_px, generator=torch.Generator().manual_seed(1))


def test_one_network_with_its_head(tmp_path: Path, resnet18: nn.Module) -> None:
    head = nn.Linear(512, 5)
    backbone = load_backbone(save(container(model0=resnet18, classifier__linear=head), tmp_path / "r.pth.tar"))
    assert (backbone.family, backbone.architecture, backbone.num_classes) == ("rrl", "resnet18", 5)
    assert "read from 'state_dict'; set aside: epoch, optimizer, scheduler, best_acc" in backbone.load_report
    assert backbone.load_report[0].endswith("ignored: none")
    assert (backbone.preprocessing.geometry, backbone.preprocessing.mean) == (Geometry((224, 224), 256), IMAGENET_MEAN)
    assert_same(backbone, resnet18, head, images_of(64))


def test_the_batchnorm_of_a_head_is_folded_into_its_linear_layer(
    tmp_path: Path, resnet18: nn.Module, randomise: Callable[[nn.Module], nn.Module]
) -> None:
    batchnorm, linear = randomise(nn.BatchNorm1d(512)), nn.Linear(512, 5)
    content = container(model0=resnet18, classifier__bn=batchnorm, classifier__linear=linear)
    backbone = load_backbone(save(content, tmp_path / "r.pth"))
    assert "the head's BatchNorm folded into its linear layer, in float64" in backbone.load_report
    assert isinstance(backbone.head, nn.Linear)
    assert_same(backbone, resnet18, nn.Sequential(batchnorm, linear), images_of(64))


def test_the_fold_by_hand() -> None:
    # s = 2 / sqrt(4) = 1 (ε is far below the last digit of 1e6): W' = 3 * 1, b' = 1 + 3 * (5 - 1 * 7) = -5
    head = {"weight": torch.tensor([[3.0]]), "bias": torch.tensor([1.0])}
    batchnorm = {"weight": 2e3, "bias": 5.0, "running_mean": 7.0, "running_var": 4e6}
    state_dict = {f"module.classifier.linear.{name}": tensor for name, tensor in head.items()}
    state_dict |= {f"module.classifier.bn.{name}": torch.tensor([value]) for name, value in batchnorm.items()}
    state_dict["module.conv1.weight"] = torch.zeros(64, 3, 7, 7)
    (network,) = RrlFormat().read({"state_dict": state_dict}, {})
    assert network.tensors["fc.weight"].item() == pytest.approx(3.0)
    assert network.tensors["fc.bias"].item() == pytest.approx(-5.0)


def test_a_batchnorm_of_another_width_is_refused(tmp_path: Path, small: list[nn.Module]) -> None:
    content = container(model0=small[0], classifier__bn=nn.BatchNorm1d(65), classifier__linear=nn.Linear(64, 5))
    with pytest.raises(CheckpointError, match=r"BatchNorm does not fit its linear layer of shape \(5, 64\).*\(65,\)"):
        load_backbone(save(content, tmp_path / "r.pth"))


def test_names_without_model0_and_with_compile_prefix(tmp_path: Path, resnet18: nn.Module) -> None:
    trunk, linear = resnet18.state_dict(), nn.Linear(512, 3)
    named = {**trunk, **linear.state_dict(prefix="classifier.linear.")}
    content = {"state_dict": {f"_orig_mod.module.{name}": tensor for name, tensor in named.items()}}
    (network,) = RrlFormat().read(content, {})
    assert network.tensors.keys() == trunk.keys() | {"fc.weight", "fc.bias"}


@pytest.mark.parametrize("names", [["model0.model0", "model0.model1"], ["model0", "model1"]])
def test_several_networks_are_one_backbone(tmp_path: Path, small: list[nn.Module], names: list[str]) -> None:
    head = nn.Linear(128, 5)
    parts = {name.replace(".", "__"): network for name, network in zip(names, small[:2], strict=True)}
    backbone = load_backbone(save(container(**parts, classifier__linear=head), tmp_path / "r.pth"))
    assert (backbone.family, backbone.architecture, backbone.feature_dim) == ("rrl", "2resnet20", 128)
    assert "2 networks side by side, one backbone" in backbone.load_report
    assert_same(backbone, Together(*small[:2]), head, images_of(32))


def test_networks_of_networks_keep_the_order_of_their_features(tmp_path: Path, small: list[nn.Module]) -> None:
    parts = {f"model{i}__model{j}": small[2 * i + j] for i in (1, 0) for j in (1, 0)}
    backbone = load_backbone(save(container(**parts), tmp_path / "r.pth"))
    assert (backbone.architecture, backbone.head) == ("4resnet20", None)
    assert_same(backbone, Together(*small), None, images_of(32))


def test_ten_networks_are_ordered_by_number(small: list[nn.Module]) -> None:
    parts = {f"model{i}": small[0] if i < 10 else CifarResNet(5) for i in range(11)}
    assert find(container(**parts)) == "side-by-side/10resnet20+resnet32"


@pytest.mark.parametrize(
    ("numbers", "named"), [((0, 2), "model1"), ((1,), "model0"), ((1, 2), "model0"), ((0, 1, 4), "model3")]
)
def test_a_missing_network_is_named(
    tmp_path: Path, small: list[nn.Module], numbers: tuple[int, ...], named: str
) -> None:
    content = container(**{f"model{i}": small[0] for i in numbers})
    with pytest.raises(CheckpointError, match=f"do not count up from model0; look at {named}. Save"):
        load_backbone(save(content, tmp_path / "r.pth"))


def test_a_network_beside_its_own_parts_is_refused(tmp_path: Path, small: list[nn.Module]) -> None:
    with pytest.raises(CheckpointError, match=r"do not count up from model0; look at model0\. Save"):
        load_backbone(save(container(model0=small[0], model0__model0=small[1]), tmp_path / "r.pth"))


def test_a_head_that_does_not_take_all_features_is_refused(tmp_path: Path, small: list[nn.Module]) -> None:
    content = container(model0=small[0], model1=small[1], classifier__linear=nn.Linear(64, 5))
    with pytest.raises(CheckpointError, match=r"fc\.weight: file \(5, 64\), network \(5, 128\).*Nothing was loaded"):
        load_backbone(save(content, tmp_path / "r.pth"))


def test_several_heads_of_a_distilled_network_are_set_aside(tmp_path: Path, small: list[nn.Module]) -> None:
    heads = {f"classifier__heads__{i}__linear": nn.Linear(64, 5) for i in range(2)}
    content = container(model0=small[0], classifier__linear=nn.Linear(64, 5), **heads)
    backbone = load_backbone(save(content, tmp_path / "r.pth"))
    assert backbone.head is None
    (note,) = (line for line in backbone.load_report if "heads included, set aside: 6 tensors" in line)
    assert "classifier.linear.weight" in note and "classifier.heads.1.linear.bias" in note
    assert_same(backbone, small[0], None, images_of(32))


@pytest.mark.parametrize("batchnorm", [False, True])
def test_a_linear_probe_holds_only_a_head(tmp_path: Path, batchnorm: bool) -> None:
    parts: dict[str, nn.Module] = {"bn": nn.BatchNorm1d(20)} if batchnorm else {}
    content = container(**parts, linear=nn.Linear(20, 7))
    with pytest.raises(
        CheckpointError, match=r"r\.pth.*holds only a head \(a linear layer of 20 features and 7 classes"
    ):
        load_backbone(save(content, tmp_path / "r.pth"))


def test_published_networks_are_recognised() -> None:
    with torch.device("meta"):
        resnet50, resnet152 = torchvision.models.resnet50(), torchvision.models.resnet152()
        wide, widened = torchvision.models.wide_resnet50_2(), WidenedResNet((3, 4, 6, 3), 128)
        cifar, cifar_w2 = CifarResNet18(64), CifarResNet18(128)
        head = {width: nn.Linear(width, 1000) for width in (1024, 2048, 4096, 8192)}
    for network in (resnet50, resnet152, wide):
        network.fc = nn.Identity()
    assert find(container(model0=resnet50, classifier__linear=head[2048])) == "torchvision/resnet50"
    assert find(container(model0=resnet152, classifier__linear=head[2048])) == "torchvision/resnet152"
    assert find(container(model0=widened, classifier__linear=head[4096])) == "widened-resnet/resnet50w2"
    assert find(container(model0=wide, classifier__linear=head[2048])) == "torchvision/wide_resnet50_2"
    assert find(container(model0=cifar_w2, classifier__linear=head[1024])) == "cifar-resnet18/cifar_resnet18w2"
    row = container(model0=resnet50, model1=resnet50, classifier__linear=head[4096])
    assert find(row) == "side-by-side/2resnet50"
    row = container(model0__model0=cifar, model0__model1=cifar, classifier__linear=head[1024])
    assert find(row) == "side-by-side/2cifar_resnet18"
    row = container(**{f"model0__model{i}": resnet50 for i in range(4)}, classifier__linear=head[8192])
    assert find(row) == "side-by-side/4resnet50"


@pytest.mark.parametrize("prefix", ["module.model0.", "backbone."])
def test_the_cifar_resnet18(tmp_path: Path, randomise: Callable[[nn.Module], nn.Module], prefix: str) -> None:
    network, head = randomise(CifarResNet18(64)), nn.Linear(512, 10)
    named = {f"{prefix}{name}": tensor for name, tensor in network.state_dict().items()}
    if prefix == "backbone.":
        named |= head.state_dict(prefix="projector.0.")
    else:
        named |= head.state_dict(prefix="module.classifier.linear.")
    backbone = load_backbone(save({"state_dict": named, "epoch": 800}, tmp_path / "r.pth"))
    assert (backbone.family, backbone.architecture, backbone.feature_dim) == ("rrl", "cifar_resnet18", 512)
    assert backbone.preprocessing.geometry == Geometry((32, 32), 36, "bicubic")
    assert backbone.preprocessing.mean == (0.4914, 0.4822, 0.4465)
    assert (backbone.head is None) == (prefix == "backbone.")
    assert_same(backbone, network, head if backbone.head is not None else None, images_of(32))


def test_a_file_of_another_project_is_none_of_ours(resnet18: nn.Module) -> None:
    assert RrlFormat().read({"state_dict": dict(resnet18.state_dict())}, {}) == []
    assert RrlFormat().read({"epoch": 3}, {}) == []
