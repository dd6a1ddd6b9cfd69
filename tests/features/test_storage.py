"""Features stored as float16: what changes (values, room, key) and what stays (entries of float32)."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from richrep.errors import CacheError, FeatureError
from richrep.features.cache import FeatureCache
from richrep.features.entry import CacheEntry
from richrep.features.extract import extract_features
from richrep.features.feature_set import concat_features
from richrep.features.manifest import Manifest, Request, make_manifest

# What decided the key of an entry before there was a choice of storage.
BEFORE = "format,architecture,weights,structure,layer,precision,preprocessing,images,rows,dim,block_rows"


@pytest.fixture
def half(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path / "half", block_rows=4, store="fp16")


def only_entry(cache: FeatureCache) -> CacheEntry:
    (info,) = cache.entries()
    return CacheEntry.read(cache.root / info.key[:2] / info.key)


def test_float16_is_float32_rounded_in_half_the_room(tiny, half, tmp_path) -> None:
    split, backbone = tiny.make_split(9), tiny.make_backbone()
    exact = extract_features(backbone, split, cache=FeatureCache(tmp_path / "full", block_rows=4))
    for _ in range(2):  # as computed, as found
        rounded = extract_features(backbone, split, cache=half)
        assert rounded.features.dtype == torch.float16 and torch.equal(rounded.features, exact.features.half())
    assert rounded.key != exact.key and (rounded.images, rounded.blocks) == (exact.images, exact.blocks)
    assert only_entry(half).array.path.stat().st_size == 9 * 5 * 2
    assert (only_entry(half).manifest.store, half.entries()[0].store, half.verify()) == ("fp16", "fp16", [])


def test_the_data_of_an_entry_can_be_mapped_by_others(tiny, half) -> None:
    features = extract_features(tiny.make_backbone(), tiny.make_split(9), cache=half)
    path, dtype, shape = only_entry(half).array
    assert (dtype, shape) == (np.dtype("<f2"), (9, 5))
    assert np.array_equal(np.memmap(path, dtype, mode="r", shape=shape), features.features.numpy())


def test_an_interrupted_float16_entry_is_resumed_to_the_same_bytes(tiny, half, tmp_path) -> None:
    split, backbone = tiny.make_split(19), tiny.make_backbone()
    split.images.broken, split.images.bad = {13}, {2}
    with pytest.raises(RuntimeError, match="fails at 13"):
        extract_features(backbone, split, cache=half, num_workers=1, on_bad_image="skip")
    assert half.entries()[0].blocks_done == 3
    split.images.broken.clear()
    resumed = extract_features(backbone, split, cache=half, on_bad_image="skip")
    fresh = FeatureCache(tmp_path / "fresh", block_rows=4, store="fp16")
    assert torch.equal(resumed.features, extract_features(backbone, split, cache=fresh, on_bad_image="skip").features)
    assert only_entry(half).array.path.read_bytes() == only_entry(fresh).array.path.read_bytes()


def test_float32_entries_keep_the_key_and_the_manifest_they_always_had(tiny, tmp_path) -> None:
    cache, split, backbone = FeatureCache(tmp_path, block_rows=4), tiny.make_split(9), tiny.make_backbone()
    manifest = make_manifest(Request(backbone), split, block_rows=4)
    decides = {name: asdict(manifest)[name] for name in BEFORE.split(",")}
    assert manifest.key == hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()

    extract_features(backbone, split, cache=cache)
    file = only_entry(cache).folder / "manifest.json"
    before = {name: value for name, value in json.loads(file.read_text()).items() if name != "store"}
    file.write_text(json.dumps(before))
    split.images.decoded.clear()
    assert extract_features(backbone, split, cache=cache).features.dtype == torch.float32
    assert not split.images.decoded


def test_a_value_beyond_float16_is_refused_with_the_name_of_its_image(tiny, half) -> None:
    backbone, split = tiny.make_backbone(), tiny.make_split(9)
    values = extract_features(backbone, split).features.amax(dim=1)
    scale = 70_000 / float(values.max())
    for parameter in (backbone.trunk.norm.weight, backbone.trunk.norm.bias):
        parameter.data *= scale  # and with it every feature
    row = int((values * scale > 65504).nonzero()[0])
    match = rf"for image {row} of noise/train \(memory/{row}.png\), but float16 ends at 65504.*--store fp32"
    with pytest.raises(FeatureError, match=match):
        extract_features(backbone, split, cache=half)
    assert half.entries()[0].blocks_done == row // 4


def test_the_largest_float16_is_kept(tiny, half) -> None:
    backbone = tiny.make_backbone()
    backbone.trunk.norm.weight.data.zero_()
    backbone.trunk.norm.bias.data.fill_(65504.0)
    assert (extract_features(backbone, tiny.make_split(5), cache=half).features == 65504).all()
    backbone.trunk.norm.bias.data.fill_(65505.0)
    with pytest.raises(FeatureError, match="reach 65505 for image 0 of noise/train"):
        extract_features(backbone, tiny.make_split(5), cache=half)


def test_logits_stay_float32(tiny, half) -> None:
    backbone = tiny.make_backbone(num_classes=4)
    assert extract_features(backbone, tiny.make_split(9), layer="logits", cache=half).features.dtype == torch.float32


def test_float16_features_of_several_backbones_stand_side_by_side(tiny, half) -> None:
    members = extract_features([tiny.make_backbone(), tiny.make_backbone(seed=1)], tiny.make_split(9), cache=half)
    assert concat_features(members).features.dtype == torch.float16


def test_an_unknown_storage_type_is_refused(tiny, tmp_path) -> None:
    with pytest.raises(CacheError, match=r"Unknown storage type 'int8'\. Known: fp16, fp32"):
        FeatureCache(tmp_path, store="int8")
    text = make_manifest(Request(tiny.make_backbone()), tiny.make_split(4), store="fp16").to_json()
    assert Manifest.from_json(text).store == "fp16"
    with pytest.raises(ValueError, match="no storage type 'int8'"):
        Manifest.from_json(text.replace("fp16", "int8"))
