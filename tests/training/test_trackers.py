"""Trackers: what is logged can be read again, and what is not there is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from richrep.errors import RichrepError
from richrep.training.loop_values import TrainingProgress
from richrep.training.trackers import check_tracker, tracking


def progress(step: int, loss: float, *, is_new: bool) -> TrainingProgress:
    return TrainingProgress(step, 4, loss, 0.1 / step, {"accuracy": 0.5 + step / 10}, is_new, 10.0, None)


def test_tensorboard_holds_loss_lr_and_new_scores(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    check_tracker("tensorboard")
    with tracking("tensorboard", tmp_path, "lr_0.1") as log:
        log(progress(1, 2.0, is_new=False))
        log(progress(2, float("nan"), is_new=True))  # nobody looked at this loss
        log(progress(3, 1.0, is_new=False))
    events = EventAccumulator(str(tmp_path / "lr_0.1")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 2.0), (3, 1.0)]
    assert [event.value for event in events.Scalars("train/lr")] == pytest.approx([0.1, 0.05, 0.1 / 3])
    assert [(event.step, event.value) for event in events.Scalars("val/accuracy")] == [(2, pytest.approx(0.7))]


def test_a_training_that_never_steps_starts_no_tracker(tmp_path: Path) -> None:
    with tracking("tensorboard", tmp_path, "none"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_unknown_trackers_and_those_not_installed_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RichrepError, match=r"Unknown tracker 'tensorbord'\. Did you mean 'tensorboard'"):
        check_tracker("tensorbord")
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    with pytest.raises(
        RichrepError, match=r"'tensorboard' is not installed here.*pip install 'richrep\[tensorboard\]'"
    ):
        check_tracker("tensorboard")
    with pytest.raises(RichrepError, match=r"'wandb' is not installed here.*pip install wandb"):
        check_tracker("wandb")
