from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from richrep.data.split import Split, carve_val, interleave_by_class, rows_of_each_class
from richrep.data.stores import ArrayStore
from richrep.errors import BadImageError, DatasetError


def make_split(
    pixels: np.ndarray | None = None, labels: tuple[int, ...] = (0, 1, 2, 0), names: tuple[str, ...] = ("a", "b", "c")
) -> Split:
    if pixels is None:
        pixels = np.arange(len(labels) * 12, dtype=np.uint8).reshape(len(labels), 2, 2, 3)
    return Split(
        dataset="toy",
        part="train",
        images=ArrayStore(pixels, source="toy"),
        positions=np.arange(len(labels)),
        labels=np.array(labels),
        class_names=names,
    )


def test_fingerprint_is_the_same_for_the_same_content_under_another_name() -> None:
    split = make_split()
    assert make_split().fingerprint == split.fingerprint
    assert replace(split, dataset="other", part="test", note="x").fingerprint == split.fingerprint


def test_fingerprint_changes_with_one_pixel() -> None:
    pixels = np.zeros((4, 2, 2, 3), dtype=np.uint8)
    before = make_split(pixels.copy()).fingerprint
    pixels[3, 1, 1, 2] = 1
    assert make_split(pixels).fingerprint != before


def test_fingerprint_changes_with_one_label_a_class_name_or_the_order() -> None:
    split = make_split()
    others = [
        make_split(labels=(0, 1, 2, 1)),
        make_split(names=("a", "b", "d")),
        split.take([1, 0, 2, 3]),
        split.take([0, 1, 2]),
        replace(split, positions=split.positions[[3, 1, 2, 0]]),  # the same labels on other images
    ]
    assert len({split.fingerprint, *(other.fingerprint for other in others)}) == 6


def test_fingerprint_does_not_confuse_class_names_that_join_to_the_same_text() -> None:
    one, other = make_split(names=("a\0b", "c", "d")), make_split(names=("a", "b\0c", "d"))
    assert one.fingerprint != other.fingerprint


def test_fingerprint_of_many_images_does_not_depend_on_threads() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, size=(1000, 2, 2, 3), dtype=np.uint8)  # 1000 images: 16 blocks of 64
    labels = rng.integers(0, 3, size=1000)
    split = make_split(pixels, tuple(labels))
    # by hand, image by image, as the docstring says: head, labels, then one digest an image
    digest = hashlib.sha256(b'richrep split 1 {"images": 1000, "class_names": ["a", "b", "c"]}\n')
    digest.update(labels.astype("<i8").tobytes())
    for image in pixels:
        digest.update(hashlib.sha256(b"uint8 (2, 2, 3)\n" + image.tobytes()).digest())
    assert split.fingerprint == digest.hexdigest()


def test_fingerprint_survives_an_image_that_cannot_be_read_and_sees_it() -> None:
    """Whether such an image stops the run or is skipped is decided where images are wanted."""

    class Broken(ArrayStore):
        def digest(self, position: int) -> bytes:
            if position == 70:
                raise BadImageError("image 70 is missing")
            return super().digest(position)

    split = make_split(np.zeros((200, 2, 2), dtype=np.uint8), (0,) * 200)
    broken = replace(split, images=Broken(np.zeros((200, 2, 2), dtype=np.uint8), source="x"))
    assert broken.fingerprint == replace(broken).fingerprint != split.fingerprint


def test_first_takes_a_prefix_and_none_takes_all() -> None:
    split = make_split()
    assert split.first(2).labels.tolist() == [0, 1]
    assert split.first(4).labels.tolist() == [0, 1, 2, 0]
    assert split.first(None) is split


@pytest.mark.parametrize("size", [0, -1, 5])
def test_first_refuses_a_size_that_does_not_fit(size: int) -> None:
    with pytest.raises(DatasetError, match=rf"--train-size {size} .*toy/train, which has 4 images.*from 1 to 4"):
        make_split().first(size)
    with pytest.raises(DatasetError, match=f"--test-size {size} "):
        replace(make_split(), part="test").first(size)


def test_take_follows_the_given_order_and_accepts_a_mask() -> None:
    split = make_split()
    taken = split.take([3, 1], part="val")
    assert (taken.positions.tolist(), taken.labels.tolist(), taken.part) == ([3, 1], [0, 1], "val")
    masked = split.take(np.array([True, False, False, True]))
    assert (masked.positions.tolist(), masked.part) == ([0, 3], "train")
    assert len(split.take([])) == 0


def test_select_classes_relabels_in_the_given_order_and_keeps_the_order_of_images() -> None:
    chosen = make_split().select_classes([2, 0])  # labels were 0, 1, 2, 0; "c" becomes 0, "a" becomes 1
    assert chosen.labels.tolist() == [1, 0, 1]
    assert chosen.positions.tolist() == [0, 2, 3]
    assert chosen.class_names == ("c", "a")


@pytest.mark.parametrize("classes", [[0, 0], [3], [-1]])
def test_select_classes_refuses_repeated_and_unknown_classes(classes: list[int]) -> None:
    with pytest.raises(ValueError, match=rf"distinct and in \[0, 3\), got \[{classes[0]}"):
        make_split().select_classes(classes)


def test_split_refuses_labels_without_a_class_name() -> None:
    with pytest.raises(DatasetError, match=r"toy/train: label 7 is outside \[0, 3\)"):
        make_split(labels=(0, 7, 1, 2))
    with pytest.raises(DatasetError, match=r"label -1 is outside"):
        make_split(labels=(0, -1, 1, 2))


def test_split_refuses_wrong_part_shape_and_position() -> None:
    with pytest.raises(ValueError, match="part must be one of train, val, trainval, test, got 'validation'"):
        replace(make_split(), part="validation")
    with pytest.raises(ValueError, match=r"shape \(N,\), got \(4,\) and \(3,\)"):
        replace(make_split(), labels=np.zeros(3, dtype=np.int64))
    with pytest.raises(ValueError, match=r"position 4 is outside \[0, 4\)"):
        replace(make_split(), positions=np.array([0, 1, 2, 4]))
    with pytest.raises(ValueError, match=r"position -1 is outside"):
        replace(make_split(), positions=np.array([0, 1, 2, -1]))


def test_load_image_and_image_name_go_by_row_of_the_split() -> None:
    split = make_split().take([2, 0])
    assert np.asarray(split.load_image(0))[0, 0].tolist() == [24, 25, 26]  # image 2 begins at 2 * 12
    assert split.image_name(0) == "toy image 2"


def test_rows_of_each_class_is_in_the_order_of_labels_and_of_no_labels_empty() -> None:
    rows = rows_of_each_class(np.array([5, 2, 5, 9]))
    assert [r.tolist() for r in rows] == [[1], [0, 2], [3]]
    assert rows_of_each_class(np.empty(0, dtype=np.int64)) == []


def test_interleaved_classes_take_turns_until_they_run_out() -> None:
    labels = np.array([0] * 3 + [1] * 1 + [2] * 2)
    rows = interleave_by_class(labels, seed=0)
    assert labels[rows].tolist() == [0, 1, 2, 0, 2, 0]
    assert sorted(rows) == list(range(6))


def test_interleaving_is_decided_by_the_seed() -> None:
    labels = np.repeat([0, 1], 50)
    assert (interleave_by_class(labels, seed=1) == interleave_by_class(labels, seed=1)).all()
    assert (interleave_by_class(labels, seed=1) != interleave_by_class(labels, seed=2)).any()


def test_a_prefix_of_interleaved_rows_is_not_the_beginning_of_every_class() -> None:
    rows = interleave_by_class(np.repeat([0, 1], 100), seed=0)[:20]
    assert rows.max() > 150  # the first 10 of each class in stored order would be 0 … 9 and 100 … 109


def test_interleaving_nothing_gives_nothing() -> None:
    assert len(interleave_by_class(np.empty(0, dtype=np.int64), seed=0)) == 0


def test_carve_val_takes_a_fifth_of_every_class() -> None:
    # 8 images: 1.6, rounded to 2; 10: 2; 12: 2.4 -> 2; 13: 2.6 -> 3
    labels = np.repeat([0, 1, 2, 3], [8, 10, 12, 13])
    train, val = carve_val(labels, seed=0)
    assert np.bincount(labels[val]).tolist() == [2, 2, 2, 3]
    assert sorted([*train, *val]) == list(range(43))
    assert (np.diff(train) > 0).all() and (np.diff(val) > 0).all()


def test_carve_val_takes_at_least_one_and_leaves_at_least_one() -> None:
    labels = np.array([0, 0, 1])  # class 0: 0.4 -> at least 1; class 1: a single image stays in train
    train, val = carve_val(labels, seed=0)
    assert labels[val].tolist() == [0]
    assert labels[train].tolist() == [0, 1]


def test_carve_val_rounds_half_up() -> None:
    assert len(carve_val(np.zeros(5, dtype=int), fraction=0.5, seed=0)[1]) == 3  # 2.5 -> 3


def test_carve_val_at_extreme_fractions_leaves_one_image_on_each_side() -> None:
    labels = np.repeat([0, 1], 10)
    assert np.bincount(labels[carve_val(labels, fraction=0.001, seed=0)[1]]).tolist() == [1, 1]
    assert np.bincount(labels[carve_val(labels, fraction=0.999, seed=0)[0]]).tolist() == [1, 1]


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5])
def test_carve_val_refuses_a_fraction_that_is_not_inside_zero_and_one(fraction: float) -> None:
    with pytest.raises(ValueError, match=rf"fraction must be in \(0, 1\), got {fraction}"):
        carve_val(np.array([0, 0]), fraction=fraction, seed=0)


def test_carve_val_is_decided_by_the_seed() -> None:
    labels = np.repeat(np.arange(5), 40)
    assert (carve_val(labels, seed=3)[1] == carve_val(labels, seed=3)[1]).all()
    assert (carve_val(labels, seed=3)[1] != carve_val(labels, seed=4)[1]).any()


def test_carve_val_of_nothing_is_nothing() -> None:
    train, val = carve_val(np.empty(0, dtype=np.int64), seed=0)
    assert len(train) == len(val) == 0


def test_groups_and_class_mask_follow_rows_and_classes() -> None:
    groups, mask = np.array(["x", "y", "x", "z"]), np.array([True, False, True])
    split = replace(make_split(), groups=groups, class_mask=mask)
    taken = split.take([3, 1])
    assert taken.groups is not None and taken.groups.tolist() == ["z", "y"] and taken.class_mask is mask
    chosen = split.select_classes([2, 0])  # labels were 0, 1, 2, 0
    assert chosen.groups is not None and chosen.groups.tolist() == ["x", "x", "z"]
    assert chosen.class_mask is not None and chosen.class_mask.tolist() == [True, True]
    assert split.fingerprint == make_split().fingerprint  # they say nothing about images or labels


def test_split_refuses_groups_and_a_class_mask_of_another_shape() -> None:
    with pytest.raises(ValueError, match=r"groups must have shape \(4,\), as labels, got \(3,\)"):
        replace(make_split(), groups=np.array(["a", "b", "c"]))
    with pytest.raises(ValueError, match=r"class_mask must have shape \(3,\), got \(2,\)"):
        replace(make_split(), class_mask=np.array([True, True]))
