"""The search of t-ReX's transfer suite: Optuna's TPE over hyper-parameters on log scales."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from richrep.errors import RichrepError

Point = dict[str, float]
_STARTUP = 10  # Optuna's TPESampler draws so many trials at random, whatever the others scored


def check_optuna(name: str) -> None:
    """Raises RichrepError where Optuna is not installed.

    Args:
        name: of the protocol that needs it.
    """
    if importlib.util.find_spec("optuna") is None:
        raise RichrepError(
            f"The protocol {name} searches with Optuna, which is not installed. "
            "Install it: pip install 'richrep[trex]'. Without it: --protocol logistic tries the same penalties."
        )


def tpe_search(
    space: Mapping[str, tuple[float, float]],
    score: Callable[[Sequence[Point]], Sequence[float]],
    *,
    trials: int,
    seed: int,
    joint: bool,
) -> Any:
    """The Optuna study after `trials` points, each log-uniform in its range; larger scores are better.

    The first ten do not depend on scores and are handed to `score` at once; the study is that of one after the other.

    Args:
        joint: whether TPE models the dimensions together (multivariate and group), as t-ReX does for SGD.
    """
    import optuna

    if trials < 1:
        raise ValueError(f"trials must be at least 1, got {trials}.")
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of multivariate and group
            sampler = optuna.samplers.TPESampler(seed=seed, multivariate=joint, group=joint, n_startup_trials=_STARTUP)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        while len(study.trials) < trials:
            count = 1 if study.trials else min(_STARTUP, trials)
            asked = [study.ask() for _ in range(count)]
            points = [
                {name: trial.suggest_float(name, low, high, log=True) for name, (low, high) in space.items()}
                for trial in asked
            ]
            for trial, value in zip(asked, score(points), strict=True):
                study.tell(trial, value)
    finally:
        optuna.logging.set_verbosity(verbosity)
    return study
