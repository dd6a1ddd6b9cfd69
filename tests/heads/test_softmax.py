import math

import pytest
import torch
from torch import Tensor, tensor
from torch.nn.functional import cross_entropy, one_hot

from richrep.heads.softmax import cross_entropy_and_residual_


def losses_and_residuals(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Losses (A, B) and residuals (A, K, B) of logits (A, K, B), which stay as they are."""
    residuals = logits.clone()
    return cross_entropy_and_residual_(residuals, labels), residuals


def test_two_equal_logits_lose_ln_2_and_have_residuals_of_a_half() -> None:
    losses, residuals = losses_and_residuals(tensor([[[5.0], [5.0]]]), tensor([1]))
    # p = (1/2, 1/2), true class 1: loss -ln(1/2), residual p - (0, 1)
    assert losses.item() == pytest.approx(math.log(2))
    assert residuals.flatten().tolist() == [0.5, -0.5]


def test_odds_of_three_to_one() -> None:
    # logits 0 and ln 3: p = (1/4, 3/4); true class 0: loss ln 4, residual (1/4 - 1, 3/4)
    losses, residuals = losses_and_residuals(tensor([[[0.0], [math.log(3)]]]), tensor([0]))
    assert losses.item() == pytest.approx(math.log(4))
    assert residuals.flatten().tolist() == pytest.approx([-0.75, 0.75])


@pytest.mark.parametrize("scale", [0.1, 3.0, 100.0])
def test_losses_and_residuals_are_those_of_torch_in_float64(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(4, 5, 50, generator=generator, dtype=torch.float64)  # (A, K, B)
    labels = torch.randint(5, (50,), generator=generator)
    losses, residuals = losses_and_residuals(logits, labels)
    for head in range(4):
        leaf = logits[head].T.clone().requires_grad_()  # (B, K)
        expected = cross_entropy(leaf, labels, reduction="none")
        expected.sum().backward()
        torch.testing.assert_close(losses[head], expected.detach(), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(residuals[head].T, leaf.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("lead", [10.0, 20.0, 40.0, 55.0])
def test_a_nearly_certain_sample_keeps_its_relative_accuracy_in_float32(lead: float) -> None:
    logits, labels = tensor([[[lead], [0.0], [0.0]]]), tensor([0])
    losses, residuals = losses_and_residuals(logits, labels)
    others = 2 * math.exp(-lead)  # two other classes; loss ln(1 + others), residual of the truth -others/(1 + others)
    assert losses.item() == pytest.approx(math.log1p(others), rel=1e-5)
    assert residuals.flatten().tolist() == pytest.approx(
        [-others / (1 + others), others / 2 / (1 + others), others / 2 / (1 + others)], rel=1e-5
    )


def test_torch_gives_exactly_zero_where_ours_gives_the_loss() -> None:
    logits, labels = tensor([[40.0, 0.0]]), tensor([0])
    assert cross_entropy(logits, labels).item() == 0
    assert losses_and_residuals(logits.T[None], labels)[0].item() == pytest.approx(math.exp(-40), rel=1e-5)


def test_a_hopelessly_wrong_sample_loses_the_difference_of_the_logits() -> None:
    losses, residuals = losses_and_residuals(tensor([[[1e4], [0.0]]]), tensor([1]))
    assert losses.item() == 1e4
    assert residuals.flatten().tolist() == [1, -1]


def test_a_lead_beyond_60_is_no_loss_at_all_so_that_nothing_is_denormal() -> None:
    losses, residuals = losses_and_residuals(tensor([[[90.0], [0.0]]]), tensor([0]))  # e^-90 = 8e-40 is denormal
    assert losses.item() == 0
    assert residuals.flatten().tolist() == [0, 0]


def test_a_common_offset_of_the_logits_changes_nothing() -> None:
    logits = torch.tensor([[[1.0, -2.0], [3.0, 0.5], [0.0, 0.25]]])
    labels = tensor([2, 0])
    for got, expected in zip(
        losses_and_residuals(logits + 1024, labels), losses_and_residuals(logits, labels), strict=True
    ):
        assert torch.equal(got, expected)  # the sums are exact: 1024 + multiples of 1/4


def test_residuals_of_a_sample_sum_to_zero() -> None:
    logits = 5 * torch.randn(2, 7, 30, generator=torch.Generator().manual_seed(1))
    _, residuals = losses_and_residuals(logits, torch.arange(30) % 7)
    torch.testing.assert_close(residuals.sum(1), torch.zeros(2, 30), rtol=0, atol=1e-6)


def test_a_logit_that_is_not_a_number_does_not_pass_for_certainty() -> None:
    losses, _ = losses_and_residuals(tensor([[[1.0], [math.nan]]]), tensor([0]))
    assert losses.isnan().all()


def test_residuals_are_softmax_minus_one_hot() -> None:
    logits = torch.randn(3, 4, 20, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(20) % 4
    _, residuals = losses_and_residuals(logits, labels)
    torch.testing.assert_close(residuals, logits.softmax(1) - one_hot(labels, 4).T, rtol=1e-5, atol=1e-6)
