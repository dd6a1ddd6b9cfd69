import inspect
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from richrep.errors import RichrepError
from richrep.evaluation.selection import DEFAULT_CS, Selection, refit_logistic, select_logistic
from richrep.features.feature_set import Block, FeatureSet, concat_features
from richrep.features.memory import FRUGAL, MemoryBudget
from richrep.features.normalize import DEFAULT_NORMALIZATIONS
from richrep.heads.logistic import LogisticHead

BLOCKS = (Block("left", 0, 32), Block("right", 32, 64))


def make_features(features: torch.Tensor, labels: torch.Tensor, blocks: tuple[Block, ...] | None = None) -> FeatureSet:
    blocks = blocks or (Block("all", 0, features.shape[1]),)
    return FeatureSet(features, labels, int(labels.max()) + 1, blocks, key="test")


@pytest.fixture(scope="module")
def digits() -> FeatureSet:
    """300 digits; the right half is written in other units, as members of a concatenation are."""
    pixels, labels = load_digits(return_X_y=True)
    features = torch.from_numpy(pixels[:300]).float() / 16 * torch.tensor([1.0] * 32 + [0.01] * 32)
    return make_features(features, torch.from_numpy(labels[:300]), BLOCKS)


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray]:
    order = np.random.default_rng(0).permutation(300)
    return order[:200], order[200:]


@pytest.fixture(scope="module")
def selection(digits: FeatureSet, rows: tuple[np.ndarray, np.ndarray]) -> Selection:
    return select_logistic(digits, *rows)


def test_the_default_grid_is_23_penalties_from_1e_5_to_1e6() -> None:
    assert len(DEFAULT_CS) == 23
    assert DEFAULT_CS[0] == pytest.approx(1e-5) and DEFAULT_CS[-1] == pytest.approx(1e6)
    assert np.allclose(np.diff(np.log10(DEFAULT_CS)), 0.5)


def test_every_normalisation_is_tried_with_every_penalty(selection: Selection) -> None:
    assert len(selection.candidates) == 4 * 23
    tried = {(candidate.normalization, candidate.l2) for candidate in selection.candidates}
    assert len(tried) == 4 * 23
    assert {name for name, _ in tried} == set(DEFAULT_NORMALIZATIONS)
    for name in DEFAULT_NORMALIZATIONS:  # l2 = 1/(N_train·C), N_train = 200
        assert sorted(l2 for n, l2 in tried if n == name) == pytest.approx(sorted(1 / (200 * c) for c in DEFAULT_CS))
    assert all(candidate.converged and candidate.iterations > 0 for candidate in selection.candidates)


def test_where_the_paths_begin_changes_nothing_but_the_iterations(
    digits: FeatureSet, rows: tuple[np.ndarray, np.ndarray], selection: Selection
) -> None:
    weights = torch.randn(10, 64, generator=torch.Generator().manual_seed(0))
    found = select_logistic(digits, *rows, normalizations=("none",), near=(weights, torch.arange(10.0)))
    plain = [candidate for candidate in selection.candidates if candidate.normalization == "none"]
    for one, other in zip(plain, found.candidates, strict=True):
        assert (one.l2, one.objective) == (other.l2, pytest.approx(other.objective, rel=1e-4))
    assert [one.iterations for one in plain] != [other.iterations for other in found.candidates]


def test_the_best_is_the_first_of_those_with_the_highest_val_accuracy(selection: Selection) -> None:
    highest = max(candidate.val_accuracy for candidate in selection.candidates)
    assert selection.best.val_accuracy == highest
    equals = [candidate for candidate in selection.candidates if candidate.val_accuracy == highest]
    order = list(DEFAULT_NORMALIZATIONS)
    assert selection.best == min(equals, key=lambda c: (order.index(c.normalization), -c.l2))


def test_val_logits_are_those_of_the_best(
    digits: FeatureSet, rows: tuple[np.ndarray, np.ndarray], selection: Selection
) -> None:
    assert selection.val_logits.shape == (100, 10)
    accuracy = (selection.val_logits.argmax(1) == digits.labels[rows[1]]).double().mean().item()
    assert accuracy == selection.best.val_accuracy
    assert selection.elapsed_s > 0


def test_a_brute_force_loop_over_scikit_learn_scores_the_same(
    digits: FeatureSet, rows: tuple[np.ndarray, np.ndarray]
) -> None:
    cs = [1e-3, 1e-1, 10.0]
    selection = select_logistic(digits, *rows, cs=cs)
    labels = digits.labels.numpy()
    for normalization, normalised in normalised_by_hand(digits, rows[0]).items():
        for c in cs:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = LogisticRegression(C=c, tol=1e-10, max_iter=3000).fit(normalised[rows[0]], labels[rows[0]])
            expected = model.score(normalised[rows[1]], labels[rows[1]])
            (found,) = [
                candidate
                for candidate in selection.candidates
                if candidate.normalization == normalization and candidate.l2 == pytest.approx(1 / (200 * c))
            ]
            assert found.val_accuracy == pytest.approx(expected, abs=0.0101), (normalization, c)  # one image of 100


def normalised_by_hand(features: FeatureSet, train_rows: np.ndarray) -> dict[str, np.ndarray]:
    """All rows, normalised by what the training rows say."""
    x = features.features.double().numpy()
    spread = x[train_rows].std(0)
    halves = [slice(0, 32), slice(32, 64)]
    rms = [np.sqrt(np.square(x[train_rows, half]).mean()) for half in halves]
    return {
        "none": x,
        "standard": x / np.where(spread == 0, 1, spread),
        "block-rms": np.concatenate([x[:, half] / r for half, r in zip(halves, rms, strict=True)], axis=1),
        "block-l2": np.concatenate([x[:, h] / np.linalg.norm(x[:, h], axis=1, keepdims=True) for h in halves], axis=1),
    }


def test_ties_go_to_the_larger_penalty_and_then_to_the_normalisation_named_first() -> None:
    # Two points far apart, 20 of each: every candidate is right on all of val.
    labels = torch.arange(40) % 2
    features = make_features((2.0 * labels - 1)[:, None], labels)
    cs = [1.0, 1e-3, 1e3]  # not in order
    selection = select_logistic(features, np.arange(20), np.arange(20, 40), cs=cs)
    assert {candidate.val_accuracy for candidate in selection.candidates} == {1.0}
    assert selection.best.l2 == pytest.approx(1 / (20 * 1e-3))
    assert selection.best.normalization == "none"
    turned = select_logistic(features, np.arange(20), np.arange(20, 40), cs=cs, normalizations=["block-l2", "none"])
    assert turned.best.normalization == "block-l2"


def test_a_higher_accuracy_beats_a_larger_penalty() -> None:
    # 3 of 4 training rows are class 0: the strongest penalty says 0 everywhere, 1/2 on a balanced val.
    labels = torch.tensor([0, 0, 0, 1] * 10 + [0, 1] * 5)
    features = make_features((2.0 * labels - 1)[:, None], labels)
    selection = select_logistic(features, np.arange(40), np.arange(40, 50), cs=[1e-6, 1.0], normalizations=["none"])
    assert [candidate.val_accuracy for candidate in selection.candidates] == [0.5, 1.0]
    assert selection.best.l2 == pytest.approx(1 / 40)


def test_normalisation_is_fitted_on_train_alone(digits: FeatureSet, rows: tuple[np.ndarray, np.ndarray]) -> None:
    """Other val features change val scores, and nothing of what was fitted."""
    changed = digits.features.clone()
    changed[rows[1]] = 1000 * changed[rows[1]] + 5
    other = make_features(changed, digits.labels, BLOCKS)
    one, two = (select_logistic(features, *rows, cs=[1.0]) for features in (digits, other))
    assert [c.objective for c in one.candidates] == [c.objective for c in two.candidates]


def test_rows_beyond_train_and_val_are_not_looked_at(digits: FeatureSet, rows: tuple[np.ndarray, np.ndarray]) -> None:
    kept, unseen = (rows[0][:150], rows[1][:50]), np.concatenate([rows[0][150:], rows[1][50:]])
    changed = digits.features.clone()
    changed[unseen] = 1e6
    one, two = (select_logistic(make_features(f, digits.labels, BLOCKS), *kept) for f in (digits.features, changed))
    assert one.candidates == two.candidates
    assert torch.equal(one.val_logits, two.val_logits)


def test_selection_is_not_given_test() -> None:
    assert not any("test" in name for name in inspect.signature(select_logistic).parameters)


def test_more_features_than_training_images(digits: FeatureSet) -> None:
    selection = select_logistic(digits, np.arange(40), np.arange(40, 100))
    assert len(selection.candidates) == 4 * 23
    assert all(candidate.converged for candidate in selection.candidates)
    assert selection.best.val_accuracy > 0.6


def test_a_class_in_val_alone_counts_as_wrong() -> None:
    labels = torch.tensor([0, 1] * 10 + [0, 1, 2, 2])
    features = make_features((2.0 * labels - 1)[:, None], labels)
    selection = select_logistic(features, np.arange(20), np.arange(20, 24), cs=[1.0])
    assert selection.best.val_accuracy == 0.5
    assert (selection.val_logits[:, 2] == -torch.inf).all()


def test_train_and_val_must_not_share_rows(digits: FeatureSet) -> None:
    with pytest.raises(ValueError, match="disjoint train and val rows, got 100 and 50 with 10 in both"):
        select_logistic(digits, np.arange(100), np.arange(90, 140))


@pytest.mark.parametrize(("num_train", "num_val"), [(100, 0), (0, 100)])
def test_train_and_val_must_not_be_empty(digits: FeatureSet, num_train: int, num_val: int) -> None:
    with pytest.raises(ValueError, match=f"got {num_train} and {num_val} with 0 in both"):
        select_logistic(digits, np.arange(num_train), np.arange(100, 100 + num_val))


def test_options_that_cannot_be_are_refused(digits: FeatureSet, rows: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="at least one normalization, got none"):
        select_logistic(digits, *rows, normalizations=[])
    with pytest.raises(ValueError, match=r"Unknown normalization 'l1'\."):
        select_logistic(digits, *rows, normalizations=["l1"])
    with pytest.raises(ValueError, match="l2 must be > 0"):
        select_logistic(digits, *rows, cs=[-1.0])


LITTLE = replace(FRUGAL, rotated=0, state=1, kept=0, square=12 * 64 * 32 + 16 * 32**2, chunk_values=2000)


def test_little_memory_selects_the_same(digits: FeatureSet, rows: tuple[np.ndarray, np.ndarray]) -> None:
    """Streamed, by blocks, one penalty after the other, nothing kept between normalisations or for val."""
    options = {"cs": [1e-3, 1e-1, 10.0]}
    much, little = select_logistic(digits, *rows, **options), select_logistic(digits, *rows, memory=LITTLE, **options)
    assert much.solver["coordinates"] == "columns" and little.solver["coordinates"] == "blocks"
    assert little.solver["samples"] == "streamed" and little.solver["penalties_at_once"] == 1
    for one, other in zip(much.candidates, little.candidates, strict=True):
        assert (one.normalization, one.l2) == (other.normalization, other.l2)
        assert one.objective == pytest.approx(other.objective, rel=3e-5)  # where both stop
        assert one.val_accuracy == pytest.approx(other.val_accuracy, abs=0.0101)  # one image of 100


def test_members_left_side_by_side_in_half_precision_select_as_their_concatenation(
    digits: FeatureSet, rows: tuple[np.ndarray, np.ndarray]
) -> None:
    half = digits.features.to(torch.float16)
    members = [
        FeatureSet(half[:, b.start : b.stop], digits.labels, 10, (Block(b.name, 0, 32),), key=b.name) for b in BLOCKS
    ]
    apart, joined = concat_features(members, max_bytes=0), concat_features(members)
    assert not isinstance(apart.features, torch.Tensor) and isinstance(joined.features, torch.Tensor)
    one, other = (select_logistic(features, *rows, cs=[0.1, 10.0]) for features in (apart, joined))
    assert one.candidates == other.candidates
    assert torch.equal(one.val_logits, other.val_logits)


def test_a_limit_too_small_for_one_penalty_says_what_would_do() -> None:
    labels = torch.arange(8000) % 4000
    features = make_features(torch.randn(8000, 300, generator=torch.Generator().manual_seed(0)), labels)
    # 28 vectors of 4,000 x 301 numbers of 4 bytes are 134.8 MB, 35 % of 385 MB
    with pytest.raises(RichrepError, match=r"limit of 150 MB is too small: .* takes 135 MB, so at least 386 MB are"):
        select_logistic(features, np.arange(6000), np.arange(6000, 8000), memory=MemoryBudget.of("150MB"))


@pytest.mark.parametrize("c", [0.1, 1.0, 100.0])
@pytest.mark.parametrize("num_rows", [300, 40])  # by columns, and by samples: there are 64 features
def test_the_refitted_head_is_the_same_to_1e_6_however_rows_are_read(
    digits: FeatureSet, c: float, num_rows: int
) -> None:
    some, chosen = digits.take(np.arange(num_rows)), {"l2": 1 / (num_rows * c), "normalization": "block-rms"}
    exact = LogisticHead(**chosen, blocks=[(b.start, b.stop) for b in BLOCKS], tol=1e-13, max_iter=5000).fit(
        some.features.double(), some.labels, num_classes=10
    )
    for memory in (FRUGAL, replace(FRUGAL, rotated=0, chunk_values=2**10), replace(FRUGAL, square=2**14)):
        head = refit_logistic(some, chosen, None, memory=memory)
        assert head.converged_
        assert head.objective_ == pytest.approx(exact.objective_, rel=1e-6)
