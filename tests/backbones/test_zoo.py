"""The published checkpoints by name: what is listed, found, refused, and remembered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torchvision

from richrep.backbones import addresses
from richrep.backbones.addresses import list_backbones, load_backbone
from richrep.backbones.columns import with_columns
from richrep.backbones.make_docs import render_checkpoints_markdown
from richrep.backbones.zoo import ZOO
from richrep.backbones.zoo.entry import ZooEntry, checkpoints_root
from richrep.backbones.zoo.hashes import check_hash
from richrep.errors import AddressError, CheckpointError

HALVES = ((0, (0, 1024)), (1, (1024, 2048)))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RICHREP_HOME", str(tmp_path))
    return tmp_path


def put(name: str, seed: int = 0) -> Path:
    """A ResNet-50 of random weights in RRL's container, where `name` belongs."""
    torch.manual_seed(seed)
    model = torchvision.models.resnet50()
    tensors = {f"module.model0.{key}": tensor for key, tensor in model.state_dict().items() if "fc." not in key}
    tensors |= {f"module.classifier.linear.{key}": tensor for key, tensor in model.fc.state_dict().items()}
    path = ZOO[name].path
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"epoch": 90, "state_dict": tensors, "best_acc": 76.0}, path)
    return path


def test_names_are_unique_and_every_member_of_a_set_is_an_entry_with_a_file() -> None:
    for entry in ZOO.values():
        assert bool(entry.file) != bool(entry.members)
        assert bool(entry.published) == bool(entry.file)
        assert all(ZOO[member].file for member in entry.members)
        if entry.columns is not None:
            (whole,), (start, stop) = entry.members, entry.columns
            assert entry.feature_dim == stop - start and stop <= ZOO[whole].feature_dim
        elif entry.members:
            assert entry.feature_dim == sum(ZOO[member].feature_dim for member in entry.members)
    files = [entry.file for entry in ZOO.values() if entry.file]
    assert len(files) == len(set(files))


def test_the_sets_of_the_papers_are_there() -> None:
    assert ZOO["rrl_cat10"].members == tuple(f"rrl_run{i}" for i in range(10))
    assert ZOO["timecat_5x80k"].members == tuple(f"timecat_80k_run{i}" for i in range(5))
    assert ZOO["swav_cat8"].members[-3:] == ("swav_resnet50w2", "swav_resnet50w4", "swav_resnet50w5")
    assert ZOO["seer_32_64_128_256_ft"].feature_dim == 3712 + 4920 + 7392 + 10444


def test_slices_of_a_network_are_columns_of_its_features(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ZOO["rrl_run0"]
    halves = {f"half{i}": ZooEntry(f"half{i}", "", "", 1024, "", members=("rrl_run0",), columns=c) for i, c in HALVES}
    monkeypatch.setattr(addresses, "ZOO", {"rrl_run0": whole, **halves})
    put("rrl_run0")
    found = [load_backbone(f"zoo:{name}") for name in halves]
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        features = load_backbone("zoo:rrl_run0")(images)
        torch.testing.assert_close(torch.cat([half(images) for half in found], 1), features)
    assert [half.feature_dim for half in found] == [1024, 1024] and found[0].head is None
    assert (found[1].address, found[1].name) == ("zoo:half1", "half1")
    assert len({half.fingerprint for half in found}) == 2  # so that neither finds the other's features in the cache
    with pytest.raises(ValueError, match="2048 features, so no columns 2000 to 2049"):
        with_columns(load_backbone("zoo:rrl_run0"), 2000, 2049)


def test_a_file_that_is_there_loads_by_name_and_its_hash_is_recorded_and_compared() -> None:
    path = put("rrl_run0")
    backbone = load_backbone("zoo:rrl_run0")
    assert (backbone.address, backbone.name, backbone.family) == ("zoo:rrl_run0", "rrl_run0", "rrl")
    assert (backbone.feature_dim, backbone.num_classes) == (2048, 1000)
    assert json.loads((checkpoints_root() / "hashes.json").read_text()) == {ZOO["rrl_run0"].file: backbone.sha256}
    assert "sha256 as on first use" in load_backbone("zoo:rrl_run0").load_report
    put("rrl_run0", seed=1)
    with pytest.raises(CheckpointError, match=f"{path} has changed since it was first used: its sha256 is"):
        load_backbone("zoo:rrl_run0")


def test_a_set_is_the_concatenation_of_its_members() -> None:
    put("rrl_run0"), put("rrl_run1", seed=1)
    backbone = load_backbone("zoo:rrl_cat2")
    assert (backbone.name, backbone.feature_dim) == ("rrl_cat2", 4096)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        members = [load_backbone(f"zoo:rrl_run{i}")(images) for i in range(2)]
        torch.testing.assert_close(backbone(images), torch.cat(members, 1))


def test_what_is_not_there_says_what_to_fetch_and_where_to_put_it(home: Path) -> None:
    expected = rf"Fetch it \(https://dl.fbaipublicfiles.com/deepcluster/.*put it at {home}/checkpoints/swav/swav_400ep"
    with pytest.raises(CheckpointError, match=expected):
        load_backbone("zoo:swav_resnet50")
    put("rrl_run0")
    with pytest.raises(CheckpointError, match=r"zoo:rrl_cat2 needs 1 files that are not there: zoo:rrl_run1\. Fetch"):
        load_backbone("zoo:rrl_cat2")


def test_another_network_under_the_name_is_refused() -> None:
    path = ZOO["trex"].path
    path.parent.mkdir(parents=True)
    torch.save(torchvision.models.resnet18().state_dict(), path)
    with pytest.raises(
        CheckpointError, match=r"is not zoo:trex: it gives 512 features \(torchvision, resnet18\), expected 2048"
    ):
        load_backbone("zoo:trex")
    assert not (checkpoints_root() / "hashes.json").exists()


def test_a_link_stands_for_what_it_leads_to(home: Path) -> None:
    path = put("rrl_run0")
    path.rename(home / "elsewhere.pth")
    with pytest.raises(CheckpointError, match="zoo:rrl_run0 is not there"):
        load_backbone("zoo:rrl_run0")
    path.symlink_to(home / "elsewhere.pth")
    assert "sha256 recorded: later loads compare it" in load_backbone("zoo:rrl_run0").load_report
    put("rrl_run1", seed=1).rename(home / "elsewhere.pth")
    with pytest.raises(CheckpointError, match=r"rrl/resnet50/checkpoint_run0\.pth\.tar has changed since"):
        load_backbone("zoo:rrl_run0")


def test_a_record_that_cannot_be_written_is_said_and_does_not_stop_the_load(tmp_path: Path) -> None:
    (tmp_path / "file").touch()  # no folder, and so nothing can be written there, whoever asks
    with pytest.raises(OSError):
        (tmp_path / "file" / "hashes.json").touch()
    said = check_hash(tmp_path / "file", "a.pth", "0" * 64)
    assert said.startswith("sha256 not recorded, so later loads cannot compare it: ") and "Not a directory" in said


def test_a_broken_record_of_hashes_is_said() -> None:
    put("rrl_run0")
    (checkpoints_root() / "hashes.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"Cannot read the hashes in .*hashes.json"):
        load_backbone("zoo:rrl_run0")


def test_a_name_that_is_nearly_right_is_guessed() -> None:
    with pytest.raises(AddressError, match=r"Unknown zoo checkpoint 'rrl_cat1'\. Did you mean 'rrl_cat10'"):
        load_backbone("zoo:rrl_cat1")


def test_the_list_says_what_is_on_disk() -> None:
    put("rrl_run0")
    (line,) = list_backbones("zoo:rrl_run0")
    assert line.description == "ResNet-50, 2048 features; licence: not stated; on disk"
    (line,) = list_backbones("zoo:rrl_cat2")
    assert line.description.endswith("rrl_run0, rrl_run1, concatenated; 1 of 2 files on disk")


def test_the_document_of_checkpoints_is_current() -> None:
    document = Path(__file__).parents[2] / "docs" / "checkpoints.md"
    text = document.read_text(encoding="utf-8")
    assert text == render_checkpoints_markdown(), "run: python -m richrep.backbones.make_docs docs/checkpoints.md"


def test_a_file_of_another_project_under_the_name_is_refused() -> None:
    path = put("rrl_run0")
    other = ZOO["swav_resnet50"].path
    other.parent.mkdir(parents=True)
    path.rename(other)
    with pytest.raises(CheckpointError, match=r"is not zoo:swav_resnet50: it gives 2048 features \(rrl, resnet50\)"):
        load_backbone("zoo:swav_resnet50")


def test_an_encoder_of_trex_gets_the_preprocessing_of_its_transfer_suite() -> None:
    path = ZOO["trex"].path
    path.parent.mkdir(parents=True)
    tensors = torchvision.models.resnet50().state_dict()
    torch.save({name: tensor for name, tensor in tensors.items() if "fc." not in name}, path)
    geometry = load_backbone("zoo:trex").preprocessing.geometry
    assert (geometry.size_px, geometry.resize_px, geometry.interpolation) == ((224, 224), 224, "bicubic")
