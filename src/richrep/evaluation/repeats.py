"""One measurement of a protocol that draws few training images: once a draw, then one record for all draws."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from richrep.backbones.backbone import Backbone
from richrep.data.split import carve_val
from richrep.errors import RichrepError
from richrep.evaluation.measure import Outcome, measure_probe
from richrep.evaluation.metrics import log_odds, paired_bootstrap_interval, repeats_interval
from richrep.evaluation.protocols.draw import Draw, DrawingProtocol, Pool
from richrep.evaluation.protocols.legacy_test_selection import LegacyTestSelection
from richrep.evaluation.protocols.protocol import ProbeProtocol
from richrep.evaluation.task import Task, TaskFeatures
from richrep.features.feature_set import FeatureSet
from richrep.features.memory import MemoryBudget


def measure(
    backbones: Sequence[Backbone],
    trainval: FeatureSet,
    test: FeatureSet,
    features: TaskFeatures,
    protocol: ProbeProtocol,
    memory: MemoryBudget,
    common: dict[str, Any],
) -> Outcome:
    """`measure_probe` on all training images, or once a draw where the protocol draws them."""
    rows, extract_s = (features.train_rows, features.val_rows), features.elapsed_s
    if not isinstance(protocol, DrawingProtocol):
        return measure_probe(backbones, trainval, test, rows, protocol, memory, common, extract_s)

    def measure_one(draw: Draw) -> Outcome:
        rows, drawn = (draw.train_rows, draw.val_rows), _with_facts_of(draw, common)
        return measure_probe(
            backbones, trainval, test, rows, protocol, memory, drawn, extract_s, fit_rows=draw.fit_rows
        )

    return over_draws(protocol, features, measure_one, seed=common["seed"], num_test=len(test))


def over_draws(
    protocol: DrawingProtocol,
    features: TaskFeatures,
    measure_one: Callable[[Draw], Outcome],
    *,
    seed: int,
    num_test: int,
) -> Outcome:
    """What `measure_one` gives for every draw, as one outcome."""
    assert features.pool is not None  # extract_task
    draws = protocol.draws(features.pool, seed=seed)
    outcomes = [_stating_its_draw(measure_one(draw), draw) for draw in draws]
    return outcomes[0] if len(outcomes) == 1 else _mean(outcomes, num_test=num_test)


def check_draws(protocol: ProbeProtocol | LegacyTestSelection, task: Task, *, seed: int) -> None:
    """Raises DatasetError, before anything is extracted, where the task has too few images for the protocol."""
    drawing = protocol.base if isinstance(protocol, LegacyTestSelection) else protocol
    if not isinstance(drawing, DrawingProtocol):
        return
    labels, stored = task.trainval.labels, task.num_stored_train
    if stored is None:
        train_rows, val_rows = carve_val(labels, fraction=protocol.val_fraction, seed=seed)
    else:
        train_rows, val_rows = np.split(np.arange(len(labels)), [stored])
    drawing.draws(
        Pool(labels, task.trainval.class_names, train_rows, val_rows, val_is_stored=stored is not None), seed=seed
    )


def check_has_ensemble(protocol: ProbeProtocol | LegacyTestSelection) -> None:
    """Raises RichrepError where the members' probes are not one each, whose logits could be averaged."""
    drawing = protocol.base if isinstance(protocol, LegacyTestSelection) else protocol
    if isinstance(drawing, DrawingProtocol) and getattr(drawing, "repeats", 1) > 1:
        raise RichrepError(
            f"{protocol.name} measures draw by draw, so there is no ensemble of its probes. Leave --ensemble out."
        )


def gain_interval(joint: torch.Tensor, best: torch.Tensor) -> tuple[float, float]:
    """95 % interval of the accuracy of `joint` minus that of `best`, both (N,) or (R, N) of the same images and draws.

    Paired: over test images by the bootstrap; over draws, where there are several, by Student's t.
    """
    if joint.ndim == 1:
        return paired_bootstrap_interval(joint, best)
    return repeats_interval((joint.double().mean(1) - best.double().mean(1)).tolist())


def _with_facts_of(draw: Draw, common: dict[str, Any]) -> dict[str, Any]:
    """As everywhere, num_val images select, and are fitted on in the end with the num_train others."""
    facts = {"num_train": len(draw.train_rows), "num_val": draw.num_val, "val": draw.val}
    return common | {"dataset": common["dataset"].model_copy(update=facts)}


def _stating_its_draw(outcome: Outcome, draw: Draw) -> Outcome:
    record = outcome.record
    scores = {f"{part}_accuracy": record.score(part, "accuracy") for part in record.metrics}
    entry = {"seed": list(draw.seed), "hyperparameters": record.hyperparameters} | scores
    return replace(outcome, record=record.model_copy(update={"repeats": (entry,)}))


def _mean(outcomes: Sequence[Outcome], *, num_test: int) -> Outcome:
    """The record of all draws: means, and what all draws chose alike."""
    records = [outcome.record for outcome in outcomes]
    first = records[0]
    alike = {
        name: value
        for name, value in first.hyperparameters.items()
        if all(record.hyperparameters.get(name) == value for record in records)
    }
    steps = {name: sum(r.elapsed_s[name] for r in records) for name in ("select", "fit")}
    elapsed_s = {"extract": first.elapsed_s["extract"]} | steps
    elapsed_s["total"] = sum(elapsed_s.values())
    metrics = {part: _mean_scores([record.metrics[part] for record in records]) for part in first.metrics}
    metrics["test"]["log_odds"] = log_odds(metrics["test"]["accuracy"], num_images=num_test)
    merged = first.model_copy(
        update={
            "hyperparameters": alike,
            "metrics": metrics,
            "elapsed_s": {name: round(value, 3) for name, value in elapsed_s.items()},
            "repeats": tuple(entry for record in records for entry in record.repeats),
        }
    )
    return Outcome(merged, torch.stack([outcome.correct for outcome in outcomes]))


def _mean_scores(scores: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean of every score, and of the accuracy its sample deviation and interval over the draws."""
    names = [name for name, value in scores[0].items() if isinstance(value, float) and name != "log_odds"]
    means: dict[str, Any] = {name: statistics.fmean(one[name] for one in scores) for name in names}
    accuracies = [one["accuracy"] for one in scores]
    low, high = repeats_interval(accuracies)
    return means | {
        "accuracy_std": statistics.stdev(accuracies),
        "accuracy_ci95": [max(0.0, low), min(1.0, high)],
    }
