"""What the metadata of a checkpoint says about preprocessing, padding, licence and architecture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
from safetensors.torch import save_file

from richrep.backbones.addresses import load_backbone
from richrep.backbones.checkpoint import Checkpoint
from richrep.backbones.families.metadata import (
    licence_of,
    named_in_metadata,
    read_preprocessing,
    wants_same_padding,
)
from richrep.data.preprocessing import Geometry, Preprocessing
from richrep.errors import CheckpointError

ASSUMED = Preprocessing(Geometry((224, 224), 256))
INPUT = "96x96 RGB, x/255 then (x-mean)/std"


def checkpoint(**metadata: str) -> Checkpoint:
    return Checkpoint({}, Path("x.safetensors"), "", metadata)


def test_everything_is_read_when_the_file_says_everything() -> None:
    file = checkpoint(input=INPUT, mean="[0.5, 0.4, 0.3]", std="[0.1, 0.2, 0.3]")
    preprocessing, note = read_preprocessing(file, ASSUMED, "guess")
    assert preprocessing == Preprocessing(Geometry((96, 96), 96), (0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    assert note == "preprocessing: input, mean and std read from the file"


def test_what_the_file_does_not_say_is_assumed_and_reported() -> None:
    assert read_preprocessing(checkpoint(), ASSUMED, "guess") == (
        ASSUMED,
        "preprocessing: input, mean and std assumed (guess)",
    )
    file = checkpoint(mean="[0.5, 0.5, 0.5]", std="[0.5, 0.5, 0.5]")
    preprocessing, note = read_preprocessing(file, ASSUMED, "guess")
    assert preprocessing == Preprocessing(ASSUMED.geometry, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert note == "preprocessing: mean and std read from the file; input assumed (guess)"


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        ({"mean": "[0.5, 0.5, 0.5]"}, "only one of mean and std"),
        ({"mean": "[0.5]", "std": "[1, 1, 1]"}, r"metadata mean is '\[0.5\]', expected three numbers"),
        ({"mean": "grey", "std": "[1, 1, 1]"}, "metadata mean is 'grey', expected three numbers"),
        ({"mean": "[0, 0, 0]", "std": "3"}, "metadata std is '3', expected three numbers"),
        ({"mean": "[0, 0, 0]", "std": "[1, 0, 1]"}, r"metadata std is '\[1, 0, 1\]', expected numbers > 0"),
        ({"input": "224x224 BGR"}, "unknown input '224x224 BGR' in the metadata, expected 'HxW RGB"),
        ({"input": INPUT.replace("96x96", "0x96")}, "unknown input '0x96 RGB"),
    ],
)
def test_texts_that_are_not_understood_are_errors(metadata: dict[str, str], text: str) -> None:
    with pytest.raises(CheckpointError, match=f"x.safetensors: .*{text}"):
        read_preprocessing(checkpoint(**metadata), ASSUMED, "guess")


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("symmetric (torchvision/timm default)", False),
        ('TensorFlow SAME (asymmetric on stride 2: pad 0 before, 1 after); with timm use pad_type="same"', True),
        ("TF SAME", True),
        ("same", True),
    ],
)
def test_padding_is_understood(text: str, same: bool) -> None:
    assert wants_same_padding(checkpoint(padding=text)) is same
    assert wants_same_padding(checkpoint()) is False


def test_unknown_padding_is_an_error() -> None:
    with pytest.raises(CheckpointError, match=r"x\.safetensors: unknown padding 'reflect' in the metadata"):
        wants_same_padding(checkpoint(padding="reflect"))


def test_licence_in_either_spelling_or_not_stated() -> None:
    assert licence_of(checkpoint(licence="MIT")) == licence_of(checkpoint(license="MIT")) == "MIT"
    assert licence_of(checkpoint()) == licence_of(checkpoint(licence="none stated")) == "not stated"


def test_only_whole_words_of_the_metadata_name_an_architecture() -> None:
    file = checkpoint(arch="MobileNetV2 1.0 (torchvision mobilenet_v2 key names)")
    assert named_in_metadata(file, ["mobilenet_v2", "mobilenet", "resnet18"]) == ["mobilenet_v2"]


def timm_folder(folder: Path, config: dict[str, object]) -> Path:
    """A folder as timm saves it for Hugging Face."""
    folder.mkdir()
    model = timm.create_model("resnet18", num_classes=3)
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architecture": "resnet18", "num_classes": 3} | config))
    return folder


def test_the_pretrained_cfg_of_a_hugging_face_folder_is_its_preprocessing(tmp_path: Path) -> None:
    config = {
        "input_size": [3, 160, 160],
        "crop_pct": 0.8,
        "interpolation": "bicubic",
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
    }
    backbone = load_backbone(str(timm_folder(tmp_path / "folder", {"pretrained_cfg": config})))
    expected = Preprocessing(Geometry((160, 160), 200, "bicubic"), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    assert (backbone.architecture, backbone.preprocessing) == ("resnet18", expected)
    assert "by the file's pretrained_cfg" in " ".join(backbone.load_report)


@pytest.mark.parametrize("config", [[], "no", {"input_size": [3, 160]}, {"input_size": [3, 160, 160], "mean": 1}])
def test_a_broken_pretrained_cfg_is_said(tmp_path: Path, config: object) -> None:
    with pytest.raises(CheckpointError, match="pretrained_cfg is no configuration of timm"):
        load_backbone(str(timm_folder(tmp_path / "folder", {"pretrained_cfg": config})))
