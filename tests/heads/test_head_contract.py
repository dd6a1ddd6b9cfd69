"""What every head can do, whatever its method: one file over all members of HEADS."""

import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import check_estimator

from richrep.errors import FeatureError
from richrep.features.pca import fit_named
from richrep.heads import HEADS
from richrep.heads.estimator import EstimatorHead as Head
from richrep.heads.estimator import as_blocks

MAKE_HEAD: dict[str, Callable[[], Head]] = {  # with the options under which the contract is tested
    "logistic": lambda: HEADS["logistic"](),
    "ridge": lambda: HEADS["ridge"](),
    "knn": lambda: HEADS["knn"](),
    "prototypes": lambda: HEADS["prototypes"](),
    "cosine": lambda: HEADS["cosine"](tol=1e-9),
    "sgd": lambda: HEADS["sgd"](lr=0.3, epochs=60, batch_size=1000),  # one batch, in which the order does not count
}
LINEAR = [name for name in MAKE_HEAD if hasattr(HEADS[name], "to_linear")]
SKIPPED_CHECKS = {
    "check_array_api_input": "array API dispatch is not switched on",
    "check_classifier_data_not_an_array": "pandas is no dependency",
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


def test_the_order_of_the_rows_asked_for_does_not_matter(head: Head) -> None:
    features, labels = make_data()
    logits = head.fit(features, labels, num_classes=3).logits(features)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(head.logits(features[order]), logits[order], rtol=1e-5, atol=1e-5)


def test_two_classes_have_two_columns_and_scikit_learns_one_decision(head: Head) -> None:
    features, labels = make_data(k=2)
    logits = head.fit(features, labels, num_classes=2).logits(features)
    assert logits.shape == (60, 2)
    assert (logits.argmax(1) == labels).double().mean() > 0.8
    np.testing.assert_allclose(head.decision_function(features), logits[:, 1] - logits[:, 0], atol=1e-6)
    np.testing.assert_allclose(head.predict_proba(features).sum(1), 1, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_float16_is_computed_in_float32_and_float64_stays(head: Head, dtype: torch.dtype) -> None:
    features, labels = make_data()
    features = features.half()  # the values that all three types hold
    expected = head.fit(features.double(), labels, num_classes=3).logits(features.double()).softmax(1)
    logits = head.fit(features.to(dtype), labels, num_classes=3).logits(features.to(dtype))
    assert logits.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(logits.softmax(1).double(), expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("normalization", ["standard", "block-rms", "block-l2", "l2", "pca:2", "block-l2+pca:3"])
def test_a_normalisation_is_part_of_the_head(head: Head, normalization: str) -> None:
    """Fitted on the training rows and applied by the head: the same as handing it normalised features."""
    features, labels = make_data(n=90)
    features = features * torch.tensor([1.0, 10.0, 0.1, 3.0, 1.0]) + 1
    blocks = [(0, 2), (2, 5)]
    train, new = features[:60], features[60:]
    head.set_params(normalization=normalization, blocks=blocks).fit(train, labels[:60], num_classes=3)
    normalise = fit_named(normalization, train, blocks=as_blocks(blocks)).apply
    plain = clone(head).set_params(normalization="none", blocks=None)
    expected = plain.fit(normalise(train), labels[:60], num_classes=3).logits(normalise(new)).softmax(1)
    torch.testing.assert_close(head.logits(new).softmax(1), expected, rtol=0, atol=5e-3)


def test_an_unknown_normalization_gets_a_guess(head: Head) -> None:
    with pytest.raises(ValueError, match=r"Unknown normalization 'block_rms'\. Did you mean 'block-rms'"):
        head.set_params(normalization="block_rms").fit(*make_data(), num_classes=3)


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("normalization", ["none", "standard", "block-rms", "pca:3", "standard+pca:3"])
def test_the_layer_of_a_linear_head_gives_its_probabilities_on_raw_features(name: str, normalization: str) -> None:
    features, labels = make_data()
    features = features.double() * torch.tensor([1.0, 10.0, 0.1, 3.0, 1.0]) + 5
    head = MAKE_HEAD[name]().set_params(normalization=normalization, blocks=[(0, 2), (2, 5)])
    layer = head.fit(features, labels, num_classes=3).to_linear()
    assert (layer.in_features, layer.out_features) == (5, 3)
    torch.testing.assert_close(layer(features).detach(), head.logits(features))
    head.set_params(normalization="l2").fit(features, labels, num_classes=3)
    with pytest.raises(ValueError, match="'l2' is not linear in the raw features"):
        head.to_linear()


def test_scikit_learns_estimator_checks_pass(head: Head) -> None:
    results = check_estimator(head, on_skip=None, on_fail=None)
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    assert not failed
    assert {r["check_name"] for r in results if r["status"] == "skipped"} <= set(SKIPPED_CHECKS)
    assert sum(r["status"] == "passed" for r in results) > 40


def test_a_pickled_head_gives_the_same(head: Head) -> None:
    features, labels = make_data()
    logits = head.fit(features, labels, num_classes=3).logits(features)
    assert torch.equal(pickle.loads(pickle.dumps(head)).logits(features), logits)


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
    head.fit(*make_data(), num_classes=3)
    features[13, 0] = torch.nan
    with pytest.raises(FeatureError, match="features of row 13"):
        head.logits(features)


def test_one_class_is_nothing_to_learn(head: Head) -> None:
    features, labels = make_data()
    with pytest.raises(ValueError, match="at least two classes, got 1 among 60 training rows"):
        head.fit(features, labels * 0, num_classes=3)
    with pytest.raises(ValueError, match="num_classes must be at least 2, got 1"):
        head.fit(features, labels * 0, num_classes=1)


def test_features_and_labels_must_be_as_many(head: Head) -> None:
    features, labels = make_data()
    with pytest.raises(ValueError, match=r"labels must have shape \(60,\) as there are 60 rows, got \(59,\)"):
        head.fit(features, labels[1:], num_classes=3)


@pytest.mark.parametrize("shape", [(4,), (4, 3, 2), (0, 5), (4, 0)])
def test_features_must_be_a_matrix(head: Head, shape: tuple[int, ...]) -> None:
    with pytest.raises(FeatureError, match=r"features must have shape \(N, D\)"):
        head.fit(torch.zeros(shape), torch.tensor([0, 1, 0, 1]), num_classes=2)


def test_every_head_is_in_this_file() -> None:
    assert set(MAKE_HEAD) == set(HEADS), "add the new head to MAKE_HEAD"
