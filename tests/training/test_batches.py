"""Batches of images: any step in any order, every image once an epoch, shares of several processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from richrep.data.augment import RandomView
from richrep.data.datasets import load_split
from richrep.data.preprocessing import Geometry, Preprocessing
from richrep.errors import RichrepError
from richrep.training.batches import ImageBatches, load_pixels, read_ahead

SPLIT = load_split("digits", "train").first(10)
PLAIN = Preprocessing(Geometry((8, 8), 8), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def batches(**options) -> ImageBatches:
    return ImageBatches(SPLIT, PLAIN, **({"batch_size": 4, "seed": 0} | options))


def test_an_epoch_holds_every_image_once_and_the_next_another_order() -> None:
    made = batches()
    assert made.steps_per_epoch == 3
    epochs = [np.concatenate([made.rows(step) for step in range(first, first + 3)]).tolist() for first in (0, 3)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 2
    assert epochs[0] != epochs[1]
    assert [len(made.rows(step)) for step in range(3)] == [4, 4, 2]


def test_the_short_batch_may_be_left_out() -> None:
    made = batches(drop_last=True)
    assert made.steps_per_epoch == 2
    assert [len(made.rows(step)) for step in range(4)] == [4] * 4


def test_a_last_batch_of_one_image_joins_the_one_before_it() -> None:
    made = batches(batch_size=3)  # 10 images
    assert made.steps_per_epoch == 3
    rows = [made.rows(step) for step in range(3)]
    assert [len(found) for found in rows] == [3, 3, 4]
    assert sorted(np.concatenate(rows).tolist()) == list(range(10))
    assert [len(batches(batch_size=3, drop_last=True).rows(step)) for step in range(3)] == [3, 3, 3]
    assert [len(batches(batch_size=1).rows(step)) for step in range(10)] == [1] * 10
    assert [len(batches(only=np.array([7])).rows(step)) for step in range(2)] == [1, 1]


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    made, again = batches(view=RandomView()), batches(view=RandomView())
    later = made.batch(5)
    made.batch(0)
    assert torch.equal(again.batch(5)[0], later[0]) and torch.equal(made.batch(5)[0], later[0])
    assert batches(seed=1).rows(0).tolist() != made.rows(0).tolist()


def test_images_are_normalised_pixels_with_their_labels_and_extras() -> None:
    extra = torch.arange(10.0).view(10, 1)
    made = batches(extra=[extra])
    rows = made.rows(1)
    images, labels, values = made.batch(1)
    pixels = load_pixels(SPLIT, PLAIN.geometry)[rows]
    torch.testing.assert_close(images, (pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5)
    assert labels.tolist() == SPLIT.labels[rows].tolist()
    assert values.flatten().tolist() == rows.tolist()


def test_views_change_from_epoch_to_epoch() -> None:
    made = batches(view=RandomView(scale=(0.3, 0.6)), batch_size=10)
    first, second = (made.batch(epoch)[0][np.argsort(made.rows(epoch))] for epoch in (0, 1))
    assert not torch.equal(first, second)


def test_views_and_what_belongs_to_them_come_again_in_turn() -> None:
    extra = [torch.full((10, 1), float(view)) for view in range(3)]
    made = batches(view=RandomView(scale=(0.3, 0.6)), batch_size=10, num_views=3, extra=extra)
    fresh = batches(view=RandomView(scale=(0.3, 0.6)), batch_size=10)
    for epoch in range(5):
        images, _, values = made.batch(epoch)
        assert values.unique().tolist() == [epoch % 3]
        places = np.argsort(made.rows(epoch))  # the order is new all the same
        expected = fresh.batch(epoch % 3)[0][np.argsort(fresh.rows(epoch % 3))]
        assert torch.equal(images[places], expected)
    with pytest.raises(ValueError, match="num_views must divide the 3 tensors of extra, got 2"):
        batches(num_views=2, extra=extra)


def test_a_batch_may_hold_the_same_crops_through_another_preprocessing() -> None:
    other = Preprocessing(PLAIN.geometry, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    larger = Preprocessing(Geometry((16, 12), None), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    made = batches(view=RandomView(), also=[other, larger])
    images, _, plain, large = made.batch(1)
    torch.testing.assert_close(images / 2 + 0.5, plain)
    assert large.shape == (4, 3, 16, 12)


def test_an_epoch_may_hold_some_rows_only() -> None:
    made = batches(only=np.array([1, 4, 8, 9]), batch_size=2, extra=[torch.arange(10.0)])
    assert (made.num_images, made.steps_per_epoch) == (4, 2)
    assert sorted(np.concatenate([made.rows(0), made.rows(1)]).tolist()) == [1, 4, 8, 9]
    assert made.batch(0)[2].tolist() == made.rows(0).tolist()


def test_halves_of_a_batch_come_from_either_kind_of_rows() -> None:
    is_right = np.arange(10) < 8
    made = batches(halves=is_right, batch_size=6)
    assert made.steps_per_epoch == batches(batch_size=6).steps_per_epoch
    for step in range(6):
        rows = made.rows(step)
        assert is_right[rows].tolist() == [True] * 3 + [False] * 3
        assert len(set(rows[:3].tolist())) == 3  # of eight, each once; of two, three draws repeat one
    assert len({tuple(made.rows(step)) for step in range(6)}) == 6
    assert made.rows(4).tolist() == batches(halves=is_right, batch_size=6).rows(4).tolist()
    some = batches(halves=is_right, batch_size=4, only=np.array([0, 1, 2, 9]))
    assert all(set(some.rows(step)) <= {0, 1, 2, 9} and 9 in some.rows(step) for step in range(4))


def test_rows_of_one_kind_make_ordinary_batches() -> None:
    for halves in (np.ones(10, dtype=bool), np.zeros(10, dtype=bool)):
        assert [batches(halves=halves).rows(i).tolist() for i in range(3)] == [
            batches().rows(i).tolist() for i in range(3)
        ]


def test_processes_share_a_batch_between_them() -> None:
    whole = batches().rows(0)
    shares = [batches(rank=rank, num_processes=2).batch(0)[1].tolist() for rank in (0, 1)]
    assert shares == [SPLIT.labels[whole[0::2]].tolist(), SPLIT.labels[whole[1::2]].tolist()]


@pytest.mark.parametrize("num_workers", [None, 0, 1, 5, 9])
def test_reading_ahead_keeps_the_order(num_workers: int | None) -> None:
    made = batches()
    read = [labels.tolist() for _, labels in read_ahead(made, 2, 7, num_workers=num_workers)]
    assert read == [made.batch(step)[1].tolist() for step in range(2, 7)]
    assert list(read_ahead(made, 3, 3)) == []


@pytest.mark.parametrize("batch_size", [0, 11])
def test_a_batch_size_out_of_range_is_refused(batch_size: int) -> None:
    with pytest.raises(RichrepError, match=rf"batch_size must be in \[1, 10\], got {batch_size}: 10 images"):
        batches(batch_size=batch_size, drop_last=True)


def test_fewer_images_than_processes_are_refused() -> None:
    with pytest.raises(RichrepError, match="batch_size 1 is less than the 2 processes"):
        batches(batch_size=1, num_processes=2)


def test_pixels_are_those_of_the_split_in_its_order() -> None:
    pixels = load_pixels(SPLIT, Geometry((8, 8), 8))
    assert pixels.shape == (10, 8, 8, 3) and pixels.dtype == torch.uint8
    assert pixels[3, 2, 5].tolist() == list(SPLIT.load_image(3).getpixel((5, 2)))  # PIL counts columns first


def test_a_batch_of_fewer_images_than_processes_goes_to_all_of_them() -> None:
    shares = [batches(rank=rank, num_processes=3) for rank in range(3)]  # ten images: 4, 4, 2
    assert [len(share.batch(0)[1]) for share in shares] == [2, 1, 1]
    whole = batches().batch(2)
    assert len(whole[1]) == 2 and all(torch.equal(share.batch(2)[0], whole[0]) for share in shares)
