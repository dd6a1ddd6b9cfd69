import numpy as np
import pytest
import torch

from richrep.errors import FeatureError
from richrep.features.feature_set import Block, FeatureSet, SkippedImage, concat_features
from richrep.features.rows import Rows


def make_features(name: str, columns: list[list[float]], labels: list[int], **fields: object) -> FeatureSet:
    features = torch.tensor(columns).T
    blocks = (Block(name, 0, len(columns)),)
    return FeatureSet(features, torch.tensor(labels), 3, blocks, key=name, **fields)


def test_concatenation_puts_the_columns_side_by_side_and_says_whose_they_are() -> None:
    one = make_features("one", [[1.0, 2.0], [3.0, 4.0]], [0, 2])
    two = make_features("two", [[5.0, 6.0]], [0, 2])
    both = concat_features([one, two, one])
    assert both.features.tolist() == [[1, 3, 5, 1, 3], [2, 4, 6, 2, 4]]
    assert both.blocks == (Block("one", 0, 2), Block("two", 2, 3), Block("one", 3, 5))
    assert both.labels.tolist() == [0, 2]
    assert both.feature_dim == 5 and both.num_classes == 3


def test_concatenation_of_concatenations_keeps_the_members_apart() -> None:
    one, two = make_features("one", [[1.0], [2.0]], [0]), make_features("two", [[3.0]], [0])
    nested = concat_features([concat_features([one, two]), one])
    assert nested.blocks == (Block("one", 0, 2), Block("two", 2, 3), Block("one", 3, 5))


def test_concatenation_of_one_is_that_one_and_of_none_an_error() -> None:
    one = make_features("one", [[1.0]], [0])
    assert concat_features([one]) is one
    with pytest.raises(ValueError, match="at least one FeatureSet, got none"):
        concat_features([])


def test_the_key_of_a_concatenation_depends_on_members_and_order() -> None:
    one, two = make_features("one", [[1.0]], [0]), make_features("two", [[1.0]], [0])
    keys = {concat_features(m).key for m in ([one, two], [two, one], [one, one], [one, two, one])}
    assert len(keys) == 4


def skipped(row: int, name: str = "a.png") -> tuple[SkippedImage, ...]:
    return (SkippedImage(row, name, "torn"),)


@pytest.mark.parametrize(
    "other",
    [
        make_features("two", [[1.0, 2.0]], [0, 1]),
        make_features("two", [[1.0, 2.0, 3.0]], [0, 2, 1]),
        make_features("two", [[1.0, 2.0]], [0, 2], skipped=skipped(7)),
        make_features("two", [[1.0, 2.0]], [0, 2], images="another split"),
    ],
    ids=["labels", "count", "skipped", "images"],
)
def test_features_of_different_images_are_not_concatenated(other: FeatureSet) -> None:
    one = make_features("one", [[1.0, 2.0]], [0, 2], images="a split")
    with pytest.raises(FeatureError, match=r"'two' .* and 'one' \(2 rows\) are not of the same images"):
        concat_features([one, other])


def test_the_same_skipped_image_under_another_path_is_the_same_image() -> None:
    one = make_features("one", [[1.0]], [0], skipped=skipped(1, "here/a.png"))
    two = make_features("two", [[1.0]], [0], skipped=skipped(1, "there/a.png"))
    assert concat_features([one, two]).feature_dim == 2


def test_take_picks_rows_in_the_given_order_and_changes_the_key() -> None:
    features = make_features("one", [[10.0, 11.0, 12.0]], [0, 1, 2], images="a split")
    taken = features.take(np.array([2, 0]))
    assert taken.features.tolist() == [[12], [10]]
    assert taken.labels.tolist() == [2, 0]
    assert len({features.key, taken.key, features.take(np.array([0, 2])).key}) == 3
    assert len({features.images, taken.images, features.take(np.array([0, 2])).images}) == 3
    assert features.take(torch.tensor([2, 0])).key == taken.key


def test_take_copies() -> None:
    features = make_features("one", [[10.0, 11.0]], [0, 1])
    features.take(np.array([0, 1])).features.zero_()
    assert features.features.tolist() == [[10], [11]]


def test_rows_too_large_to_be_copied_stay_where_they_are() -> None:
    features = make_features("one", [[10.0, 11.0], [20.0, 21.0]], [0, 1])
    copied, apart = (features.take(np.array([1]), max_bytes=size) for size in (8, 7))  # 1 row of 2 values of 4 bytes
    assert isinstance(copied.features, torch.Tensor) and isinstance(apart.features, Rows)
    assert apart.features.members == (features.features,)  # the same tensor, not a copy
    assert torch.equal(apart.features[:], copied.features)
    assert (apart.labels.tolist(), apart.key) == ([1], copied.key)


def test_take_with_a_mask_picks_the_true_rows() -> None:
    features = make_features("one", [[10.0, 11.0, 12.0]], [0, 1, 2])
    assert features.take(np.array([True, False, True])).labels.tolist() == [0, 2]
    assert features.take(np.array([True, False, True])).key == features.take(np.array([0, 2])).key
    with pytest.raises(ValueError, match=r"mask of rows must have shape \(3,\), got \(2,\)"):
        features.take(np.array([True, False]))


def test_features_and_labels_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got \(2, 1\) and \(1,\)"):
        make_features("one", [[1.0, 2.0]], [0])


def test_members_too_large_to_be_copied_stay_side_by_side_and_hold_the_same() -> None:
    one = make_features("one", [[1.0, 2.0], [3.0, 4.0]], [0, 2])
    two = make_features("two", [[5.0, 6.0]], [0, 2])
    joined, apart = concat_features([one, two], max_bytes=24), concat_features([one, two], max_bytes=23)
    assert isinstance(joined.features, torch.Tensor) and isinstance(apart.features, Rows)
    assert apart.features.members == (one.features, two.features)  # the same tensors, not copies
    assert torch.equal(apart.features[:], joined.features)
    assert (apart.blocks, apart.key, apart.feature_dim) == (joined.blocks, joined.key, joined.feature_dim)


def test_side_by_side_can_be_taken_from_and_concatenated_again() -> None:
    one, two = make_features("one", [[1.0, 2.0]], [0, 1]), make_features("two", [[3.0, 4.0]], [0, 1])
    apart = concat_features([one, two], max_bytes=0)
    assert apart.take(np.array([1])).features.tolist() == [[2, 4]]
    assert concat_features([apart, one]).features.tolist() == [[1, 3, 1], [2, 4, 2]]
