"""Transferability scores of several backbones, beside the order that probes truly give."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Unpack

import torch

from richrep.backbones.backbone import Backbone
from richrep.data.split import Dataset
from richrep.errors import RichrepError, unknown_name_message
from richrep.evaluation.facts import backbone_facts
from richrep.evaluation.measure import common_facts
from richrep.evaluation.prepare import prepare
from richrep.evaluation.protocols import make_protocol
from richrep.evaluation.protocols.protocol import ProbeProtocol
from richrep.evaluation.record import Record
from richrep.evaluation.repeats import check_draws, measure
from richrep.evaluation.task import ExtractOptions, TaskFeatures, extract_task, load_members, make_task
from richrep.evaluation.transferability import OWN_HEAD_SCORES, SCORES
from richrep.evaluation.transferability.agreement import rank_agreement
from richrep.evaluation.transferability.inputs import UndefinedScoreError
from richrep.evaluation.views import choose_views
from richrep.features.forward import choose_device
from richrep.features.memory import MemoryBudget, choose_budget
from richrep.features.usable import OnFailure
from richrep.heads.head import as_tensor


def rank(
    backbones: Sequence[str | Backbone],
    dataset: str | Dataset,
    *,
    scores: Sequence[str] = tuple(SCORES),
    with_probe: bool = True,
    protocol: ProbeProtocol | str = "logistic",
    seed: int = 0,
    train_size: int | None = None,
    test_size: int | None = None,
    data_root: Path | str | None = None,
    memory_limit: int | str | None = None,
    on_record: Callable[[Record], None] | None = None,
    on_failure: OnFailure | None = None,
    **extraction: Unpack[ExtractOptions],
) -> list[Record]:
    """Scores of every backbone that read its training features only, and how well they order what probes reach.

    Args:
        scores: keys of SCORES.
        with_probe: also probe each backbone alone, which trains heads and reads test, for the true order; without it
            networks see the training images alone.
        protocol: of the probes: a member of PROTOCOLS, or its name.
        memory_limit: of the probes, as for `probe`; the scores hold the features of one backbone in float64.
        backbones, dataset, seed and the others: as for `probe`.

    Returns:
        One record of kind "rank" a backbone; with `with_probe` then one of kind "probe" a backbone, and last one of
        kind "rank-agreement" with the rank correlations of each score and the probes' test accuracies.

    Raises:
        RichrepError: an address, a checkpoint, the data set, an image or a score cannot be used; it says which.
    """
    check_scores(scores)
    protocol = make_protocol(protocol) if isinstance(protocol, str) else protocol
    memory = choose_budget(memory_limit, choose_device(extraction.get("device")))
    loaded = load_members(backbones, seed=seed)
    task = make_task(dataset, data_root=data_root, train_size=train_size, test_size=test_size)
    if with_probe:
        check_draws(protocol, task, seed=seed)
    features = extract_task(
        loaded,
        task,
        extraction,
        val_fraction=protocol.val_fraction,
        seed=seed,
        views=choose_views(protocol, loaded) if with_probe else None,
        source_heads=any(name in OWN_HEAD_SCORES for name in scores),
        with_test=with_probe,
        on_failure=on_failure,
    )
    if with_probe:
        protocol, features = prepare(protocol, features, seed=seed)
    common = common_facts(features, extraction, seed=seed)
    records: list[Record] = []

    def keep(record: Record) -> Record:
        records.append(record)
        if on_record is not None:
            on_record(record)
        return record

    ranked = [keep(_rank_one(features, place, scores, common)) for place in range(len(features.backbones))]
    if with_probe:
        places = range(len(features.backbones))
        probed = [keep(_probe_alone(features, place, protocol, memory, common)) for place in places]
        keep(_agreement(ranked, probed, scores, protocol, common))
    return records


def check_scores(names: Sequence[str]) -> None:
    """Raises RichrepError for a name that is not in SCORES."""
    for name in names:
        if name not in SCORES:
            raise RichrepError(unknown_name_message("score", name, SCORES))


def _rank_one(features: TaskFeatures, place: int, scores: Sequence[str], common: dict[str, Any]) -> Record:
    """The scores of one backbone on all training images; test is not read."""
    backbone, trainval = features.backbones[place], features.trainval[place]
    facts = features.facts.model_copy(
        update={"num_train": len(trainval), "num_val": 0, "num_test": 0, "val": "none: all of train is read"}
    )
    found: dict[str, Any] = {}
    elapsed_s = {"extract": features.elapsed_s}
    for name in scores:
        start = time.perf_counter()
        try:
            found[name] = SCORES[name](_read_by(name, features, place), trainval.labels)
        except UndefinedScoreError as error:
            found |= {name: None, f"{name}_reason": str(error)}
        elapsed_s[name] = time.perf_counter() - start
    elapsed_s["total"] = sum(elapsed_s.values())
    return Record(
        kind="rank",
        representation=backbone.name,
        backbones=(backbone_facts(backbone, backbone.name),),
        feature_dim=backbone.feature_dim,
        protocol=_protocol(scores),
        metrics={"train": found},
        elapsed_s={name: round(value, 3) for name, value in elapsed_s.items()},
        **(common | {"dataset": facts}),
    )


def _read_by(name: str, features: TaskFeatures, place: int) -> torch.Tensor:
    """What the score reads: features (N, D), or the probabilities (N, Z) of the own head."""
    if name not in OWN_HEAD_SCORES:
        return as_tensor(features.trainval[place].features)
    backbone = features.backbones[place]
    if backbone.name not in features.source_logits:
        raise UndefinedScoreError("the checkpoint has no head of its own.")
    return as_tensor(features.source_logits[backbone.name].features).to(torch.float64).softmax(1)


def _probe_alone(
    features: TaskFeatures, place: int, protocol: ProbeProtocol, memory: MemoryBudget, common: dict[str, Any]
) -> Record:
    one = [features.backbones[place]]
    return measure(one, features.trainval[place], features.test[place], features, protocol, memory, common).record


def _agreement(
    ranked: Sequence[Record],
    probed: Sequence[Record],
    scores: Sequence[str],
    protocol: ProbeProtocol,
    common: dict[str, Any],
) -> Record:
    """The rank correlations of each score with the probes' test accuracy, over the networks that have the score."""
    correlations: dict[str, Any] = {}
    for name in scores:
        pairs = [
            (one.score("train", name), two.score("test", "accuracy")) for one, two in zip(ranked, probed, strict=True)
        ]
        both = [(score, accuracy) for score, accuracy in pairs if score is not None and accuracy is not None]
        correlations[name] = rank_agreement([score for score, _ in both], [accuracy for _, accuracy in both])
    return Record(
        kind="rank-agreement",
        representation=f"rank({'+'.join(record.representation for record in ranked)})",
        backbones=tuple(backbone for record in ranked for backbone in record.backbones),
        feature_dim=sum(record.feature_dim for record in ranked),
        protocol=_protocol(scores) | {"probe": asdict(protocol)},
        metrics={"test": correlations},
        **common,
    )


def _protocol(scores: Sequence[str]) -> dict[str, Any]:
    return {"name": "transferability", "scores": list(scores)}
