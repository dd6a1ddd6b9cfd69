import pytest
import torch
from torch import Tensor

from richrep.heads.lbfgs import Curvature, Evaluate, History, Minimum, _is_time_to_measure, minimize_batch
from richrep.heads.preconditioner import Diagonal


class Quadratics:
    """L problems ½(x - c)ᵀH(x - c) + 1; counts which problems were evaluated. Hessians (L, P, P) at most the identity.

    The 1 matters: stopping is relative to the value.
    """

    def __init__(self, hessians: Tensor, centres: Tensor) -> None:
        self.hessians, self.centres = hessians, centres
        self.asked: list[list[int]] = []

    def __call__(self, active: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        self.asked.append(active.tolist())
        shifted = points - self.centres[active]
        gradients = torch.einsum("aij,aj->ai", self.hessians[active].to(points), shifted)
        return 1 + (shifted * gradients).sum(1).to(torch.float64) / 2, gradients

    def curvature(self, active: Tensor, points: Tensor) -> Tensor:
        return self.hessians[active].diagonal(dim1=1, dim2=2).to(points)

    def minimize(self, **options: float) -> Minimum:
        return minimize_batch(
            self, self.curvature, torch.zeros_like(self.centres), **{"tol": 1e-12, "max_iter": 1000} | options
        )


def make_quadratics(conditions: list[float], *, dim: int = 12, dtype: torch.dtype = torch.float64) -> Quadratics:
    """One rotated quadratic per condition number, with eigenvalues from 1 down to 1/condition."""
    generator = torch.Generator().manual_seed(0)
    hessians = []
    for condition in conditions:
        basis, _ = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))
        spectrum = torch.logspace(0, -torch.tensor(condition).log10().item(), dim, dtype=torch.float64)
        hessians.append(basis @ spectrum.diag() @ basis.T)
    centres = torch.randn(len(conditions), dim, generator=generator, dtype=torch.float64)
    return Quadratics(torch.stack(hessians), centres.to(dtype))


def test_quadratics_of_every_conditioning_end_at_their_centres() -> None:
    problems = make_quadratics([1, 10, 1e3, 1e5])
    found = problems.minimize()
    assert found.converged.all()
    torch.testing.assert_close(found.values, torch.ones(4, dtype=torch.float64), rtol=1e-9, atol=0)
    torch.testing.assert_close(found.points[:3], problems.centres[:3], rtol=0, atol=1e-3)


def test_where_the_hessian_is_the_identity_one_step_arrives() -> None:
    problems = Quadratics(torch.eye(3, dtype=torch.float64)[None], torch.tensor([[1.0, -2.0, 3.0]]).double())
    found = problems.minimize()
    assert torch.equal(found.points, problems.centres)
    assert found.iterations.item() <= 7  # 1 step and the 5 iterations over which nothing may change


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_batch_gives_what_every_problem_gives_alone(dtype: torch.dtype) -> None:
    conditions = [1e4, 1, 30, 1e2]
    tol = 1e-10 if dtype == torch.float64 else 1e-6
    together = make_quadratics(conditions, dtype=dtype)
    batch = together.minimize(tol=tol)
    for i in range(4):
        alone = Quadratics(together.hessians[i : i + 1], together.centres[i : i + 1]).minimize(tol=tol)
        assert batch.converged[i] and alone.converged[0]
        assert batch.values[i].item() == pytest.approx(alone.values[0].item(), rel=10 * tol)
        if dtype == torch.float64:  # rounding in a sum may depend on the batch, the path of the iteration must not
            assert batch.iterations[i] == alone.iterations[0]
            torch.testing.assert_close(batch.points[i], alone.points[0], rtol=0, atol=1e-6)


def test_finished_problems_leave_the_batch() -> None:
    problems = make_quadratics([1, 1e5, 1])
    found = problems.minimize()
    assert problems.asked[0] == [0, 1, 2]
    assert problems.asked[-1] == [1]
    assert found.iterations[1] > found.iterations[0] == found.iterations[2]
    last_with_all = max(i for i, active in enumerate(problems.asked) if len(active) == 3)
    assert all(0 not in active for active in problems.asked[last_with_all + 1 :])  # and they do not come back


def test_what_max_iter_cuts_short_is_not_converged_and_the_others_are() -> None:
    problems = make_quadratics([1, 1e6])
    found = problems.minimize(max_iter=9)
    assert found.converged.tolist() == [True, False]
    assert found.iterations[1] == 9
    assert found.values[1] < problems(torch.tensor([1]), torch.zeros(1, 12).double())[0].item()  # the best so far


def test_no_iteration_at_all_returns_the_start_not_converged() -> None:
    found = make_quadratics([1, 10]).minimize(max_iter=0)
    assert torch.equal(found.points, torch.zeros(2, 12).double())
    assert found.iterations.tolist() == [0, 0] and not found.converged.any()


def test_a_start_at_the_minimum_stays_there() -> None:
    problems = make_quadratics([1, 100])
    found = minimize_batch(problems, problems.curvature, problems.centres.clone(), tol=1e-12, max_iter=50)
    assert found.converged.all()
    assert torch.equal(found.points, problems.centres)


def test_the_start_is_not_written_to() -> None:
    problems, start = make_quadratics([10.0]), torch.zeros(1, 12, dtype=torch.float64)
    minimize_batch(problems, problems.curvature, start, tol=1e-8, max_iter=50)
    assert torch.equal(start, torch.zeros(1, 12, dtype=torch.float64))


def test_the_step_is_shortened_where_the_function_curves_more_than_promised() -> None:
    # Hessian 9 > 1: the first step of -gradient jumps to 8 times the distance on the other side.
    problems = Quadratics(9 * torch.eye(2, dtype=torch.float64)[None], torch.tensor([[1.0, 2.0]]).double())
    found = problems.minimize()
    assert found.converged.all()
    torch.testing.assert_close(found.points, problems.centres, rtol=0, atol=1e-6)


def test_going_on_from_a_memory_keeps_its_preconditioner_and_solves_a_diagonal_problem_at_once() -> None:
    scales = torch.logspace(0, -8, 9, dtype=torch.float64)  # far below the bound of 1 the plain start assumes
    problems = Quadratics(scales.diag()[None], torch.full((1, 9), 1e3, dtype=torch.float64))
    memory = History(10)
    memory.preconditioner = Diagonal(scales[None])
    plain, measured = problems.minimize(), problems.minimize(memory=memory)
    assert measured.iterations.item() <= 7 < plain.iterations.item()
    torch.testing.assert_close(measured.points, problems.centres, rtol=1e-9, atol=0)


def test_the_diagonal_is_measured_at_10_20_40_80() -> None:
    assert [i for i in range(200) if _is_time_to_measure(i)] == [10, 20, 40, 80, 160]


def softplus_problems(shifts: Tensor) -> tuple[Evaluate, Curvature]:
    """softplus(4x) + softplus(-4(x - s)) per column: smooth and convex, not quadratic, with its minimum at s/2."""

    def evaluate(active: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        up, down = 4 * points, -4 * (points - shifts[active])
        values = torch.nn.functional.softplus(up) + torch.nn.functional.softplus(down)
        return values.sum(1), 4 * (up.sigmoid() - down.sigmoid())

    def curvature(active: Tensor, points: Tensor) -> Tensor:
        slopes = [z.sigmoid() * (1 - z.sigmoid()) for z in (4 * points, -4 * (points - shifts[active]))]
        return 16 * (slopes[0] + slopes[1])

    return evaluate, curvature


def test_functions_that_are_no_quadratics_end_at_their_minima_too() -> None:
    shifts = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]], dtype=torch.float64)
    found = minimize_batch(*softplus_problems(shifts), torch.full_like(shifts, 2.0), tol=1e-14, max_iter=200)
    assert found.converged.all()
    torch.testing.assert_close(found.points, shifts / 2, rtol=0, atol=1e-4)
