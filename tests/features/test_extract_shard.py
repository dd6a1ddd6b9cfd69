from pathlib import Path

import pytest
import torch

from richrep.errors import BadImageError, RichrepError
from richrep.features.cache import FeatureCache
from richrep.features.extract import extract_features
from richrep.features.extract_shard import extract_shard
from richrep.features.shards import Shard


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path / "cache", block_rows=4)


def contents(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def test_shards_in_any_order_leave_the_bytes_of_one_extraction(tiny, cache, tmp_path) -> None:
    split, backbones = tiny.make_split(22), [tiny.make_backbone(), tiny.make_backbone(seed=1, dim=3)]
    reports = [extract_shard(backbones, split, shard=Shard(i, 4), cache=cache) for i in (2, 0, 3, 1)]
    # six blocks: shards 0 and 1 have two, 2 and 3 have one
    assert [(r.blocks_here, r.blocks_done, r.blocks_total) for r, _ in reports] == [
        (1, 1, 6),
        (2, 3, 6),
        (1, 4, 6),
        (2, 6, 6),
    ]
    assert [r.dim for r in reports[0]] == [5, 3]
    assert split.images.decoded == dict.fromkeys(range(22), 1)
    extract_features(backbones, split, cache=FeatureCache(tmp_path / "one", block_rows=4))
    assert contents(cache.root) == contents(tmp_path / "one")


def test_what_a_shard_left_is_done_by_an_extraction_without_shards(tiny, cache) -> None:
    split, backbone = tiny.make_split(22), tiny.make_backbone()
    extract_shard([backbone], split, shard=Shard(1, 3), cache=cache)
    split.images.decoded.clear()
    features = extract_features(backbone, split, cache=cache)
    assert sorted(split.images.decoded) == [*range(4), *range(8, 16), *range(20, 22)]  # not blocks 1 and 4
    torch.testing.assert_close(features.features, extract_features(backbone, split).features)


def test_progress_of_a_shard_counts_its_own_images(tiny, cache) -> None:
    seen = []
    extract_shard([tiny.make_backbone()], tiny.make_split(22), shard=Shard(5, 6), cache=cache, progress=seen.append)
    assert (seen[0].images_total, seen[0].blocks_total) == (2, 1)
    assert (seen[-1].images_done, seen[-1].blocks_done, seen[-1].seconds_left) == (2, 1, 0.0)


def test_a_shard_without_blocks_is_done_at_once(tiny, cache) -> None:
    split = tiny.make_split(6)
    (report,) = extract_shard([tiny.make_backbone()], split, shard=Shard(2, 3), cache=cache)
    assert (report.blocks_here, report.blocks_done, report.blocks_total) == (0, 0, 2) and not split.images.decoded


def test_a_bad_image_stops_its_shard_and_no_other(tiny, cache) -> None:
    split, backbone = tiny.make_split(22), tiny.make_backbone()
    split.images.bad = {13}  # in block 3
    with pytest.raises(BadImageError, match="position 13"):
        extract_shard([backbone], split, shard=Shard(1, 2), cache=cache)
    (report,) = extract_shard([backbone], split, shard=Shard(0, 2), cache=cache)
    assert (report.blocks_done, report.blocks_total) == (4, 6)  # 0, 2, 4 here; 1 before the bad image


def test_a_shard_of_nothing_is_refused(tiny, cache) -> None:
    with pytest.raises(RichrepError, match="at least one backbone"):
        extract_shard([], tiny.make_split(4), shard=Shard(), cache=cache)
