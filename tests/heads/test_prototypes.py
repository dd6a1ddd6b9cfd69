"""Class means against scikit-learn's NearestCentroid, and by hand."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestCentroid

from richrep.features.pca import fit_named
from richrep.heads.prototypes import METRICS, PrototypesHead, class_means

pytestmark = pytest.mark.filterwarnings("ignore:self.within_class_std_dev_")  # NearestCentroid on constant pixels
Digits = tuple[np.ndarray, np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def digits() -> Digits:
    pixels, labels = load_digits(return_X_y=True)
    return pixels[:400], labels[:400], pixels[400:700]


def test_euclidean_prototypes_are_scikit_learns_centroids(digits: Digits) -> None:
    train, labels, new = digits
    theirs = NearestCentroid().fit(train, labels)
    ours = PrototypesHead().fit(train, labels)
    np.testing.assert_allclose(ours.prototypes_, theirs.centroids_, atol=1e-12)
    np.testing.assert_array_equal(ours.predict(new), theirs.predict(new))


def test_cosine_prototypes_are_the_means_of_unit_features(digits: Digits) -> None:
    train, labels, new = digits
    unit = train / np.linalg.norm(train, axis=1, keepdims=True)
    means = np.stack([unit[labels == k].mean(0) for k in range(10)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    cosines = (new / np.linalg.norm(new, axis=1, keepdims=True)) @ means.T
    ours = PrototypesHead("cosine", temperature=0.2).fit(train, labels)
    np.testing.assert_allclose(ours.logits(new), cosines / 0.2, atol=1e-9)
    np.testing.assert_array_equal(ours.predict(new), cosines.argmax(1))


def test_the_logits_are_scaled_squared_distances_by_hand() -> None:
    # Means 1 and 8; the overall mean is 4.5 and s² = (4.5² + 2.5² + 2.5² + 4.5²)/4 = 13.25. At x = 3, with T = 0.5,
    # -d²/(2·T·s²) is -4/13.25 and -25/13.25: a difference of 21/13.25.
    features = torch.tensor([[0.0], [2.0], [7.0], [9.0]], dtype=torch.float64)
    head = PrototypesHead(temperature=0.5).fit(features, torch.tensor([0, 0, 1, 1]))
    assert head.prototypes_.flatten().tolist() == [1, 8]
    logits = head.logits(torch.tensor([[3.0]], dtype=torch.float64))
    assert (logits[0, 0] - logits[0, 1]).item() == pytest.approx(21 / 13.25)


@pytest.mark.parametrize("metric", METRICS)
def test_the_scale_of_the_features_changes_nothing(digits: Digits, metric: str) -> None:
    train, labels, new = digits
    expected = PrototypesHead(metric).fit(train, labels).predict_proba(new)
    np.testing.assert_allclose(PrototypesHead(metric).fit(1e4 * train, labels).predict_proba(1e4 * new), expected)


@pytest.mark.parametrize("metric", METRICS)
def test_the_temperature_changes_how_sure_it_is_not_what_it_says(digits: Digits, metric: str) -> None:
    train, labels, new = digits
    sharp, soft = (PrototypesHead(metric, temperature=t).fit(train, labels).logits(new) for t in (0.1, 0.4))
    torch.testing.assert_close(sharp.log_softmax(1), (4 * soft).log_softmax(1), rtol=1e-7, atol=1e-7)


def test_a_large_common_offset_costs_no_digits(digits: Digits) -> None:
    train, labels, _ = (torch.as_tensor(values) for values in digits)
    near = class_means(train, labels, 10, fit_named("none", train), unit=False)
    far = class_means(train + 2.0**30, labels, 10, fit_named("none", train), unit=False)
    torch.testing.assert_close(far[0] - 2.0**30, near[0], rtol=0, atol=1e-6)
    assert far[2] == pytest.approx(near[2], rel=1e-9)
    assert near[2] == pytest.approx(float(train.var(0, correction=0).sum()))
    assert near[1].tolist() == torch.bincount(labels).tolist()


def test_features_that_are_all_alike_give_every_class_the_same() -> None:
    probs = PrototypesHead().fit(torch.ones(4, 2), torch.tensor([0, 0, 1, 1])).predict_proba(torch.ones(1, 2))
    assert probs.tolist() == [[0.5, 0.5]]


def test_cosine_prototypes_give_no_layer(digits: Digits) -> None:
    with pytest.raises(ValueError, match="cosine prototypes are not linear in the raw features"):
        PrototypesHead("cosine").fit(digits[0], digits[1]).to_linear()


def test_bad_options_are_refused(digits: Digits) -> None:
    with pytest.raises(ValueError, match=r"Unknown metric 'euclidian'\. Did you mean 'euclidean'"):
        PrototypesHead("euclidian").fit(digits[0], digits[1])
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=f"temperature must be > 0, got {bad}"):
            PrototypesHead(temperature=bad).fit(digits[0], digits[1])
