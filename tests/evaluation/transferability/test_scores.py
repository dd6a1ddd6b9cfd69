"""What every transferability score does, whatever its formula: one file over all members of SCORES."""

import math

import pytest
import torch

from richrep.errors import FeatureError
from richrep.evaluation.transferability import FEATURE_SCORES, OWN_HEAD_SCORES, SCORES
from richrep.evaluation.transferability.inputs import UndefinedScoreError


def make_inputs(name: str, *, signal: float = 1.0, n: int = 80) -> tuple[torch.Tensor, torch.Tensor]:
    """Features, or probabilities for the scores of own heads, that tell four classes the better the larger `signal`."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 4
    centres = 2 * torch.randn(4, 6, generator=generator, dtype=torch.float64)
    values = torch.randn(n, 6, generator=generator, dtype=torch.float64) + signal * centres[labels]
    return (values.softmax(1) if name in OWN_HEAD_SCORES else values), labels


@pytest.mark.parametrize("name", SCORES)
def test_larger_means_that_the_classes_are_easier_to_tell(name: str) -> None:
    scores = [SCORES[name](*make_inputs(name, signal=signal)) for signal in (0.0, 0.5, 2.0)]
    assert scores == sorted(scores) and scores[0] < scores[2]


@pytest.mark.parametrize("name", SCORES)
def test_the_order_of_images_and_the_names_of_classes_do_not_matter(name: str) -> None:
    values, labels = make_inputs(name)
    order = torch.randperm(80, generator=torch.Generator().manual_seed(1))
    renamed = torch.tensor([7, 0, 3, 2])[labels]  # with gaps
    assert SCORES[name](values[order], renamed[order]) == pytest.approx(SCORES[name](values, labels), rel=1e-9)


@pytest.mark.parametrize("name", SCORES)
def test_the_inputs_are_left_alone_and_float32_suffices(name: str) -> None:
    values, labels = make_inputs(name)
    before = values.clone()
    score = SCORES[name](values, labels)
    assert torch.equal(values, before)
    assert SCORES[name](values.float(), labels) == pytest.approx(score, rel=1e-4)


@pytest.mark.parametrize("name", FEATURE_SCORES)
def test_a_rotation_of_the_features_changes_nothing(name: str) -> None:
    values, labels = make_inputs(name)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64))[0]
    assert SCORES[name](values @ rotation, labels) == pytest.approx(SCORES[name](values, labels), rel=1e-8)


@pytest.mark.parametrize("name", sorted(set(FEATURE_SCORES) - {"h-score"}))  # undefined there, see test_h_score.py
def test_more_features_than_images_are_scored(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    score = SCORES[name](torch.randn(20, 50, generator=generator), torch.arange(20) % 4)
    assert torch.tensor(score).isfinite()


@pytest.mark.parametrize("name", SCORES)
def test_what_is_undefined_is_said_and_not_zero(name: str) -> None:
    values, labels = make_inputs(name)
    with pytest.raises(UndefinedScoreError, match="all images are of one class; two are needed"):
        SCORES[name](values, labels * 0)
    with pytest.raises(UndefinedScoreError, match="4 images of 4 classes: some class needs two images"):
        SCORES[name](values[:4], labels[:4])
    values[5, 0] = torch.nan
    with pytest.raises(FeatureError, match="features of row 5 hold NaN"):
        SCORES[name](values, labels)
    with pytest.raises(ValueError, match=r"labels must have shape \(80,\) as there are 80 rows, got \(79,\)"):
        SCORES[name](make_inputs(name)[0], labels[1:])


@pytest.mark.parametrize("name", FEATURE_SCORES)
def test_features_that_are_the_same_for_every_image_have_no_score(name: str) -> None:
    with pytest.raises(UndefinedScoreError, match="the same for every image"):
        SCORES[name](torch.full((80, 6), 1 / 6), make_inputs(name)[1])


@pytest.mark.parametrize("name", OWN_HEAD_SCORES)
@pytest.mark.parametrize(
    "probs", [[1 / 6] * 6, [0.7, 0.2, 0.1, 0.0, 0.0, 0.0], [1.0]], ids=["even", "sure", "one class"]
)
def test_a_head_that_says_the_same_of_every_image_scores_minus_the_entropy_of_the_labels(
    name: str, probs: list[float]
) -> None:
    labels = torch.tensor([0] * 10 + [1] * 20 + [4] * 50)
    expected = sum(share * math.log(share) for share in (10 / 80, 20 / 80, 50 / 80))
    assert SCORES[name](torch.tensor([probs] * 80), labels) == pytest.approx(expected, rel=1e-6)


def test_scores_read_features_or_the_own_head() -> None:
    assert set(SCORES) == set(FEATURE_SCORES) | set(OWN_HEAD_SCORES) and not set(FEATURE_SCORES) & set(OWN_HEAD_SCORES)
