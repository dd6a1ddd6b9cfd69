"""The main job: a tuned linear probe of every backbone alone, and of all of them together."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from richrep.backbones.addresses import load_backbone
from richrep.backbones.backbone import Backbone
from richrep.backbones.names import distinct_names
from richrep.data.datasets import load_dataset, part_of
from richrep.data.split import Dataset, Split, carve_val
from richrep.errors import DatasetError, FeatureError, RichrepError
from richrep.evaluation.facts import backbone_facts, dataset_facts
from richrep.evaluation.metrics import paired_bootstrap_interval, score
from richrep.evaluation.record import DatasetFacts, Record, describe_environment
from richrep.evaluation.selection import DEFAULT_CS, Selection, select_logistic
from richrep.features.batches import OnBadImage
from richrep.features.cache import FeatureCache
from richrep.features.extract import extract_layers
from richrep.features.feature_set import FeatureSet, concat_features
from richrep.features.manifest import Request
from richrep.features.normalize import NORMALIZATIONS
from richrep.features.progress import ProgressCallback
from richrep.heads.logistic import LogisticHead
from richrep.paths import default_cache_root


@dataclass(frozen=True)
class LogisticProtocol:
    """The default protocol, stored whole in every record: fit the path on train, choose on val, refit, score test once.

    Attributes:
        cs: scikit-learn's C, as wide as t-ReX's search; the penalty is l2 = 1/(N_train·C).
        normalizations: tried with every penalty; fitted on the training images only.
        val_fraction: of every class of train, when the data set stores no val.

    Source: t-ReX's transfer suite, naver/trex. Differs: the whole path instead of 30 trials, the penalty per image is
    kept for the refit, ties go to the larger penalty, normalisation by backbone.
    """

    name: str = "logistic"
    cs: tuple[float, ...] = DEFAULT_CS
    normalizations: tuple[str, ...] = tuple(NORMALIZATIONS)
    val_fraction: float = 0.2


PROTOCOLS = {"logistic": LogisticProtocol}


@dataclass(frozen=True, eq=False)
class _Task:
    """One data set as the probe uses it: the splits, and which rows of trainval select."""

    dataset: Dataset
    trainval: Split
    test: Split
    num_stored_train: int | None  # rows of trainval before its stored val; None when val is carved


@dataclass(frozen=True, eq=False)
class _Outcome:
    """A record, and for each test image whether it was classified rightly."""

    record: Record
    correct: torch.Tensor


def probe(
    backbones: Sequence[str | Backbone],
    dataset: str | Dataset,
    *,
    protocol: LogisticProtocol | None = None,
    seed: int = 0,
    train_size: int | None = None,
    test_size: int | None = None,
    own_head: bool = False,
    data_root: Path | str | None = None,
    cache: FeatureCache | Path | str | None = "default",
    batch_size: int | None = None,
    device: str | None = None,
    num_workers: int | None = None,
    on_bad_image: OnBadImage = "stop",
    progress: ProgressCallback | None = None,
    on_record: Callable[[Record], None] | None = None,
    on_failure: Callable[[str, str], None] | None = None,
) -> list[Record]:
    """Tuned test scores of every backbone alone and, with two or more, of their concatenation.

    Args:
        backbones: addresses, or loaded backbones.
        dataset: an address, or a loaded data set.
        protocol: what is tried; None means the default.
        seed: decides val (when the data set stores none) and the weights of `random/…` backbones.
        train_size, test_size: the first so many images of each part; None means all.
        own_head: also score the classifier found in each checkpoint, where its class count fits.
        data_root: where registered data sets are.
        cache: where features are kept, a cache or its folder; "default" is under `$RICHREP_HOME`, None keeps nothing.
        batch_size, device, num_workers, on_bad_image, progress: as for `extract_features`.
        on_record: called with each record as soon as it is measured.
        on_failure: called with the name of a backbone whose features cannot be used (they are not finite) and the
            reason; the others go on without it. None raises instead, as it does when no backbone is left.

    Returns:
        One record a row, in the order of the backbones (own head before probe), the concatenation last.

    Raises:
        RichrepError: an address, a checkpoint, the data set or an image cannot be used; the message says which.
    """
    protocol = protocol or LogisticProtocol()
    if not backbones:
        raise RichrepError("Nothing to probe: give at least one backbone.")
    loaded = [b if isinstance(b, Backbone) else load_backbone(b, seed=seed) for b in backbones]
    names = distinct_names(loaded)
    loaded = [replace(b, name=name) for b, name in zip(loaded, names, strict=True)]
    task = _make_task(dataset, data_root=data_root, train_size=train_size, test_size=test_size)
    store = _open_cache(cache)

    start = time.perf_counter()
    options: dict[str, Any] = {
        "cache": store,
        "batch_size": batch_size,
        "device": device,
        "num_workers": num_workers,
        "on_bad_image": on_bad_image,
        "progress": progress,
    }
    try:
        trainval, test, logits = _extract(loaded, task, own_head, options)
    except FeatureError as error:
        if on_failure is None:
            raise
        loaded = [b for b in loaded if _gives_features(b, task, own_head, options, on_failure)]
        if not loaded:
            raise RichrepError(f"No backbone gives features that can be used; the first: {error}") from None
        trainval, test, logits = _extract(loaded, task, own_head, options)
    extract_s = time.perf_counter() - start

    _check_what_is_left(task, trainval[0], test[0])
    rows = _select_rows(task, trainval[0], fraction=protocol.val_fraction, seed=seed)
    facts = _dataset_facts(task, trainval[0], test[0], rows, fraction=protocol.val_fraction, seed=seed)
    common: dict[str, Any] = {
        "dataset": facts,
        "seed": seed,
        "environment": describe_environment(device or _default_device()),
    }
    outcomes: list[_Outcome] = []

    def keep(outcome: _Outcome) -> _Outcome:
        outcomes.append(outcome)
        if on_record is not None:
            on_record(outcome.record)
        return outcome

    members = []
    for backbone, train_features, test_features in zip(loaded, trainval, test, strict=True):
        if backbone.name in logits:
            keep(_score_own_head(backbone, logits[backbone.name], common, extract_s))
        members.append(keep(_probe_one([backbone], train_features, test_features, rows, protocol, common, extract_s)))
    if len(loaded) > 1:
        joint = _probe_one(loaded, concat_features(trainval), concat_features(test), rows, protocol, common, extract_s)
        keep(_with_gain(joint, members))
    return [outcome.record for outcome in outcomes]


def _extract(
    backbones: Sequence[Backbone], task: _Task, own_head: bool, options: dict[str, Any]
) -> tuple[list[FeatureSet], list[FeatureSet], dict[str, FeatureSet]]:
    """Features of trainval and of test, and the logits on test of the own heads whose class count fits, by name."""
    with_head = [b for b in backbones if own_head and b.num_classes == task.test.num_classes]
    trainval = extract_layers([Request(b) for b in backbones], task.trainval, **options)
    requests = [Request(b) for b in backbones] + [Request(b, "logits") for b in with_head]
    test = extract_layers(requests, task.test, **options)
    count = len(backbones)
    return trainval, test[:count], dict(zip([b.name for b in with_head], test[count:], strict=True))


def _gives_features(
    backbone: Backbone,
    task: _Task,
    own_head: bool,
    options: dict[str, Any],
    on_failure: Callable[[str, str], None],
) -> bool:
    """Whether this backbone alone can be extracted; if not, `on_failure` hears why. What is cached is not redone."""
    try:
        _extract([backbone], task, own_head, options)
    except FeatureError as error:
        on_failure(backbone.name, str(error))
        return False
    return True


def _open_cache(cache: FeatureCache | Path | str | None) -> FeatureCache | None:
    if cache is None or isinstance(cache, FeatureCache):
        return cache
    return FeatureCache(default_cache_root() if cache == "default" else Path(cache).expanduser())


def _make_task(
    dataset: str | Dataset, *, data_root: Path | str | None, train_size: int | None, test_size: int | None
) -> _Task:
    source = dataset if isinstance(dataset, Dataset) else load_dataset(dataset, data_root=data_root)
    train, test = source.train.first(train_size), source.test.first(test_size)
    used = replace(source, train=train, test=test)
    missing = np.setdiff1d(test.labels, train.labels)
    if missing.size:
        label = int(missing[0])
        raise DatasetError(
            f"{source.name}: class {test.class_names[label]!r} has {int((test.labels == label).sum())} test images but "
            f"none among the {len(train)} training images, so no head can learn it ({missing.size} such classes). "
            "Use a larger --train-size, or leave the class out of test."
        )
    if len(np.unique(train.labels)) < 2:
        raise DatasetError(f"{source.name}: the {len(train)} training images are all of one class; two are needed.")
    return _Task(
        dataset=used,
        trainval=part_of(used, "trainval"),
        test=test,
        num_stored_train=None if source.val is None else len(train),
    )


def _check_what_is_left(task: _Task, trainval: FeatureSet, test: FeatureSet) -> None:
    """Raises DatasetError when skipped images leave too little: no test image, or a class of test without training."""
    names, skipped = task.test.class_names, len(trainval.skipped) + len(test.skipped)
    lost = np.setdiff1d(test.labels.numpy(), trainval.labels.numpy())
    if skipped and (len(test) == 0 or lost.size or len(np.unique(trainval.labels.numpy())) < 2):
        what = f"class {names[int(lost[0])]!r} without a training image" if lost.size else "too few images"
        raise DatasetError(
            f"{task.dataset.name}: the {skipped} images that cannot be decoded and were skipped leave {what} "
            f"({len(trainval)} training and {len(test)} test images). Repair them, see the log for their names."
        )


def _select_rows(task: _Task, features: FeatureSet, *, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (train, val) of the trainval features; skipped images have no row."""
    if task.num_stored_train is None:
        rows = carve_val(features.labels.numpy(), fraction=fraction, seed=seed)
    else:
        skipped = [image.row for image in features.skipped]
        kept = np.setdiff1d(np.arange(len(task.trainval)), skipped)
        rows = np.flatnonzero(kept < task.num_stored_train), np.flatnonzero(kept >= task.num_stored_train)
    if len(rows[1]) == 0 and task.num_stored_train is not None:
        raise DatasetError(f"{task.dataset.name}: the stored val has no image that can be decoded. Repair it.")
    if len(rows[1]) == 0:
        raise DatasetError(
            f"{task.dataset.name}: no class has two training images, so none can go to val and nothing can be tuned. "
            "Use a larger --train-size."
        )
    return rows


def _dataset_facts(
    task: _Task,
    trainval: FeatureSet,
    test: FeatureSet,
    rows: tuple[np.ndarray, np.ndarray],
    *,
    fraction: float,
    seed: int,
) -> DatasetFacts:
    stored = task.num_stored_train is not None
    return dataset_facts(
        task.dataset,
        trainval=task.trainval,
        test=task.test,
        features=(trainval, test),
        sizes=(len(rows[0]), len(rows[1]), len(test)),
        val="as stored by the data set" if stored else f"{fraction:.0%} of train, per class, seed {seed}",
    )


def _default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _representation(backbones: Sequence[Backbone]) -> str:
    names = "+".join(b.name for b in backbones)
    return names if len(backbones) == 1 else f"cat({names})"


def _probe_one(
    backbones: Sequence[Backbone],
    trainval: FeatureSet,
    test: FeatureSet,
    rows: tuple[np.ndarray, np.ndarray],
    protocol: LogisticProtocol,
    common: dict[str, Any],
    extract_s: float,
) -> _Outcome:
    """Select on val, refit on train and val, score test once."""
    selection = select_logistic(trainval, *rows, cs=protocol.cs, normalizations=protocol.normalizations)
    start = time.perf_counter()
    best = selection.best
    blocks = [(b.start, b.stop) for b in trainval.blocks]
    head = LogisticHead(l2=best.l2, normalization=best.normalization, blocks=blocks)
    head.fit(trainval.features, trainval.labels, num_classes=trainval.num_classes, near=selection.linear)
    fit_s = time.perf_counter() - start
    logits = head.logits(test.features)
    record = Record(
        kind="probe",
        representation=_representation(backbones),
        backbones=tuple(backbone_facts(b, b.name) for b in backbones),
        feature_dim=trainval.feature_dim,
        protocol=asdict(protocol),
        hyperparameters={"l2": best.l2, "normalization": best.normalization},
        metrics={
            "val": score(selection.val_logits, trainval.labels[torch.as_tensor(rows[1])], trainval.num_classes),
            "test": score(logits, test.labels, test.num_classes),
        },
        elapsed_s=_elapsed(extract_s, selection, fit_s),
        **common,
    )
    return _Outcome(record, logits.argmax(1) == test.labels)


def _elapsed(extract_s: float, selection: Selection, fit_s: float) -> dict[str, float]:
    """Seconds by step; extraction is the one pass that served every backbone of the run."""
    steps = {"extract": extract_s, "select": selection.elapsed_s, "fit": fit_s}
    return {name: round(value, 3) for name, value in (steps | {"total": sum(steps.values())}).items()}


def _score_own_head(backbone: Backbone, logits: FeatureSet, common: dict[str, Any], extract_s: float) -> _Outcome:
    """The classifier found in the checkpoint, as it is: nothing is trained, so nothing is selected."""
    record = Record(
        kind="own-head",
        representation=f"own-head({backbone.name})",
        backbones=(backbone_facts(backbone, backbone.name),),
        feature_dim=backbone.feature_dim,
        protocol={"name": "own-head"},
        metrics={"test": score(logits.features, logits.labels, logits.num_classes)},
        elapsed_s={"extract": round(extract_s, 3), "total": round(extract_s, 3)},
        **common,
    )
    return _Outcome(record, logits.features.argmax(1) == logits.labels)


def _with_gain(joint: _Outcome, members: Sequence[_Outcome]) -> _Outcome:
    """The concatenation's record with its difference to the best member, the best one by val."""
    best = max(members, key=lambda m: m.record.score("val", "accuracy") or 0.0)
    low, high = paired_bootstrap_interval(joint.correct, best.correct)
    gain = float(joint.correct.double().mean() - best.correct.double().mean())
    test = joint.record.metrics["test"] | {
        "gain_over_best_member": gain,
        "gain_over_best_member_ci95": [low, high],
        "best_member": best.record.representation,
    }
    record = joint.record.model_copy(update={"metrics": joint.record.metrics | {"test": test}})
    return _Outcome(record, joint.correct)
