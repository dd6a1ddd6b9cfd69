"""The state of a training run on disk: one file, replaced whole; a kill at any moment leaves the last one."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from richrep.errors import CheckpointError


@dataclass
class TrainingState:
    """All that the next step depends on. Random draws depend on (seed, step) alone, so the step is their state.

    Attributes:
        step: steps taken; the next batch is that of this number.
        objective, optimizer, scaler, ema: state dicts; None where there is none.
        parts: a batch goes through the network in so many parts (after running out of memory).
        losses: mean loss of every finished epoch; open_losses: of the steps of the one begun.
        evaluations: scores on val with their step, in order.
        best: the objective's weights at the best evaluation, while early stopping watches.
        elapsed_s: of training so far, over all sessions.
    """

    step: int = 0
    objective: dict[str, torch.Tensor] | None = None
    optimizer: dict[str, Any] | None = None
    scaler: dict[str, Any] | None = None
    ema: dict[str, Any] | None = None
    parts: int = 1
    losses: list[float] = field(default_factory=list)
    open_losses: list[float] = field(default_factory=list)
    evaluations: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, torch.Tensor] | None = None
    elapsed_s: float = 0.0


def save_state(state: TrainingState, path: Path) -> None:
    """Writes `state`, whole or not at all.

    Raises:
        CheckpointError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            torch.save(vars(state), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise CheckpointError(
            f"The training state cannot be written to {path}: {error.strerror or error}. Free space, or give another "
            "folder with --out."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def load_state(path: Path) -> TrainingState | None:
    """The state in `path`; None when there is none.

    Raises:
        CheckpointError: the file is damaged, or of another version.
    """
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        return TrainingState(**content)
    except Exception as error:  # torch.load raises whatever it stumbles on
        raise CheckpointError(
            f"{path} is no training state that can be read ({' '.join(str(error).split())[:200]}). "
            "Begin anew with --restart."
        ) from error
