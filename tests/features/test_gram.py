"""Gram matrices add under concatenation; linear CKA by hand."""

from dataclasses import replace

import pytest
import torch

from richrep.features.gram import cka_of_columns, cka_of_samples, column_gram, sample_gram, take_apart
from richrep.features.memory import FRUGAL
from richrep.features.normalize import fit_normalization, moments
from richrep.features.rows import as_rows


def draw(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + seed


def centred(features: torch.Tensor) -> torch.Tensor:
    return features - features.mean(0)


def gram_of(features: torch.Tensor, rows: torch.Tensor | None = None, **options) -> torch.Tensor:
    stats = moments(features, rows, with_gram=False)
    normalization = fit_normalization("none", stats)
    return sample_gram(as_rows(features, rows), normalization=normalization, mean=stats.mean, **options)


def test_grams_of_samples_add_under_concatenation() -> None:
    one, other = draw(9, 4, 1), draw(9, 6, 2)
    torch.testing.assert_close(gram_of(one) + gram_of(other), gram_of(torch.cat([one, other], 1)))
    torch.testing.assert_close(gram_of(one), centred(one) @ centred(one).T)


@pytest.mark.parametrize("pair_values", [1, 14, 24, 2**22])  # chunks of 1, 2, 3 and all rows
def test_grams_of_some_samples_by_pairs_of_chunks(pair_values: int) -> None:
    features, rows = draw(9, 7), torch.tensor([8, 2, 3, 5])
    expected = centred(features[rows]) @ centred(features[rows]).T
    torch.testing.assert_close(gram_of(features, rows, memory=replace(FRUGAL, pair_values=pair_values)), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gram_matrix_is_put_together_from_what_it_was_taken_apart_into(dtype: torch.dtype) -> None:
    gram = (draw(9, 4).T @ draw(9, 4)).to(dtype)
    values, vectors = take_apart(gram.clone())
    assert (values.diff() >= 0).all() and values.dtype == dtype
    torch.testing.assert_close(vectors * values @ vectors.T, gram)
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(4, dtype=dtype), rtol=1e-5, atol=1e-5)


def test_the_gram_of_columns_of_some_members_is_a_part_of_the_gram_of_all() -> None:
    members = [centred(draw(9, d, seed)) for seed, d in enumerate((2, 3, 4))]
    joint = torch.cat(members, 1)
    gram = column_gram(members)
    torch.testing.assert_close(gram, joint.T @ joint / 9)
    columns = torch.tensor([0, 1, 5, 6, 7, 8])
    torch.testing.assert_close(gram[columns][:, columns], column_gram([members[0], members[2]]))


def test_cka_by_hand() -> None:
    # x = (1, -1, 0), y = (1, 1, -2): xᵀy = 0; z = 3x + y, zᵀx = 6, |x|² = 2, |y|² = 6, |z|² = 24: 36 / (2 · 24) = 0.75
    x = torch.tensor([[1.0], [-1.0], [0.0]])
    y = torch.tensor([[1.0], [1.0], [-2.0]])
    z = 3 * x + y
    found = cka_of_columns(column_gram([x, y, z]), (0, 1, 2, 3))
    expected = torch.tensor([[1, 0, 0.75], [0, 1, 0.25], [0.75, 0.25, 1]], dtype=torch.float64)
    torch.testing.assert_close(found, expected)


def test_cka_is_the_same_by_columns_and_by_samples_and_knows_no_scale_or_rotation() -> None:
    one, other = centred(draw(20, 3, 1)), centred(draw(20, 5, 2))
    turn = torch.linalg.qr(draw(5, 5, 3))[0]
    members = [one, other, 7 * other @ turn]
    by_columns = cka_of_columns(column_gram(members), (0, 3, 8, 13))
    by_samples = cka_of_samples(torch.stack([m @ m.T for m in members]))
    torch.testing.assert_close(by_columns, by_samples)
    assert by_columns[1, 2] == pytest.approx(1)
    assert 0 < by_columns[0, 1] < 1


def test_cka_with_a_constant_member_is_zero() -> None:
    found = cka_of_columns(column_gram([centred(draw(5, 2)), torch.zeros(5, 1, dtype=torch.float64)]), (0, 2, 3))
    assert found[0, 1] == 0 and not found.isnan().any()
