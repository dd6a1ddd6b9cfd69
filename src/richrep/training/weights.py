"""The weights that are evaluated and kept, where they are not those that are trained: averages of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from richrep.training.optimizers import evaluation_point, is_schedule_free

if TYPE_CHECKING:
    from timm.utils.model_ema import ModelEmaV3


@dataclass
class Weights:
    """The weights of an objective while it trains.

    Attributes:
        train_mode: puts the objective into training mode.
        ema: their running average; None where nobody wants one.
        calibrate: measures the statistics of norm layers anew, for schedule-free optimizers.
    """

    objective: nn.Module
    optimizer: torch.optim.Optimizer
    train_mode: Callable[[nn.Module], Any]
    ema: ModelEmaV3 | None
    calibrate: Callable[[], None] | None

    @contextmanager
    def evaluated(self) -> Iterator[None]:
        """Inside, the objective is in evaluation mode with the weights to evaluate; afterwards all is as before."""
        with ExitStack() as stack:
            self.objective.eval()
            stack.callback(self.train_mode, self.objective)
            stack.enter_context(evaluation_point(self.optimizer, self.objective, None))
            if is_schedule_free(self.optimizer) and self.calibrate is not None:
                self.calibrate()
            if self.ema is not None:
                stack.callback(self.objective.load_state_dict, self.copy())
                self.objective.load_state_dict(self.ema.module.state_dict())
            yield

    def copy(self) -> dict[str, torch.Tensor]:
        """What the objective holds now."""
        return {name: tensor.detach().clone() for name, tensor in self.objective.state_dict().items()}

    def leave(self, kept: dict[str, torch.Tensor] | None) -> None:
        """Ends training with `kept` in the objective; None: with the weights to evaluate."""
        if kept is None:
            with self.evaluated():
                kept = self.copy()
        self.objective.load_state_dict(kept)
        self.objective.eval()
