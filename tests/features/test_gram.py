"""Gram matrices add under concatenation; linear CKA by hand."""

import pytest
import torch

from richrep.features.gram import cka_of_columns, cka_of_samples, column_gram, sample_gram
from richrep.features.normalize import fit_normalization, moments


def draw(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + seed


def centred(features: torch.Tensor) -> torch.Tensor:
    return features - features.mean(0)


def gram_of(features: torch.Tensor, rows: torch.Tensor | None = None, **options) -> torch.Tensor:
    stats = moments(features, rows, with_gram=False)
    return sample_gram(features, rows, normalization=fit_normalization("none", stats), mean=stats.mean, **options)


def test_grams_of_samples_add_under_concatenation() -> None:
    one, other = draw(9, 4, 1), draw(9, 6, 2)
    torch.testing.assert_close(gram_of(one) + gram_of(other), gram_of(torch.cat([one, other], 1)))
    torch.testing.assert_close(gram_of(one), centred(one) @ centred(one).T)


def test_grams_of_samples_by_blocks_of_columns_and_by_rows(monkeypatch) -> None:
    features, rows = draw(9, 7), torch.tensor([8, 2, 3, 5])
    whole = gram_of(features[rows])
    monkeypatch.setattr("richrep.features.gram._BLOCK_VALUES", 8)  # 2 columns of 4 rows
    torch.testing.assert_close(gram_of(features, rows), whole)
    torch.testing.assert_close(gram_of(features, rows, dtype=torch.float32).double(), whole, rtol=1e-4, atol=1e-5)


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
