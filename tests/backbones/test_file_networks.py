"""Which network of a file: averages, containers, prefixes, files that several formats claim, pruned layers anywhere."""

from __future__ import annotations

import argparse
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torchvision.models
from torch import nn
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel

from richrep.backbones.addresses import load_backbone
from richrep.backbones.checkpoint import load_checkpoint
from richrep.backbones.families.cifar_resnet import CifarResNet
from richrep.errors import CheckpointError

Tensors = dict[str, torch.Tensor]
Prune = Callable[[nn.Module, str], Tensors]


def make_network(seed: int = 0) -> CifarResNet:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CifarResNet(3).eval()


def tensors(seed: int = 0, prefix: str = "") -> Tensors:
    return {prefix + name: tensor for name, tensor in make_network(seed).state_dict().items()}


def save(content: object, folder: Path) -> str:
    torch.save(content, folder / "c.pt")
    return str(folder / "c.pt")


def assert_is(address: str, seed: int, *reported: str) -> None:
    """The file's network is the one made from `seed`, and its report says everything in `reported`."""
    backbone = load_backbone(address)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.allclose(backbone(images), make_network(seed)(images), rtol=1e-5, atol=1e-6)
    for text in reported:
        assert any(text in line for line in backbone.load_report), backbone.load_report


@pytest.mark.parametrize(
    ("main", "average"),
    [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("model_state_dict", "ema_state_dict")],
)
def test_the_average_beside_a_network_is_called_ema(tmp_path: Path, main: str, average: str) -> None:
    path = save({"epoch": 3, main: tensors(0, "module."), average: tensors(1), "optimizer": {}}, tmp_path)
    assert_is(path, 0, "set aside: epoch, optimizer", "the file also holds #ema")
    assert_is(f"{path}#ema", 1, f"read from {average!r}", f"the file also holds #{main}")
    assert_is(f"{path}#{main}", 0)
    assert_is(f"resnet20@{path}#ema", 1)


def test_the_average_of_torchs_references_loses_its_counter(tmp_path: Path) -> None:
    average = AveragedModel(make_network(1)).state_dict()  # n_averaged and module.*
    assert_is(f"{save({'model': tensors(0), 'model_ema': average}, tmp_path)}#ema", 1)


def test_an_average_alone_is_the_network(tmp_path: Path) -> None:
    assert_is(save({"ema_state_dict": tensors(1), "epoch": 3}, tmp_path), 1, "read from 'ema_state_dict'")


def test_an_average_beside_a_flat_network_is_called_ema(tmp_path: Path) -> None:
    path = save(tensors(0) | {"ema": tensors(1)}, tmp_path)
    assert_is(path, 0, "the file also holds #ema")
    assert_is(f"{path}#ema", 1)


def test_two_networks_alike_are_chosen_by_name_or_by_the_architecture_only_one_has(tmp_path: Path) -> None:
    other = {"stem.weight": torch.zeros(4, 3, 3, 3), "head.weight": torch.zeros(2, 4)}
    path = save({"state_dict": other, "model": tensors(0)}, tmp_path)
    with pytest.raises(CheckpointError, match=r"read in 2 ways.*c\.pt#state_dict, .*c\.pt#model; or ARCH@PATH"):
        load_backbone(path)
    assert_is(f"{path}#model", 0)
    assert_is(f"resnet20@{path}", 0)
    with pytest.raises(CheckpointError, match="read in 2 ways"):
        load_backbone(f"resnet56@{path}")


def test_an_unknown_network_is_said_with_those_that_are_there(tmp_path: Path) -> None:
    path = save({"model": tensors(0), "model_ema": tensors(1)}, tmp_path)
    with pytest.raises(CheckpointError, match=r"Unknown network in .* 'emo'\. Did you mean 'ema'"):
        load_backbone(f"{path}#emo")
    path = save(tensors(0), tmp_path)
    with pytest.raises(CheckpointError, match=r"'x' after '#' names nothing, .* start so: bn1, conv1, layer1"):
        load_backbone(f"{path}#x")


@pytest.mark.parametrize("prefix", ["backbone.", "encoder.", "model.", "trunk.", "net.", "model.backbone.encoder."])
def test_one_prefix_that_makes_a_network_is_taken_off(tmp_path: Path, prefix: str) -> None:
    outer = prefix.partition(".")[0] + "." if prefix.count(".") > 1 else ""
    beside = {
        f"{outer}head.weight": torch.zeros(5, 64),
        "criterion.center": torch.zeros(3),
        "projector.0.bias": torch.zeros(2),
    }
    path = save({"state_dict": tensors(0, prefix) | beside}, tmp_path)
    assert_is(path, 0, f"prefix {prefix!r} taken off; set aside: 3 tensors ({outer}head.weight, criterion.center")
    assert_is(f"{path}#{prefix[:-1]}", 0)
    assert_is(f"resnet20@{path}", 0)


def test_what_may_belong_to_the_network_beside_a_prefix_is_asked_about(tmp_path: Path) -> None:
    path = save(tensors(0, "backbone.body.") | {"backbone.fpn.0.weight": torch.zeros(2, 2, 1, 1)}, tmp_path)
    with pytest.raises(
        CheckpointError,
        match=r"backbone\.body\.\* is cifar-resnet/resnet20, but beside it lie 1 tensor \(backbone\.fpn\.0\.weight\)"
        r".* write .*c\.pt#backbone\.body\.",
    ):
        load_backbone(path)
    assert_is(f"{path}#backbone.body", 0)


def test_two_prefixes_that_fit_are_asked_about_and_copies_are_one(tmp_path: Path) -> None:
    path = save({"model": tensors(0, "backbone.") | tensors(1, "backbone_momentum.")}, tmp_path)
    with pytest.raises(CheckpointError, match=r"2 ways.*c\.pt#backbone, .*c\.pt#backbone_momentum"):
        load_backbone(path)
    assert_is(f"{path}#backbone_momentum", 1)
    copies = tensors(0, "module.model.") | tensors(0, "module.attacker.model.")
    normalizer = {"module.normalizer.new_mean": torch.zeros(3, 1, 1)}
    path = save({"model": copies | normalizer}, tmp_path)
    assert_is(path, 0, "prefix 'model.' taken off", "copies of the network set aside: attacker.model.")


def test_a_prefix_within_an_average(tmp_path: Path) -> None:
    path = save({"state_dict": tensors(0, "net."), "model_ema": tensors(1, "net.")}, tmp_path)
    assert_is(path, 0)
    assert_is(f"{path}#ema", 1)
    assert_is(f"{path}#ema/net", 1)


def test_a_file_that_fits_nothing_says_so_as_it_stands(tmp_path: Path) -> None:
    broken = {f"backbone.{name}": t for name, t in tensors(0).items() if "layer2.0.conv1" not in name}
    with pytest.raises(CheckpointError, match=r"fits no known architecture|resembles no known architecture"):
        load_backbone(save(broken, tmp_path))


@pytest.fixture
def foreign() -> Iterator[types.ModuleType]:
    """Classes of a project that exists while files are written and no more when they are read."""
    module = types.ModuleType("foreign_project")
    vars(module)["Config"] = type("Config", (), {"__module__": module.__name__, "__qualname__": "Config"})
    sys.modules[module.__name__] = module
    yield module
    sys.modules.pop(module.__name__, None)


def test_a_lightning_checkpoint_opens_whatever_its_hyper_parameters_are(
    tmp_path: Path, foreign: types.ModuleType
) -> None:
    config = foreign.Config()
    config.kind, config.loss = dict[str, int], nn.CrossEntropyLoss()
    content = {
        "epoch": 9,
        "global_step": 100,
        "pytorch-lightning_version": "2.1.0",
        "state_dict": tensors(0, "model.") | {"loss_fn.weight": torch.ones(10)},
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {
            "ModelCheckpoint{'monitor': 'val'}": {"best_model_score": torch.tensor(0.5), "dirpath": Path("x")}
        },
        "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]}],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"config": config, "args": argparse.Namespace(lr=0.1), "any": [foreign.Config]},
    }
    config.kind = None
    path = save(content, tmp_path)
    sys.modules.pop("foreign_project")
    assert_is(path, 0, "prefix 'model.' taken off; set aside: 1 tensor (loss_fn.weight)")


def wrapped(network: nn.Module, prefix: str) -> Tensors:
    """As the sparse framework stores it: every second value of every convolution pruned, the masks beside."""
    result = {}
    for name, tensor in network.state_dict().items():
        if tensor.ndim != 4:
            result[prefix + name] = tensor
            continue
        mask = (torch.arange(tensor.numel()) % 2).reshape(tensor.shape).float()
        layer = prefix + name.removesuffix(".weight")
        result |= {f"{layer}._layer.weight": tensor, f"{layer}._weight_mask": mask}
    return result


def pruned_by_torch(network: nn.Module, prefix: str) -> Tensors:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            prune.custom_from_mask(
                module, "weight", (torch.arange(module.weight.numel()) % 2).reshape(module.weight.shape)
            )
    return {prefix + name: tensor for name, tensor in network.state_dict().items()}


def assert_half_is_pruned(address: str) -> None:
    backbone = load_backbone(address)
    assert backbone.mask_source == "file" and len(backbone.masks) == 19  # the convolutions of a ResNet-20
    assert sum(int(m.sum()) for m in backbone.masks.values()) == sum(m.numel() for m in backbone.masks.values()) // 2


def save_rrl(network: Tensors, head: Tensors, folder: Path) -> str:
    named = {f"module.classifier.{name}": tensor for name, tensor in head.items()}
    return save({"state_dict": network | named, "epoch": 1, "best_acc": 70.0}, folder)


def make_resnet18() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torchvision.models.resnet18()
    network.fc = nn.Identity()
    return network


@pytest.mark.parametrize("prune_with", [wrapped, pruned_by_torch])
def test_pruned_layers_in_a_container_of_rrl_keep_their_masks(tmp_path: Path, prune_with: Prune) -> None:
    head = {"linear.weight": torch.ones(5, 512), "linear.bias": torch.zeros(5)}
    backbone = load_backbone(save_rrl(prune_with(make_resnet18(), "module.model0."), head, tmp_path))
    assert (backbone.family, backbone.num_classes, backbone.mask_source) == ("rrl", 5, "file")
    stored = dict(make_resnet18().named_parameters())
    for name, weight in backbone.trunk.named_parameters():
        if weight.ndim == 4:
            kept = (torch.arange(weight.numel()) % 2).reshape(weight.shape) != 0
            assert torch.equal(backbone.masks[f"trunk.{name}"], kept)
            assert torch.equal(weight, torch.where(kept, stored[name], 0))


def test_a_pruned_head_whose_batchnorm_is_folded_keeps_its_mask(tmp_path: Path) -> None:
    mask = (torch.arange(2560) % 2).reshape(5, 512).float()
    head = {
        "linear._layer.weight": torch.ones(5, 512),
        "linear._weight_mask": mask,
        "linear._layer.bias": torch.zeros(5),
    }
    head |= {f"bn.{name}": tensor for name, tensor in nn.BatchNorm1d(512).state_dict().items()}
    backbone = load_backbone(save_rrl(wrapped(make_resnet18(), "module.model0."), head, tmp_path))
    assert torch.equal(backbone.masks["head.weight"], mask != 0)


def test_pruned_layers_under_a_prefix_and_in_an_average_keep_their_masks(tmp_path: Path) -> None:
    content = {"state_dict": wrapped(make_network(0), "backbone."), "model_ema": wrapped(make_network(1), "backbone.")}
    path = save(content, tmp_path)
    assert_half_is_pruned(path)
    assert_half_is_pruned(f"{path}#ema")


def test_a_file_of_two_formats_is_chosen_between_by_either(tmp_path: Path) -> None:
    both = {
        "state_dict": tensors(0, "module.model0."),
        "teacher": tensors(1, "backbone."),
        "student": tensors(2, "backbone."),
    }
    path = save(both, tmp_path)
    with pytest.raises(CheckpointError, match=r"2 ways.*c\.pt#rrl, .*c\.pt#dino:teacher; or ARCH@PATH"):
        load_backbone(path)
    assert_is(f"{path}#rrl", 0)
    assert_is(f"{path}#dino:teacher", 1)
    assert_is(f"{path}#student", 2, "the file also holds #rrl, #dino:teacher")


def test_a_network_beside_those_of_a_format_is_said_and_opens_by_its_key(tmp_path: Path) -> None:
    path = save({"teacher": tensors(1, "backbone."), "model": tensors(0)}, tmp_path)
    assert_is(path, 1, "the file also holds #model")
    assert_is(f"{path}#model", 0)
    assert load_checkpoint(path, network="model").format == ""


@pytest.mark.parametrize("key", ["net", "weights", "params", "network", "encoder", "backbone"])
def test_a_network_under_any_key_is_the_only_one(tmp_path: Path, key: str) -> None:
    others = {"acc": torch.tensor(93.1), "epoch": 3, "head": {"weight": torch.zeros(4, 64)}, "optimizer": {"state": {}}}
    assert_is(save({key: tensors(1, "module."), **others}, tmp_path), 1, f"read from {key!r}; set aside: acc, epoch")


def test_two_networks_under_unknown_keys_are_asked_about(tmp_path: Path) -> None:
    path = save({"left": tensors(0), "right": tensors(1)}, tmp_path)
    with pytest.raises(CheckpointError, match=r"can be read in 2 ways. Write the one you mean: .*#left, .*#right"):
        load_backbone(path)
    assert_is(f"{path}#right", 1)


def test_an_average_beside_a_network_under_an_unknown_key_is_not_meant(tmp_path: Path) -> None:
    path = save({"net": tensors(0), "ema": tensors(1)}, tmp_path)
    assert_is(path, 0, "the file also holds #ema")
    assert_is(f"{path}#ema", 1)


@pytest.mark.parametrize("container", ["state_dict", "net"])
@pytest.mark.parametrize("key", ["mask", "masks", "pruning_masks", "mask_dict", "weightMask"])
def test_masks_under_a_key_that_nobody_knows_are_refused(tmp_path: Path, container: str, key: str) -> None:
    mask = {name: tensor != 0 for name, tensor in tensors().items()}
    for found in (mask, list(mask.values()), mask["conv1.weight"]):
        with pytest.raises(CheckpointError, match=rf"holds masks \({key}\) in a form that no known format has"):
            load_backbone(save({container: tensors(), key: found}, tmp_path))


def test_masks_beside_the_network_of_a_format_are_refused(tmp_path: Path) -> None:
    network = {f"encoder.{name}": tensor for name, tensor in make_resnet18().state_dict().items()}
    content = {"state_dict": network | {"predictor.0.weight": torch.zeros(3)}}
    assert load_backbone(save(content, tmp_path)).family == "simsiam"
    with pytest.raises(CheckpointError, match=r"in the format of simsiam: holds masks \(prune_mask\)"):
        load_backbone(save(content | {"prune_mask": {"conv1.weight": torch.ones(2)}}, tmp_path))


def test_settings_called_mask_and_the_token_of_masked_pretraining_are_no_masks(tmp_path: Path) -> None:
    settings = {"mask_ratio": 0.75, "mask_config": {"seed": 3}, "use_masks": False, "mask": None}
    assert_is(save({"state_dict": tensors(), **settings, "mask_token": torch.zeros(1, 1, 8)}, tmp_path), 0)
