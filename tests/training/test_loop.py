"""The training loop: steps by hand, stopping and going on, evaluation, and what it refuses."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from richrep.errors import CheckpointError, DivergedError, RichrepError
from richrep.training.early_stop import EarlyStop
from richrep.training.ema import EmaOptions
from richrep.training.loop import train
from richrep.training.loop_values import LoopOptions, TrainingProgress, TrainingResult
from richrep.training.optimizers import OptimizerOptions, make_optimizer
from richrep.training.parameter_groups import make_parameter_groups
from richrep.training.schedules import Schedule


@dataclass
class Numbers:
    """Every batch is the same rows; an epoch is two steps."""

    values: torch.Tensor
    steps_per_epoch: int = 2

    def batch(self, step: int) -> tuple[torch.Tensor, ...]:
        return (self.values,)


class Square(nn.Module):
    """weight²/2 · mean of the batch: the gradient is weight · mean."""

    def __init__(self, start: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(start))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return 0.5 * self.weight**2 * values.mean()


def sgd(module: nn.Module, lr: float, **options) -> torch.optim.Optimizer:
    options = OptimizerOptions(**({"name": "sgd", "momentum": 0.0} | options))
    return make_optimizer(make_parameter_groups(None, module, lr=lr, weight_decay=0.0), options)


def test_steps_follow_the_gradient_and_the_schedule() -> None:
    square = Square()
    result = train(
        square,
        Numbers(torch.ones(1)),
        sgd(square, 0.5),
        LoopOptions(num_steps=3),
        schedule=Schedule("step", milestones=(1,), gamma=0.5),
    )
    # lr 0.5, 0.5, then 0.25 from the second epoch on: 1 -> 0.5 -> 0.25 -> 0.1875
    assert square.weight.item() == pytest.approx(0.1875)
    # losses weight²/2 before each step: (0.5 + 0.125) / 2 in the first epoch, 0.03125 in the begun one
    assert result.losses == pytest.approx([0.3125, 0.03125])
    assert (result.steps, result.parts, result.best_step) == (3, 1, None)


def test_no_steps_change_nothing() -> None:
    square = Square()
    assert train(square, Numbers(torch.ones(1)), sgd(square, 1.0), LoopOptions(num_steps=0)).losses == []
    assert square.weight.item() == 1.0


@pytest.mark.parametrize("accumulate", [2, 3, 8])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(accumulate: int) -> None:
    values = torch.arange(1.0, 6.0)  # five rows: the parts are unequal, and 8 is more than there are
    weights = []
    for parts in (1, accumulate):
        square = Square()
        options = LoopOptions(num_steps=3, accumulate=parts)
        train(square, Numbers(values), sgd(square, 0.1, momentum=0.9), options)
        weights.append(square.weight.item())
    assert weights[0] == pytest.approx(weights[1], rel=1e-6)


def test_the_gradient_is_clipped_to_its_largest_norm() -> None:
    square = Square(10.0)
    train(square, Numbers(torch.ones(1)), sgd(square, 1.0), LoopOptions(num_steps=1, clip_norm=2.0))
    assert square.weight.item() == pytest.approx(8.0, rel=1e-5)  # gradient 10, clipped to 2


def test_the_average_is_evaluated_and_kept() -> None:
    square = Square()
    seen = []
    train(
        square,
        Numbers(torch.ones(1)),
        sgd(square, 0.5),
        LoopOptions(num_steps=2, evaluate_every=1),
        ema=EmaOptions(0.5),
        evaluate=lambda: seen.append(square.weight.item()) or {"accuracy": 0.0},
    )
    # weights 0.5, 0.25; the average begins with the first: 0.5, then 0.5·0.5 + 0.5·0.25 = 0.375
    assert seen == pytest.approx([0.5, 0.375])
    assert square.weight.item() == pytest.approx(0.375)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_diverging_loss_is_an_error_and_takes_no_step(bad: float) -> None:
    class Bad(Square):
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return super().forward(values) * (bad if self.weight < 1 else 1.0)

    module = Bad()
    with pytest.raises(DivergedError, match=f"The loss is {bad} at step 1: training diverged.*here 0.1"):
        train(module, Numbers(torch.ones(1)), sgd(module, 0.1), LoopOptions(num_steps=5))
    assert module.weight.item() == pytest.approx(0.9)  # of the first step alone


def test_a_last_step_that_leaves_no_finite_weight_is_an_error() -> None:
    module = Square(1e15)  # loss 5e29, gradient 1e15; 1e15 - 1e30 * 1e15 overflows float32
    with pytest.raises(DivergedError, match=r"weight is not finite after step 0: training diverged.*here 1e\+30"):
        train(module, Numbers(torch.ones(1)), sgd(module, 1e30), LoopOptions(num_steps=1))


class Network(nn.Module):
    """Batch norm and dropout: what a resumed training may get wrong."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(4 * 36, 3)
        )

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(self.body(images), labels)


class Images:
    """Random images, other ones for every step."""

    steps_per_epoch = 4

    def batch(self, step: int) -> tuple[torch.Tensor, ...]:
        generator = torch.Generator().manual_seed(step)
        return torch.randn(6, 3, 8, 8, generator=generator), torch.randint(0, 3, (6,), generator=generator)


class Killed(BaseException):
    """As a signal would."""


def killed_at(step: int) -> Callable[[TrainingProgress], None]:
    def look(progress: TrainingProgress) -> None:
        if progress.step == step:
            raise Killed

    return look


def train_network(
    network: Network,
    name: str = "sgd",
    *,
    state: Path | None = None,
    kill: int = -1,
    ema: float | None = None,
    stop: int | None = None,
) -> TrainingResult:
    groups = make_parameter_groups(None, network, lr=0.05, weight_decay=1e-3)
    return train(
        network,
        Images(),
        make_optimizer(groups, OptimizerOptions(name)),
        LoopOptions(num_steps=11, seed=3, checkpoint_every=3, early_stop=EarlyStop(stop) if stop else None),
        schedule=Schedule("cosine", warmup_steps=2),
        ema=EmaOptions(ema) if ema is not None else None,
        evaluate=lambda: {"accuracy": float(network.body[0].weight.detach().sum())},
        state_path=state,
        on_progress=killed_at(kill),
    )


@pytest.mark.parametrize(("name", "ema"), [("sgd", None), ("sgd", 0.9), ("adamw", None), ("schedulefree-adamw", None)])
@pytest.mark.parametrize("kills", [[2], [4], [5, 8]])  # before the first state, at an epoch's end, twice in between
def test_going_on_after_a_kill_gives_the_weights_of_never_stopping(
    name: str, ema: float | None, kills: list[int], tmp_path: Path
) -> None:
    whole = Network()
    expected = train_network(whole, name, ema=ema)
    for kill in kills:
        with pytest.raises(Killed):
            train_network(Network(), name, ema=ema, state=tmp_path / "state.pt", kill=kill)
    resumed = Network()
    result = train_network(resumed, name, ema=ema, state=tmp_path / "state.pt")
    for (key, one), other in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other), key
    assert result.losses == pytest.approx(expected.losses, rel=1e-12)
    assert result.evaluations == expected.evaluations


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    first = Network()
    train_network(first, state=tmp_path / "state.pt")
    again = Network()
    train_network(again, state=tmp_path / "state.pt", kill=11)  # would be killed in its last step if it took one
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(b"not a state")
    with pytest.raises(CheckpointError, match=r"state\.pt is no training state that can be read.*--restart"):
        train_network(Network(), state=tmp_path / "state.pt")


def test_early_stopping_keeps_the_weights_of_the_best_evaluation(tmp_path: Path) -> None:
    square = Square()
    kept = []
    scores = iter([0.1, 0.5, 0.4, 0.5, 0.9])

    def evaluate() -> dict[str, float]:
        kept.append(square.weight.item())
        return {"accuracy": next(scores)}

    options = LoopOptions(num_steps=20, early_stop=EarlyStop(patience=2))
    result = train(square, Numbers(torch.ones(1)), sgd(square, 0.1), options, evaluate=evaluate)
    # epochs of two steps: 0.5 after step 4 is the best; 0.4 and 0.5 are no rise, so it ends at step 8
    assert (result.steps, result.best_step, len(kept)) == (8, 4, 4)
    assert square.weight.item() == kept[1]


def test_out_of_memory_halves_the_parts_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    class Greedy(Square):
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            if len(values) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().forward(values)

    values, plain, greedy = torch.arange(1.0, 9.0), Square(), Greedy()
    train(plain, Numbers(values), sgd(plain, 0.01), LoopOptions(num_steps=2))
    result = train(greedy, Numbers(values), sgd(greedy, 0.01), LoopOptions(num_steps=2))
    assert result.parts == 4
    assert greedy.weight.item() == pytest.approx(plain.weight.item(), rel=1e-6)
    assert "Out of memory: a batch of 8 images now goes through the network in 4 parts" in caplog.text


def test_a_lack_of_memory_on_the_cpu_is_known_by_its_words() -> None:
    class Greedy(Square):
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            if len(values) > 2:
                torch.empty(2**60)
            return super().forward(values)

    greedy = Greedy()
    result = train(greedy, Numbers(torch.ones(8)), sgd(greedy, 0.1), LoopOptions(num_steps=1, device="cpu"))
    assert result.parts == 4 and greedy.weight.item() == pytest.approx(0.9)


def test_one_image_that_does_not_fit_into_memory_is_an_error() -> None:
    class Full(Square):
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    module = Full()
    with pytest.raises(RichrepError, match="not even one image at a time"):
        train(module, Numbers(torch.ones(4)), sgd(module, 0.1), LoopOptions(num_steps=1))


def test_other_errors_of_the_network_are_not_taken_for_a_lack_of_memory() -> None:
    class Broken(Square):
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("shapes cannot be multiplied")

    module = Broken()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        train(module, Numbers(torch.ones(4)), sgd(module, 0.1), LoopOptions(num_steps=1))


def test_random_draws_elsewhere_are_not_disturbed() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    train_network(copy.deepcopy(_NETWORK))
    assert torch.equal(torch.rand(3), expected)


_NETWORK = Network()
