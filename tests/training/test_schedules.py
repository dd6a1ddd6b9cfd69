from __future__ import annotations

from dataclasses import asdict

import pytest
import torch

from richrep.errors import RichrepError
from richrep.training.schedules import Schedule, set_learning_rates


def lrs(schedule: Schedule, base_lr: float, *, epochs: int, steps_per_epoch: int) -> list[float]:
    num = epochs * steps_per_epoch
    return [schedule.lr(i, base_lr=base_lr, steps_per_epoch=steps_per_epoch, num_steps=num) for i in range(num)]


def test_trex_warms_up_from_zero_and_repeats_the_base() -> None:
    # golden values of t-ReX: numpy's linspace(0, base, W n), then half a cosine to 1e-6; base 0.1, E 100, n 5004, W 10
    schedule = Schedule("cosine", warmup_epochs=10, warmup_from_zero=True, final_lr=1e-6)
    golden = {
        0: 0.0,
        1: 1.9984412e-06,
        50_039: 0.1,
        50_040: 0.1,
        50_041: 0.0999999999987835,
        250_200: 0.0586828220592577,
        500_399: 1.00000122e-06,
    }
    for step, lr in golden.items():
        found = schedule.lr(step, base_lr=0.1, steps_per_epoch=5004, num_steps=500_400)
        assert found == pytest.approx(lr, rel=1e-7, abs=0), step
    late = schedule.lr(50_041, base_lr=0.1, steps_per_epoch=5004, num_steps=500_400)
    assert 0.1 - late == pytest.approx(1.2165e-12, rel=1e-3)  # 1 - cos is small: the digits that count


def test_the_linear_probe_of_rrl_drops_at_8_16_24() -> None:
    found = lrs(Schedule("step", milestones=(8, 16, 24), gamma=0.1), 0.01, epochs=28, steps_per_epoch=3)
    expected = [1e-2] * 24 + [1e-3] * 24 + [1e-4] * 24 + [1e-5] * 12  # 8, 8, 8 and 4 epochs of 3 steps
    assert found == pytest.approx(expected, rel=1e-12)


def test_the_sparse_transfer_recipe_has_51_50_and_49_epochs() -> None:
    found = lrs(Schedule("step", milestones=(51, 101), gamma=0.1), 0.01, epochs=150, steps_per_epoch=1)
    assert found == pytest.approx([1e-2] * 51 + [1e-3] * 50 + [1e-4] * 49, rel=1e-12)


def test_the_fine_tuning_of_rrl_is_torchs_cosine_per_epoch() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.01)
    torch_cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100, eta_min=1e-7)
    expected = []
    for _ in range(100):
        expected += [optimizer.param_groups[0]["lr"]] * 2
        optimizer.step()
        torch_cosine.step()
    schedule = Schedule("cosine", final_lr=1e-7, per_epoch=True)
    assert lrs(schedule, 0.01, epochs=100, steps_per_epoch=2) == pytest.approx(expected, rel=1e-9)
    assert schedule.lr(200, base_lr=0.01, steps_per_epoch=2, num_steps=200) == pytest.approx(1e-7, rel=1e-6)


def test_a_warm_up_of_n_steps_starts_at_one_nth_as_schedule_free_does() -> None:
    found = lrs(Schedule("constant", warmup_steps=4), 2.0, epochs=1, steps_per_epoch=6)
    assert found == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    assert lrs(Schedule("constant", warmup_epochs=0.5), 2.0, epochs=2, steps_per_epoch=4)[:3] == [1.0, 2.0, 2.0]


def test_a_line_runs_from_the_base_to_the_final_learning_rate() -> None:
    schedule = Schedule("linear", warmup_steps=1, final_lr=0.2)
    # after the warm-up 4 steps: 1 + (0.2 - 1) (0, 1/4, 2/4, 3/4), and the final rate after the last
    assert lrs(schedule, 1.0, epochs=1, steps_per_epoch=5) == pytest.approx([1.0, 1.0, 0.8, 0.6, 0.4])
    assert schedule.lr(5, base_lr=1.0, steps_per_epoch=5, num_steps=5) == pytest.approx(0.2)


def test_a_warm_up_counts_towards_the_milestones() -> None:
    found = lrs(Schedule("step", warmup_epochs=1, milestones=(2,)), 1.0, epochs=3, steps_per_epoch=2)
    assert found == pytest.approx([0.5, 1.0, 1.0, 1.0, 0.1, 0.1])


def test_per_epoch_also_warms_up_in_epochs() -> None:
    found = lrs(Schedule("constant", warmup_epochs=2, per_epoch=True), 1.0, epochs=3, steps_per_epoch=2)
    assert found == [0.5, 0.5, 1.0, 1.0, 1.0, 1.0]


def test_a_base_below_the_final_learning_rate_never_rises() -> None:
    assert lrs(Schedule("cosine", final_lr=1e-3), 1e-4, epochs=1, steps_per_epoch=3) == [1e-4] * 3


def test_every_group_follows_the_schedule_from_its_own_initial_lr() -> None:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr, "initial_lr": lr} for lr in (1.0, 10.0)]
    optimizer = torch.optim.SGD(groups, lr=0.5)
    for step in (0, 1, 1):  # setting twice changes nothing: the initial rates stay
        set_learning_rates(optimizer, Schedule("linear"), step, steps_per_epoch=2, num_steps=2)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 5.0]


def test_a_schedule_is_plain_data() -> None:
    assert asdict(Schedule("step", milestones=(8, 16), per_epoch=True)) == {
        "kind": "step",
        "warmup_epochs": 0.0,
        "warmup_steps": 0,
        "warmup_from_zero": False,
        "milestones": (8, 16),
        "gamma": 0.1,
        "final_lr": 0.0,
        "per_epoch": True,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "cosin"}, "Unknown schedule 'cosin'. Did you mean 'cosine'"),
        ({"warmup_steps": -1}, "warmup_steps must be a number >= 0, got -1"),
        ({"final_lr": float("nan")}, "final_lr must be a number >= 0, got nan"),
        ({"warmup_steps": 3, "warmup_epochs": 2}, "warmup_epochs 2 and warmup_steps 3 exclude each other"),
        ({"per_epoch": True, "warmup_epochs": 0.5}, "warms up for whole epochs"),
        ({"kind": "cosine", "milestones": (8,)}, r"milestones belong to kind 'step'.*\(8,\) for 'cosine'"),
        ({"kind": "step"}, r"milestones belong to kind 'step'.*\(\) for 'step'"),
        ({"kind": "step", "milestones": (16, 8)}, r"increasing order, got \(16, 8\)"),
    ],
)
def test_impossible_schedules_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(RichrepError, match=message):
        Schedule(**options)  # type: ignore[arg-type]


def test_a_warm_up_longer_than_the_training_is_refused() -> None:
    with pytest.raises(RichrepError, match="warm-up lasts 10 steps, training 8"):
        Schedule("cosine", warmup_epochs=5).lr(0, base_lr=0.1, steps_per_epoch=2, num_steps=8)
