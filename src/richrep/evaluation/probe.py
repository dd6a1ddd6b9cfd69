"""The main job: a tuned probe of every backbone alone, and of all of them together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from richrep.backbones.backbone import Backbone
from richrep.data.augment import RandomView
from richrep.data.split import Dataset
from richrep.errors import DivergedError, FeatureError, MemoryLimitError, RichrepError
from richrep.evaluation.ensemble import measure_ensemble
from richrep.evaluation.facts import backbone_facts
from richrep.evaluation.measure import Outcome, common_facts, representation_name
from richrep.evaluation.measure_on_test import measure_chosen_on_test
from richrep.evaluation.metrics import score
from richrep.evaluation.prepare import prepare
from richrep.evaluation.protocols import as_protocol
from richrep.evaluation.protocols.legacy_test_selection import LegacyTestSelection
from richrep.evaluation.protocols.protocol import ProbeProtocol
from richrep.evaluation.record import Record
from richrep.evaluation.repeats import check_draws, check_has_ensemble, gain_interval, measure
from richrep.evaluation.task import ExtractOptions, extract_task, load_members, make_task
from richrep.evaluation.views import choose_views, with_views
from richrep.features.feature_set import FeatureSet, concat_features
from richrep.features.forward import choose_device
from richrep.features.memory import choose_budget
from richrep.features.rows import as_rows
from richrep.features.usable import OnFailure


def probe(
    backbones: Sequence[str | Backbone],
    dataset: str | Dataset,
    *,
    protocol: ProbeProtocol | LegacyTestSelection | str | None = None,
    seed: int = 0,
    train_size: int | None = None,
    test_size: int | None = None,
    views: int | None = None,
    view: RandomView | None = None,
    own_head: bool = False,
    ensemble: bool = False,
    data_root: Path | str | None = None,
    memory_limit: int | str | None = None,
    on_record: Callable[[Record], None] | None = None,
    on_failure: OnFailure | None = None,
    **extraction: Unpack[ExtractOptions],
) -> list[Record]:
    """Tuned test scores of every backbone alone and, with two or more, of their concatenation.

    Args:
        backbones: addresses, or loaded backbones.
        dataset: an address, or a loaded data set.
        protocol: a member of PROTOCOLS, or its name, which says what is tried; None means logistic regression. A
            twin of LEGACY_TEST_SELECTION chooses on test, as papers did; its records say so.
        seed: decides val (when the data set stores none) and the weights of `random/…` backbones.
        train_size, test_size: the first so many images of each part; None means all.
        views: V; from 2 on, heads are trained on V random views of every training image in place of the image: epoch by
            epoch where the protocol has epochs, else on all at once (V rows an image). Val and test are the images as
            they are. None leaves it to the protocol, and most have no views.
        view: how they are drawn; None leaves it to the protocol, or to `default_view`.
        own_head: also score the classifier found in each checkpoint, where its class count fits.
        ensemble: also score the mean of the members' own probes' logits, without a joint probe.
        data_root: where registered data sets are.
        memory_limit: what fitting may hold beside the features, in bytes or such as "4GB"; the results are the same,
            those of the logistic path within its tolerance. None means half of the memory that is free.
        on_record: called with each record as soon as it is measured.
        on_failure: called with the name of a backbone that gives no features (they are not finite, or the engine cannot
            run it, or not closely enough) and the reason; the others go on without it. Also with the name of a
            representation that the protocol cannot be fitted on (fewer features than pca asks for, every learning rate
            too high, more memory than the limit); the others are measured, a concatenation with all its members, but
            without a gain. None raises instead, as it does when nothing is left.
        extraction: keywords of `extract_features` (`ExtractOptions`).

    Returns:
        One record a row, in the order of the backbones (own head before probe), the concatenation last.

    Raises:
        RichrepError: an address, a checkpoint, the data set or an image cannot be used; the message says which.
    """
    protocol = as_protocol(protocol)
    memory = choose_budget(memory_limit, choose_device(extraction.get("device")))
    loaded = load_members(backbones, seed=seed)
    if ensemble and len(loaded) < 2:
        raise RichrepError("An ensemble averages the probes of several backbones: give at least two with -b.")
    task = make_task(dataset, data_root=data_root, train_size=train_size, test_size=test_size)
    check_draws(protocol, task, seed=seed)
    if ensemble:
        check_has_ensemble(protocol)
    drawn = choose_views(protocol, loaded, count=views, view=view)
    protocol = with_views(protocol, drawn)
    features = extract_task(
        loaded,
        task,
        extraction,
        val_fraction=protocol.val_fraction,
        seed=seed,
        own_head=own_head,
        views=drawn,
        on_failure=on_failure,
    )
    used, features = prepare(protocol, features, seed=seed)
    extract_s = features.elapsed_s
    common = common_facts(features, extraction, seed=seed)
    outcomes: list[Outcome] = []

    def keep(outcome: Outcome) -> Outcome:
        outcomes.append(replace(outcome, scored={}))  # logits of many classes take memory
        if on_record is not None:
            on_record(outcome.record)
        return outcome if ensemble else outcomes[-1]

    failures: list[RichrepError] = []

    def try_to_measure(backbones: Sequence[Backbone], trainval: FeatureSet, test: FeatureSet) -> Outcome | None:
        try:
            if isinstance(used, LegacyTestSelection):
                return measure_chosen_on_test(backbones, trainval, test, features, used, memory, common)
            return measure(backbones, trainval, test, features, used, memory, common)
        except (FeatureError, DivergedError, MemoryLimitError) as error:  # such as pca:100 of 64 features
            if on_failure is None:
                raise
            failures.append(error)
            on_failure(representation_name(backbones), str(error))
            return None

    members, measured = [], set()
    for backbone, train_features, test_features in zip(
        features.backbones, features.trainval, features.test, strict=True
    ):
        if backbone.name in features.head_logits:
            keep(_score_own_head(backbone, features.head_logits[backbone.name], common, extract_s))
        if (member := try_to_measure([backbone], train_features, test_features)) is not None:
            members.append(keep(member))
            measured.add(backbone.name)
    if ensemble and len(members) > 1:
        keep(measure_ensemble([b for b in features.backbones if b.name in measured], members, common))
    if len(features.backbones) > 1:
        trainval, test = (concat_features(f, max_bytes=memory.kept) for f in (features.trainval, features.test))
        if (joint := try_to_measure(features.backbones, trainval, test)) is not None:
            all_measured = len(members) == len(features.backbones)  # else the best member may be one that was not
            keep(_with_gain(joint, members) if all_measured else joint)
    if not outcomes:
        raise RichrepError(f"No representation can be measured; the first: {failures[0]}")
    return [outcome.record for outcome in outcomes]


def _score_own_head(backbone: Backbone, head: FeatureSet, common: dict[str, Any], extract_s: float) -> Outcome:
    """The classifier found in the checkpoint, as it is: nothing is trained, so nothing is selected."""
    logits = as_rows(head.features)[:]
    record = Record(
        kind="own-head",
        representation=f"own-head({backbone.name})",
        backbones=(backbone_facts(backbone, backbone.name),),
        feature_dim=backbone.feature_dim,
        protocol={"name": "own-head"},
        metrics={"test": score(logits, head.labels, head.num_classes)},
        elapsed_s={"extract": round(extract_s, 3), "total": round(extract_s, 3)},
        **common,
    )
    return Outcome(record, logits.argmax(1) == head.labels)


def _with_gain(joint: Outcome, members: Sequence[Outcome]) -> Outcome:
    """The concatenation's record with its difference to the best member, the best one by val (a twin's by test)."""
    part = "test" if joint.record.protocol.get("selected_on") == "test" else "val"
    gained: dict[str, Any]
    if part in joint.record.metrics:
        best = max(members, key=lambda m: m.record.score(part, "accuracy") or 0.0)
        gained = {
            "gain_over_best_member": float(joint.correct.double().mean() - best.correct.double().mean()),
            "gain_over_best_member_ci95": list(gain_interval(joint.correct, best.correct)),
            "best_member": best.record.representation,
        }
    else:
        gained = {"gain_over_best_member": None, "gain_over_best_member_reason": "no val tells the best member"}
    test = joint.record.metrics["test"] | gained
    record = joint.record.model_copy(update={"metrics": joint.record.metrics | {"test": test}})
    return Outcome(record, joint.correct)
