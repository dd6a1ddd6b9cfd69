import errno
import os
import shutil
import threading
import time
from collections import namedtuple
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from torch import nn

from richrep.errors import BadImageError, CacheError
from richrep.features.cache import FeatureCache
from richrep.features.entry_lock import hold_alone, hold_shared
from richrep.features.extract import extract_features, extract_layers
from richrep.features.manifest import Request, make_manifest


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path / "cache", block_rows=4)


def contents(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def only_folder(cache: FeatureCache) -> Path:
    (info,) = cache.entries()
    return cache.root / info.key[:2] / info.key


# What comes out


def test_cached_features_equal_fresh_ones_bit_for_bit(tiny, tmp_path) -> None:
    split, backbones = tiny.make_split(9), [tiny.make_backbone(), tiny.make_backbone(seed=1, dim=7)]
    fresh = extract_features(backbones, split)
    for _ in range(2):
        for ours, expected in zip(extract_features(backbones, split, cache=FeatureCache(tmp_path)), fresh, strict=True):
            assert torch.equal(ours.features, expected.features) and torch.equal(ours.labels, expected.labels)
            assert replace(ours, features=expected.features, labels=expected.labels).key == expected.key
            assert (ours.blocks, ours.images, ours.skipped) == (expected.blocks, expected.images, expected.skipped)


def test_a_second_extraction_decodes_and_computes_nothing(tiny, cache) -> None:
    split, backbone = tiny.make_split(9), tiny.make_backbone()
    extract_features(backbone, split, cache=cache)
    split.images.decoded.clear()
    calls, seen = backbone.trunk.calls, []
    extract_features(backbone, split, cache=cache, progress=seen.append)
    assert backbone.trunk.calls == calls and not split.images.decoded
    assert [(p.images_done, p.images_cached, p.blocks_cached, p.seconds_left) for p in seen] == [(9, 9, 3, 0.0)]


def test_a_new_backbone_beside_a_cached_one_computes_only_the_new(tiny, cache) -> None:
    split, old, new = tiny.make_split(9), tiny.make_backbone(), tiny.make_backbone(seed=1)
    alone = extract_features(old, split, cache=cache)
    calls = old.trunk.calls
    both = extract_features([new, old], split, cache=cache)
    assert old.trunk.calls == calls and torch.equal(both[1].features, alone.features)
    assert torch.equal(both[0].features, extract_features(new, split, cache=cache).features)


def test_cached_features_are_mapped_and_writing_into_them_does_not_reach_the_file(tiny, cache) -> None:
    split, backbone = tiny.make_split(9), tiny.make_backbone()
    extract_features(backbone, split, cache=cache).features.fill_(7)
    again = extract_features(backbone, split, cache=cache)
    assert not (again.features == 7).any()
    assert cache.verify() == []


def test_features_and_logits_are_entries_of_their_own(tiny, cache) -> None:
    split, backbone = tiny.make_split(9), tiny.make_backbone(num_classes=4)
    requests = [Request(backbone), Request(backbone, "logits")]
    fresh = extract_layers(requests, split, cache=cache)
    extract_features(backbone, split, layer="logits", cache=cache)
    assert [(i.layer, i.dim) for i in cache.entries()] == [("features", 5), ("logits", 4)]
    assert [f.feature_dim for f in fresh] == [5, 4]
    assert backbone.trunk.calls == 3  # one for each block of 4 rows


# What the key covers


def test_every_change_that_can_change_a_value_changes_the_key(tiny) -> None:
    split, backbone = tiny.make_split(9), tiny.make_backbone(num_classes=3)
    trained = tiny.make_backbone(num_classes=3)
    trained.trunk.conv.weight.data[0, 0, 0, 0] += 1e-6
    statistics = tiny.make_backbone(num_classes=3)
    statistics.trunk.norm.running_mean[0] += 1e-6
    padded = tiny.make_backbone(num_classes=3)
    padded.trunk.conv.padding = (1, 1)
    pixel = tiny.make_split(9)
    pixel.images.pixels[4, 0, 0, 0] ^= 1
    relabelled = replace(split, labels=np.roll(split.labels, 1))
    changed = [
        make_manifest(Request(backbone), split),
        make_manifest(Request(backbone, "logits"), split),
        make_manifest(Request(trained), split),
        make_manifest(Request(statistics), split),
        make_manifest(Request(padded), split),
        make_manifest(Request(replace(backbone, pool=nn.Dropout(0.5))), split),
        make_manifest(Request(replace(backbone, architecture="other")), split),
        make_manifest(Request(replace(backbone, preprocessing=tiny.CROP_12)), split),
        make_manifest(Request(replace(backbone, preprocessing=replace(tiny.SQUARE_16, mean=(0.4, 0.5, 0.61)))), split),
        make_manifest(Request(backbone), pixel),
        make_manifest(Request(backbone), relabelled),
        make_manifest(Request(backbone), split.take(np.arange(9)[::-1])),
        make_manifest(Request(backbone), split.first(8)),
        make_manifest(Request(backbone), replace(split, class_names=("a", "b", "d"))),
        make_manifest(Request(backbone), split, block_rows=7),
        make_manifest(Request(backbone), split, precision="bf16"),
        make_manifest(Request(backbone), split, precision="fp16"),
        make_manifest(Request(backbone), split, fast_decode=True),
        make_manifest(Request(backbone), split, resizing="torch-uint8"),
        make_manifest(Request(backbone), split, resizing="torch-float32"),
    ]
    assert len({manifest.key for manifest in changed}) == len(changed)


def test_features_cached_before_there_were_precisions_are_those_of_fp32(tiny) -> None:
    manifest = make_manifest(Request(tiny.make_backbone()), tiny.make_split(9))
    assert manifest.precision == "fp32" and manifest.preprocessing == asdict(tiny.SQUARE_16)


def test_names_and_addresses_do_not_change_the_key(tiny) -> None:
    split, backbone = tiny.make_split(9), tiny.make_backbone()
    renamed = replace(backbone, name="other", address="elsewhere/other.pt")
    moved = replace(split, dataset="other", part="test", note="moved")
    assert make_manifest(Request(backbone), split).key == make_manifest(Request(renamed), moved).key


def test_weights_changed_in_place_are_not_served_the_old_features(tiny, cache) -> None:
    split, backbone = tiny.make_split(9), tiny.make_backbone()
    old = extract_features(backbone, split, cache=cache).features.clone()
    backbone.trunk.conv.weight.data *= 2
    new = extract_features(backbone, split, cache=cache)
    assert not torch.allclose(new.features, old)


# Resuming


def test_an_interrupted_extraction_resumes_without_doing_finished_blocks_again(tiny, cache, tmp_path) -> None:
    split, backbones = tiny.make_split(19), [tiny.make_backbone(), tiny.make_backbone(seed=1)]
    split.images.broken = {13}  # in block 3 of 0 to 4
    with pytest.raises(RuntimeError, match="fails at 13"):
        extract_features(backbones, split, cache=cache, batch_size=3, num_workers=1)
    assert {(i.blocks_done, i.blocks_total) for i in cache.entries()} == {(3, 5)}
    split.images.broken.clear()
    split.images.decoded.clear()
    seen = []
    resumed = extract_features(backbones, split, cache=cache, batch_size=3, progress=seen.append)
    assert split.images.decoded == dict.fromkeys(range(12, 19), 1)
    assert (seen[0].images_cached, seen[0].blocks_cached, seen[-1].images_done) == (12, 3, 19)

    undisturbed = FeatureCache(tmp_path / "undisturbed", block_rows=4)
    fresh = extract_features(backbones, split, cache=undisturbed, batch_size=3)
    assert contents(cache.root) == contents(undisturbed.root)
    assert all(torch.equal(a.features, b.features) for a, b in zip(resumed, fresh, strict=True))


def test_backbones_that_lack_different_blocks_get_what_they_lack(tiny, cache) -> None:
    split, one, two = tiny.make_split(16), tiny.make_backbone(), tiny.make_backbone(seed=1)
    split.images.broken = {9}
    with pytest.raises(RuntimeError):
        extract_features(one, split, cache=cache, num_workers=0)
    split.images.broken.clear()
    calls = one.trunk.calls
    both = extract_features([one, two], split, cache=cache, num_workers=0)
    assert one.trunk.calls - calls == 2 and two.trunk.calls == 4
    assert all(i.complete for i in cache.entries()) and cache.verify() == []
    for backbone, features in zip((one, two), both, strict=True):
        torch.testing.assert_close(features.features, extract_features(backbone, split).features)


def test_features_that_are_not_finite_are_never_kept(tiny, cache) -> None:
    backbone = tiny.make_backbone()
    backbone.trunk.conv.bias.data[0] = float("inf")
    with pytest.raises(ValueError, match="not finite"):
        extract_features(backbone, tiny.make_split(9), cache=cache)
    assert cache.entries()[0].blocks_done == 0


# Bad images


def test_skipped_images_are_remembered(tiny, cache) -> None:
    split, backbone = tiny.make_split(9), tiny.make_backbone()
    split.images.bad = {2, 8}
    fresh = extract_features(backbone, split, cache=cache, on_bad_image="skip")
    split.images.decoded.clear()
    cached = extract_features(backbone, split, cache=cache, on_bad_image="skip")
    assert not split.images.decoded
    assert cached.skipped == fresh.skipped and [s.row for s in cached.skipped] == [2, 8]
    assert torch.equal(cached.features, fresh.features) and cached.labels.tolist() == [0, 1, 0, 1, 2, 0, 1]
    assert cache.verify() == []


def test_remembered_bad_images_stop_who_asks_to_stop(tiny, cache) -> None:
    split, backbone = tiny.make_split(9), tiny.make_backbone()
    split.images.bad = {5}
    extract_features(backbone, split, cache=cache, on_bad_image="skip")
    with pytest.raises(
        BadImageError, match=r"Image 5 of noise/train \(memory/5.png\) could not be decoded .*position 5"
    ):
        extract_features(backbone, split, cache=cache)


def test_a_skipped_list_left_by_a_killed_run_goes_when_the_image_can_be_decoded(tiny, cache, tmp_path) -> None:
    split, backbone = tiny.make_split(9), tiny.make_backbone()
    split.images.bad, split.images.broken = {1}, {6}
    with pytest.raises(RuntimeError):
        extract_features(backbone, split, cache=cache, on_bad_image="skip", num_workers=0)
    folder = only_folder(cache)
    (folder / "skipped-00000001.json").write_text("[]")  # killed between this list and the mark of block 1
    (folder / "skipped-00000002.json.tmp").write_text("[")
    split.images.broken.clear()
    extract_features(backbone, split, cache=cache, on_bad_image="skip")
    assert sorted(f.name for f in folder.iterdir()) == [
        "blocks.bin",
        "engine-torch",
        "features.bin",
        "manifest.json",
        "skipped-00000000.json",
    ]


def test_what_a_writer_left_who_was_killed_after_the_last_block_goes(tiny, cache) -> None:
    split, backbone = tiny.make_split(9), tiny.make_backbone()
    extract_features(backbone, split, cache=cache)
    expected, folder = contents(cache.root), only_folder(cache)
    (folder / "skipped-00000002.json.1a2b3c4d.tmp").write_text("[")
    claims = folder.with_name(f"{folder.name}.claims")
    claims.mkdir()
    (claims / "00000002").touch()
    extract_features(backbone, split, cache=cache)
    assert contents(cache.root) == expected and not claims.exists()


# Damage


def damage_by_no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def damage_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"format": "richrep feat')


def damage_future_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"format": "richrep features 99"}')


def damage_size(folder: Path) -> None:
    with (folder / "features.bin").open("r+b") as file:
        file.truncate(20)


def damage_skipped(folder: Path) -> None:
    (folder / "skipped-00000000.json").write_text('[{"row": 2')


def damage_table(folder: Path) -> None:
    (folder / "blocks.bin").unlink()


@pytest.mark.parametrize(
    "damage",
    [damage_by_no_manifest, damage_manifest, damage_future_manifest, damage_size, damage_table, damage_skipped],
    ids=lambda d: d.__name__,
)
def test_an_entry_whose_files_are_damaged_is_rebuilt(tiny, cache, caplog, damage) -> None:
    split, backbone = tiny.make_split(9), tiny.make_backbone()
    split.images.bad = {2}
    extract_features(backbone, split, cache=cache, on_bad_image="skip")
    expected = contents(cache.root)
    folder = only_folder(cache)
    damage(folder)
    (broken,) = cache.entries()
    assert broken.key == folder.name and broken.problem and not broken.complete
    extract_features(backbone, split, cache=cache, on_bad_image="skip")
    assert contents(cache.root) == expected
    assert "Rebuilding the cache entry" in caplog.text


def test_verify_finds_a_changed_byte_and_names_the_block(tiny, cache) -> None:
    split = tiny.make_split(9)
    split.images.bad = {6}
    extract_features([tiny.make_backbone(), tiny.make_backbone(seed=1)], split, cache=cache, on_bad_image="skip")
    assert cache.verify() == []
    folder = cache.root / cache.entries()[0].key[:2] / cache.entries()[0].key
    with (folder / "features.bin").open("r+b") as file:
        file.seek(8 * 5 * 4 + 3)  # row 8 is the first of block 2
        file.write(b"\xff")
    (damaged,) = cache.verify()
    assert (damaged.entry.key, damaged.block) == (folder.name, 2)
    (folder / "skipped-00000001.json").unlink()
    assert [d.block for d in cache.verify()] == [1, 2]


def test_features_already_loaded_survive_the_clearing_of_the_cache(tiny, cache) -> None:
    split, backbone = tiny.make_split(9), tiny.make_backbone()
    features = extract_features(backbone, split, cache=cache)
    before = features.features.clone()
    cache.clear()
    assert torch.equal(features.features, before)
    again = extract_features(backbone, split, cache=FeatureCache(cache.root, block_rows=4))  # the same batches
    assert torch.equal(features.features, again.features)


def test_a_complete_entry_cleared_while_another_is_computed_is_still_given(tiny, cache) -> None:
    split, old, new = tiny.make_split(9), tiny.make_backbone(), tiny.make_backbone(seed=1)
    key = extract_features(old, split, cache=cache).key
    both = extract_features([old, new], split, cache=cache, progress=lambda _: cache.clear(key))
    assert [info.key for info in cache.entries()] == [both[1].key]
    torch.testing.assert_close(both[0].features, extract_features(old, split).features)


# Listing and clearing


def test_entries_say_what_they_hold(tiny, cache) -> None:
    assert cache.entries() == []
    extract_features(tiny.make_backbone("left", num_classes=3), tiny.make_split(9), cache=cache)
    (info,) = cache.entries()
    assert (info.backbone, info.address, info.dataset, info.part) == ("left", "memory/left", "noise", "train")
    assert (info.layer, info.rows, info.dim, info.blocks_done, info.blocks_total) == ("features", 9, 5, 3, 3)
    assert info.size_bytes == sum(f.stat().st_size for f in only_folder(cache).iterdir())
    assert info.complete and info.problem == ""


def test_clear_deletes_what_matches_and_counts(tiny, cache) -> None:
    split = tiny.make_split(9)
    extract_features([tiny.make_backbone("left"), tiny.make_backbone("right", seed=1)], split, cache=cache)
    left, right = cache.entries()
    assert cache.clear("nothing") == (0, 0)
    assert cache.clear("LEFT") == (1, left.size_bytes)
    assert cache.entries() == [right]
    assert cache.clear(right.key) == (1, right.size_bytes)
    extract_features(tiny.make_backbone(), split, cache=cache)
    (only_folder(cache) / "manifest.json").unlink()
    assert cache.clear()[0] == 1 and cache.entries() == []


@pytest.mark.parametrize("hold", [hold_alone, hold_shared], ids=["creating", "writing"])
def test_clear_leaves_an_entry_that_is_being_written_and_says_so(tiny, cache, caplog, hold) -> None:
    extract_features([tiny.make_backbone("left"), tiny.make_backbone("right", seed=1)], tiny.make_split(9), cache=cache)
    left = cache.entries()[0]
    with hold(cache.root / left.key[:2] / f"{left.key}.lock", title="left"):
        assert cache.clear()[0] == 1
    assert cache.entries() == [left]
    assert "left on noise/train): it is being written" in caplog.text


def test_two_extractions_of_the_same_share_the_blocks(tiny, cache) -> None:
    splits = [tiny.make_split(120, delay_s=0.005) for _ in range(2)]
    both_have_begun = threading.Barrier(2, timeout=60)
    for split in splits:
        split.images.begin = both_have_begun.wait
    threads = [
        threading.Thread(target=extract_features, args=(tiny.make_backbone(), split), kwargs={"cache": cache})
        for split in splits
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    one, two = (split.images.decoded for split in splits)
    assert one and two and one + two == dict.fromkeys(range(120), 1)
    assert cache.entries()[0].complete and cache.verify() == []


def test_an_image_that_another_worker_skipped_meanwhile_stops_who_asks_to_stop(tiny, cache) -> None:
    backbone, skipping, stopping = tiny.make_backbone(), tiny.make_split(9), tiny.make_split(9)
    skipping.images.bad = {2}

    def let_another_do_all(progress) -> None:
        if not skipping.images.decoded:
            extract_features(tiny.make_backbone(), skipping, cache=cache, on_bad_image="skip", num_workers=0)

    with pytest.raises(BadImageError, match=r"Image 2 of noise/train .* could not be decoded by an earlier run"):
        extract_features(backbone, stopping, cache=cache, progress=let_another_do_all)


def test_a_damaged_entry_is_rebuilt_only_when_nobody_writes_it(tiny, cache, caplog, monkeypatch) -> None:
    monkeypatch.setattr("richrep.features.cache.SILENT_WAIT_S", 0.05)
    split, backbone = tiny.make_split(9), tiny.make_backbone()
    extract_features(backbone, split, cache=cache)
    folder = only_folder(cache)
    (folder / "manifest.json").unlink()
    late = threading.Thread(target=extract_features, args=(backbone, split), kwargs={"cache": cache})
    with hold_shared(folder.with_name(f"{folder.name}.lock"), title="features"):
        late.start()
        while "Waiting for another process that is writing the features of tiny on noise/train" not in caplog.text:
            time.sleep(0.01)
        assert (folder / "blocks.bin").exists()
    late.join()
    assert "Rebuilding" in caplog.text and cache.entries()[0].complete and cache.verify() == []


def test_who_finds_an_entry_missing_joins_it_as_soon_as_another_has_made_it(tiny, cache, caplog, monkeypatch) -> None:
    """The other goes on writing, under the shared lock; waiting for the lock alone would last until its end."""
    monkeypatch.setattr("richrep.features.cache.SILENT_WAIT_S", 0.05)
    split, backbone = tiny.make_split(9), tiny.make_backbone()
    extract_features(backbone, split, cache=cache)
    folder = only_folder(cache)
    manifest, hidden = folder / "manifest.json", folder.with_name("manifest.json")
    manifest.rename(hidden)
    late = threading.Thread(target=extract_features, args=(backbone, split), kwargs={"cache": cache})
    with hold_shared(folder.with_name(f"{folder.name}.lock"), title="features"):
        late.start()
        while "Waiting for another process" not in caplog.text:
            time.sleep(0.01)
        hidden.rename(manifest)
        late.join(timeout=60)
        assert not late.is_alive()
    assert "Rebuilding" not in caplog.text


def test_a_complete_entry_is_read_without_its_lock(tiny, cache) -> None:
    split, backbone = tiny.make_split(9), tiny.make_backbone()
    key = extract_features(backbone, split, cache=cache).key
    with FileLock(cache.root / key[:2] / f"{key}.lock"):
        assert extract_features(backbone, split, cache=cache).key == key


def test_locks_are_released_after_an_error(tiny, cache) -> None:
    split, backbone = tiny.make_split(9), tiny.make_backbone()
    split.images.bad = {4}
    with pytest.raises(BadImageError):
        extract_features(backbone, split, cache=cache)
    assert cache.clear()[0] == 1


# No room, no right


def test_a_disk_that_is_full_from_the_start_is_noticed_before_work(tiny, cache, monkeypatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 100))
    split, backbones = tiny.make_split(5000), [tiny.make_backbone(), tiny.make_backbone(seed=1)]
    with pytest.raises(CacheError, match=r"No room for features at .*/cache: 0.2 MB are needed, 0.0 MB are free"):
        extract_features(backbones, split, cache=cache)
    assert not split.images.decoded and cache.entries() == []


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system cannot reserve room for a file")
def test_a_quota_noticed_on_reserving_room_leaves_nothing_behind(tiny, cache, monkeypatch) -> None:
    def full(fd: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    split = tiny.make_split(5000)
    with pytest.raises(CacheError, match=r"No room for features at .*: 0.1 MB are needed, .* MB are free. Make room"):
        extract_features(tiny.make_backbone(), split, cache=cache)
    assert not split.images.decoded and cache.entries() == []


def test_without_posix_fallocate_files_are_the_same(tiny, cache, tmp_path, monkeypatch) -> None:
    split, backbone = tiny.make_split(9), tiny.make_backbone()
    extract_features(backbone, split, cache=cache)
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    extract_features(backbone, split, cache=FeatureCache(tmp_path / "other", block_rows=4))
    assert contents(cache.root) == contents(tmp_path / "other")


def test_a_root_that_cannot_be_written_is_named(tiny, tmp_path) -> None:
    (tmp_path / "file").write_text("not a folder")
    split = tiny.make_split(9)
    with pytest.raises(CacheError, match=r"cannot be written at .*file/cache .*--cache-dir, or set RICHREP_HOME"):
        extract_features(tiny.make_backbone(), split, cache=FeatureCache(tmp_path / "file" / "cache"))
    assert not split.images.decoded


def test_block_rows_must_be_positive(tmp_path) -> None:
    with pytest.raises(ValueError, match="block_rows must be at least 1, got 0"):
        FeatureCache(tmp_path, block_rows=0)


def test_clear_leaves_alone_what_is_not_a_cache_entry(tmp_path: Path) -> None:
    (tmp_path / "py" / "pytorch").mkdir(parents=True)
    (tmp_path / "py" / "pytorch" / "thesis.tex").write_text("years of work")
    assert FeatureCache(tmp_path).entries() == []
    assert FeatureCache(tmp_path).clear() == (0, 0)
    assert [path.name for path in (tmp_path / "py").iterdir()] == ["pytorch"]
    assert (tmp_path / "py" / "pytorch" / "thesis.tex").exists()
