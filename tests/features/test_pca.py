"""Principal components against scikit-learn's, and what they refuse."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from richrep.errors import FeatureError, MemoryLimitError, RichrepError
from richrep.features.feature_set import Block
from richrep.features.memory import MemoryBudget
from richrep.features.normalize import NORMALIZATIONS, fit_normalization, moments
from richrep.features.pca import fit_named, fit_pca, split_pca

BLOCKS = (Block("a", 0, 5), Block("b", 5, 9))


def correlated(n: int, d: int = 9, *, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(d, d, generator=generator, dtype=torch.float64)
    return (torch.randn(n, d, generator=generator, dtype=torch.float64) @ mixing + 3).to(dtype)


def same_up_to_sign(ours: torch.Tensor, theirs: np.ndarray, atol: float = 1e-9) -> None:
    """Columns agree but for their signs, which are arbitrary."""
    signs = np.sign((ours.numpy() * theirs).sum(0))
    np.testing.assert_allclose(ours.numpy() * signs, theirs, atol=atol)


@pytest.mark.parametrize("n", [60, 7], ids=["N>D", "N<D"])
@pytest.mark.parametrize("count", [1, 4, 6])
def test_scores_are_scikit_learns(n: int, count: int) -> None:
    features, new = correlated(n), correlated(90)[n:]
    theirs = PCA(count, svd_solver="full").fit(features.numpy())
    ours = fit_pca(features, num_components=count)
    same_up_to_sign(ours.apply(features), theirs.transform(features.numpy()))
    same_up_to_sign(ours.apply(new), theirs.transform(new.numpy()))
    same_up_to_sign(ours.project(features, None), theirs.transform(features.numpy()))
    torch.testing.assert_close(ours.components @ ours.components.T, torch.eye(count, dtype=torch.float64))


def test_all_components_of_digits_keep_every_distance() -> None:
    pixels = torch.from_numpy(load_digits().data[:300])
    rank = int(np.linalg.matrix_rank(pixels.numpy() - pixels.numpy().mean(0)))
    assert rank < 64  # some corners are never written on
    scores = fit_pca(pixels, num_components=rank).apply(pixels)
    torch.testing.assert_close(torch.pdist(scores), torch.pdist(pixels))
    with pytest.raises(
        FeatureError, match=rf"needs {rank + 1} directions .* 300 training rows of 64 features have {rank}"
    ):
        fit_pca(pixels, num_components=rank + 1)


def test_only_the_given_rows_are_fitted() -> None:
    features = correlated(40)
    rows = torch.tensor([3, 17, 4, 0, 22, 39])
    chosen, copied = fit_pca(features, rows, num_components=3), fit_pca(features[rows], num_components=3)
    torch.testing.assert_close(chosen.mean, copied.mean)
    torch.testing.assert_close(chosen.project(features, rows), copied.project(features[rows], None))


@pytest.mark.parametrize("before", NORMALIZATIONS)
def test_it_follows_another_normalisation(before: str) -> None:
    features = correlated(50)
    first = fit_normalization(before, moments(features, with_gram=False), blocks=BLOCKS, dtype=features.dtype)
    ours = fit_named(f"{before}+pca:3", features, blocks=BLOCKS)
    same_up_to_sign(ours.apply(features), PCA(3, svd_solver="full").fit_transform(first.apply(features).numpy()))
    assert ours.name == ("pca:3" if before == "none" else f"{before}+pca:3")
    assert ours.folds == first.folds and ours.blocks == ((0, 5), (5, 9))


@pytest.mark.parametrize("before", ["none", "standard", "block-rms"])
def test_folded_weights_act_on_raw_features_and_unfold_again(before: str) -> None:
    features = correlated(50)
    pca = fit_named(f"{before}+pca:3", features, blocks=BLOCKS)
    generator = torch.Generator().manual_seed(1)
    weights, biases = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((4, 3), (4,)))
    folded, offsets = pca.fold(weights, biases)
    torch.testing.assert_close(features @ folded.T + offsets, pca.apply(features) @ weights.T + biases)
    again, same = pca.unfold(folded, offsets)
    torch.testing.assert_close(again, weights)
    torch.testing.assert_close(same, biases)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_the_type_of_the_features_stays(dtype: torch.dtype) -> None:
    features = correlated(50, dtype=dtype)
    pca = fit_pca(features, num_components=2)
    assert pca.apply(features).dtype == dtype
    exact = PCA(2).fit_transform(features.double().numpy())
    same_up_to_sign(pca.project(features.float(), None).double(), exact, atol=1e-4)


def test_names_are_read_and_refused_with_their_reason() -> None:
    assert split_pca("standard") == ("standard", 0)
    assert split_pca("pca:12") == ("none", 12)
    assert split_pca("block-l2+pca:1") == ("block-l2", 1)
    with pytest.raises(RichrepError, match=r"Unknown normalization 'standart'\. Did you mean 'standard'"):
        split_pca("standart+pca:3")
    with pytest.raises(RichrepError, match=r"Unknown normalization 'pca'\. .*pca:C"):
        split_pca("pca")
    for bad in ("pca:0", "pca:-3", "pca:x", "pca:", "none+pca:1.5"):
        with pytest.raises(RichrepError, match=rf"at least 1, got '{bad.replace('+', '[+]')}'\. Write e\.g\. pca:64"):
            split_pca(bad)


@pytest.mark.parametrize("name", ["standard", "none"])
def test_without_pca_it_is_the_plain_normalisation(name: str) -> None:
    features = correlated(20)
    plain = fit_normalization(name, moments(features, with_gram=False), dtype=features.dtype)
    torch.testing.assert_close(fit_named(name, features).apply(features), plain.apply(features))


def test_constant_features_have_no_direction() -> None:
    with pytest.raises(FeatureError, match=r"the 5 training rows of 3 features have 0\. They are constant"):
        fit_pca(torch.ones(5, 3), num_components=1)


def test_a_projection_that_is_larger_than_the_limit_is_refused_with_the_limit_that_would_do() -> None:
    features, limit = torch.randn(1000, 30), replace(MemoryBudget.of("100MB"), rotated=30_000, square=30_000)
    pca = fit_pca(features, num_components=8, memory=MemoryBudget.of("100MB"))
    with pytest.raises(MemoryLimitError, match=r"projection of 1,000 images on 8 components .* --memory-limit"):
        pca.project(features, None, memory=limit)  # 1,000 x 8 x 4 bytes
    with pytest.raises(MemoryLimitError, match=r"principal components of 1,000 images x 40 features"):
        fit_pca(torch.randn(1000, 40), num_components=8, memory=limit)  # 24 x 40 x 40 bytes
    assert pca.project(features[:900], None, memory=limit).shape == (900, 8)
