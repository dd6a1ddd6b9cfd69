import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms

from richrep.data.preprocessing import Geometry
from richrep.data.split import Split
from richrep.data.stores import ArrayStore, JoinedStore
from richrep.errors import BadImageError, FeatureError, RichrepError
from richrep.features.batches import BatchPlan, decoded_batches
from richrep.features.cache import FeatureCache
from richrep.features.extract import extract_features, extract_layers
from richrep.features.manifest import BLOCK_ROWS, Request
from richrep.features.progress import ExtractionProgress
from richrep.features.views import Framing


def plain_features(backbone, split: Split, transform) -> torch.Tensor:
    """The loop everyone writes: one network, a DataLoader, NCHW."""
    images = [(transform(split.load_image(row)), int(split.labels[row])) for row in range(len(split))]
    backbone.trunk.eval()
    with torch.no_grad():
        return torch.cat([backbone.trunk(batch) for batch, _ in DataLoader(images, batch_size=4)])


def test_features_equal_those_of_a_plain_torchvision_loop(tiny) -> None:
    split = tiny.make_split(11)
    square, crop = tiny.make_backbone(seed=1), tiny.make_backbone(seed=2, preprocessing=tiny.CROP_12)
    transform_square = transforms.Compose(
        [transforms.Resize((16, 16)), transforms.ToTensor(), transforms.Normalize((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))]
    )
    transform_crop = transforms.Compose(
        [
            transforms.Resize(14),
            transforms.CenterCrop(12),
            transforms.ToTensor(),
            transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ]
    )
    ours = extract_features([square, crop], split, batch_size=3)
    torch.testing.assert_close(ours[0].features, plain_features(square, split, transform_square), atol=1e-5, rtol=0)
    torch.testing.assert_close(ours[1].features, plain_features(crop, split, transform_crop), atol=1e-5, rtol=0)


def test_what_comes_back_is_float32_on_the_cpu_with_labels_and_facts(tiny) -> None:
    split = tiny.make_split(7)
    features = extract_features(tiny.make_backbone("left", dim=4), split)
    assert features.features.dtype == torch.float32 and features.features.shape == (7, 4)
    assert features.labels.dtype == torch.int64 and features.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert features.num_classes == 3 and features.blocks[0].name == "left"
    assert features.images == split.fingerprint and features.skipped == ()


def test_several_backbones_at_once_give_what_each_gives_alone(tiny) -> None:
    split = tiny.make_split()
    backbones = [tiny.make_backbone(seed=s, dim=3 + s, preprocessing=p) for s, p in enumerate([tiny.SQUARE_16] * 2)]
    backbones.append(tiny.make_backbone(seed=9, preprocessing=tiny.CROP_12))
    together = extract_features(backbones, split, batch_size=4)
    for backbone, features in zip(backbones, together, strict=True):
        alone = extract_features(backbone, split, batch_size=4)
        assert torch.equal(features.features, alone.features) and features.key == alone.key


def test_every_image_is_decoded_once_however_many_backbones_and_geometries(tiny) -> None:
    split = tiny.make_split(20)
    backbones = [tiny.make_backbone(seed=s, preprocessing=p) for s, p in enumerate([tiny.SQUARE_16, tiny.CROP_12] * 2)]
    extract_features(backbones, split, batch_size=3)
    assert split.images.decoded == dict.fromkeys(range(20), 1)


def test_backbones_of_equal_preprocessing_see_the_very_same_tensor(tiny) -> None:
    one, two, other = tiny.make_backbone(), tiny.make_backbone(seed=1), tiny.make_backbone(preprocessing=tiny.CROP_12)
    extract_features([one, two, other], tiny.make_split(3))
    assert one.trunk.seen[0] is two.trunk.seen[0]
    assert other.trunk.seen[0].shape == (3, 3, 12, 12)


def test_networks_see_channels_last_images(tiny) -> None:
    backbone = tiny.make_backbone()
    extract_features(backbone, tiny.make_split(3))
    assert backbone.trunk.seen[0].is_contiguous(memory_format=torch.channels_last)


def test_equal_backbones_are_computed_once(tiny) -> None:
    one, two = tiny.make_backbone("one"), tiny.make_backbone("two")
    features = extract_features([one, two], tiny.make_split(5))
    assert (one.trunk.calls, two.trunk.calls) == (1, 0)
    assert torch.equal(features[0].features, features[1].features)
    assert [f.blocks[0].name for f in features] == ["one", "two"]


def test_equal_weights_with_another_preprocessing_are_not_equal(tiny) -> None:
    one, two = tiny.make_backbone(), tiny.make_backbone(preprocessing=tiny.CROP_12)
    first, second = extract_features([one, two], tiny.make_split(5))
    assert not torch.allclose(first.features, second.features)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 5000])
def test_batch_size_changes_nothing_but_rounding(tiny, batch_size: int) -> None:
    split, backbone = tiny.make_split(), tiny.make_backbone()
    one, other = (extract_features(backbone, split, batch_size=b) for b in (4, batch_size))
    torch.testing.assert_close(one.features, other.features, atol=1e-6, rtol=1e-6)
    assert one.key == other.key


@pytest.mark.parametrize("num_workers", [0, 1, 5])
def test_the_number_of_workers_changes_nothing(tiny, num_workers: int) -> None:
    split, backbone = tiny.make_split(50), tiny.make_backbone()
    expected = extract_features(backbone, split, batch_size=4, num_workers=2)
    assert torch.equal(
        extract_features(backbone, split, batch_size=4, num_workers=num_workers).features, expected.features
    )


def test_batches_restart_at_every_block(tiny) -> None:
    backbone = tiny.make_backbone()
    extract_features(backbone, tiny.make_split(BLOCK_ROWS + 5), batch_size=1000)
    assert sorted(len(images) for images in backbone.trunk.seen) == [5, 24, 1000]


def test_networks_with_hooks_see_one_batch_at_a_time_in_order(tiny) -> None:
    backbone, seen = tiny.make_backbone(), []
    backbone.trunk.register_forward_hook(lambda module, inputs, output: seen.append(output.clone()))
    features = extract_features(backbone, tiny.make_split(50), batch_size=1)
    assert torch.equal(torch.cat(seen), features.features)


@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_the_number_of_torch_threads_is_the_callers_again_and_changes_nothing(tiny, num_threads: int) -> None:
    split, backbone = tiny.make_split(50), tiny.make_backbone()
    expected, before = extract_features(backbone, split, batch_size=3), torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        features = extract_features(backbone, split, batch_size=3)
        assert torch.get_num_threads() == num_threads
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(features.features, expected.features, atol=1e-6, rtol=1e-6)


def test_features_and_logits_come_from_one_pass(tiny) -> None:
    split, backbone = tiny.make_split(6), tiny.make_backbone(num_classes=4)
    features, logits = extract_layers([Request(backbone), Request(backbone, "logits")], split)
    assert backbone.trunk.calls == 1
    assert logits.features.shape == (6, 4)
    torch.testing.assert_close(logits.features, backbone.head(features.features).detach())
    assert torch.equal(extract_features(backbone, split, layer="logits").features, logits.features)


def test_modules_are_given_back_as_they_were(tiny) -> None:
    backbone = tiny.make_backbone(num_classes=4)
    backbone.trunk.train()
    backbone.trunk.norm.eval()
    backbone.trunk(torch.rand(2, 3, 16, 16)).sum().backward()
    tensors = list(backbone.trunk.state_dict(keep_vars=True).values())
    before = [(t.data_ptr(), t.stride(), t.clone()) for t in tensors]
    grads = [p.grad for p in backbone.trunk.parameters()]
    extract_layers([Request(backbone), Request(backbone, "logits")], tiny.make_split(3))
    assert [m.training for m in (backbone.trunk, backbone.trunk.conv, backbone.trunk.norm)] == [True, True, False]
    assert backbone.head.training
    for tensor, (address, stride, value) in zip(
        backbone.trunk.state_dict(keep_vars=True).values(), before, strict=True
    ):
        assert tensor.data_ptr() == address and tensor.stride() == stride and torch.equal(tensor, value)
    assert all(p.grad is grad for p, grad in zip(backbone.trunk.parameters(), grads, strict=True))


def test_modules_are_given_back_after_an_error_too(tiny) -> None:
    split, backbone = tiny.make_split(5), tiny.make_backbone()
    split.images.bad = {3}
    backbone.trunk.train()
    with pytest.raises(BadImageError):
        extract_features(backbone, split)
    assert backbone.trunk.training and backbone.trunk.conv.weight.is_contiguous()


def test_dropout_and_batch_statistics_are_off(tiny) -> None:
    split = tiny.make_split(6)
    backbone = replace(tiny.make_backbone(), pool=nn.Dropout(0.5))
    expected = extract_features(tiny.make_backbone(), split)
    for module in (backbone.trunk, backbone.pool):
        module.train()
    assert torch.equal(extract_features(backbone, split).features, expected.features)


def test_autocast_and_reduced_precision_of_the_caller_do_not_reach_the_networks(tiny) -> None:
    split, backbone = tiny.make_split(6), tiny.make_backbone(num_classes=3)
    expected = extract_features(backbone, split, layer="logits")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = extract_features(backbone, split, layer="logits")
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(got.features, expected.features)


@pytest.mark.parametrize("cached", [False, True])
def test_a_head_can_be_trained_on_the_features(tiny, cached: bool, tmp_path) -> None:
    cache = FeatureCache(tmp_path) if cached else None
    features = extract_features(tiny.make_backbone(), tiny.make_split(6), cache=cache).features
    head = nn.Linear(5, 3)
    head(features).sum().backward()
    assert head.weight.grad is not None


def test_an_empty_split_has_no_features(tiny, tmp_path) -> None:
    split = tiny.make_split(3).take([])
    for cache in (None, FeatureCache(tmp_path), FeatureCache(tmp_path)):
        assert extract_features(tiny.make_backbone(), split, cache=cache).features.shape == (0, 5)


def test_progress_counts_images_and_blocks_and_knows_the_time_left(tiny) -> None:
    seen: list[ExtractionProgress] = []
    extract_features(tiny.make_backbone(), tiny.make_split(5), batch_size=2, progress=seen.append)
    assert [(p.images_done, p.blocks_done) for p in seen] == [(0, 0), (2, 0), (4, 0), (5, 0), (5, 1)]
    assert {(p.images_total, p.blocks_total, p.images_cached) for p in seen} == {(5, 1, 0)}
    assert seen[0].seconds_left is None or seen[0].images_per_s == 0
    assert seen[1].seconds_left == pytest.approx(seen[1].elapsed_s * 3 / 2)
    assert seen[-1].seconds_left == 0


def test_features_that_are_not_finite_name_backbone_and_image(tiny) -> None:
    split, backbone = tiny.make_split(8).take([5, 2, 7]), tiny.make_backbone("left")
    backbone.trunk.conv.bias.data[1] = float("nan")
    with pytest.raises(
        FeatureError, match=r"features of 'left' .* not finite for image 0 of noise/train \(memory/5.png\)"
    ):
        extract_features([tiny.make_backbone(seed=3), backbone], split)


class Explosive(nn.Module):
    """Infinite for one image only: the brightest."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        mean = images.mean(dim=(2, 3))
        return torch.where(mean.sum(dim=1, keepdim=True) > self.threshold, torch.inf, mean)


def test_only_the_image_with_the_infinite_value_is_named(tiny) -> None:
    split = tiny.make_split(9)
    split.images.pixels[6] = 255
    backbone = replace(tiny.make_backbone(dim=3), trunk=Explosive(threshold=5.0))
    with pytest.raises(FeatureError, match=r"image 6 of noise/train \(memory/6.png\)"):
        extract_features(backbone, split, batch_size=2)


def test_a_wrong_width_or_an_unpooled_map_is_refused(tiny) -> None:
    backbone = tiny.make_backbone("left")
    with pytest.raises(FeatureError, match=r"features of left .* shape \(3, 5\) .* expected \(3, 6\)"):
        extract_features(replace(backbone, feature_dim=6), tiny.make_split(3))
    with pytest.raises(FeatureError, match=r"shape \(3, 3, 16, 16\) .* expected \(3, 5\)"):
        extract_features(replace(backbone, trunk=nn.Identity()), tiny.make_split(3))


def test_a_backbone_without_a_head_gives_no_logits(tiny) -> None:
    with pytest.raises(FeatureError, match="memory/tiny has no head of its own"):
        extract_features(tiny.make_backbone(), tiny.make_split(3), layer="logits")
    with pytest.raises(FeatureError, match=r"Unknown layer 'logit'. Did you mean 'logits'\?"):
        extract_features(tiny.make_backbone(num_classes=2), tiny.make_split(3), layer="logit")


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_named(tiny, device: str) -> None:
    with pytest.raises(RichrepError, match=rf"Device '{device}' cannot be used: .*\. Name one that is there"):
        extract_features(tiny.make_backbone(), tiny.make_split(3), device=device)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"num_workers": -1}, "num_workers must be at least 0, got -1"),
        ({"on_bad_image": "ignore"}, "must be 'stop' or 'skip', got 'ignore'"),
    ],
)
def test_numbers_out_of_range_are_refused(tiny, options: dict, message: str) -> None:
    with pytest.raises(RichrepError, match=message):
        extract_features(tiny.make_backbone(), tiny.make_split(3), **options)


def test_nothing_to_extract_is_refused(tiny) -> None:
    with pytest.raises(RichrepError, match="at least one backbone"):
        extract_features([], tiny.make_split(3))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bad_image_stops_with_the_error_of_the_store(tiny, num_workers: int) -> None:
    split = tiny.make_split(40)
    split.images.bad = {23, 31}
    with pytest.raises(BadImageError, match=r"memory/23.png \(position 23\) cannot be decoded"):
        extract_features(tiny.make_backbone(), split, batch_size=4, num_workers=num_workers)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_skipped_images_have_no_row_and_are_listed(tiny, num_workers: int, caplog) -> None:
    split, backbones = tiny.make_split(9), [tiny.make_backbone(), tiny.make_backbone(seed=1)]
    complete = extract_features(backbones, split, batch_size=4)
    split.images.bad = {2, 8}
    caplog.set_level(logging.WARNING)
    skipping = extract_features(backbones, split, batch_size=4, num_workers=num_workers, on_bad_image="skip")
    kept = [0, 1, 3, 4, 5, 6, 7]
    for without, full in zip(skipping, complete, strict=True):
        assert torch.equal(without.features, full.features[kept])
        assert without.labels.tolist() == [row % 3 for row in kept]
        assert [(s.row, s.name) for s in without.skipped] == [(2, "memory/2.png"), (8, "memory/8.png")]
        assert "position 2" in without.skipped[0].reason
    assert "2 images of noise/train were skipped" in caplog.text


def test_any_other_error_of_a_store_arrives_as_it_is(tiny) -> None:
    split = tiny.make_split(40)
    split.images.broken = {30}
    with pytest.raises(RuntimeError, match="the disk fails at 30"):
        extract_features(tiny.make_backbone(), split, on_bad_image="skip", batch_size=4)


def test_reading_ahead_is_bounded_and_stops_when_closed(tiny) -> None:
    split = tiny.make_split(400)
    plans = [BatchPlan(range(i, i + 4), (Framing(tiny.SQUARE_16.geometry),)) for i in range(0, 400, 4)]
    batches = decoded_batches(split, plans, num_workers=2, on_bad_image="stop", pin_memory=False)
    first = next(batches)
    assert first.rows == range(4)
    batches.close()
    # at most one batch given out, 2 batches ahead or 2 chunks a worker, whichever is more: 5 batches of 4
    assert sum(split.images.decoded.values()) <= 20


def test_pixels_are_those_of_the_geometry(tiny) -> None:
    split, geometry = tiny.make_split(5), tiny.CROP_12.geometry
    plan = BatchPlan(range(1, 4), (Framing(geometry),))
    (batch,) = decoded_batches(split, [plan], num_workers=1, on_bad_image="stop", pin_memory=False)
    expected = np.stack([geometry.apply(split.load_image(row)) for row in (1, 2, 3)])
    assert batch.pixels[Framing(geometry)].dtype == torch.uint8
    assert np.array_equal(batch.pixels[Framing(geometry)].numpy(), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("num_workers", [0, 2])
def test_torch_resizes_for_features_that_are_almost_the_same(tiny, num_workers: int) -> None:
    split = tiny.make_split(20)
    split.images.bad = {7}
    options = {"num_workers": num_workers, "batch_size": 8, "on_bad_image": "skip", "device": "cpu"}
    backbones = [tiny.make_backbone(), tiny.make_backbone(seed=1, preprocessing=tiny.CROP_12)]
    plain = extract_features(backbones, split, **options)
    fast = extract_features(backbones, split, fast_resize=True, **options)
    again = extract_features(backbones[1], split, fast_resize=True, **{**options, "batch_size": 3})
    for one, other in zip(plain, fast, strict=True):
        assert [s.row for s in other.skipped] == [7] and one.key != other.key
        assert float((one.features - other.features).norm() / one.features.norm()) < 0.01
    assert not torch.equal(plain[1].features, fast[1].features)
    assert again.key == fast[1].key and torch.allclose(again.features, fast[1].features, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_accelerator_gives_the_same_features(tiny, tmp_path) -> None:
    split, backbone = tiny.make_split(40), tiny.make_backbone()
    weight = backbone.trunk.conv.weight.data_ptr()
    expected = extract_features(backbone, split, device="cpu")
    got = extract_features(backbone, split, device="cuda", cache=FeatureCache(tmp_path), batch_size=7)
    torch.testing.assert_close(got.features, expected.features, atol=1e-5, rtol=1e-5)
    assert backbone.trunk.conv.weight.data_ptr() == weight and backbone.trunk.conv.weight.device.type == "cpu"


@pytest.mark.parametrize("size_px", [(8, 8), (6, 6)])  # as they lie in memory, and resized
@pytest.mark.parametrize("num_workers", [0, 2])
def test_pixels_in_memory_come_as_through_pillow(size_px: tuple[int, int], num_workers: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    in_memory = ArrayStore(pixels, source="test")
    one_by_one = JoinedStore(in_memory, ArrayStore(pixels[:0], source="none"))
    rows, framing = np.arange(39, -1, -1), Framing(Geometry(size_px, min(size_px)))
    found = []
    for store in (in_memory, one_by_one):
        split = Split("test", "train", store, rows, np.zeros(40, dtype=np.int64), ("a",))
        plans = [BatchPlan(range(3, 36), (framing,)), BatchPlan(range(36, 40), (framing,))]
        batches = decoded_batches(
            split, plans, num_workers=num_workers, on_bad_image="stop", pin_memory=False, fast_decode=False
        )
        found.append(torch.cat([batch.pixels[framing] for batch in batches]))
    assert torch.equal(*found)
