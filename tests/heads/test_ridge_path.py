"""The penalty path of ridge regression against scikit-learn, and leave-one-out against refits."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge, RidgeCV
from torch.nn import functional as F

from richrep.errors import RichrepError
from richrep.features.feature_set import Block
from richrep.features.memory import FRUGAL, MemoryBudget
from richrep.features.normalize import NORMALIZATIONS
from richrep.heads.ridge_path import RidgePath, fit_ridge_path

L2S = (1e-4, 1e-2, 1.0, 100.0)
BLOCKS = (Block("a", 0, 3), Block("b", 3, 7))


def make_data(n: int = 40, d: int = 7, k: int = 3, *, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % k
    features = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return (features + torch.randn(k, d, generator=generator)[labels] + 5).to(dtype), labels


def all_leave_one_out(path: RidgePath, l2s=L2S) -> torch.Tensor:
    return torch.cat([logits for _, logits in path.leave_one_out(l2s)], dim=1)


@pytest.mark.parametrize(("n", "d"), [(40, 7), (12, 30)])
@pytest.mark.parametrize("side", ["columns", "samples"])
def test_weights_and_biases_are_those_of_scikit_learn(n, d, side) -> None:
    features, labels = make_data(n, d)
    path = fit_ridge_path(features, labels, num_classes=3, side=side)
    targets = F.one_hot(labels).double().numpy()
    for l2 in L2S:
        theirs = Ridge(alpha=n * l2).fit(features.numpy(), targets)
        weights, biases = path.linear(l2)
        np.testing.assert_allclose(weights, theirs.coef_, rtol=1e-7, atol=1e-10)
        np.testing.assert_allclose(biases, theirs.intercept_, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize(("n", "d"), [(40, 7), (12, 30)])
@pytest.mark.parametrize("side", ["columns", "samples"])
def test_leave_one_out_errors_are_those_of_scikit_learn(n, d, side) -> None:
    features, labels = make_data(n, d)
    targets = F.one_hot(labels).double()
    ours = all_leave_one_out(fit_ridge_path(features, labels, num_classes=3, side=side))
    theirs = RidgeCV(alphas=[n * l2 for l2 in L2S], store_cv_results=True).fit(features.numpy(), targets.numpy())
    squared = (ours - targets).square().permute(1, 2, 0)  # (N, K, L), as they keep them
    np.testing.assert_allclose(squared, theirs.cv_results_, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("side", ["columns", "samples"])
def test_leaving_a_row_out_equals_a_refit_without_it(side) -> None:
    features, labels = make_data(15, 4)
    ours = all_leave_one_out(fit_ridge_path(features, labels, num_classes=3, side=side))
    targets = F.one_hot(labels).double().numpy()
    for i in range(15):
        rest = np.delete(np.arange(15), i)
        for j, l2 in enumerate(L2S):  # the objective of all 15 rows without one: the sum, not the mean, stays
            refit = Ridge(alpha=15 * l2).fit(features[rest].numpy(), targets[rest])
            np.testing.assert_allclose(ours[j, i], refit.predict(features[i : i + 1].numpy())[0], rtol=1e-7, atol=1e-9)


def test_accuracies_count_what_leave_one_out_classifies_rightly() -> None:
    features, labels = make_data()
    path = fit_ridge_path(features, labels, num_classes=3)
    expected = (all_leave_one_out(path).argmax(2) == labels).double().mean(1)
    assert torch.equal(path.leave_one_out_accuracies(L2S), expected)
    assert 0.4 < expected.max() <= 1


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize(("n", "d"), [(40, 7), (6, 7)])
def test_both_sides_give_the_same(normalization, n, d) -> None:
    features, labels = make_data(n, d)
    one, other = (
        fit_ridge_path(features, labels, num_classes=3, normalization=normalization, blocks=BLOCKS, side=side)
        for side in ("columns", "samples")
    )
    for l2 in L2S:
        for a, b in zip(one.linear(l2), other.linear(l2), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)
        assert one.objective(l2) == pytest.approx(other.objective(l2), rel=1e-9)
    torch.testing.assert_close(all_leave_one_out(one), all_leave_one_out(other), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_the_objective_is_that_of_the_weights_and_no_step_lowers_it(normalization) -> None:
    features, labels = make_data()
    path = fit_ridge_path(features, labels, num_classes=3, normalization=normalization, blocks=BLOCKS)
    values, targets = path.normalization.apply(features), F.one_hot(labels).double()

    def objective(weights: torch.Tensor, biases: torch.Tensor, l2: float) -> float:
        residuals = targets - values @ weights.T - biases
        return float(residuals.square().sum(1).mean() / 2 + l2 / 2 * weights.square().sum())

    generator = torch.Generator().manual_seed(1)
    for l2 in L2S:
        weights, biases = path.linear(l2)
        weights = weights / path.normalization.scale if path.normalization.folds else weights
        found = objective(weights, biases, l2)
        assert path.objective(l2) == pytest.approx(found, rel=1e-9)
        step = 1e-3 * torch.randn(3, 7, generator=generator, dtype=torch.float64)
        assert objective(weights + step, biases, l2) > found
        assert objective(weights, biases + 1e-3, l2) > found


def test_chosen_rows_equal_a_matrix_of_those_rows() -> None:
    features, labels = make_data()
    rows = torch.arange(0, 40, 2)
    for side in ("columns", "samples"):
        chosen = fit_ridge_path(features, labels, num_classes=3, rows=rows, side=side)
        copied = fit_ridge_path(features[rows], labels[rows], num_classes=3, side=side)
        for a, b in zip(chosen.linear(0.1), copied.linear(0.1), strict=True):
            torch.testing.assert_close(a, b)
        torch.testing.assert_close(all_leave_one_out(chosen), all_leave_one_out(copied))


def test_many_chunks_equal_one(monkeypatch) -> None:
    features, labels = make_data()
    for side in ("columns", "samples"):
        whole = fit_ridge_path(features, labels, num_classes=3, side=side)
        expected = whole.linear(0.1), all_leave_one_out(whole)
        with monkeypatch.context() as patch:
            patch.setattr("richrep.heads.ridge_path._CHUNK_VALUES", 21)  # 3 rows
            patch.setattr("richrep.features.normalize._CHUNK_VALUES", 21)
            parts = fit_ridge_path(features, labels, num_classes=3, side=side, memory=replace(FRUGAL, pair_values=36))
            assert len(list(parts.leave_one_out(L2S))) > 5
            for a, b in zip(parts.linear(0.1), expected[0], strict=True):
                torch.testing.assert_close(a, b)
            torch.testing.assert_close(all_leave_one_out(parts), expected[1])


def test_the_smaller_side_is_taken() -> None:
    assert fit_ridge_path(*make_data(40, 7), num_classes=3).side == "columns"
    assert fit_ridge_path(*make_data(6, 7), num_classes=3).side == "samples"


def test_rows_in_a_mapped_file_and_float32_are_taken(tmp_path) -> None:
    features, labels = make_data(dtype=torch.float32)
    np.save(tmp_path / "x.npy", features.numpy())
    mapped = torch.from_numpy(np.load(tmp_path / "x.npy", mmap_mode="c"))
    weights, _ = fit_ridge_path(mapped, labels, num_classes=3).linear(0.1)
    assert weights.dtype == torch.float32
    exact, _ = fit_ridge_path(features.double(), labels, num_classes=3).linear(0.1)
    torch.testing.assert_close(weights.double(), exact, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("l2", [0.0, -1.0, float("nan"), float("inf")])
def test_a_penalty_that_is_none_is_refused(l2) -> None:
    with pytest.raises(ValueError, match=f"l2 must be > 0 and finite for every penalty, got \\[{l2}\\]"):
        fit_ridge_path(*make_data(), num_classes=3).linear(l2)


def test_one_class_alone_is_refused() -> None:
    features, labels = make_data()
    with pytest.raises(ValueError, match="at least two classes, got 1 among 40 training rows"):
        fit_ridge_path(features, labels * 0, num_classes=3)


@pytest.mark.parametrize(
    ("shape", "classes", "words"),
    [
        # 24 bytes for each of 1,600² values are 61 MB, 60 % of 102.4 MB; by columns and by samples
        ((1700, 1600), 2, r"Gram matrix of 1,600 x 1,600 .* takes 61 MB, so at least 103 MB are needed"),
        ((1600, 1700), 2, r"Gram matrix of 1,600 x 1,600 .* takes 61 MB, so at least 103 MB are needed"),
        # 56 bytes for each of 7,000 x 100 values are 39.2 MB, 35 % of 112 MB
        ((7000, 100), 7000, r"7,000 classes takes 39 MB, so at least 113 MB are needed"),
    ],
)
def test_a_limit_too_small_says_what_would_do(shape, classes, words) -> None:
    features, labels = torch.zeros(shape), torch.arange(shape[0]) % classes
    with pytest.raises(RichrepError, match=words):
        fit_ridge_path(features, labels, num_classes=classes, memory=MemoryBudget.of("100MB"))
