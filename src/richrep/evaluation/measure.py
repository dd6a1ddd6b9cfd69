"""One measurement of a probe: select on val, refit, score test once, as a record."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from richrep.backbones.backbone import Backbone
from richrep.data.preprocessing import torch_resizing
from richrep.evaluation.environment import describe_environment
from richrep.evaluation.facts import backbone_facts, engine_facts
from richrep.evaluation.metrics import score
from richrep.evaluation.protocols.legacy_test_selection import LegacyTestSelection
from richrep.evaluation.protocols.protocol import Choice, ProbeProtocol
from richrep.evaluation.record import Record
from richrep.evaluation.task import ExtractOptions, TaskFeatures
from richrep.evaluation.views import reads_views
from richrep.features.feature_set import FeatureSet
from richrep.features.forward import full_float32
from richrep.features.memory import MemoryBudget
from richrep.features.view_rows import with_views_as_rows


@dataclass(frozen=True, eq=False)
class Outcome:
    """A record, and for each test image whether it was classified rightly: (N,), or (R, N) of R draws.

    Attributes:
        scored: part -> logits (N, K) and labels (N,) that gave its scores; empty where they are not kept.
    """

    record: Record
    correct: torch.Tensor
    scored: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)


def common_facts(features: TaskFeatures, options: ExtractOptions, *, seed: int) -> dict[str, Any]:
    """What all records of one run share: data set, seed, how features came about, and environment."""
    device = options.get("device") or ("cuda" if torch.cuda.is_available() else "cpu")
    stored = str(features.trainval[0].features.dtype).removeprefix("torch.")
    made = [*features.trainval, *features.test, *features.head_logits.values(), *features.source_logits.values()]
    return {
        "dataset": features.facts,
        "seed": seed,
        "precision": options.get("precision", "fp32"),
        "fast_decode": options.get("fast_decode", False),
        "resizing": torch_resizing(torch.device(device)) if options.get("fast_resize") else "pillow",
        "environment": describe_environment(device) | {"features": stored} | engine_facts(made),
    }


def representation_name(backbones: Sequence[Backbone]) -> str:
    """A backbone's name, or cat(…) of several."""
    names = "+".join(b.name for b in backbones)
    return names if len(backbones) == 1 else f"cat({names})"


def measure_probe(
    backbones: Sequence[Backbone],
    trainval: FeatureSet,
    test: FeatureSet,
    rows: tuple[np.ndarray, np.ndarray],
    protocol: ProbeProtocol | LegacyTestSelection,
    memory: MemoryBudget,
    common: dict[str, Any],
    extract_s: float,
    fit_rows: np.ndarray | None = None,
) -> Outcome:
    """Select on val, refit on train and val (or on `fit_rows` alone), score test once.

    A protocol that does not read views itself is fitted on all views of the training images at once.

    Raises:
        TypeError: a twin that chooses on test, which `probe` alone runs.
    """
    if isinstance(protocol, LegacyTestSelection):
        raise TypeError(f"{protocol.name} chooses on test; only probe runs it, to compare with a paper's numbers.")
    start = time.perf_counter()
    val_labels = trainval.labels[torch.as_tensor(rows[1])]
    trainval = trainval.on(memory)
    tuned, fitted = (trainval, *rows), trainval if fit_rows is None else trainval.take(fit_rows)
    if not reads_views(protocol):
        tuned = with_views_as_rows(*tuned, memory=memory)
        every = np.arange(len(fitted))
        fitted, _, _ = with_views_as_rows(fitted, every, every[:0], memory=memory)
    with full_float32():
        choice = protocol.select(*tuned, memory=memory)
        select_s = time.perf_counter() - start
        logits = protocol.refit(fitted, choice, memory=memory).logits(test.on(memory, by_block=True).features).cpu()
    fit_s = time.perf_counter() - start - select_s
    scored = {"test": (logits, test.labels)}
    if len(val_labels):  # one image a class leaves no val
        scored = {"val": (choice.val_logits.cpu(), val_labels)} | scored
    record = make_probe_record(
        backbones,
        trainval,
        asdict(protocol) | ({} if trainval.drawn is None else trainval.drawn.facts()),
        choice,
        metrics={part: score(*of_part, trainval.num_classes) for part, of_part in scored.items()},
        elapsed_s=elapsed(extract_s, select_s, fit_s),
        common=common,
    )
    return Outcome(record, logits.argmax(1) == test.labels, scored)


def make_probe_record(
    backbones: Sequence[Backbone],
    trainval: FeatureSet,
    options: dict[str, Any],
    choice: Choice,
    *,
    metrics: dict[str, dict[str, Any]],
    elapsed_s: dict[str, float],
    common: dict[str, Any],
) -> Record:
    """The record of one probe; `options` are the protocol's, `common` what `common_facts` gives."""
    return Record(
        kind="probe",
        representation=representation_name(backbones),
        backbones=tuple(backbone_facts(b, b.name) for b in backbones),
        feature_dim=trainval.feature_dim,
        protocol=options,
        hyperparameters=choice.hyperparameters,
        solver=choice.solver,
        metrics=metrics,
        elapsed_s=elapsed_s,
        **common,
    )


def elapsed(extract_s: float, select_s: float, fit_s: float) -> dict[str, float]:
    """Seconds by step; extraction is the one pass that served every backbone of the run."""
    steps = {"extract": extract_s, "select": select_s, "fit": fit_s}
    return {name: round(value, 3) for name, value in (steps | {"total": sum(steps.values())}).items()}
