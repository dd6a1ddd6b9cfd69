import pytest
import torch
from torch import tensor

from richrep.features.feature_set import Block
from richrep.features.normalize import (
    DEFAULT_NORMALIZATIONS,
    NORMALIZATIONS,
    PER_IMAGE,
    Normalization,
    fit_normalization,
    moments,
    row_chunks,
)

BLOCKS = (Block("a", 0, 2), Block("b", 2, 3))


def fit(name: str, features: torch.Tensor, blocks: tuple[Block, ...] | None = None) -> Normalization:
    return fit_normalization(name, moments(features, with_gram=False), blocks=blocks, dtype=features.dtype)


# Moments


@pytest.mark.parametrize("with_gram", [False, True])
def test_moments_by_hand(with_gram: bool) -> None:
    # columns (1, 3) and (10, 10): means 2 and 10, deviations (-1, 1) and (0, 0), variance with 1/N: 1 and 0
    stats = moments(tensor([[1.0, 10.0], [3.0, 10.0]]), with_gram=with_gram)
    assert stats.mean.tolist() == [2, 10]
    assert stats.variance.tolist() == [1, 0]
    assert stats.num_rows == 2
    assert stats.mean.dtype == stats.variance.dtype == torch.float64
    assert (stats.gram is None) if not with_gram else (stats.gram.tolist() == [[1, 0], [0, 0]])


def test_the_gram_matrix_is_the_covariance() -> None:
    features = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        moments(features, with_gram=True).gram, features.T.double().cov(correction=0), rtol=1e-12, atol=1e-14
    )


def test_moments_of_rows_are_those_of_a_copy_of_the_rows() -> None:
    features, rows = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), tensor([3, 17, 4, 0])
    chosen, copied = moments(features, rows, with_gram=True), moments(features[rows], with_gram=True)
    assert torch.equal(chosen.mean, copied.mean) and torch.equal(chosen.gram, copied.gram)
    assert chosen.num_rows == 4


def test_moments_in_many_chunks_are_those_in_one() -> None:
    dim = 2**19  # 8 rows a chunk
    features = torch.randn(20, dim, generator=torch.Generator().manual_seed(0)) + torch.arange(20)[:, None]
    stats = moments(features, with_gram=False)
    torch.testing.assert_close(stats.mean, features.double().mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(stats.variance, features.double().var(0, correction=0), rtol=1e-12, atol=0)


@pytest.mark.parametrize("with_gram", [False, True])
def test_a_common_offset_costs_no_digits(with_gram: bool) -> None:
    plain = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0)).double()
    stats = moments(plain + 2.0**40, with_gram=with_gram)  # naive sums of squares would have 1e24 in them
    expected = ((plain + 2.0**40) - 2.0**40).var(0, correction=0)
    torch.testing.assert_close(stats.variance, expected, rtol=1e-9, atol=0)


def test_the_variance_of_constant_columns_is_exactly_zero() -> None:
    for value in (0.0, 7.3, 1e4, -1e-20):
        assert moments(torch.full((100, 2), value), with_gram=True).variance.tolist() == [0, 0]


def test_moments_can_be_those_of_the_normalised_features() -> None:
    features = torch.rand(30, 3, generator=torch.Generator().manual_seed(0)) + 1
    normalization = fit("block-l2", features)
    after = moments(features, with_gram=True, normalization=normalization)
    torch.testing.assert_close(after.gram, moments(normalization.apply(features), with_gram=True).gram)


def test_chunks_cover_all_rows_once_in_order() -> None:
    features = torch.arange(7.0)[:, None]
    assert [(start, chunk.flatten().tolist()) for start, chunk in row_chunks(features, None, chunk_rows=3)] == [
        (0, [0, 1, 2]),
        (3, [3, 4, 5]),
        (6, [6]),
    ]
    picked = list(row_chunks(features, tensor([6, 0, 2]), chunk_rows=2))
    assert [(start, chunk.flatten().tolist()) for start, chunk in picked] == [(0, [6, 0]), (2, [2])]


# The normalisations


def test_none_is_the_same_object() -> None:
    features = torch.rand(4, 3)
    assert fit("none", features).apply(features) is features


def test_standard_by_hand() -> None:
    # column 0: 0, 2, 4, 6 has mean 3 and variance (9 + 1 + 1 + 9)/4 = 5; it is divided by √5, not centred
    features = tensor([[0.0, 5.0], [2.0, 5.0], [4.0, 5.0], [6.0, 5.0]])
    fitted = fit("standard", features)
    assert fitted.scale[0].item() == pytest.approx(5**-0.5)
    assert fitted.scale[1].item() == 1  # the constant column stays
    torch.testing.assert_close(fitted.apply(features)[:, 0], features[:, 0] / 5**0.5)
    assert fitted.apply(features)[:, 1].tolist() == [5, 5, 5, 5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_column_that_differs_by_rounding_alone_counts_as_constant(dtype: torch.dtype) -> None:
    step = 1000 * torch.finfo(dtype).eps  # one unit in the last place of a number near 1000
    features = torch.tensor([[1000.0], [1000.0], [1000.0], [1000.0 + step]], dtype=dtype)
    assert fit("standard", features).scale.tolist() == [1]


def test_a_small_spread_above_rounding_is_a_signal() -> None:
    features = tensor([[1e4], [1e4 + 0.5]])  # the spread is 0.25, rounding at 1e4 is 1e-3
    assert fit("standard", features).scale.item() == pytest.approx(4)
    tiny = tensor([[1e-20], [-1e-20]])  # mean 0: no spread is too small
    assert fit("standard", tiny).scale.item() == pytest.approx(1e20)


def test_block_rms_by_hand() -> None:
    # block a holds 1, 3 and 2, 4: mean square (1 + 9 + 4 + 16)/4 = 7.5; block b holds 6 and 8: (36 + 64)/2 = 50
    features = tensor([[1.0, 3.0, 6.0], [2.0, 4.0, 8.0]])
    fitted = fit("block-rms", features, BLOCKS)
    assert fitted.scale.tolist() == pytest.approx([7.5**-0.5, 7.5**-0.5, 50**-0.5])
    normalised = fitted.apply(features)
    assert normalised[:, :2].square().mean().item() == pytest.approx(1)
    assert normalised[:, 2].square().mean().item() == pytest.approx(1)


def test_without_blocks_all_columns_are_one() -> None:
    features = tensor([[1.0, 3.0], [2.0, 4.0]])
    assert fit("block-rms", features).scale.tolist() == pytest.approx([7.5**-0.5] * 2)
    assert fit("block-rms", features).blocks == ((0, 2),)


def test_a_block_of_zeros_stays_zero() -> None:
    features = tensor([[0.0, 0.0, 3.0], [0.0, 0.0, 3.0]])
    fitted = fit("block-rms", features, BLOCKS)
    assert fitted.scale.tolist() == pytest.approx([1, 1, 1 / 3])
    assert fitted.apply(features).isfinite().all()


def test_block_l2_by_hand() -> None:
    # row 0: (3, 4) has norm 5, (-2) has norm 2; row 1: (0, 0) stays, (7) has norm 7
    features = tensor([[3.0, 4.0, -2.0], [0.0, 0.0, 7.0]])
    normalised = fit("block-l2", features, BLOCKS).apply(features)
    torch.testing.assert_close(normalised, tensor([[0.6, 0.8, -1.0], [0.0, 0.0, 1.0]]))


def test_l2_takes_all_backbones_as_one() -> None:
    # (3, 4, -12) has norm 13 over all columns; "block-l2" would divide the first two by 5 and the third by 12
    features = tensor([[3.0, 4.0, -12.0], [0.0, 0.0, 0.0]])
    normalised = fit("l2", features, BLOCKS).apply(features)
    torch.testing.assert_close(normalised, tensor([[3.0, 4.0, -12.0], [0.0, 0.0, 0.0]]) / 13)
    alone = fit("l2", features).apply(features)
    torch.testing.assert_close(alone, fit("block-l2", features).apply(features))  # one backbone: the same


def test_l2_is_known_and_not_tried_by_default() -> None:
    assert set(DEFAULT_NORMALIZATIONS) == set(NORMALIZATIONS) - {"l2"}


@pytest.mark.parametrize("name", ["none", "standard", "block-rms"])
def test_folded_weights_act_on_raw_features_as_the_weights_on_normalised_ones(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    features, weights, biases = (torch.randn(*s, generator=generator) for s in ((6, 3), (4, 3), (4,)))
    fitted = fit(name, features, BLOCKS)
    folded, offsets = fitted.fold(weights, biases)
    torch.testing.assert_close(features @ folded.T + offsets, fitted.apply(features) @ weights.T + biases)


@pytest.mark.parametrize("factor", [1e-30, 1e-42, 1e30])
def test_block_l2_of_very_small_and_large_rows_neither_vanishes_nor_overflows(factor: float) -> None:
    features = tensor([[3.0, 4.0]]) * factor  # the squares, 1e-60 and 1e60, do not exist in float32
    normalised = fit_normalization("block-l2", moments(features, with_gram=False)).apply(features)
    torch.testing.assert_close(normalised, tensor([[0.6, 0.8]]), rtol=2e-3, atol=0)  # 1e-42 has three digits


@pytest.mark.parametrize("name", list(NORMALIZATIONS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_type_stays_and_the_input_is_not_written_to(name: str, dtype: torch.dtype) -> None:
    features = torch.rand(6, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    before = features.clone()
    normalised = fit(name, features, BLOCKS).apply(features)
    assert normalised.dtype == dtype and normalised.shape == (6, 3)
    assert torch.equal(features, before)


@pytest.mark.parametrize("name", list(NORMALIZATIONS))
def test_new_features_are_normalised_by_what_was_fitted(name: str) -> None:
    features = torch.rand(6, 3, generator=torch.Generator().manual_seed(0))
    fitted = fit(name, features, BLOCKS)
    for row in range(6):  # one image at a time gives what the batch gives
        torch.testing.assert_close(fitted.apply(features[row : row + 1]), fitted.apply(features)[row : row + 1])


@pytest.mark.parametrize("name", list(NORMALIZATIONS))
def test_all_but_those_of_each_image_fold(name: str) -> None:
    features = torch.rand(6, 3, generator=torch.Generator().manual_seed(0))
    fitted = fit(name, features, BLOCKS)
    assert fitted.folds == (name not in PER_IMAGE)
    if fitted.folds:
        torch.testing.assert_close(fitted.apply(features), features * fitted.scale.float())


def test_an_unknown_name_gets_a_guess() -> None:
    with pytest.raises(ValueError, match=r"Unknown normalization 'standart'\. Did you mean 'standard'"):
        fit("standart", torch.rand(3, 2))


@pytest.mark.parametrize("spans", [[(0, 2)], [(0, 2), (2, 4)], [(1, 3)], [(0, 2), (1, 3)], [(2, 3), (0, 2)]])
def test_blocks_must_cover_every_column_once(spans: list[tuple[int, int]]) -> None:
    blocks = tuple(Block(f"b{a}", a, b) for a, b in spans)
    with pytest.raises(ValueError, match="blocks must follow one another from column 0 to 3, got "):
        fit("block-l2", torch.rand(4, 3), blocks)
