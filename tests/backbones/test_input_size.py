"""Networks set to another size of image by --preprocess size=N."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import checkpoint_filter_fn

from richrep.backbones.addresses import load_backbone
from richrep.backbones.backbone import Backbone
from richrep.backbones.concat import concat
from richrep.backbones.convert import convert
from richrep.backbones.override import override_preprocessing
from richrep.errors import CheckpointError, RichrepError

TINY = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def vit() -> Backbone:
    return load_backbone(f"random/{TINY}").to("cpu")


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))


def features(backbone: Backbone, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return backbone(images)


def test_positions_are_resampled_as_timm_does_for_a_model_made_at_that_size(vit, images) -> None:
    small = override_preprocessing(vit, ["size=96"])
    model = timm.create_model(TINY, img_size=96, num_classes=0).eval()
    model.load_state_dict(checkpoint_filter_fn(vit.trunk.state_dict(), model))
    torch.testing.assert_close(features(small, images), model(images).detach())
    assert small.load_report[-1] == "network set to this size, its positions resampled (bicubic)"
    assert vit.trunk.pos_embed.shape == (1, 197, 192)  # the one that was given stays as it is
    assert small.fingerprint != vit.fingerprint


def test_a_network_set_to_a_size_is_written_and_read_again(vit, images, tmp_path: Path) -> None:
    small = override_preprocessing(vit, ["size=96"])
    again = load_backbone(str(convert(small, tmp_path / "small.safetensors"))).to("cpu")
    assert torch.equal(features(again, images), features(small, images))
    assert again.preprocessing == small.preprocessing


def test_the_size_in_a_file_must_be_one_that_the_network_can_take(vit, tmp_path: Path) -> None:
    path = convert(override_preprocessing(vit, ["size=96"]), tmp_path / "small.safetensors")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    metadata["richrep"] = metadata["richrep"].replace("96x96", "8x8")
    save_file(load_file(path), tmp_path / "bad.safetensors", metadata=metadata)
    with pytest.raises(CheckpointError, match="takes 8x8 px, and it cannot"):
        load_backbone(str(tmp_path / "bad.safetensors"))


def test_windows_and_concatenations_are_set_too(vit, images) -> None:
    swin = override_preprocessing(load_backbone("random/swin_tiny_patch4_window7_224"), ["size=112"])
    with torch.inference_mode():
        assert swin.to("cpu")(torch.zeros(1, 3, 112, 112)).shape == (1, 768)
    resnet = override_preprocessing(load_backbone("random/resnet18"), ["resize=248"])  # as the ViT
    both = override_preprocessing(concat(vit, resnet), ["size=96"])
    small = override_preprocessing(vit, ["size=96"])
    assert both.to("cpu")(images).shape == (2, 192 + 512)
    same = override_preprocessing(concat(vit, vit), ["size=96"]).to("cpu")
    torch.testing.assert_close(features(same, images)[:, :192], features(small, images))


def test_convolutions_take_any_size_as_they_are() -> None:
    net = load_backbone("random/resnet18")
    assert override_preprocessing(net, ["size=96"]).trunk is net.trunk


def test_a_network_of_which_only_a_part_has_a_size_is_not_set_and_read_again_as_it_is(tmp_path: Path) -> None:
    net = load_backbone("random/sequencer2d_s")
    changed = override_preprocessing(net, ["size=96"])
    assert changed.trunk is net.trunk and "resampled" not in changed.load_report[-1]
    again = load_backbone(str(convert(changed, tmp_path / "net.safetensors")))
    assert again.preprocessing == changed.preprocessing


@pytest.mark.parametrize(
    ("address", "size", "message"),
    [
        (f"random/{TINY}", 10, "10x10 px"),
        ("random/mvitv2_tiny", 288, "288x288 px"),
        ("random/mixer_s32_224", 96, "Its own size is 224x224; leave size out"),
    ],
)
def test_a_size_that_cannot_be_taken_is_said(address: str, size: int, message: str) -> None:
    with pytest.raises(RichrepError, match="cannot take images of") as caught:
        override_preprocessing(load_backbone(address), [f"size={size}"])
    assert message in str(caught.value)
