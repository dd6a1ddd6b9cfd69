from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from richrep.data.datasets import load_dataset, load_split


def test_load_split_digits_train_works() -> None:
    split = load_split("digits", "train")
    assert (split.dataset, split.part, split.num_classes) == ("digits", "train", 10)
    assert split.class_names == tuple("0123456789")
    assert split.note == "split 70/30 per class, seed 0"


def test_thirty_percent_of_every_class_is_test_and_nothing_is_lost() -> None:
    dataset = load_dataset("digits")
    in_all = np.bincount(load_digits().target)
    in_test = np.bincount(dataset.test.labels)
    assert in_test.tolist() == [int(n * 0.3 + 0.5) for n in in_all]
    assert sorted([*dataset.train.positions, *dataset.test.positions]) == list(range(1797))


def test_the_first_ten_digits_are_one_of_each_class() -> None:
    dataset = load_dataset("digits")
    for split in (dataset.train, dataset.test):
        assert split.labels[:20].tolist() == [*range(10)] * 2


def test_pixels_are_scaled_from_sixteen_to_255_in_all_three_channels() -> None:
    split = load_split("digits", "train")
    original = load_digits()
    row = 7
    pixels = np.asarray(split.load_image(row))  # (8, 8, 3)
    expected = np.floor(original.images[split.positions[row]] * 255 / 16 + 0.5)  # 16 -> 255, 8 -> 127.5 -> 128
    assert (pixels == expected[..., None]).all()
    assert original.target[split.positions[row]] == split.labels[row]
    assert split.image_name(row) == f"digits image {split.positions[row]}"


def test_the_digits_never_change() -> None:
    # recorded when the split was laid down; results of different versions compare only while it holds
    assert load_split("digits", "train").fingerprint.startswith("2181e516729dc075")
    assert load_split("digits", "test").fingerprint.startswith("1a4ce305ec0b0250")
