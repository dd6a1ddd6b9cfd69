"""Backbone addresses, and what is said about those that name nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from richrep.backbones.addresses import list_backbones, load_backbone
from richrep.backbones.families import FAMILIES
from richrep.backbones.zoo import ZOO
from richrep.errors import AddressError, CheckpointError

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def checkpoint(tmp_path: Path, resnet20_tensors: Tensors) -> Path:
    torch.save(resnet20_tensors, tmp_path / "net.pth")
    return tmp_path / "net.pth"


@pytest.mark.parametrize("architecture", ["resnet20", "cifar-resnet/resnet20"])
def test_a_path_with_and_without_architecture_gives_the_same_backbone(checkpoint: Path, architecture: str) -> None:
    detected, given = load_backbone(str(checkpoint)), load_backbone(f"{architecture}@{checkpoint}")
    assert detected.fingerprint == given.fingerprint
    assert given.address == f"{architecture}@{checkpoint}"


def test_a_home_directory_expands(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(checkpoint.parent))
    assert load_backbone("~/net.pth").architecture == "resnet20"
    assert load_backbone("resnet20@~/net.pth").architecture == "resnet20"


def test_a_file_with_an_at_in_its_name_is_a_file(checkpoint: Path) -> None:
    checkpoint.rename(checkpoint.with_name("resnet32@net.pth"))
    assert load_backbone(str(checkpoint.with_name("resnet32@net.pth"))).architecture == "resnet20"


@pytest.mark.parametrize("address", ["gone.pth", "./gone", "resnet20@gone.pth", "~/gone.safetensors"])
def test_a_path_to_nothing_is_named_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(CheckpointError, match=f"No such checkpoint file: {tmp_path}/gone"):
        load_backbone(address)


@pytest.mark.parametrize(
    ("address", "guess"),
    [
        ("resnet5O", "torchvision/resnet50"),
        ("timm/resnet5O", "Unknown timm architecture 'resnet5O'. Did you mean 'resnet5"),
        ("torchvison/resnet50", "torchvision/resnet50"),
        ("mobilenetv2", "mobilenet_v2"),
        ("random/resnet2O", "Unknown architecture 'resnet2O'. Did you mean 'resnet"),
        (
            "torchvision/resnet50.IMAGENET1K_V3",
            "Unknown weights of resnet50 'IMAGENET1K_V3'. Did you mean 'IMAGENET1K_V",
        ),
    ],
)
def test_an_unknown_address_has_a_suggestion(address: str, guess: str) -> None:
    with pytest.raises(AddressError, match=re.escape(guess)):
        load_backbone(address)


def test_an_address_like_nothing_lists_the_forms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        AddressError, match=f"Unknown backbone 'qqqqqq': no such file \\({tmp_path}/qqqqqq\\).*ARCH@PATH"
    ):
        load_backbone("qqqqqq")


def test_a_run_that_is_not_there_is_said() -> None:
    with pytest.raises(AddressError, match="There is no run 'abc'"):
        load_backbone("run:abc")


@pytest.mark.parametrize("name", ["resnet10t", "resnet20"])
def test_random_weights_depend_on_the_seed_alone(name: str) -> None:
    rng = torch.get_rng_state()
    first = load_backbone(f"random/{name}", seed=1)
    torch.rand(3)
    again, other = load_backbone(f"random/{name}", seed=1), load_backbone(f"random/{name}", seed=2)
    assert first.fingerprint == again.fingerprint and first.sha256 == again.sha256 != ""
    assert first.fingerprint != other.fingerprint and first.sha256 != other.sha256
    assert first.load_report[0] == "weights drawn from seed 1; head: none"
    assert (first.address, first.name, first.architecture) == (f"random/{name}", f"random-{name}", name)
    torch.set_rng_state(rng)


def test_random_weights_leave_the_generator_alone() -> None:
    rng = torch.get_rng_state()
    backbone = load_backbone("random/resnet10t", seed=3)
    assert torch.equal(rng, torch.get_rng_state())
    with torch.inference_mode():
        assert backbone(torch.zeros(2, 3, 64, 64)).shape == (2, backbone.feature_dim)


def test_listing_is_filtered_by_every_word() -> None:
    everything = list_backbones()
    assert len(everything) > 1400
    assert {line.family for line in everything} == {*FAMILIES, *(entry.paper for entry in ZOO.values())}
    assert all(line.description for line in everything)
    found = list_backbones("cifar resnet20")
    assert [line.address for line in found] == ["cifar-resnet/resnet20@PATH"]
    assert list_backbones("torchvision SqueezeNet1_1")[0].address == "torchvision/squeezenet1_1"
    assert list_backbones("no-such-thing") == []


def test_addresses_are_imported_and_listed_without_timm() -> None:
    code = (
        "import sys; from richrep.backbones.addresses import list_backbones; list_backbones('resnet');"
        "sys.exit('timm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], env=dict(os.environ), check=False).returncode == 0
