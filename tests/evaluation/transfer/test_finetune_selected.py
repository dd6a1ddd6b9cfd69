"""What a fine-tuning run keeps beside its model: the chosen cell's network, trained on train alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from richrep.backbones.addresses import load_backbone
from richrep.backbones.backbone import Backbone
from richrep.backbones.override import override_preprocessing
from richrep.evaluation.task import make_task
from richrep.evaluation.transfer.finetune import finetune
from richrep.evaluation.transfer.finetune_default import DEFAULT
from richrep.evaluation.transfer.runs import Where, run_name

SIZES = {"train_size": 60, "test_size": 30}
GRID = replace(DEFAULT, lrs=(1e-5, 0.1), options=replace(DEFAULT.options, epochs=1, batch_size=24))


@pytest.fixture
def member() -> Backbone:
    return override_preprocessing(load_backbone("random/resnet20"), ["size=8", "resize=8"])


def tensors_of(address: str) -> dict[str, torch.Tensor]:
    backbone = load_backbone(f"run:{address}")
    assert backbone.head is not None
    return {**backbone.trunk.state_dict(), **backbone.head.state_dict(prefix="head.")}


def test_with_several_cells_the_chosen_one_is_kept_as_it_was_tried(member: Backbone, tmp_path: Path) -> None:
    for name, refit in (("refitted", True), ("as-tried", False)):
        where = Where(out=tmp_path, name=name)
        finetune([member], "digits", protocol=replace(GRID, refit=refit), where=where, **SIZES)
    kept, tried = tensors_of(f"{tmp_path}/refitted/selected"), tensors_of(f"{tmp_path}/as-tried")
    assert all(torch.equal(kept[name], tensor) for name, tensor in tried.items())
    final = tensors_of(f"{tmp_path}/refitted")
    assert not torch.equal(kept["head.1.weight"], final["head.1.weight"])
    assert not (tmp_path / "as-tried" / "selected").exists()


def test_with_one_cell_it_is_kept_only_on_demand_also_later(member: Backbone, tmp_path: Path) -> None:
    one = replace(GRID, lrs=(0.1,))
    where = Where(out=tmp_path, name="one")
    first = finetune([member], "digits", protocol=one, where=where, **SIZES)
    assert not (tmp_path / "one" / "selected").exists()
    again = finetune([member], "digits", protocol=one, where=where, keep_selected=True, **SIZES)
    assert again == first
    kept = tensors_of(f"{tmp_path}/one/selected")
    assert not list((tmp_path / "one" / "states").glob("*.pt"))
    where = Where(out=tmp_path, name="at-once")
    finetune([member], "digits", protocol=one, where=where, keep_selected=True, **SIZES)
    at_once = tensors_of(f"{tmp_path}/at-once/selected")
    assert all(torch.equal(kept[name], tensor) for name, tensor in at_once.items())
    final = [tensors_of(f"{tmp_path}/{name}") for name in ("one", "at-once")]
    assert all(torch.equal(final[0][name], tensor) for name, tensor in final[1].items())


def test_names_of_runs_tell_members_and_protocols_apart_however_long(member: Backbone) -> None:
    task = make_task("digits", data_root=None, **SIZES)
    others = [replace(member, sha256=letter * 64, architecture="a" * 60) for letter in "abcd"]
    names = {
        run_name("two-stage", group, task, protocol, 0, None, None)
        for group in (others[:3], [*others[:2], others[3]])
        for protocol in ("default-rrl-two-stage", "default-two-stage-logistic")
    }
    assert len(names) == 4
    assert max(map(len, names)) <= 150
