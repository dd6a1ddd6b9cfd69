"""The model of a run: written whole, loaded as `run:NAME`, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

import richrep
from richrep.backbones.backbone import Backbone
from richrep.backbones.run_model import (
    add_records,
    attach_head,
    find_run,
    load_run,
    read_run_model,
    run_address,
    save_run_model,
)
from richrep.errors import AddressError, CheckpointError

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def member(seed: int) -> Backbone:
    return richrep.load_backbone("random/resnet20", seed=seed)


def save(folder: Path, members: list[Backbone], head: nn.Linear | None) -> Path:
    (folder / "mine").mkdir(parents=True, exist_ok=True)
    save_run_model(
        folder / "mine" / "model", members, head, method="finetune", dataset="digits", class_names=("a", "b", "c")
    )
    return folder / "mine"


@pytest.mark.parametrize("count", [1, 2])
def test_a_run_loads_as_what_was_saved(count: int, tmp_path: Path) -> None:
    members = [member(seed) for seed in range(count)]
    torch.manual_seed(0)
    head = nn.Linear(64 * count, 3)
    loaded = richrep.load_backbone(f"run:{save(tmp_path, members, head)}")
    body = members[0] if count == 1 else richrep.concat(*members)
    with torch.inference_mode():
        expected = attach_head(body, head).features_and_logits(IMAGES)
        found = loaded.features_and_logits(IMAGES)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert (loaded.num_classes, loaded.class_names, loaded.feature_dim) == (3, ("a", "b", "c"), 64 * count)
    assert loaded.name == "mine" and "finetune on digits" in loaded.load_report[0]


def test_a_run_is_found_by_its_name_below_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "runs", [member(0)], None)
    monkeypatch.chdir(tmp_path)
    loaded = richrep.load_backbone("run:mine")
    assert loaded.head is None and loaded.address == "run:mine"
    with pytest.raises(AddressError, match=r"There is no run 'other'.*Finished ones in runs: mine"):
        richrep.load_backbone("run:other")


def test_the_address_of_a_run_finds_it_wherever_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for out in (Path("runs"), Path("elsewhere"), tmp_path / "far"):
        save(out, [member(0)], None)
        address = run_address(out, "mine")
        assert find_run(address.removeprefix("run:")).resolve() == (out / "mine" / "model").resolve()
    assert run_address("./runs/", "mine") == "run:mine"


def test_a_run_that_is_not_finished_says_so(tmp_path: Path) -> None:
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "options.yaml").write_text("lr: 1\n")
    with pytest.raises(AddressError, match=r"begun.*is not finished\. Give the command that began it again"):
        load_run(str(tmp_path / "begun"), address="run:begun")


def test_a_model_is_replaced_whole_and_notes_its_records(tmp_path: Path) -> None:
    run = save(tmp_path, [member(0), member(1)], None)
    run = save(tmp_path, [member(2)], None)
    assert sorted(path.name for path in (run / "model").iterdir()) == ["member0.safetensors", "model.yaml"]
    add_records(run / "model", ["one", "two"])
    assert read_run_model(run / "model").records == ("one", "two")


def test_a_network_that_cannot_be_laid_out_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not one network that richrep can lay out again"):
        save(tmp_path, [replace(member(0), origin=None)], None)
    assert list((tmp_path / "mine").iterdir()) == []


@pytest.mark.parametrize("member_name", ["../../secret.safetensors", "/etc/passwd", "member0.pth"])
def test_members_outside_the_folder_are_refused(member_name: str, tmp_path: Path) -> None:
    run = save(tmp_path, [member(0)], None)
    manifest = run / "model" / "model.yaml"
    content = yaml.safe_load(manifest.read_text()) | {"members": [member_name]}
    manifest.write_text(yaml.safe_dump(content))
    with pytest.raises(CheckpointError, match=r"as a member, memberN\.safetensors was expected"):
        load_run(str(run), address="run:mine")


def test_a_damaged_manifest_and_a_head_of_another_shape_are_refused(tmp_path: Path) -> None:
    run = save(tmp_path, [member(0)], nn.Linear(64, 3))
    save_file({"weight": torch.zeros(3, 5), "bias": torch.zeros(3)}, run / "model" / "head.safetensors")
    with pytest.raises(CheckpointError, match=r"head.safetensors holds .*\(3, 5\).*expected weight \(3, 64\)"):
        load_run(str(run), address="run:mine")
    (run / "model" / "model.yaml").write_text("method: [")
    with pytest.raises(CheckpointError, match="is not the model of a run"):
        load_run(str(run), address="run:mine")
