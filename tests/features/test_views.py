"""Views: what is extracted is what the networks see of the view's own pixels, cached and resumed as features are."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from richrep.data.augment import RandomView, view_generator
from richrep.data.decode import decode_image
from richrep.data.preprocessing import Geometry, Preprocessing
from richrep.data.split import Split
from richrep.errors import RichrepError
from richrep.features.cache import FeatureCache
from richrep.features.extract import extract_features, extract_layers
from richrep.features.extract_shard import extract_shard
from richrep.features.feature_set import FeatureSet, concat_features
from richrep.features.manifest import Request, make_manifest
from richrep.features.shards import Shard
from richrep.features.views import Framing, NumberedView, Views, default_view

THREE = Views(3, RandomView(scale=(0.2, 0.6)), seed=5)


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path / "cache", block_rows=4)


def contents(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def seen(split: Split, geometry: Geometry, number: int) -> Split:
    """The view's own pixels as a split of their own."""

    class Pixels:
        def __len__(self) -> int:
            return len(split)

        def load(self, row: int) -> Image.Image:
            generator = view_generator(seed=THREE.seed, draw=number, row=row)
            return Image.fromarray(THREE.view.apply(split.load_image(row), geometry, generator))

        def name(self, row: int) -> str:
            return f"{row}"

        def digest(self, row: int) -> bytes:
            return b"\0" * 32

    return replace(split, images=Pixels())


def assert_same(one: FeatureSet, other: FeatureSet) -> None:
    assert len(one.views) == len(other.views) and (one.key, one.drawn) == (other.key, other.drawn)
    for ours, expected in zip((one.features, *one.views), (other.features, *other.views), strict=True):
        assert torch.equal(ours, expected)


# What comes out


def test_features_of_a_view_are_those_of_its_own_pixels_at_the_size_of_each_network(tiny) -> None:
    split = tiny.make_split(9)
    backbones = [tiny.make_backbone(), tiny.make_backbone(seed=1, dim=3, preprocessing=tiny.CROP_12)]
    for backbone, found in zip(backbones, extract_features(backbones, split, views=THREE), strict=True):
        geometry = backbone.preprocessing.geometry
        as_it_is = replace(
            backbone, preprocessing=replace(backbone.preprocessing, geometry=replace(geometry, resize_px=None))
        )
        for number, view in enumerate(found.views):
            expected = extract_features(as_it_is, seen(split, geometry, number))
            torch.testing.assert_close(view, expected.features)
        assert found.drawn == THREE and len(found.views) == 3
        torch.testing.assert_close(found.features, extract_features(backbone, split).features)
        assert (found.views[0] - found.views[1]).abs().max() > 1e-3


def test_all_views_and_networks_share_one_decoding(tiny) -> None:
    split = tiny.make_split(9)
    backbones = [tiny.make_backbone(), tiny.make_backbone(seed=1), tiny.make_backbone(preprocessing=tiny.CROP_12)]
    extract_features(backbones, split, views=THREE, num_workers=2)
    # once by the loop, and nothing more: torch is not compared with another engine
    assert split.images.decoded == dict.fromkeys(range(9), 1)


def test_one_view_is_the_deterministic_one(tiny, cache) -> None:
    split, backbone = tiny.make_split(9), tiny.make_backbone()
    one = extract_features(backbone, split, views=Views(1), cache=cache)
    plain = extract_features(backbone, split, cache=cache)
    assert (one.views, one.drawn, one.key) == ((), None, plain.key) and len(cache.entries()) == 1


def test_logits_have_no_views(tiny) -> None:
    backbone = tiny.make_backbone(num_classes=4)
    features, logits = extract_layers([Request(backbone), Request(backbone, "logits")], tiny.make_split(9), views=THREE)
    assert (len(features.views), len(logits.views)) == (3, 0)


def test_an_image_that_is_skipped_has_no_row_in_any_view(tiny) -> None:
    split, backbone = tiny.make_split(9), tiny.make_backbone()
    whole = extract_features(backbone, split, views=THREE)
    split.images.bad = {2}
    left = extract_features(backbone, split, views=THREE, on_bad_image="skip")
    kept = [0, 1, *range(3, 9)]
    for view, expected in zip(left.views, whole.views, strict=True):
        torch.testing.assert_close(view, expected[kept])  # row 3 of the split keeps its crop


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(RichrepError, match="number of views must be at least 1, got 0"):
        Views(0)


def test_small_inputs_are_cropped_gently_by_default(tiny) -> None:
    large = replace(tiny.make_backbone(), preprocessing=Preprocessing(Geometry((224, 224), 256)))
    assert default_view([tiny.make_backbone()]).scale == (0.8, 1.0)
    assert default_view([tiny.make_backbone(), large]) == RandomView()


# The cache


def test_cached_views_equal_fresh_ones_and_cost_nothing(tiny, tmp_path) -> None:
    split, backbones = tiny.make_split(9), [tiny.make_backbone(), tiny.make_backbone(seed=1, dim=7)]
    cache = FeatureCache(tmp_path)
    fresh = extract_features(backbones, split, views=THREE)
    extract_features(backbones, split, views=THREE, cache=cache)
    split.images.decoded.clear()
    for ours, expected in zip(extract_features(backbones, split, views=THREE, cache=cache), fresh, strict=True):
        assert_same(ours, expected)
    assert not split.images.decoded
    assert [entry.layer for entry in cache.entries()[::2]] == ["features", *(f"features, view {i}" for i in range(3))]


def test_more_views_add_to_those_that_are_there(tiny, cache) -> None:
    split, backbone = tiny.make_split(9), tiny.make_backbone()
    two = extract_features(backbone, split, views=replace(THREE, count=2), cache=cache)
    before, calls = set(contents(cache.root)), backbone.trunk.calls
    three = extract_features(backbone, split, views=THREE, cache=cache)
    assert backbone.trunk.calls == calls + 3  # blocks of the third view
    assert before < set(contents(cache.root)) and len(cache.entries()) == 4
    assert all(torch.equal(old, new) for old, new in zip(two.views, three.views[:2], strict=True))
    assert len({two.key, three.key, extract_features(backbone, split, cache=cache).key}) == 3


def test_every_part_of_a_view_is_part_of_the_key(tiny) -> None:
    split, backbone = tiny.make_split(9), tiny.make_backbone()
    view = NumberedView(RandomView(), seed=0, number=0)
    changed = [
        None,
        view,
        replace(view, seed=1),
        replace(view, number=1),
        replace(view, view=RandomView(scale=(0.1, 1.0))),
        replace(view, view=RandomView(ratio=(1.0, 1.0))),
        replace(view, view=RandomView(flip=0.0)),
    ]
    assert len({make_manifest(Request(backbone, view=one), split).key for one in changed}) == len(changed)


def test_half_precision_stores_views_alike(tiny, tmp_path) -> None:
    split, backbone = tiny.make_split(9), tiny.make_backbone()
    half = extract_features(backbone, split, views=THREE, cache=FeatureCache(tmp_path, store="fp16"))
    assert {view.dtype for view in (half.features, *half.views)} == {torch.float16}
    for view, expected in zip(half.views, extract_features(backbone, split, views=THREE).views, strict=True):
        torch.testing.assert_close(view.float(), expected, rtol=2**-10, atol=1e-4)


def test_a_killed_run_goes_on_with_the_same_views(tiny, cache, tmp_path) -> None:
    split, backbone = tiny.make_split(22), tiny.make_backbone()
    split.images.broken = {13}
    with pytest.raises(RuntimeError, match="the disk fails"):
        extract_features(backbone, split, views=THREE, cache=cache, num_workers=0)
    split.images.broken.clear()
    split.images.decoded.clear()
    extract_features(backbone, split, views=THREE, cache=cache)
    assert 0 < len(split.images.decoded) < 22
    extract_features(backbone, split, views=THREE, cache=FeatureCache(tmp_path / "one", block_rows=4))
    assert contents(cache.root) == contents(tmp_path / "one")


def test_shards_leave_the_bytes_of_one_extraction(tiny, cache, tmp_path) -> None:
    split, backbones = tiny.make_split(22), [tiny.make_backbone(), tiny.make_backbone(seed=1, dim=3)]
    for shard in (Shard(1, 2), Shard(0, 2)):
        reports = extract_shard(backbones, split, shard=shard, cache=cache, views=THREE)
    assert [(r.dim, r.blocks_done) for r in reports] == [(5, 6)] * 4 + [(3, 6)] * 4
    extract_features(backbones, split, views=THREE, cache=FeatureCache(tmp_path / "one", block_rows=4))
    assert contents(cache.root) == contents(tmp_path / "one")


def test_fast_decoding_leaves_views_as_they_are(tiny) -> None:
    """A crop of a fifth of a JPEG decoded at a quarter of its size would be another crop."""
    generator = np.random.default_rng(0)
    files = []
    for _ in range(3):
        file = io.BytesIO()
        Image.fromarray(generator.integers(0, 256, (301, 283, 3), dtype=np.uint8)).save(file, "JPEG")
        files.append(file.getvalue())

    class Jpegs:
        def __len__(self) -> int:
            return 3

        def load(self, position: int) -> Image.Image:
            return decode_image(files[position], position=position, name=lambda: "jpeg")

        def name(self, position: int) -> str:
            return "jpeg"

        def digest(self, position: int) -> bytes:
            return bytes([position]) * 32

    split = replace(tiny.make_split(3), images=Jpegs())
    plain, fast = (
        extract_features(tiny.make_backbone(), split, views=THREE, fast_decode=fast, fast_resize=fast)
        for fast in (False, True)
    )
    assert not torch.equal(plain.features, fast.features)
    assert all(torch.equal(one, other) for one, other in zip(plain.views, fast.views, strict=True))
    requests = Request(tiny.make_backbone(), view=THREE.numbered()[0])
    faster = make_manifest(requests, split, fast_decode=True, resizing="torch-uint8")
    assert make_manifest(requests, split).key == faster.key
    assert Framing(tiny.CROP_12.geometry, THREE.numbered()[0]).needed_px is None


# Feature sets with views


def test_views_of_a_concatenation_are_the_members_views_side_by_side(tiny) -> None:
    backbones = [tiny.make_backbone(), tiny.make_backbone(seed=1, dim=3)]
    members = extract_features(backbones, tiny.make_split(9), views=THREE)
    both = concat_features(members)
    assert both.drawn == THREE and both.feature_dim == 8
    for number, view in enumerate(both.views):
        assert torch.equal(view, torch.cat([member.views[number] for member in members], dim=1))
    apart = concat_features(members, max_bytes=9 * 8 * 4 * 4 - 1)  # 9 rows of 8 values of 4 bytes, 4 matrices
    assert not any(isinstance(matrix, torch.Tensor) for matrix in (apart.features, *apart.views))
    assert all(torch.equal(one[:], other) for one, other in zip(apart.views, both.views, strict=True))


def test_rows_are_taken_of_all_views(tiny) -> None:
    features = extract_features(tiny.make_backbone(), tiny.make_split(9), views=THREE)
    taken = features.take(np.array([5, 0]))
    assert all(torch.equal(one, whole[[5, 0]]) for one, whole in zip(taken.views, features.views, strict=True))
    assert taken.drawn == THREE


def test_members_of_other_views_are_not_concatenated(tiny) -> None:
    split, backbone = tiny.make_split(9), tiny.make_backbone()
    one = extract_features(backbone, split, views=THREE)
    for other in (None, replace(THREE, seed=6), replace(THREE, view=RandomView())):
        with pytest.raises(RichrepError, match="not of the same views"):
            concat_features([one, extract_features(backbone, split, views=other)])


def test_a_view_of_another_shape_is_refused(tiny) -> None:
    features = extract_features(tiny.make_backbone(), tiny.make_split(9), views=THREE)
    with pytest.raises(ValueError, match=r"views must have the shape of features, \(9, 5\), got \(8, 5\)"):
        replace(features, views=(features.views[0][1:],))
