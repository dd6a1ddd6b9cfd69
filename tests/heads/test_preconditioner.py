import pytest
import torch

from richrep.heads.objective import Objective
from richrep.heads.preconditioner import ClassBlocks, Diagonal
from richrep.heads.samples import RotatedSamples


def test_a_diagonal_is_divided_by() -> None:
    diagonal = Diagonal(torch.tensor([[2.0, 4.0], [1.0, 8.0]]))
    assert diagonal.solve(torch.tensor([[2.0, 2.0], [3.0, 4.0]])).tolist() == [[1.0, 0.5], [3.0, 0.5]]
    assert diagonal.keep(torch.tensor([1])).solve(torch.tensor([[3.0, 4.0]])).tolist() == [[3.0, 0.5]]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.float64, 1e-9)])
def test_class_blocks_solve_what_a_dense_solver_solves(dtype: torch.dtype, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    roots = torch.randn(3, 6, 5, generator=generator, dtype=torch.float64)
    blocks = roots.mT @ roots + 0.1 * torch.eye(5)
    vectors = torch.randn(2, 15, generator=generator, dtype=torch.float64)
    expected = torch.linalg.solve(torch.block_diag(*blocks), vectors.T).T
    found = ClassBlocks(blocks.to(dtype) - torch.eye(5, dtype=dtype), torch.ones(3, 5, dtype=dtype)).solve(
        vectors.to(dtype)
    )
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


def test_a_block_that_rounding_made_indefinite_counts_by_its_diagonal() -> None:
    blocks = torch.stack([torch.tensor([[1.0, 1.1], [1.1, 1.0]]), torch.eye(2) * 4])
    solved = ClassBlocks(blocks, torch.zeros(2, 2)).solve(torch.ones(1, 4))
    torch.testing.assert_close(solved, torch.tensor([[1.0, 1.0, 0.25, 0.25]]), rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_blocks_are_those_of_the_hessian_autograd_finds(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    samples = torch.randn(40, 3, generator=generator, dtype=dtype)
    labels = torch.arange(40) % 4
    penalties, scales = torch.tensor([0.1, 0.02], dtype=torch.float64), torch.rand(2, 3, generator=generator) + 0.5
    objective = Objective(RotatedSamples(samples), labels, scales.to(dtype), penalties)
    point = torch.randn(1, 16, generator=generator, dtype=dtype)
    found = objective.class_blocks(1, point) + torch.diag_embed(objective.penalty_diagonal(1).view(4, -1))

    def value(parameters: torch.Tensor) -> torch.Tensor:
        shaped = parameters.view(4, 4)
        weights, biases = shaped[:, :-1] * scales[1].double(), shaped[:, -1] * 2**0.5
        loss = torch.nn.functional.cross_entropy(samples.double() @ weights.T + biases, labels)
        return loss + penalties[1] / 2 * weights.square().sum()

    hessian = torch.autograd.functional.hessian(value, point[0].double()).view(4, 4, 4, 4)
    expected = torch.stack([hessian[k, :, k] for k in range(4)])
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
