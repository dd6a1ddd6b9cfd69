"""What the ridge head does beyond the contract of all heads."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch.nn import functional as F

from richrep.heads.ridge import RidgeHead
from richrep.heads.ridge_path import fit_ridge_path


def make_data(n: int = 60, d: int = 5, k: int = 3):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % k
    return torch.randn(n, d, generator=generator) + 2 * torch.randn(k, d, generator=generator)[labels], labels


def test_logits_are_those_of_scikit_learn() -> None:
    features, labels = make_data()
    head = RidgeHead(0.1).fit(features.double(), labels, num_classes=3)
    theirs = Ridge(alpha=60 * 0.1).fit(features.double().numpy(), F.one_hot(labels).double().numpy())
    np.testing.assert_allclose(head.logits(features.double()), theirs.predict(features.double().numpy()), rtol=1e-8)


@pytest.mark.parametrize("normalization", ["none", "standard", "block-rms"])
def test_the_layer_gives_the_logits(normalization) -> None:
    features, labels = make_data()
    head = RidgeHead(0.1, normalization=normalization, blocks=[(0, 2), (2, 5)]).fit(features, labels, num_classes=3)
    torch.testing.assert_close(head.to_linear()(features), head.logits(features), rtol=1e-5, atol=1e-6)


def test_no_layer_holds_block_l2() -> None:
    features, labels = make_data()
    head = RidgeHead(normalization="block-l2").fit(features, labels, num_classes=3)
    with pytest.raises(ValueError, match="'block-l2' is not linear in the raw features"):
        head.to_linear()


def test_half_precision_does_not_overflow() -> None:
    features, labels = make_data()
    large = (features * 1000).half()
    for normalization in ("none", "block-l2"):
        head = RidgeHead(normalization=normalization).fit(large, labels, num_classes=3)
        assert head.weight_.dtype == torch.float32
        assert (head.logits(large).argmax(1) == labels).double().mean() > 0.8


def test_labels_of_any_kind_are_counted_and_predicted() -> None:
    features, labels = make_data()
    names = np.array(["cat", "dog", "owl"])[labels]
    head = RidgeHead().fit(features.numpy(), names)
    assert head.classes_.tolist() == ["cat", "dog", "owl"]
    assert (head.predict(features.numpy()) == names).mean() > 0.8


def test_the_head_of_a_path_is_the_head_fitted_alone() -> None:
    features, labels = make_data()
    head = RidgeHead.from_path(fit_ridge_path(features, labels, num_classes=3), 0.1)
    alone = RidgeHead(0.1).fit(features, labels, num_classes=3)
    torch.testing.assert_close(head.logits(features), alone.logits(features))
    assert head.objective_ == pytest.approx(alone.objective_)


def test_bad_input_is_refused() -> None:
    features, labels = make_data()
    with pytest.raises(ValueError, match=r"l2 must be > 0 .* got \[0\]"):
        RidgeHead(0).fit(features, labels, num_classes=3)
    with pytest.raises(ValueError, match="at least two classes, got one class: 1"):
        RidgeHead().fit(features, labels * 0 + 1)
    with pytest.raises(ValueError, match=r"integers in \[0, 3\) with num_classes, got type float32"):
        RidgeHead().fit(features, labels.float(), num_classes=3)
