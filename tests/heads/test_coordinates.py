"""Whole, by blocks, by samples; kept or streamed; from one tensor, from members, from half precision: one solution."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from richrep.features.feature_set import Block
from richrep.features.memory import FRUGAL, MemoryBudget
from richrep.features.normalize import NORMALIZATIONS, fit_normalization, moments
from richrep.features.rows import Rows
from richrep.heads.coordinates import choose_coordinates, shared_moments
from richrep.heads.logistic_path import LogisticPath, fit_logistic_path

BLOCKS = (Block("left", 0, 24), Block("right", 24, 64))
L2S = [1.0, 1e-2, 1e-4]
STREAMED = replace(FRUGAL, rotated=0)
BY_BLOCKS = replace(FRUGAL, square=12 * 64 * 40 + 16 * 40**2)  # what the wider of the two members needs
TINY_BLOCKS = replace(FRUGAL, square=12 * 64 * 8 + 16 * 8**2, rotated=0)
WAYS = {
    "streamed": STREAMED,
    "by blocks, kept": BY_BLOCKS,
    "by blocks, streamed": replace(BY_BLOCKS, rotated=0),
    "by pieces of blocks, streamed": TINY_BLOCKS,
    "streamed, one penalty after the other": replace(STREAMED, state=1),
    "streamed, 64 rows at once": replace(STREAMED, chunk_values=2),
}


def digits(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels in [0, 1] as float64; every value is a multiple of 1/16, so float16 holds it exactly."""
    pixels, labels = load_digits(return_X_y=True)
    return torch.from_numpy(pixels[:count] / 16), torch.from_numpy(labels[:count])


def fit(features: torch.Tensor | Rows, labels: torch.Tensor, memory: MemoryBudget, **options: object) -> LogisticPath:
    settings = {"num_classes": 10, "l2s": L2S, "blocks": BLOCKS, "tol": 1e-10} | options
    return fit_logistic_path(features, labels, memory=memory, **settings)


def assert_same_solution(one: LogisticPath, other: LogisticPath, features: torch.Tensor) -> None:
    assert one.converged.all() and other.converged.all()
    torch.testing.assert_close(one.objectives, other.objectives, rtol=1e-6, atol=0)
    for i in range(3):
        torch.testing.assert_close(
            one.logits(features, i).softmax(1), other.logits(features, i).softmax(1), rtol=0, atol=2e-4
        )


@pytest.mark.parametrize("normalization", ["standard", "block-l2"])  # one that folds, one that does not
@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_the_solution_found_in_memory(way: str, normalization: str) -> None:
    features, labels = digits(300)
    rows = torch.arange(0, 300, 2)
    in_memory = fit(features, labels, FRUGAL, normalization=normalization, rows=rows)
    found = fit(features, labels, WAYS[way], normalization=normalization, rows=rows)
    assert in_memory.solver["coordinates"] == "columns" and in_memory.solver["samples"] == "kept"
    assert found.solver["coordinates"] == ("blocks" if "by" in way else "columns")
    assert found.solver["samples"] == ("streamed" if "streamed" in way else "kept")
    assert found.solver["num_blocks"] == (1 if "by" not in way else 2 if "pieces" not in way else 8)
    assert_same_solution(found, in_memory, features)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_meets_scikit_learns_objective_in_float32(way: str) -> None:
    features, labels = digits(200)
    path = fit(features.float(), labels, WAYS[way], tol=5e-6)  # as by default
    for i, l2 in enumerate(L2S):
        model = LogisticRegression(C=1 / (200 * l2), tol=1e-10, max_iter=5000).fit(features.numpy(), labels.numpy())
        log_probs = torch.from_numpy(model.predict_log_proba(features.numpy()))
        theirs = -log_probs[torch.arange(200), labels].mean() + l2 / 2 * np.square(model.coef_).sum()
        ours = torch.nn.functional.cross_entropy(path.logits(features, i).double(), labels)
        ours += l2 / 2 * path.weights[i].double().square().sum()
        assert ours.item() <= theirs.item() * (1 + 1e-4)


@pytest.mark.parametrize("normalization", ["standard", "block-l2"])
def test_by_samples_by_columns_and_by_blocks_agree_where_samples_are_fewer(normalization: str) -> None:
    features, labels = digits(50)  # of 64 columns
    by_samples = fit(features, labels, FRUGAL, normalization=normalization)
    assert by_samples.solver["coordinates"] == "samples"
    by_blocks = fit(features, labels, replace(FRUGAL, square=28 * 49**2), normalization=normalization)
    assert by_blocks.solver["coordinates"] == "blocks"
    by_columns = fit(
        torch.cat([features] * 2), torch.cat([labels] * 2), FRUGAL, normalization=normalization
    )  # every row twice: the same objective
    assert by_columns.solver["coordinates"] == "columns"
    assert_same_solution(by_blocks, by_samples, features)
    assert_same_solution(by_columns, by_samples, features)


@pytest.mark.parametrize("way", [*WAYS, "in memory"])
def test_members_side_by_side_in_half_precision_are_their_float32_concatenation(way: str) -> None:
    features, labels = digits(150)
    memory = WAYS.get(way, FRUGAL)
    members = Rows([features[:, :24].to(torch.float16), features[:, 24:].to(torch.float16)])
    for normalization in ("standard", "block-l2"):
        apart = fit(members, labels, memory, normalization=normalization, tol=1e-5)
        joined = fit(features.float(), labels, memory, normalization=normalization, tol=1e-5)
        assert torch.equal(apart.weights, joined.weights)  # the same numbers in the same chunks
        assert torch.equal(apart.logits(members, 1), joined.logits(features.float(), 1))


@pytest.mark.parametrize("way", WAYS)
def test_a_start_near_the_solution_saves_iterations_however_it_is_solved(way: str) -> None:
    features, labels = digits(300)
    options = {"l2s": [1e-3], "normalization": "block-rms", "tol": 1e-8}
    cold = fit(features, labels, WAYS[way], **options)
    warm = fit(features, labels, WAYS[way], near=(cold.weights[0], cold.biases[0]), **options)
    torch.testing.assert_close(warm.objectives, cold.objectives, rtol=1e-6, atol=0)
    assert warm.iterations < cold.iterations / 2


def test_blocks_bound_the_gram_matrix_of_members_that_say_the_same() -> None:
    """The worst case: of two equal members the Gram matrix is twice its blocks in every direction that they share."""
    half, _ = digits(200)
    blocks = (Block("a", 0, 64), Block("b", 64, 128))
    rows, memory = Rows([half, half]), replace(FRUGAL, square=12 * 128 * 64 + 16 * 64**2)
    _, found = choose_coordinates(rows, "none", blocks, threshold=1.0, raw_moments=None, memory=memory)
    assert found.kind == "blocks" and found.num_blocks == 2
    samples = found.samples.chunk(0, 200)
    scaled = samples / found.bound.sqrt()
    assert torch.linalg.eigvalsh(scaled.T @ scaled / 200).max().item() == pytest.approx(1)


def test_moments_are_shared_where_there_is_room_and_never_used_where_they_lack_what_is_needed() -> None:
    features, labels = digits(200)
    rows = Rows([features])
    assert shared_moments(rows, BLOCKS, replace(FRUGAL, kept=8 * 64**2 - 1)) is None
    whole, blocks = shared_moments(rows, BLOCKS, FRUGAL), shared_moments(rows, BLOCKS, BY_BLOCKS)
    assert whole is not None and whole.gram is not None
    assert blocks is not None and [len(gram) for gram in blocks.block_grams] == [24, 40]
    for normalization in NORMALIZATIONS:
        expected = fit(features, labels, BY_BLOCKS, normalization=normalization, tol=1e-5)
        for raw in (whole, blocks):
            found = fit(features, labels, BY_BLOCKS, normalization=normalization, raw_moments=raw, tol=1e-5)
            torch.testing.assert_close(found.weights, expected.weights)


def test_blocks_of_the_gram_matrix_are_blocks_of_the_whole() -> None:
    features, _ = digits(100)
    whole, blocks = moments(features, with_gram=True), moments(features, with_gram=[(0, 24), (24, 64)])
    assert blocks.gram is None and whole.block_grams == ()
    torch.testing.assert_close(blocks.block_grams[0], whole.gram[:24, :24])
    torch.testing.assert_close(blocks.block_grams[1], whole.gram[24:, 24:])
    torch.testing.assert_close(blocks.variance, whole.variance, rtol=1e-10, atol=1e-12)


def test_normalisations_of_mapped_half_precision_are_fitted_as_of_float32() -> None:
    features, _ = digits(100)
    for name in NORMALIZATIONS:
        half = fit_normalization(name, moments(features.to(torch.float16), with_gram=False), blocks=BLOCKS)
        full = fit_normalization(name, moments(features.float(), with_gram=False), blocks=BLOCKS)
        assert torch.equal(half.scale, full.scale)
