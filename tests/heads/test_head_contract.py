"""What every head can do, whatever its method: one file over all members of HEADS."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError

from richrep.errors import FeatureError
from richrep.heads import HEADS
from richrep.heads.head import Head

MAKE_HEAD: dict[str, Callable[[], Head]] = {  # with the options under which the contract is tested
    "logistic": lambda: HEADS["logistic"](),
}


def make_data(n: int = 60, d: int = 5, k: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % k
    return torch.randn(n, d, generator=generator) + 2 * torch.randn(k, d, generator=generator)[labels], labels


@pytest.fixture(params=list(MAKE_HEAD))
def head(request: pytest.FixtureRequest) -> Head:
    return MAKE_HEAD[request.param]()


def test_fit_returns_the_head_itself(head: Head) -> None:
    assert head.fit(*make_data(), num_classes=3) is head


def test_fit_may_be_repeated_and_forgets_what_was_before(head: Head) -> None:
    features, labels = make_data()
    first = head.fit(features, labels, num_classes=3).logits(features)
    head.fit(-features[:30, :4], labels[:30] % 2, num_classes=2)
    assert head.logits(features[:, :4]).shape == (60, 2)
    assert torch.equal(head.fit(features, labels, num_classes=3).logits(features), first)


def test_logits_have_a_column_a_class_and_find_easy_classes(head: Head) -> None:
    features, labels = make_data()
    logits = head.fit(features, labels, num_classes=3).logits(features)
    assert logits.shape == (60, 3)
    assert logits.is_floating_point() and logits.isfinite().all()
    assert (logits.argmax(1) == labels).double().mean() > 0.8


def test_classes_are_counted_where_they_are_not_said(head: Head) -> None:
    features, labels = make_data()
    said = head.fit(features, labels, num_classes=3).logits(features)
    assert torch.equal(head.fit(features, labels).logits(features), said)


def test_a_class_without_rows_keeps_its_column_and_is_never_predicted(head: Head) -> None:
    features, labels = make_data()
    logits = head.fit(features, labels * 2, num_classes=6).logits(features)  # classes 0, 2, 4 of 6
    assert logits.shape == (60, 6)
    assert not logits.isnan().any()
    assert set(logits.argmax(1).tolist()) == {0, 2, 4}


def test_logits_twice_give_the_same_and_change_nothing(head: Head) -> None:
    features, labels = make_data()
    head.fit(features, labels, num_classes=3)
    before = features.clone()
    assert torch.equal(head.logits(features), head.logits(features))
    assert torch.equal(features, before)


def test_fit_does_not_write_to_its_inputs(head: Head) -> None:
    features, labels = make_data()
    before, labels_before = features.clone(), labels.clone()
    head.fit(features, labels, num_classes=3)
    assert torch.equal(features, before) and torch.equal(labels, labels_before)


def test_batch_size_does_not_matter(head: Head) -> None:
    features, labels = make_data()
    head.fit(features, labels, num_classes=3)
    batches = torch.cat([head.logits(features[i : i + 7]) for i in range(0, 60, 7)])
    torch.testing.assert_close(batches, head.logits(features), rtol=1e-5, atol=1e-5)


def test_the_order_of_training_rows_does_not_matter(head: Head) -> None:
    features, labels = make_data()
    expected = head.fit(features, labels, num_classes=3).logits(features).softmax(1)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    shuffled = head.fit(features[order], labels[order], num_classes=3).logits(features).softmax(1)
    torch.testing.assert_close(shuffled, expected, rtol=0, atol=5e-3)


def test_arrays_are_taken_as_well_as_tensors(head: Head) -> None:
    features, labels = make_data()
    expected = head.fit(features, labels, num_classes=3).logits(features)
    head.fit(features.numpy(), labels.numpy(), num_classes=3)
    torch.testing.assert_close(head.logits(features.numpy()), expected)
    assert isinstance(head.logits(np.asarray(features)), torch.Tensor)


def test_the_global_random_generator_is_left_alone(head: Head) -> None:
    before = torch.random.get_rng_state()
    head.fit(*make_data(), num_classes=3).logits(make_data()[0])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_another_width_is_refused(head: Head) -> None:
    head.fit(*make_data(), num_classes=3)
    with pytest.raises(FeatureError, match=r"\(N, 5\) as in fit, got \(2, 4\)"):
        head.logits(torch.zeros(2, 4))


def test_use_before_fit_is_refused(head: Head) -> None:
    with pytest.raises(NotFittedError, match=f"This {type(head).__name__} is not fitted yet"):
        head.logits(make_data()[0])


def test_labels_out_of_range_are_refused(head: Head) -> None:
    features, labels = make_data()
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 2\), got 2"):
        head.fit(features, labels, num_classes=2)


def test_values_that_are_not_finite_are_refused_by_row(head: Head) -> None:
    features, labels = make_data()
    features[13, 0] = torch.inf
    with pytest.raises(FeatureError, match="features of row 13"):
        head.fit(features, labels, num_classes=3)


def test_every_head_is_in_this_file() -> None:
    assert set(MAKE_HEAD) == set(HEADS), "add the new head to MAKE_HEAD"
