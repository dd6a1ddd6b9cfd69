"""The search against Optuna's own loop, and without Optuna."""

from __future__ import annotations

import importlib.util
import math
import warnings

import optuna
import pytest

from richrep.errors import RichrepError
from richrep.evaluation.protocols import PROTOCOLS
from richrep.evaluation.protocols.trex_search import tpe_search

SPACE = {"lr": (0.1, 100.0), "weight_decay": (1e-12, 1e-4)}


def value_of(point: dict[str, float]) -> float:
    return -((math.log10(point["lr"]) - 1) ** 2) - (math.log10(point["weight_decay"]) + 6) ** 2


@pytest.mark.parametrize("joint", [True, False])
def test_the_first_ten_at_once_give_the_study_of_one_after_the_other(joint: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(seed=22, multivariate=joint, group=joint)
    expected = optuna.create_study(direction="maximize", sampler=sampler)

    def objective(trial: optuna.Trial) -> float:
        names = {name: trial.suggest_float(name, low, high, log=True) for name, (low, high) in SPACE.items()}
        return value_of(names)

    expected.optimize(objective, n_trials=14)
    batches: list[int] = []

    def score(points):
        batches.append(len(points))
        return [value_of(point) for point in points]

    study = tpe_search(SPACE, score, trials=14, seed=22, joint=joint)
    assert [trial.params for trial in study.trials] == [trial.params for trial in expected.trials]
    assert batches == [10, 1, 1, 1, 1]
    assert study.best_params == expected.best_params


def test_no_trials_are_refused() -> None:
    with pytest.raises(ValueError, match="trials must be at least 1, got 0"):
        tpe_search(SPACE, lambda points: [0.0] * len(points), trials=0, seed=0, joint=False)


@pytest.mark.parametrize("name", ["trex-sgd", "trex-lbfgs", "legacy-trex-sgd", "legacy-trex-lbfgs"])
def test_without_optuna_the_message_says_how_to_get_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(RichrepError, match=rf"{name} searches with Optuna.*pip install 'richrep\[trex\]'"):
        PROTOCOLS[name]()
