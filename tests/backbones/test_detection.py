"""From the contents of a file to the one architecture it holds, or to an error that says what is nearest."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torchvision.models
from safetensors.torch import save_file
from torch import nn

from richrep.backbones.addresses import load_backbone
from richrep.backbones.families import FAMILIES
from richrep.backbones.families.family import Family
from richrep.errors import AddressError, CheckpointError

Tensors = dict[str, torch.Tensor]


def save(tensors: Tensors, path: Path, **metadata: str) -> str:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata=metadata or None)
    return str(path)


@pytest.fixture(scope="module")
def resnet18() -> Tensors:
    return dict(torchvision.models.resnet18(num_classes=7).state_dict())


@pytest.fixture(scope="module")
def vit() -> Tensors:
    """ViT-Ti/16: timm's vit_tiny_patch16_224 and deit_tiny_patch16_224 are alike but for mean and std."""
    return dict(timm.create_model("vit_tiny_patch16_224", num_classes=5).state_dict())


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_every_family_keeps_the_contract(family: Family) -> None:
    assert FAMILIES[family.name] is family
    assert set(family.yields_to) <= FAMILIES.keys() - {family.name}
    assert family.architectures() and all(family.architectures().values())
    assert not any("/" in name or "@" in name or "." in name for name in family.architectures())


@pytest.mark.parametrize("name", ["resnet56.pth", "mobilenet_v2.safetensors", "x"])
def test_the_name_of_the_file_does_not_matter(tmp_path: Path, resnet20_tensors: Tensors, name: str) -> None:
    torch.save({"state_dict": {f"module.{n}": t for n, t in resnet20_tensors.items()}}, tmp_path / name)
    backbone = load_backbone(str(tmp_path / name))
    assert (backbone.family, backbone.architecture, backbone.name) == ("cifar-resnet", "resnet20", "resnet20")
    assert backbone.address == str(tmp_path / name)
    # 19 convolutions, 19 batch norms of 4 tensors, 2 of the head
    assert backbone.load_report[0] == "matched 97 of 97; head: 10 classes (linear); ignored: none"
    assert backbone.load_report[1:3] == ("read from 'state_dict'", "prefix 'module.' taken off every name")
    assert (backbone.parameters, backbone.trunk_parameters) == (269_722, 269_072)


def test_a_trunk_without_head_and_any_number_of_classes_load(tmp_path: Path, resnet20_tensors: Tensors) -> None:
    trunk = {name: tensor for name, tensor in resnet20_tensors.items() if not name.startswith("linear")}
    backbone = load_backbone(save(trunk, tmp_path / "t"))
    assert backbone.head is None and backbone.num_classes is None
    assert backbone.load_report[0] == "matched 95 of 95; head: none; ignored: none"
    other = {**trunk, "linear.weight": torch.zeros(3, 64), "linear.bias": torch.zeros(3)}
    assert load_backbone(save(other, tmp_path / "o")).num_classes == 3


def test_foreign_tensors_are_set_aside_and_listed(tmp_path: Path, resnet20_tensors: Tensors) -> None:
    extra = {f"projector.{i}.weight": torch.zeros(1) for i in range(3)}
    backbone = load_backbone(save({**resnet20_tensors, **extra}, tmp_path / "p"))
    assert backbone.load_report[0] == (
        "matched 97 of 97; head: 10 classes (linear); "
        "ignored: 3 tensors (projector.0.weight, projector.1.weight, projector.2.weight)"
    )


@pytest.mark.parametrize("name", ["pool.p", "adapter.conv.weight", "prompt_embeddings"])
def test_a_tensor_that_may_belong_to_the_network_is_refused_with_advice(
    tmp_path: Path, resnet20_tensors: Tensors, name: str
) -> None:
    path = save({**resnet20_tensors, name: torch.zeros(1)}, tmp_path / "x")
    for address in (path, f"resnet20@{path}"):
        with pytest.raises(CheckpointError, match=rf"1 in the file but not in the network: {name}.* delete them from"):
            load_backbone(address)


def test_dinov2_opens_with_its_mask_token_and_not_with_registers(tmp_path: Path) -> None:
    tensors = timm.create_model("vit_small_patch14_dinov2", num_classes=0, depth=12).state_dict()
    tensors["mask_token"] = torch.zeros(1, 384)
    assert load_backbone(save(tensors, tmp_path / "a")).architecture == "vit_small_patch14_dinov2"
    with pytest.raises(CheckpointError, match="not in the network: register_tokens"):
        load_backbone(save(tensors | {"register_tokens": torch.zeros(1, 4, 384)}, tmp_path / "b"))


def test_an_architecture_in_the_metadata_that_the_tensors_are_not_is_refused(tmp_path: Path, resnet18: Tensors) -> None:
    path = save(resnet18, tmp_path / "x", architecture="resnet34.tv_in1k")
    with pytest.raises(CheckpointError, match="says architecture 'resnet34', but its tensors are those of torchvision"):
        load_backbone(path)
    assert load_backbone(f"torchvision/resnet18@{path}").architecture == "resnet18"
    assert load_backbone(save(resnet18, tmp_path / "y", architecture="nobody_knows")).architecture == "resnet18"


def test_a_deeper_network_is_not_taken_for_the_one_inside_it(tmp_path: Path, resnet20_tensors: Tensors) -> None:
    deeper = {**resnet20_tensors}
    for name, tensor in resnet20_tensors.items():
        if name.startswith("layer1.2."):
            deeper[name.replace("layer1.2.", "layer1.3.")] = tensor.clone()
    with pytest.raises(CheckpointError) as caught:
        load_backbone(save(deeper, tmp_path / "d"))
    assert "fits no known architecture; the nearest is cifar-resnet/resnet20" in str(caught.value)
    assert "12 in the file but not in the network" not in str(caught.value)  # batch counters do not count
    assert "10 in the file but not in the network: layer1.3." in str(caught.value)


def test_a_fourth_stage_is_not_ignored(tmp_path: Path, resnet20_tensors: Tensors) -> None:
    wider = {**resnet20_tensors, "layer4.0.conv1.weight": torch.zeros(128, 64, 3, 3)}
    with pytest.raises(CheckpointError, match=r"1 in the file but not in the network: layer4\.0\.conv1\.weight"):
        load_backbone(save(wider, tmp_path / "w"))


def test_one_wrong_shape_and_one_missing_key_are_listed_against_the_nearest(tmp_path: Path, resnet18: Tensors) -> None:
    broken = {**resnet18, "layer4.0.conv1.weight": torch.zeros(512, 256, 1, 1)}
    del broken["layer1.0.bn1.bias"]
    with pytest.raises(CheckpointError) as caught:
        load_backbone(save(broken, tmp_path / "b.safetensors"))
    text = str(caught.value)
    assert f"{tmp_path}/b.safetensors fits no known architecture; the nearest is torchvision/resnet18" in text
    assert "1 in the network but missing in the file: layer1.0.bn1.bias" in text
    assert "layer4.0.conv1.weight: file (512, 256, 1, 1), network (512, 256, 3, 3)" in text
    assert text.endswith("Nothing was loaded.")


def test_a_head_of_the_wrong_width_is_a_mismatch(tmp_path: Path, resnet20_tensors: Tensors) -> None:
    wrong = {**resnet20_tensors, "linear.weight": torch.zeros(10, 32)}
    with pytest.raises(CheckpointError, match=r"linear\.weight: file \(10, 32\), network \(10, 64\)"):
        load_backbone(save(wrong, tmp_path / "h"))


def test_a_head_without_bias_is_said_and_a_bias_without_its_weight_is_refused(
    tmp_path: Path, resnet20_tensors: Tensors
) -> None:
    no_bias = {name: tensor for name, tensor in resnet20_tensors.items() if name != "linear.bias"}
    backbone = load_backbone(save(no_bias, tmp_path / "h"))
    assert backbone.load_report[0] == "matched 96 of 96; head: 10 classes (linear, no bias); ignored: none"
    features, logits = backbone.features_and_logits(torch.randn(2, 3, 32, 32))
    assert torch.allclose(logits, features @ no_bias["linear.weight"].T, atol=1e-6)
    half = {name: tensor for name, tensor in resnet20_tensors.items() if name != "linear.weight"}
    with pytest.raises(CheckpointError, match=r"half a head: linear\.bias without linear\.weight"):
        load_backbone(save(half, tmp_path / "b"))


def test_weights_that_are_not_finite_are_named(tmp_path: Path, resnet20_tensors: Tensors) -> None:
    bad = {**resnet20_tensors, "conv1.weight": torch.full((16, 3, 3, 3), torch.nan)}
    with pytest.raises(
        CheckpointError, match=r"1 tensors hold values that are not finite \(NaN or inf\): conv1\.weight"
    ):
        load_backbone(save(bad, tmp_path / "n"))


def test_tensors_like_nothing_known_are_listed(tmp_path: Path) -> None:
    path = save({"weird.weight": torch.zeros(3), "other": torch.zeros(2)}, tmp_path / "w")
    with pytest.raises(CheckpointError, match=r"resembles no known architecture: it holds 2 tensors \(other, weird"):
        load_backbone(path)


def test_torchvision_wins_over_timm_and_the_others_are_reported(tmp_path: Path, resnet18: Tensors) -> None:
    backbone = load_backbone(save(resnet18, tmp_path / "r"))
    assert (backbone.family, backbone.architecture, backbone.num_classes) == ("torchvision", "resnet18", 7)
    also = next(line for line in backbone.load_report if line.startswith("also fits:"))
    assert "timm/resnet18" in also and "timm/resnet50" not in also


def test_several_timm_architectures_alike_ask_for_the_name(tmp_path: Path, vit: Tensors) -> None:
    path = save(vit, tmp_path / "v")
    with pytest.raises(CheckpointError) as caught:
        load_backbone(path)
    assert re.search(r"fits \d+ architectures alike: .*timm/vit_tiny_patch16_224", str(caught.value))
    assert "timm/deit_tiny_patch16_224" in str(caught.value)
    assert f"@{path}" in str(caught.value)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_patch16_224"])
def test_the_name_decides_from_the_user_or_from_the_metadata(tmp_path: Path, vit: Tensors, name: str) -> None:
    given = load_backbone(f"timm/{name}@{save(vit, tmp_path / 'v')}")
    said = load_backbone(save(vit, tmp_path / "m", architecture=name))
    assert given.architecture == said.architecture == name
    assert given.preprocessing == said.preprocessing
    assert given.preprocessing.mean == ((0.5,) * 3 if name.startswith("vit") else (0.485, 0.456, 0.406))
    assert given.fingerprint == said.fingerprint


def test_an_architecture_given_wrongly_lists_the_mismatches(tmp_path: Path, resnet20_tensors: Tensors) -> None:
    path = save(resnet20_tensors, tmp_path / "x")
    with pytest.raises(
        CheckpointError, match=r"x does not hold cifar-resnet/resnet32\. .*60 in the network but missing"
    ):
        load_backbone(f"resnet32@{path}")  # 12 convolutions and 12 batch norms of 4 tensors more


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ("resnet2O", "Unknown architecture 'resnet2O'. Did you mean 'resnet"),
        ("cifar-resnet/resnet50", "Unknown cifar-resnet architecture 'resnet50'. Did you mean 'resnet56'"),
        ("tim/resnet18", "Unknown checkpoint family 'tim'. Did you mean 'timm'?"),
        ("resnet18.IMAGENET1K_V9", "Unknown weights of resnet18 'IMAGENET1K_V9'. Did you mean 'IMAGENET1K_V1'"),
    ],
)
def test_unknown_architectures_have_a_suggestion(
    tmp_path: Path, resnet20_tensors: Tensors, wanted: str, text: str
) -> None:
    with pytest.raises(AddressError, match=re.escape(text)):
        load_backbone(f"{wanted}@{save(resnet20_tensors, tmp_path / 'x')}")


def test_same_padding_changes_features_and_fingerprint(
    tmp_path: Path, randomise: Callable[[nn.Module], nn.Module]
) -> None:
    tensors = dict(randomise(torchvision.models.mobilenet_v2(num_classes=3)).state_dict())
    plain = load_backbone(save(tensors, tmp_path / "p"))
    same = load_backbone(save(tensors, tmp_path / "s", padding="TensorFlow SAME"))
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert not torch.allclose(plain(images), same(images), rtol=0.1)
    assert same.variant == "SAME padding" and "TensorFlow SAME padding, as the file says" in same.load_report
    assert plain.fingerprint != same.fingerprint
    reference = timm.create_model("mobilenetv2_100", pad_type="same", num_classes=3).eval()
    reference.load_state_dict(dict(zip(reference.state_dict(), tensors.values(), strict=True)))
    with torch.inference_mode():
        expected = reference(images)
        assert torch.allclose(same.features_and_logits(images)[1], expected, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("metadata", [{"padding": "reflect"}, {"input": "BGR"}, {"mean": "[1, 2, 3]"}])
def test_metadata_that_is_not_understood_is_an_error(
    tmp_path: Path, resnet20_tensors: Tensors, metadata: dict[str, str]
) -> None:
    with pytest.raises(CheckpointError, match="metadata"):
        load_backbone(save(resnet20_tensors, tmp_path / "m", **metadata))


def test_loading_changes_no_global_state(tmp_path: Path, resnet18: Tensors) -> None:
    path = save(resnet18, tmp_path / "r")
    rng, threads = torch.get_rng_state(), torch.get_num_threads()
    load_backbone(path)
    assert torch.equal(torch.get_rng_state(), rng)
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32


def test_a_hidden_layer_before_the_head_is_set_aside_with_it(tmp_path: Path, vit: Tensors) -> None:
    hidden = {"pre_logits.fc.weight": torch.zeros(192, 192), "pre_logits.fc.bias": torch.zeros(192)}
    backbone = load_backbone(f"timm/vit_tiny_patch16_224@{save({**vit, **hidden}, tmp_path / 'v')}")
    assert backbone.head is None
    assert "head set aside, it is not one linear layer: 4 tensors" in backbone.load_report
    assert backbone.load_report[0].endswith("head: none; ignored: none")


def test_a_head_of_timm_without_bias_opens(tmp_path: Path, vit: Tensors) -> None:
    tensors = {name: tensor for name, tensor in vit.items() if name != "head.bias"}
    backbone = load_backbone(f"timm/vit_tiny_patch16_224@{save(tensors, tmp_path / 'v')}")
    assert "head: 5 classes (linear, no bias)" in backbone.load_report[0]
    with torch.inference_mode():
        features, logits = backbone.features_and_logits(torch.randn(1, 3, 224, 224))
        assert torch.allclose(logits, features @ tensors["head.weight"].T, atol=1e-5)


def test_what_is_alike_is_told_apart_by_preprocessing_tags_and_override(tmp_path: Path, vit: Tensors) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_backbone(save(vit, tmp_path / "v"))
    text = str(caught.value)
    assert re.search(r"timm/vit_tiny_patch16_224 \(resize 248 \(bicubic\), crop 224x224, mean \(0\.5, ", text)
    assert re.search(r"timm/deit_tiny_patch16_224 \(resize 248 \(bicubic\), crop 224x224, mean \(0\.485, ", text)
    assert "timm/deit_tiny_patch16_224 has fb_in1k; timm/vit_tiny_patch16_224 has augreg_in21k, " in text
    assert "--preprocess mean=" in text


def test_a_file_that_fits_is_compared_with_nothing_else(
    tmp_path: Path, resnet20_tensors: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("asked for the nearest of a file that fits")

    for name in ("timm", "torchvision"):
        monkeypatch.setattr(type(FAMILIES[name]), "nearest", fail)
    assert load_backbone(save(resnet20_tensors, tmp_path / "r")).architecture == "resnet20"
