"""Loss and gradient of a batch; parts and memory are in test_loop.py, two processes in cli/test_cli_finetune.py."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from richrep.errors import RichrepError
from richrep.training.devices import make_accelerator
from richrep.training.gradient import BatchGradient


class Noisy(nn.Module):
    """weight times the mean of the batch, plus a random draw."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.weight * values.mean() + torch.rand(())


def test_the_loss_and_gradient_are_those_of_the_mean_and_the_last_gradient_is_gone() -> None:
    accelerator = make_accelerator("cpu", "fp32")
    network = Noisy()
    network.weight.grad = torch.tensor(100.0)
    with torch.random.fork_rng():
        loss = BatchGradient(accelerator, network, seed=0, parts=1).compute((torch.tensor([1.0, 4.0]),), step=3)
        again = BatchGradient(accelerator, network, seed=0, parts=1).compute((torch.tensor([1.0, 4.0]),), step=3)
        other = BatchGradient(accelerator, network, seed=0, parts=1).compute((torch.tensor([1.0, 4.0]),), step=4)
    assert 5.0 <= loss.item() <= 6.0 and not loss.requires_grad  # 2 * 2.5 and a draw in [0, 1)
    assert network.weight.grad.item() == 2.5
    assert again == loss and other != loss  # the draw depends on seed and step alone


def test_among_several_processes_a_lack_of_memory_is_an_error_with_what_to_do() -> None:
    several = BatchGradient(SimpleNamespace(num_processes=2), Noisy(), seed=0, parts=2)
    with pytest.raises(RichrepError, match=r"Out of memory with 8 images a process in 2 parts. Give --accumulate 4 or"):
        several._halve(8)


def test_a_single_image_under_batch_normalisation_says_what_to_do() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(2)

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return self.norm(features).sum()

    accelerator = make_accelerator("cpu", "fp32")
    with (
        torch.random.fork_rng(),
        pytest.raises(RichrepError, match=r"3 images in 2 parts leave one.*--norm-layers eval"),
    ):
        BatchGradient(accelerator, Normed(), seed=0, parts=2).compute((torch.randn(3, 2),), step=0)
