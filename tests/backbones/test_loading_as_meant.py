"""Files whose tensors fit, but which mean something else: nothing may be loaded silently wrong."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from richrep.backbones.addresses import load_backbone
from richrep.backbones.formats.vit_tensors import read_vit_shape
from richrep.cli.console import printable
from richrep.errors import CheckpointError


def test_the_architecture_that_a_file_names_wins_over_another_with_the_same_tensors(tmp_path: Path) -> None:
    model = timm.create_model("resnetaa50", num_classes=2)  # torchvision's resnet50 has the same names and shapes
    (tmp_path / "folder").mkdir()
    save_file(model.state_dict(), tmp_path / "folder" / "model.safetensors")
    (tmp_path / "folder" / "config.json").write_text(json.dumps({"architecture": "resnetaa50"}))
    assert load_backbone(str(tmp_path / "folder")).architecture == "resnetaa50"
    (tmp_path / "folder" / "config.json").write_text(
        json.dumps({"architecture": "resnetaa50", "model_args": {"global_pool": "max"}})
    )
    with pytest.raises(CheckpointError, match=r"changes the architecture with model_args .*global_pool"):
        load_backbone(str(tmp_path / "folder"))


@pytest.mark.parametrize("mask", [[True], {"conv1.weight": torch.ones(1)}, torch.ones(1, 3)])
def test_masks_in_an_unknown_form_are_refused(tmp_path: Path, mask: object) -> None:
    tensors = torchvision.models.resnet18().state_dict()
    torch.save({"model": tensors, "mask": mask}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"holds masks \(mask\) in a form that no known format has"):
        load_backbone(str(tmp_path / "x.pth"))


@pytest.mark.parametrize("prefix", ["fc.", "module.classifier.linear.", "head.", ""])
def test_a_file_with_only_a_head_is_called_that(tmp_path: Path, prefix: str) -> None:
    tensors = {f"{prefix}weight": torch.zeros(10, 512), f"{prefix}bias": torch.zeros(10)}
    torch.save({"state_dict": tensors}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="holds only a head"):
        load_backbone(str(tmp_path / "x.pth"))


def test_a_tag_given_by_hand_decides_the_preprocessing(tmp_path: Path) -> None:
    tensors = {f"module.{n}": t for n, t in torchvision.models.resnet18().state_dict().items() if "fc." not in n}
    torch.save(tensors | {"module.prototypes.weight": torch.zeros(30, 16)}, tmp_path / "swav.pth")
    own = load_backbone(str(tmp_path / "swav.pth")).preprocessing
    chosen = load_backbone(f"timm/resnet18.a1_in1k@{tmp_path / 'swav.pth'}").preprocessing
    assert own.geometry.interpolation == "bilinear"
    assert chosen.geometry.interpolation == "bicubic"


def test_control_characters_of_a_file_do_not_reach_the_terminal() -> None:
    assert printable("a\x1b[31mb\tc\n\u202ed é") == "a\\x1b[31mb\tc\n\\u202ed é"


def test_sizes_that_no_network_has_are_refused() -> None:
    tokens = {"patch_embed.proj.weight": torch.zeros(4, 3, 2, 2), "pos_embed": torch.zeros(1, 5, 4)}
    tokens["blocks.0.mlp.fc1.weight"] = torch.zeros(8, 4)
    with pytest.raises(CheckpointError, match=r"register_tokens take part in the forward pass of this ViT"):
        read_vit_shape(tokens | {"register_tokens": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="the ViT has 201 blocks, expected at most 200"):
        read_vit_shape(tokens | {f"blocks.{i}.x": torch.zeros(1) for i in range(201)})


def test_too_many_networks_and_too_many_foreign_classes_are_refused(tmp_path: Path) -> None:
    tensors = {f"module.model{i}.conv1.weight": torch.zeros(1) for i in range(65)}
    torch.save({"state_dict": tensors}, tmp_path / "many.pth")
    with pytest.raises(CheckpointError, match="65 networks side by side, expected at most 64"):
        load_backbone(str(tmp_path / "many.pth"))
    names = b"".join(b"cforeign\nC%d\n" % i for i in range(501))
    body = io.BytesIO()
    torch.save({"w": torch.zeros(1), "x": 1}, body)
    with zipfile.ZipFile(tmp_path / "names.pth", "w") as new, zipfile.ZipFile(body) as old:
        for member in old.namelist():
            is_pickle = member.endswith("data.pkl")
            new.writestr(member, b"\x80\x02](" + names + b"e." if is_pickle else old.read(member))
    with pytest.raises(CheckpointError, match="names more than 500 classes of foreign projects"):
        load_backbone(str(tmp_path / "names.pth"))
