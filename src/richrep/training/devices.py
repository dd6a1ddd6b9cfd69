"""Where training runs: accelerate's choice of device, precision and processes."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any, get_args

import torch

from richrep.errors import EngineError, RichrepError, unknown_name_message
from richrep.features.forward import choose_device
from richrep.features.manifest import Precision

logger = logging.getLogger(__name__)

_MIXED: dict[Precision, str] = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
_PATIENCE = timedelta(hours=1)  # of processes that wait for the first one's evaluation


def make_accelerator(device: str | None, precision: Precision) -> Any:
    """accelerate's Accelerator for one run of the loop.

    Args:
        device: "cpu", "cuda", "cuda:1"; None means CUDA when there is one, else the CPU. Under torchrun every process
            takes the device of its rank.

    Raises:
        EngineError: the device is not there, or cannot train in this precision.
    """
    from accelerate import Accelerator, InitProcessGroupKwargs
    from accelerate.state import AcceleratorState, PartialState

    wanted = check_device(device, precision)
    if wanted.type == "cpu" and precision == "bf16":
        _say_if_bf16_is_slow()
    if PartialState._shared_state and PartialState().num_processes == 1:
        # accelerate keeps device and precision for the life of the process; a second run may want others
        AcceleratorState._reset_state(reset_partial_state=True)
    with _environment("ACCELERATE_TORCH_DEVICE", str(wanted) if wanted.index is not None else None):
        return Accelerator(
            mixed_precision=_MIXED[precision],
            cpu=wanted.type == "cpu",
            kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)],
        )


def check_device(device: str | None, precision: Precision) -> torch.device:
    """The device that `device` names, tried out.

    Raises:
        EngineError: it is not there, or cannot train in this precision.
    """
    if precision not in get_args(Precision):
        raise EngineError(unknown_name_message("precision", precision, get_args(Precision)))
    try:
        wanted = choose_device(device)
    except RichrepError as error:
        raise EngineError(str(error)) from error
    if wanted.type == "cpu" and precision == "fp16":
        raise EngineError("fp16 cannot train on the CPU. Use --precision bf16 or fp32.")
    return wanted


@cache
def _say_if_bf16_is_slow() -> None:
    """Once a process. A ResNet-20 took ten times as long as in float32 on a processor with AVX2 alone."""
    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    if found and not any(has_it for name, has_it in found.items() if "bf16" in name):
        logger.warning(
            "This processor has no arithmetic for bf16 (AVX-512 BF16, AMX): training is several times slower than with "
            "--precision fp32."
        )


@contextmanager
def _environment(name: str, value: str | None) -> Iterator[None]:
    """Sets an environment variable meanwhile; None leaves it as it is."""
    before = os.environ.get(name)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        if value is not None:
            os.environ.pop(name) if before is None else os.environ.__setitem__(name, before)
