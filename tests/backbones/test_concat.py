"""Several backbones as one against their features side by side."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from richrep.backbones.backbone import Backbone
from richrep.backbones.concat import concat
from richrep.backbones.small_cnn import make_small_cnn
from richrep.backbones.sparsity import measure_sparsity
from richrep.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Geometry, Preprocessing

PIXELS = torch.randint(0, 256, (5, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("same_norm", [True, False])
def test_features_are_those_of_the_members_side_by_side(same_norm: bool) -> None:
    members = [make_small_cnn(3, seed=seed, widths=(4, 6 + seed)) for seed in range(3)]
    if not same_norm:
        other = Preprocessing(Geometry((8, 8), 8), IMAGENET_MEAN, IMAGENET_STD)
        members[1] = replace(members[1], preprocessing=other)
    both = concat(*members)
    with torch.inference_mode():
        expected = torch.cat([member(member.preprocessing.normalize(PIXELS)) for member in members], dim=1)
        found = both(both.preprocessing.normalize(PIXELS))
    assert torch.allclose(found, expected, atol=1e-6)
    assert both.feature_dim == 6 + 7 + 8 == found.shape[1]
    assert both.parameters == sum(member.trunk_parameters for member in members)
    assert both.head is None and both.name.startswith("cat(small-cnn-4-6+")


def test_a_concatenation_of_one_or_of_concatenations_is_one() -> None:
    a, b = make_small_cnn(2, seed=0), make_small_cnn(2, seed=1)
    images = a.preprocessing.normalize(PIXELS)
    with torch.inference_mode():
        assert torch.equal(concat(a)(images), a(images))
        assert torch.equal(concat(concat(a), b)(images), concat(a, b)(images))


def test_the_fingerprint_depends_on_members_order_and_norm() -> None:
    a, b = make_small_cnn(2, seed=0), make_small_cnn(2, seed=1)
    c = replace(b, preprocessing=Preprocessing(Geometry((8, 8), 8)))
    assert len({concat(*m).fingerprint for m in [(a, b), (b, a), (a,), (a, c)]}) == 4
    assert concat(a, b).fingerprint == concat(a, b).fingerprint


def test_members_that_crop_differently_are_refused_with_advice() -> None:
    with pytest.raises(ValueError, match=r"resize and crop alike, got .*8x8.*16x16.*Extract their features separately"):
        concat(make_small_cnn(2, size_px=8), make_small_cnn(2, size_px=16))


def test_nothing_cannot_be_concatenated() -> None:
    with pytest.raises(ValueError, match="at least one backbone"):
        concat()


def pruned(seed: int) -> Backbone:
    """A small network whose first convolution lost every second value, by a mask from its file."""
    backbone = make_small_cnn(2, seed=seed)
    name, weight = next((n, p) for n, p in backbone.trunk.named_parameters() if p.ndim == 4)
    mask = (torch.arange(weight.numel()) % 2).reshape(weight.shape) != 0
    weight.data *= mask
    return replace(backbone, masks={f"trunk.{name}": mask, "head.weight": mask}, mask_source="file")


@pytest.mark.parametrize("same_norm", [True, False])
def test_the_masks_of_the_members_are_kept(same_norm: bool) -> None:
    members = [pruned(0), pruned(1)]
    if not same_norm:
        members[1] = replace(members[1], preprocessing=Preprocessing(Geometry((8, 8), 8), IMAGENET_MEAN, IMAGENET_STD))
    both = concat(*members)
    weights = {f"trunk.{name}": weight for name, weight in both.trunk.named_parameters()}
    assert len(both.masks) == 2 and both.mask_source == "file"  # heads are left out
    for mask, (name, found) in zip([m.masks for m in members], both.masks.items(), strict=True):
        assert torch.equal(found, next(iter(mask.values())))
        assert torch.equal(weights[name] != 0, found)
    zeros = sum(int((~mask).sum()) for mask in both.masks.values())
    assert sum(layer.zeros for layer in measure_sparsity(both).layers) == zeros
    assert set(concat(both, pruned(2)).masks) <= {
        f"trunk.{n}" for n, _ in concat(both, pruned(2)).trunk.named_parameters()
    }


def test_inferred_masks_beside_those_of_files_count_as_inferred() -> None:
    dense, inferred = make_small_cnn(2, seed=2), replace(pruned(1), mask_source="zeros")
    assert [concat(*m).mask_source for m in [(dense,), (pruned(0), dense), (pruned(0), inferred)]] == [
        "",
        "file",
        "zeros",
    ]
