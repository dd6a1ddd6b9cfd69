"""Inner layers as backbones of their own."""

import pytest
import torch

from richrep.backbones.addresses import load_backbone
from richrep.backbones.backbone import Backbone
from richrep.backbones.layers import _pool_for, with_layer, with_layers
from richrep.backbones.small_cnn import make_small_cnn
from richrep.data.datasets import load_dataset
from richrep.errors import AddressError, CheckpointError
from richrep.features.extract import extract_features


def output_of(backbone: Backbone, layer: str, images: torch.Tensor) -> torch.Tensor:
    """What the module gives when the whole trunk runs."""
    seen = {}
    handle = backbone.trunk.get_submodule(layer).register_forward_hook(lambda m, i, o: seen.update(output=o))
    with torch.no_grad():
        backbone(images)
    handle.remove()
    return seen["output"]


@pytest.mark.parametrize(
    ("name", "layer", "dims"),
    [
        ("test_resnet", "layer2", (2, 3)),  # a map (B, C, H, W)
        ("vit_tiny_patch16_224", "blocks.5", (1,)),  # tokens (B, T, C)
    ],
)
def test_features_are_the_output_of_the_layer_averaged_over_places(name, layer, dims) -> None:
    backbone = load_backbone(f"random/{name}").to("cpu")
    inner = with_layer(backbone, layer)
    images = torch.randn(2, 3, *backbone.preprocessing.geometry.size_px, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = inner(images)
    assert found.shape == (2, inner.feature_dim)
    torch.testing.assert_close(found, output_of(backbone, layer, images).mean(dims), rtol=1e-4, atol=1e-5)


def test_the_channels_of_a_map_are_where_it_is_not_square() -> None:
    for shape, width, dims in (
        ((1, 192, 28, 28), 192, (2, 3)),
        ((1, 28, 28, 192), 192, (1, 2)),  # Swin's order
        ((1, 7, 5, 64), 7, (2, 3)),
        ((1, 197, 384), 384, (1,)),
        ((1, 512), 512, ()),
    ):
        pool, found = _pool_for(shape, "net")
        assert (found, pool.dims) == (width, dims)
        assert pool(torch.zeros(shape)).shape == (1, width)
    with pytest.raises(CheckpointError, match=r"net gives shape \(1,\) for one image"):
        _pool_for((1,), "net")


def test_an_inner_layer_is_another_backbone_of_the_same_weights() -> None:
    backbone = load_backbone("random/test_resnet")
    inner, other = with_layer(backbone, "layer2"), with_layer(backbone, "layer3")
    assert len({backbone.fingerprint, inner.fingerprint, other.fingerprint}) == 3
    assert inner.name == "random-test_resnet.layer2" and inner.address == "random/test_resnet:layer=layer2"
    assert inner.head is None and inner.num_classes is None
    shared = {id(p) for p in backbone.trunk.parameters()}
    assert {id(p) for p in inner.trunk.parameters()} <= shared
    assert inner.trunk_parameters < other.trunk_parameters < backbone.trunk_parameters


def test_features_of_a_layer_go_through_extraction_as_any_others() -> None:
    split = load_dataset("digits").test.first(20)
    backbone = make_small_cnn(10, widths=(4, 8))
    inner = with_layer(backbone, "stages.stage0")
    alone, both = extract_features(inner, split), extract_features([backbone, inner], split)
    assert alone.features.shape == (20, 4) and alone.key != both[0].key
    torch.testing.assert_close(both[1].features, alone.features)


def test_layers_follow_the_backbones_that_have_them() -> None:
    cnn, resnet = make_small_cnn(10, widths=(4, 8)), load_backbone("random/test_resnet")
    names = [member.name for member in with_layers([cnn, resnet], ["layer2", "stages.stage0"])]
    assert names == [cnn.name, f"{cnn.name}.stages.stage0", resnet.name, f"{resnet.name}.layer2"]
    assert with_layers([cnn], []) == [cnn]


def test_a_layer_that_is_nowhere_is_refused_with_its_nearest_name() -> None:
    resnet = load_backbone("random/test_resnet")
    with pytest.raises(AddressError, match=r"Unknown layer 'layer22'\. Did you mean"):
        with_layer(resnet, "layer22")
    with pytest.raises(AddressError, match=r"No backbone has the layer 'nothing'\. Unknown layer 'nothing'"):
        with_layers([resnet, make_small_cnn(10)], ["nothing"])


def test_a_network_that_cannot_be_traced_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"random/test_vit: the network cannot be cut at layer 'blocks\.1'"):
        with_layer(load_backbone("random/test_vit"), "blocks.1")
