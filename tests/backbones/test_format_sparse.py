"""The containers of pruned networks, built here as their projects write them."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torchvision.models
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

from richrep.backbones.addresses import load_backbone
from richrep.backbones.backbone import Backbone
from richrep.backbones.blank import shapes_only
from richrep.backbones.checkpoint import Checkpoint
from richrep.backbones.families import FAMILIES
from richrep.backbones.families.detection import find_architecture
from richrep.backbones.families.mobilenet_v1 import MobileNetV1
from richrep.backbones.formats import FORMATS
from richrep.backbones.formats.format import Network
from richrep.errors import CheckpointError

Tensors = dict[str, torch.Tensor]
SMALL = (8, 16, 32, 32, 64, 64, 128, 128, 128, 128, 128, 128, 256, 256)  # widths of MobileNetV1 at a quarter
NUM_CLASSES = 7
PRUNED = "model.5.3.weight"


class Reference(nn.Module):
    """MobileNetV1 as the transfer study has it: `model` ends with a 7x7 average, `fc` follows."""

    def __init__(self) -> None:
        super().__init__()
        blocks = list(MobileNetV1(SMALL).model)
        self.model = nn.Sequential(*blocks, nn.AvgPool2d(7))
        self.fc = nn.Linear(SMALL[-1], NUM_CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.model(images).flatten(1)
        return features


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def mobilenet(randomise: Callable[[nn.Module], nn.Module]) -> Tensors:
    """MobileNetV1 at a quarter of the width in the names of `mobilenet`."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return dict(randomise(Reference()).state_dict())


@pytest.fixture(scope="module")
def masks(mobilenet: Tensors) -> Tensors:
    """For every convolution and the head: float 0/1, half of it pruned; the stem stays dense."""
    generator = torch.Generator().manual_seed(4)
    weights = {name: tensor for name, tensor in mobilenet.items() if name.endswith("weight") and tensor.ndim >= 2}
    random = {name: (torch.rand(weight.shape, generator=generator) > 0.5).float() for name, weight in weights.items()}
    return random | {"model.0.0.weight": torch.ones_like(random["model.0.0.weight"])}


def wrap(tensors: Tensors, masks: Tensors, *, bias_masks: bool = True) -> Tensors:
    """As the study wraps layers: masks first, then `X._layer.*`."""
    wrapped = {}
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        if f"{layer}.weight" not in masks:
            wrapped[name] = tensor
            continue
        if kind == "weight":
            wrapped[f"{layer}._weight_mask"] = masks[name]
        elif bias_masks:
            wrapped[f"{layer}._bias_mask"] = torch.ones_like(tensor)
        wrapped[f"{layer}._layer.{kind}"] = tensor
    return wrapped


def container(tensors: Tensors, arch: str = "mobilenet") -> dict[str, object]:
    return {"epoch": 99, "model_config": {"arch": arch, "dataset": "imagenet"}, "model_state_dict": tensors}


def save(content: object, folder: Path, name: str = "c.ckpt") -> str:
    torch.save(content, folder / name)
    return str(folder / name)


def times(tensors: Tensors, masks: Tensors) -> Tensors:
    return {name: tensor * masks[name] if name in masks else tensor for name, tensor in tensors.items()}


def assert_same_features(backbone: Backbone, tensors: Tensors, images: torch.Tensor) -> None:
    """Features and logits are those of the reference network with these very tensors."""
    reference = Reference().eval()
    reference.load_state_dict(tensors)
    with torch.inference_mode():
        expected = reference(images)
        features, logits = backbone.features_and_logits(images)
        assert torch.allclose(features, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))
        wanted = reference.fc(expected)
        assert torch.allclose(logits, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


def assert_same_weights(backbone: Backbone, tensors: Tensors) -> None:
    """To the last bit."""
    found = {**backbone.trunk.state_dict(), **{f"fc.{n}": t for n, t in backbone.head.state_dict().items()}}  # type: ignore[union-attr]
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def read(content: dict[str, object]) -> list[Network]:
    """What the formats make of the content of a file; no two claim it."""
    claims = [networks for entry in FORMATS.values() if (networks := entry.read(content, {}))]
    assert len(claims) == 1
    return list(claims[0])


# -- the common container


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("bias_masks", [True, False], ids=["bias-masks", "no-bias-masks"])
def test_wrapped_layers_give_weight_times_mask(
    tmp_path: Path, mobilenet: Tensors, masks: Tensors, images: torch.Tensor, prefix: str, bias_masks: bool
) -> None:
    wrapped = wrap(mobilenet, masks, bias_masks=bias_masks)
    path = save(container({f"{prefix}{name}": t for name, t in wrapped.items()}), tmp_path)
    backbone = load_backbone(path)
    assert (backbone.family, backbone.architecture, backbone.num_classes) == ("sparse", "mobilenet_v1", NUM_CLASSES)
    assert backbone.preprocessing.describe().startswith("resize 256 (bilinear), crop 224x224, mean (0.485, 0.456")
    expected = times(mobilenet, masks)
    assert_same_weights(backbone, expected)
    assert_same_features(backbone, expected, images)
    # 26 convolutions and the head; the mask of the stem prunes nothing
    assert backbone.mask_source == "file" and len(backbone.masks) == 27
    assert torch.equal(backbone.masks[f"trunk.{PRUNED}"], masks[PRUNED] == 1)
    assert torch.equal(backbone.masks["head.weight"], masks["fc.weight"] == 1)


def test_the_mask_decides_and_says_how_many_weights_it_hides(
    tmp_path: Path, mobilenet: Tensors, masks: Tensors
) -> None:
    hidden = times(mobilenet, masks) | {PRUNED: mobilenet[PRUNED]}
    backbone = load_backbone(save(container(wrap(hidden, masks)), tmp_path))
    assert_same_weights(backbone, times(mobilenet, masks))
    count = int((masks[PRUNED] == 0).sum())
    assert f"{count:,} weights that are not zero in the file are masked out ({PRUNED})" in backbone.load_report


def test_layers_wrapped_twice_are_unwrapped(tmp_path: Path, mobilenet: Tensors, masks: Tensors) -> None:
    other = torch.ones_like(masks[PRUNED])
    other[0] = 0
    wrapped = wrap(mobilenet, masks)
    layer = PRUNED.removesuffix(".weight")
    wrapped[f"{layer}._layer._layer.weight"] = wrapped.pop(f"{layer}._layer.weight")
    wrapped[f"{layer}._layer._weight_mask"] = other
    backbone = load_backbone(save(container(wrapped), tmp_path))
    assert_same_weights(backbone, times(mobilenet, masks | {PRUNED: masks[PRUNED] * other}))


def test_a_file_without_masks_gets_them_from_its_zeros(tmp_path: Path, mobilenet: Tensors, masks: Tensors) -> None:
    expected = times(mobilenet, masks)
    backbone = load_backbone(save(container(expected), tmp_path))
    assert_same_weights(backbone, expected)
    assert backbone.mask_source == "zeros" and len(backbone.masks) == 27
    assert torch.equal(backbone.masks[f"trunk.{PRUNED}"], masks[PRUNED] == 1)
    assert any(line.startswith("masks: 27 weights, 50.") and "zero" in line for line in backbone.load_report)


def test_masks_of_ones_say_that_the_network_is_dense(tmp_path: Path, mobilenet: Tensors, masks: Tensors) -> None:
    ones = {name: torch.ones_like(mask) for name, mask in masks.items()}
    backbone = load_backbone(save(container(wrap(times(mobilenet, masks), ones)), tmp_path))
    assert backbone.mask_source == "file" and not backbone.masks
    assert "masks in the file prune nothing" in backbone.load_report


def test_wrapped_layers_outside_the_container_are_known(tmp_path: Path, mobilenet: Tensors, masks: Tensors) -> None:
    backbone = load_backbone(save({"state_dict": wrap(mobilenet, masks), "best_acc1": 1.0}, tmp_path))
    assert backbone.family == "sparse" and len(backbone.masks) == 27
    assert "read from 'state_dict'; set aside: best_acc1" in backbone.load_report


def test_flattened_weights_take_the_shape_of_the_network(
    tmp_path: Path, mobilenet: Tensors, masks: Tensors, images: torch.Tensor
) -> None:
    def flatten(tensors: Tensors) -> Tensors:
        return {name: t.reshape(len(t), -1) if t.ndim == 4 else t for name, t in tensors.items()} | {
            PRUNED: tensors[PRUNED].reshape(-1)
        }

    backbone = load_backbone(save(container(wrap(flatten(mobilenet), flatten(masks))), tmp_path))
    assert_same_weights(backbone, times(mobilenet, masks))
    assert torch.equal(backbone.masks[f"trunk.{PRUNED}"], masks[PRUNED] == 1)
    flat = flatten(mobilenet) | {PRUNED: torch.zeros(5)}
    with pytest.raises(CheckpointError, match=r"model\.5\.3\.weight: file \(5,\), network \(64, 64, 1, 1\)"):
        load_backbone(save(container(wrap(flat, flatten(masks) | {PRUNED: torch.ones(5)})), tmp_path))


@pytest.fixture
def foreign_classes() -> Iterator[dict[str, type]]:
    """Classes of the module `optimization` of AC/DC, which nobody who opens its files has."""
    names = {"optimization.sgd": "SGD", "optimization.lr_schedulers": "CosineLR"}
    classes = {}
    for module_name in ("optimization", *names):
        sys.modules[module_name] = types.ModuleType(module_name)
    for module_name, class_name in names.items():
        made = type(class_name, (), {"__module__": module_name})
        setattr(sys.modules[module_name], class_name, made)
        classes[class_name] = made
    yield classes
    for module_name in ("optimization", *names):
        sys.modules.pop(module_name, None)


def test_classes_beside_the_network_are_passed_over(
    tmp_path: Path, mobilenet: Tensors, masks: Tensors, foreign_classes: dict[str, type]
) -> None:
    training = {
        "optimizer": {"type": foreign_classes["SGD"], "state_dict": {"momentum": [torch.zeros(3)]}},
        "lr_scheduler": {"type": foreign_classes["CosineLR"], "state_dict": {"last_epoch": 99}},
    }
    path = save(container(wrap(mobilenet, masks)) | training, tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "optimization"]:
        del sys.modules[name]
    backbone = load_backbone(path)
    assert_same_weights(backbone, times(mobilenet, masks))
    assert "read from 'model_state_dict'; set aside: epoch, optimizer, lr_scheduler" in backbone.load_report
    assert "optimization" not in sys.modules


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nowhere._weight_mask": torch.ones(2)}, "there is a mask for 'nowhere.weight' but no such weight"),
        ({"fc._weight_mask": torch.ones(2, 2)}, r"the mask of 'fc.weight' has shape \(2, 2\), its weight \(7, 256\)"),
        ({"fc._weight_mask": torch.full((7, 256), 0.5)}, "the mask of 'fc.weight' holds values besides 0 and 1"),
        ({"fc.weight": torch.zeros(7, 256)}, "two tensors would be called 'fc.weight'"),
    ],
)
def test_broken_masks_are_refused(
    tmp_path: Path, mobilenet: Tensors, masks: Tensors, change: Tensors, message: str
) -> None:
    path = save(container(wrap(mobilenet, masks) | change), tmp_path)
    with pytest.raises(CheckpointError, match=f"{path}, a file in the format of sparse: {message}"):
        load_backbone(path)


@pytest.mark.parametrize("arch", ["resnet50", "mobilenet_amc", "resnet50_rigl"])
def test_a_container_that_names_another_network_is_refused(tmp_path: Path, mobilenet: Tensors, arch: str) -> None:
    with pytest.raises(
        CheckpointError, match=rf"model_config says arch '{arch}', but the tensors are those of mobilen"
    ):
        load_backbone(save(container(mobilenet, arch), tmp_path))


def test_tensors_of_no_known_network_are_named(tmp_path: Path) -> None:
    tensors = {"encoder.weight": torch.zeros(2, 3)}
    with pytest.raises(CheckpointError, match=r"but the tensors are not \(encoder\.weight, …\)"):
        load_backbone(save(container(tensors, "resnet18"), tmp_path))


def test_an_unknown_architecture_leaves_it_to_the_tensors(tmp_path: Path, mobilenet: Tensors) -> None:
    backbone = load_backbone(save(container(mobilenet, "mobilenet_v1_of_mine"), tmp_path))
    assert any("'mobilenet_v1_of_mine', a name unknown to richrep" in line for line in backbone.load_report)


def test_a_file_of_a_head_alone_says_so(tmp_path: Path) -> None:
    tensors = {"weight": torch.zeros(102, 2048), "bias": torch.zeros(102)}
    with pytest.raises(CheckpointError, match=r"holds only a head, weight of shape \(102, 2048\), and no backbone"):
        load_backbone(save(container(tensors, "linear"), tmp_path))


# -- architectures and layouts


def to_amc(tensors: Tensors) -> Tensors:
    renamed = {}
    for name, tensor in tensors.items():
        if name.startswith("fc."):
            renamed[f"classifier.0.{name.removeprefix('fc.')}"] = tensor
        else:
            _, number, rest = name.split(".", 2)
            renamed[f"conv1.{rest}" if number == "0" else f"features.{int(number) - 1}.{rest}"] = tensor
    return renamed


def test_amc_names_are_mapped_with_their_masks(
    tmp_path: Path, mobilenet: Tensors, masks: Tensors, images: torch.Tensor
) -> None:
    backbone = load_backbone(save(container(wrap(to_amc(mobilenet), to_amc(masks)), "mobilenet_amc"), tmp_path))
    assert_same_weights(backbone, times(mobilenet, masks))
    assert_same_features(backbone, times(mobilenet, masks), images)
    assert len(backbone.masks) == 27


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_convolution_as_head_becomes_a_linear_layer_without_bias(
    tmp_path: Path, mobilenet: Tensors, masks: Tensors, images: torch.Tensor, wrapped: bool
) -> None:
    tensors = {name: tensor for name, tensor in mobilenet.items() if name != "fc.bias"}
    tensors["fc.weight"] = tensors["fc.weight"].reshape(NUM_CLASSES, -1, 1, 1)
    pruned = masks | {"fc.weight": masks["fc.weight"].reshape(NUM_CLASSES, -1, 1, 1)}
    content = wrap(tensors, pruned) if wrapped else times(tensors, pruned)
    backbone = load_backbone(save(container(content, "mobilenet_str"), tmp_path))
    assert isinstance(backbone.head, nn.Linear) and backbone.head.bias is None
    assert "head: 7 classes (linear, no bias)" in backbone.load_report[0]
    assert backbone.masks["head.weight"].shape == (NUM_CLASSES, 256)
    with torch.inference_mode():
        features, logits = backbone.features_and_logits(images)
        expected = F.conv2d(features[:, :, None, None], times(tensors, pruned)["fc.weight"]).flatten(1)
    assert torch.allclose(logits, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def to_rigl(tensors: Tensors) -> Tensors:
    """torchvision's names as those of the RigL conversion."""
    renamed = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        if parts[0] in ("conv1", "bn1"):
            parts[0] = f"initial_conv.{parts[0][:-1]}"
        elif parts[0] != "fc":
            kind = {"downsample.0": ["shortcut", "conv"], "downsample.1": ["shortcut", "bn"]}.get(".".join(parts[2:4]))
            rest = parts[4:] if kind else parts[3:]
            kind = kind or [f"conv{parts[2][-1]}", parts[2][:-1]]
            parts = [parts[0], "block", parts[1], *kind, *rest]
        renamed[".".join(parts)] = tensor
    return renamed


@pytest.fixture(scope="module")
def resnet50(randomise: Callable[[nn.Module], nn.Module]) -> torchvision.models.ResNet:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = torchvision.models.resnet50(num_classes=3)
    return randomise(network)  # type: ignore[return-value]


def test_rigl_pools_right_and_below_and_resizes_bicubic(tmp_path: Path, resnet50: torchvision.models.ResNet) -> None:
    path = save(container(to_rigl(dict(resnet50.state_dict())), "resnet50_rigl"), tmp_path)
    backbone = load_backbone(path)
    assert (backbone.family, backbone.architecture, backbone.feature_dim) == ("sparse", "resnet50", 2048)
    assert backbone.variant == "SAME pooling in the stem"
    assert backbone.preprocessing.describe().startswith("resize 256 (bicubic), crop 224x224")
    assert load_backbone(f"timm/resnet50@{path}").variant == "SAME pooling in the stem"
    images = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        stem = F.relu(resnet50.bn1(resnet50.conv1(images)))  # (1, 64, 48, 48)
        pooled = F.max_pool2d(F.pad(stem, (0, 1, 0, 1)), 3, 2)  # (1, 64, 24, 24), as torchvision's, but shifted
        for stage in (resnet50.layer1, resnet50.layer2, resnet50.layer3, resnet50.layer4):
            pooled = stage(pooled)
        expected = pooled.mean((2, 3))
        features = backbone(images)
        assert torch.allclose(features, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))
        resnet50.fc, own = nn.Identity(), resnet50.fc  # type: ignore[assignment]
        assert not torch.allclose(features, resnet50(images), rtol=1e-2)
        resnet50.fc = own
    with pytest.raises(CheckpointError, match=r"has the tensors of timm/resnetaa50, but needs stem_pool: tf-same"):
        load_backbone(f"timm/resnetaa50@{path}")


def without_memory(network: nn.Module) -> Tensors:
    """Tensors of the network's shapes that take one value of memory each, and are not zero."""
    return {name: torch.full((), 0.5).expand(tensor.shape) for name, tensor in network.state_dict().items()}


def with_conv_head(tensors: Tensors) -> Tensors:
    return {n: t[:, :, None, None] if n == "fc.weight" else t for n, t in tensors.items() if n != "fc.bias"}


def build_layout(arch: str) -> Tensors:
    """The state dict of `arch` with 1000 classes, no memory."""
    name, _, kind = arch.partition("_")
    with shapes_only():
        if name == "mobilenet":
            network: nn.Module = MobileNetV1()
            network.fc = nn.Linear(1024, 1000)
        else:
            network = torchvision.models.get_model(name)
    tensors = without_memory(network)
    change: dict[str, Callable[[Tensors], Tensors]] = {"str": with_conv_head, "rigl": to_rigl, "amc": to_amc}
    return change.get(kind, dict)(tensors)


@pytest.mark.parametrize(
    ("arch", "plain", "wrapped", "parameters"),
    [
        ("resnet18", 122, 144, 11_689_512),
        ("resnet34", 218, 256, 21_797_672),
        ("resnet50", 320, 375, 25_557_032),
        ("resnet50_torch", 320, 375, 25_557_032),
        ("resnet50_str", 319, 373, 25_556_032),  # no bias of the head
        ("resnet50_rigl", 320, 375, 25_557_032),
        ("resnet101", 626, 732, 44_549_160),
        ("resnet152", 932, 1089, 60_192_808),
        ("mobilenet", 164, 193, 4_231_976),
        ("mobilenet_str", 163, 191, 4_230_976),
        ("mobilenet_amc", 164, 193, 4_231_976),
    ],
)
def test_every_architecture_has_its_entries_and_parameters(
    arch: str, plain: int, wrapped: int, parameters: int
) -> None:
    tensors = build_layout(arch)
    ones = {n: torch.ones(()).expand(t.shape) for n, t in tensors.items() if n.endswith("weight") and t.ndim > 1}
    masked = wrap(tensors, ones)
    assert (len(tensors), len(masked)) == (plain, wrapped)
    (network,) = read(container(tensors, arch))
    checkpoint = Checkpoint(dict(network.tensors), Path("x"), "", hints=network.hints, format="sparse")
    found, _ = find_architecture(list(FAMILIES.values()), checkpoint)
    assert found.architecture == {"mobilenet": "mobilenet_v1"}.get(arch.partition("_")[0], arch.partition("_")[0])
    values = (t.numel() for n, t in network.tensors.items() if "running" not in n and "num_batches" not in n)
    assert sum(values) == parameters
    (unwrapped,) = read(container(masked, arch))
    assert {n: t.shape for n, t in unwrapped.tensors.items()} == {n: t.shape for n, t in network.tensors.items()}
    assert len(unwrapped.masks) == wrapped - plain


# -- unconverted containers


def test_str_thresholds_are_applied(tmp_path: Path, mobilenet: Tensors, images: torch.Tensor) -> None:
    convs = [name for name, tensor in mobilenet.items() if tensor.ndim == 4]
    tensors = with_conv_head(mobilenet)
    thresholds = {f"{name.removesuffix('weight')}sparseThreshold": torch.full((1, 1), -3.0) for name in convs}
    thresholds["fc.sparseThreshold"] = torch.full((1, 1), -3200.0)  # the initial value: a threshold of 0
    content = {
        "epoch": 100,
        "arch": "MobileNetV1",
        "state_dict": {f"module.{name}": tensor for name, tensor in (tensors | thresholds).items()},
        "optimizer": {"state": {}},
    }
    backbone = load_backbone(save(content, tmp_path))
    assert (backbone.family, backbone.mask_source) == ("str", "file")
    gate = torch.sigmoid(torch.tensor(-3.0))  # 0.047
    expected = dict(mobilenet)
    for name in convs:
        expected[name] = mobilenet[name].sign() * (mobilenet[name].abs() - gate).clamp(min=0)
        assert torch.equal(backbone.trunk.state_dict()[name], expected[name])
        mask = backbone.masks.get(f"trunk.{name}", torch.ones(1, dtype=torch.bool))
        assert torch.equal(mask.expand(expected[name].shape), expected[name] != 0)
    assert isinstance(backbone.head, nn.Linear) and torch.equal(backbone.head.weight, mobilenet["fc.weight"])
    assert "soft thresholds of 28 layers applied" in backbone.load_report
    assert_same_features_without_bias(backbone, expected, images)


def assert_same_features_without_bias(backbone: Backbone, tensors: Tensors, images: torch.Tensor) -> None:
    reference = Reference().eval()
    reference.load_state_dict(tensors)
    with torch.inference_mode():
        expected = reference(images)
        assert torch.allclose(backbone(images), expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


def test_dense_compatible_files_of_str_are_known_by_their_head(
    tmp_path: Path, mobilenet: Tensors, masks: Tensors, images: torch.Tensor
) -> None:
    expected = times(mobilenet, masks)
    tensors = {f"module.{name}": tensor for name, tensor in with_conv_head(expected).items()}
    backbone = load_backbone(save({"epoch": 0, "arch": "MobileNetV1", "state_dict": tensors}, tmp_path))
    assert (backbone.family, backbone.mask_source, len(backbone.masks)) == ("str", "zeros", 27)
    assert_same_features_without_bias(backbone, expected, images)


def test_a_threshold_without_its_weight_is_refused() -> None:
    with pytest.raises(
        CheckpointError, match=r"'a\.sparseThreshold' needs one value, and a floating-point weight 'a\.weight'"
    ):
        read({"state_dict": {"a.sparseThreshold": torch.zeros(1, 1)}})


def pruned_resnet18(randomise: Callable[[nn.Module], nn.Module]) -> tuple[nn.Module, Tensors, Tensors]:
    """(pruned by torch.nn.utils.prune but for conv1 and fc, masks by `X.weight_mask`, weights before the training)."""
    with torch.random.fork_rng():
        torch.manual_seed(6)
        network = randomise(torchvision.models.resnet18(num_classes=4))
        initial = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        for name, module in network.named_modules():
            if isinstance(module, nn.Conv2d) and name != "conv1":
                prune.custom_from_mask(module, "weight", torch.rand(module.weight.shape) > 0.8)
        for parameter in network.parameters():
            parameter.data += 0.01 * torch.randn_like(parameter)
    masks = {name: mask for name, mask in network.named_buffers() if name.endswith("weight_mask")}
    return network, masks, initial


def test_lottery_files_hold_the_trained_network_and_the_ticket(
    tmp_path: Path, randomise: Callable[[nn.Module], nn.Module]
) -> None:
    network, masks, initial = pruned_resnet18(randomise)
    content = {
        "epoch": 9,
        "state": 7,
        "arch": "resnet18",
        "state_dict": dict(network.state_dict()),
        "mask": masks,
        "best_acc1": 70.0,
        "optimizer": {"state": {}},
        "if_pruned": True,
        "init_weight": initial,
    }
    path = save(content, tmp_path, "7model_best.pth.tar")
    trained, ticket = load_backbone(path), load_backbone(f"{path}#ticket")
    assert (trained.family, trained.architecture, trained.num_classes) == ("lottery", "resnet18", 4)
    assert "the file also holds #ticket" in trained.load_report
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits = network(images)  # multiplies weight_orig and weight_mask itself, before every forward
        assert torch.allclose(
            trained.features_and_logits(images)[1], logits, rtol=1e-5, atol=1e-5 * float(logits.abs().max())
        )
    weight, mask = network.state_dict()["layer1.0.conv1.weight_orig"], masks["layer1.0.conv1.weight_mask"]
    assert torch.equal(trained.trunk.state_dict()["layer1.0.conv1.weight"], weight * mask)
    assert torch.equal(ticket.trunk.state_dict()["layer1.0.conv1.weight"], initial["layer1.0.conv1.weight"] * mask)
    assert torch.equal(ticket.trunk.state_dict()["conv1.weight"], initial["conv1.weight"])
    for backbone in (trained, ticket):
        assert backbone.mask_source == "file" and "trunk.conv1.weight" not in backbone.masks
        assert torch.equal(backbone.masks["trunk.layer1.0.conv1.weight"], mask == 1)


def test_a_lottery_file_before_its_first_pruning_holds_one_network(mobilenet: Tensors) -> None:
    content: dict[str, object] = {"state_dict": mobilenet, "mask": None, "init_weight": mobilenet}
    assert not any(entry.read(content, {}) for entry in FORMATS.values())  # a plain state dict in a container


def test_mfac_cuts_its_flat_mask_in_the_order_of_the_weights(
    tmp_path: Path, mobilenet: Tensors, masks: Tensors
) -> None:
    flat = torch.cat([masks[name].reshape(-1) for name in mobilenet if name in masks]) > 0
    content = {"model": {f"module.{n}": t for n, t in mobilenet.items()}, "mask": flat, "epoch": 5}
    backbone = load_backbone(save(content, tmp_path))
    assert (backbone.family, backbone.mask_source, len(backbone.masks)) == ("m-fac", "file", 27)
    assert_same_weights(backbone, times(mobilenet, masks))


def test_mfac_prunes_weights_named_conv_or_fc() -> None:
    tensors = {"conv1.weight": torch.ones(2, 1, 1, 1), "down.0.weight": torch.ones(1, 2), "fc.weight": torch.ones(1, 2)}
    tensors["conv1.bias"] = torch.ones(2)
    (network,) = read({"model": tensors, "mask": torch.tensor([True, False, False, True])})
    assert network.tensors["conv1.weight"].flatten().tolist() == [1, 0]
    assert network.tensors["fc.weight"].tolist() == [[0, 1]]
    assert network.masks.keys() == {"conv1.weight", "fc.weight"}
    with pytest.raises(CheckpointError, match=r"the mask has 3 values, expected 4 \(weights named conv or fc\) or 6"):
        read({"model": tensors, "mask": torch.ones(3, dtype=torch.bool)})


def test_rigl_names_outside_the_container_are_known() -> None:
    (network,) = read({"state_dict": build_layout("resnet50_rigl")})
    assert network.hints == {"stem_pool": "tf-same"}
    assert network.preprocessing is not None and network.preprocessing.geometry.interpolation == "bicubic"
    assert network.tensors.keys() == build_layout("resnet50").keys()
