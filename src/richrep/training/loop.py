"""The only training loop: batches in, the loss of an objective, steps of an optimizer; it can stop and go on anywhere.

Going on after a kill gives the weights that never stopping gives, bit by bit on the CPU: a batch depends on (seed,
step), random draws in the network too (the generator is set before every step), and the rest is in the state file.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from richrep.errors import CheckpointError, DivergedError
from richrep.features.loop_options import default_num_workers
from richrep.training.batches import Batch, Batches, read_ahead
from richrep.training.devices import make_accelerator
from richrep.training.ema import EmaOptions, make_ema
from richrep.training.gradient import BatchGradient
from richrep.training.loop_values import LoopOptions, TrainingProgress, TrainingResult
from richrep.training.processes import on_main
from richrep.training.schedules import Schedule, set_learning_rates
from richrep.training.state import TrainingState, load_state, save_state
from richrep.training.weights import Weights

logger = logging.getLogger(__name__)

_CONSTANT = Schedule()
_CHECK_EVERY = 20  # steps between two looks at the loss on an accelerator, each of which waits for it


def as_it_is(batch: Batch, step: int) -> Batch:
    """The batch."""
    return batch


def train(
    objective: nn.Module,
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    options: LoopOptions,
    *,
    schedule: Schedule = _CONSTANT,
    train_mode: Callable[[nn.Module], Any] = nn.Module.train,
    on_gradient: Callable[[], None] | None = None,
    after_step: Callable[[], None] | None = None,
    transform: Callable[[Batch, int], Batch] = as_it_is,
    ema: EmaOptions | None = None,
    calibrate: Callable[[], None] | None = None,
    evaluate: Callable[[], dict[str, float]] | None = None,
    state_path: Path | None = None,
    on_progress: Callable[[TrainingProgress], None] | None = None,
) -> TrainingResult:
    """Trains `objective` in place, from where the state on disk is, else from the start.

    Args:
        objective: `forward(*batch)` -> the mean loss of the batch, a scalar; its parameters are those of `optimizer`.
        schedule: of the learning rate of every group, from its "initial_lr".
        train_mode: puts the objective into training mode; a method may keep parts in evaluation mode.
        on_gradient: called when the gradient of a step is there, before it is clipped; after_step: after every step.
        transform: what becomes of a batch of a step before the objective sees it (mixing), in this thread.
        ema: keeps a running average of the weights, which is evaluated, and left in `objective` at the end.
        calibrate: measures the statistics of norm layers anew, where the weights that are evaluated are not those that
            were trained with (schedule-free optimizers).
        evaluate: scores on val of the objective as it then is, in evaluation mode; "accuracy" for early stopping.
        state_path: the file of the state; None keeps none.

    Raises:
        DivergedError: the loss, or in the end a weight, is not finite.
        RichrepError: a single image does not fit into memory.
    """
    run = _Run(
        objective,
        batches,
        optimizer,
        options,
        schedule,
        train_mode,
        on_gradient,
        after_step,
        transform,
        ema,
        calibrate,
        evaluate,
    )
    with run.ready(state_path):
        run.go(state_path, on_progress)
    return run.result()


@dataclass
class _Run:
    """One call of `train`."""

    objective: nn.Module
    batches: Batches
    optimizer: torch.optim.Optimizer
    options: LoopOptions
    schedule: Schedule
    train_mode: Callable[[nn.Module], Any]
    on_gradient: Callable[[], None] | None
    after_step: Callable[[], None] | None
    transform: Callable[[Batch, int], Batch]
    ema_options: EmaOptions | None
    calibrate: Callable[[], None] | None
    evaluate: Callable[[], dict[str, float]] | None
    state: TrainingState = field(default_factory=TrainingState)
    open_losses: list[torch.Tensor] = field(default_factory=list)

    @contextmanager
    def ready(self, state_path: Path | None) -> Iterator[None]:
        """The objective on its device and wrapped; afterwards as it came, with the trained weights, on the CPU."""
        self.accelerator = make_accelerator(self.options.device, self.options.precision)
        device = self.accelerator.device
        self.objective.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        network, self.stepper = self.accelerator.prepare(self.objective, self.optimizer)
        self.gradient = BatchGradient(self.accelerator, network, self.options.seed, self.options.accumulate)
        self.ema = make_ema(self.objective, self.ema_options) if self.ema_options is not None else None
        calibrate = self.calibrate if self.options.num_steps else None  # of weights that nothing moved
        self.weights = Weights(self.objective, self.optimizer, self.train_mode, self.ema, calibrate)
        if state_path is not None:
            self._go_on(state_path)
        cuda = [device] if device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices=cuda):
                yield
        finally:
            self.accelerator.unwrap_model(network, keep_fp32_wrapper=False)
            self.objective.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    def go(self, state_path: Path | None, on_progress: Callable[[TrainingProgress], None] | None) -> None:
        """All steps that are left."""
        first, last = self.state.step, self.options.num_steps
        self.train_mode(self.objective)
        start, elapsed_before = time.perf_counter(), self.state.elapsed_s
        with closing(self._source(first, last)) as source:
            while self.state.step < last and not self._should_stop():
                self._step(next(source))
                self.state.elapsed_s = elapsed_before + time.perf_counter() - start
                self._look(state_path)
                if on_progress is not None and self.accelerator.is_main_process:
                    on_progress(self._progress(first, time.perf_counter() - start))
        self._close_losses()
        if last == 0:  # what nothing is trained of is scored all the same
            self._evaluate()
        self.weights.leave(self.state.best)
        self._check_weights()
        self.state.elapsed_s = elapsed_before + time.perf_counter() - start

    def _source(self, first: int, last: int) -> Generator[Batch, None, None]:
        device, workers = self.accelerator.device, self.options.num_workers
        if workers is None and device.type != "cpu":
            workers = default_num_workers(device)
        return read_ahead(self.batches, first, last, num_workers=workers, pin=device.type == "cuda")

    def _look(self, state_path: Path | None) -> None:
        """What is due after the step just taken: a check of the loss, an evaluation, a state on disk."""
        due = {of for of in ("epoch", "evaluation", "checkpoint") if self._is_end(of)}
        if due and self.open_losses:  # before a network that diverged is evaluated or kept
            self._check_finite(torch.stack(self.open_losses).sum(), self.state.step - 1)
        if "epoch" in due:
            self._close_losses()
        if "evaluation" in due:
            self._evaluate()
        if state_path is not None and due & {"epoch", "checkpoint"}:
            self._save(state_path)

    def _step(self, batch: Batch) -> None:
        """One step of the optimizer on one batch."""
        step = self.state.step
        batch = tuple(values.to(self.accelerator.device, non_blocking=True) for values in batch)
        self._set_learning_rates(step)
        loss = self.gradient.compute(self.transform(batch, step), step)
        self.open_losses.append(loss)
        if self.accelerator.device.type == "cpu" or step % _CHECK_EVERY == 0:
            self._check_finite(loss, step)
        if self.on_gradient is not None:
            self.on_gradient()
        if self.options.clip_norm is not None:
            self.accelerator.clip_grad_norm_(self.gradient.network.parameters(), self.options.clip_norm)
        self.stepper.step()
        if self.after_step is not None:
            self.after_step()
        self.state.step += 1
        if self.ema is not None:
            self.ema.update(self.objective, step=self.state.step)

    def _set_learning_rates(self, step: int) -> None:
        epoch, total = self.batches.steps_per_epoch, self.options.schedule_steps or self.options.num_steps
        set_learning_rates(self.optimizer, self.schedule, step, steps_per_epoch=epoch, num_steps=total)

    def _check_finite(self, loss: torch.Tensor, step: int) -> None:
        value = float(loss)
        if not math.isfinite(value):
            raise self._diverged(f"The loss is {value} at step {step}")

    def _check_weights(self) -> None:
        """A loss may be finite when the step after it, or a variance that a norm layer measured, is not."""
        for name, values in self.objective.state_dict().items():
            if not bool(values.isfinite().all()):
                raise self._diverged(f"{name} is not finite after step {self.state.step - 1}")

    def _diverged(self, what: str) -> DivergedError:
        lr = max(group["initial_lr"] for group in self.optimizer.param_groups)
        return DivergedError(f"{what}: training diverged. Lower the learning rate, here {lr:g}.")

    def _evaluate(self) -> None:
        if self.evaluate is None:
            return
        with self.weights.evaluated():
            self.state.evaluations.append({"step": float(self.state.step), **on_main(self.evaluate)})
            if self._best_step() == self.state.step:
                self.state.best = self.weights.copy()

    def _best_step(self) -> int | None:
        """Step of the best evaluation; None without early stopping."""
        stop = self.options.early_stop
        return None if stop is None else stop.best_step(self.state.evaluations)

    def _should_stop(self) -> bool:
        stop = self.options.early_stop
        return stop is not None and stop.is_over(self.state.evaluations)

    def _is_end(self, of: str) -> bool:
        """Whether the step just taken ends an epoch, or the interval of evaluations or states."""
        step, options, epoch = self.state.step, self.options, self.batches.steps_per_epoch
        every = {"epoch": epoch, "evaluation": options.evaluate_every or epoch, "checkpoint": options.checkpoint_every}
        interval = every[of]
        return step == options.num_steps or (interval is not None and step % interval == 0)

    def _close_losses(self) -> None:
        if self.open_losses:
            self.state.losses.append(float(torch.stack(self.open_losses).mean()))
            self.open_losses = []

    def _save(self, path: Path) -> None:
        if not self.accelerator.is_main_process:
            return
        self.state.objective = self.objective.state_dict()
        self.state.optimizer = self.optimizer.state_dict()
        self.state.scaler = self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else None
        self.state.ema = self.ema.state_dict() if self.ema is not None else None
        self.state.parts = self.gradient.parts
        self.state.open_losses = [float(loss) for loss in self.open_losses]
        save_state(self.state, path)

    def _go_on(self, path: Path) -> None:
        """Takes over the state on disk, if there is one; all processes the same."""
        found = load_state(path)
        step = found.step if found is not None else 0
        if on_main(lambda: step) != step:
            raise CheckpointError(
                f"Not all processes see the same state in {path}. Give a folder they share with --out."
            )
        if found is not None:
            self._restore(found)

    def _restore(self, state: TrainingState) -> None:
        self.state, self.gradient.parts = state, state.parts
        if state.objective is not None and state.optimizer is not None:
            self.objective.load_state_dict(state.objective)
            self.optimizer.load_state_dict(state.optimizer)
        if state.scaler is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state.scaler)
        if state.ema is not None and self.ema is not None:
            self.ema.load_state_dict(state.ema)
        self.open_losses = [torch.tensor(loss, device=self.accelerator.device) for loss in state.open_losses]
        logger.info("Going on from step %d.", state.step)

    def _progress(self, first: int, seconds: float) -> TrainingProgress:
        step, last = self.state.step, self.options.num_steps
        rate = (step - first) / seconds if seconds > 0 else 0.0
        images = getattr(self.batches, "batch_size", 0)
        scores = self.state.evaluations[-1] if self.state.evaluations else {}
        loss = self.open_losses[-1] if self.open_losses else self.state.losses[-1]
        return TrainingProgress(
            step=step,
            num_steps=last,
            loss=float(loss) if self.accelerator.device.type == "cpu" or step % _CHECK_EVERY == 0 else math.nan,
            lr=max(group["lr"] for group in self.optimizer.param_groups),
            scores={name: value for name, value in scores.items() if name != "step"},
            is_new=scores.get("step") == step,
            images_per_s=rate * images,
            seconds_left=(last - step) / rate if rate > 0 else None,
        )

    def result(self) -> TrainingResult:
        """What came of it."""
        state = self.state
        return TrainingResult(
            steps=state.step,
            best_step=self._best_step() if state.best is not None else None,
            losses=state.losses,
            evaluations=state.evaluations,
            parts=self.gradient.parts,
            elapsed_s=state.elapsed_s,
        )
