"""The exponential moving average of a network's weights, kept beside it while it trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from richrep.errors import RichrepError

if TYPE_CHECKING:
    from timm.utils.model_ema import ModelEmaV3


@dataclass(frozen=True)
class EmaOptions:
    """An exponential moving average; a value to print, compare and store.

    Attributes:
        decay: in [0, 1): what is kept of the average at each step.
        warmup: the decay after t steps is at most 1 - t^(-2/3), so that the first weights are soon forgotten.
    """

    decay: float = 0.9999
    warmup: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise RichrepError(f"The decay of an average of weights must be in [0, 1), got {self.decay}.")


def make_ema(network: nn.Module, options: EmaOptions) -> ModelEmaV3:
    """The average of `network`'s parameters; buffers are copied. Ready for use: `ema.module`, in evaluation mode.

    After every step, counted from 1, call `ema.update(network, step=step)`; the first call copies the weights. State
    goes out and in through `state_dict` and `load_state_dict`.

    Source: timm's ModelEmaV3; Polyak and Juditsky, Acceleration of stochastic approximation by averaging, 1992.
    """
    from timm.utils.model_ema import ModelEmaV3

    return ModelEmaV3(network, decay=options.decay, use_warmup=options.warmup, exclude_buffers=True)
