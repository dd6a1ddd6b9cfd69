"""A task: a data set as every protocol uses it, and its features under several backbones with the rows that select."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from richrep.backbones.addresses import load_backbone
from richrep.backbones.backbone import Backbone
from richrep.backbones.names import distinct_names
from richrep.data.datasets import load_dataset, part_of
from richrep.data.split import Dataset, Split, carve_val
from richrep.errors import DatasetError, RichrepError
from richrep.evaluation.facts import dataset_facts
from richrep.evaluation.protocols.draw import Pool
from richrep.evaluation.record import DatasetFacts
from richrep.features.batches import OnBadImage
from richrep.features.cache import FeatureCache
from richrep.features.extract import extract_layers
from richrep.features.feature_set import FeatureSet
from richrep.features.manifest import Precision, Request
from richrep.features.profile import ExtractionProfile
from richrep.features.progress import ProgressCallback
from richrep.features.usable import OnFailure, extract_usable
from richrep.features.views import Views
from richrep.paths import default_cache_root

logger = logging.getLogger(__name__)


class ExtractOptions(TypedDict, total=False):
    """Keywords of `extract_features`, which every protocol hands on.

    `cache` may also be a folder; without it, features are kept under `$RICHREP_HOME`, and with None nowhere.
    """

    cache: FeatureCache | Path | str | None
    batch_size: int | None
    device: str | None
    num_workers: int | None
    on_bad_image: OnBadImage
    engine: str
    precision: Precision
    fast_decode: bool
    fast_resize: bool
    profile: ExtractionProfile | None
    progress: ProgressCallback | None


@dataclass(frozen=True, eq=False)
class Task:
    """One data set as a protocol uses it.

    Attributes:
        num_stored_train: rows of trainval before its stored val; None when val is carved from train.
    """

    dataset: Dataset
    trainval: Split
    test: Split
    num_stored_train: int | None


@dataclass(frozen=True, eq=False)
class TaskFeatures:
    """What a protocol is handed: features of one task under M backbones, from one pass over the images.

    Attributes:
        backbones: M, by distinct names; without those whose features cannot be used.
        trainval, test: one FeatureSet a backbone, in their order; no test where nothing reads it.
        head_logits: on test, of the own heads that were asked for and whose class count fits, by backbone name.
        train_rows, val_rows: rows of trainval to fit and to select on; skipped images have no row.
        facts: the data as a record states them.
        elapsed_s: of the extraction.
        source_logits: on trainval, of every own head whatever its classes, by backbone name; where asked for.
        pool: the rows of trainval, for protocols that draw from them.
    """

    backbones: tuple[Backbone, ...]
    trainval: tuple[FeatureSet, ...]
    test: tuple[FeatureSet, ...]
    head_logits: dict[str, FeatureSet]
    train_rows: np.ndarray
    val_rows: np.ndarray
    facts: DatasetFacts
    elapsed_s: float
    source_logits: dict[str, FeatureSet] = field(default_factory=dict)
    pool: Pool | None = None


def load_members(backbones: Sequence[str | Backbone] | Backbone, *, seed: int) -> list[Backbone]:
    """The backbones at some addresses (or given as they are; one alone, too), under names that differ.

    Raises:
        RichrepError: none, an address that cannot be loaded, or a seed that no generator takes.
    """
    if not backbones:
        raise RichrepError("Nothing to measure: give at least one backbone.")
    if not 0 <= seed < 2**32:
        raise RichrepError(f"{seed} is no seed. Give a number from 0 to {2**32 - 1}.")
    several = [backbones] if isinstance(backbones, str | Backbone) else backbones
    loaded = [b if isinstance(b, Backbone) else load_backbone(b, seed=seed) for b in several]
    return [replace(b, name=name) for b, name in zip(loaded, distinct_names(loaded), strict=True)]


def with_cache(options: ExtractOptions) -> dict[str, Any]:
    """The options with an open cache, as `extract_features` takes them."""
    cache = options.get("cache", default_cache_root())
    if cache is None or isinstance(cache, FeatureCache):
        return {**options, "cache": cache}
    return {**options, "cache": FeatureCache(Path(cache).expanduser())}


def make_task(
    dataset: str | Dataset, *, data_root: Path | str | None, train_size: int | None, test_size: int | None
) -> Task:
    """The data set with its first images, checked to be one that a head can learn.

    Raises:
        DatasetError: a class of test without a training image, or one class alone.
    """
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
    return Task(
        dataset=used,
        trainval=part_of(used, "trainval"),
        test=test,
        num_stored_train=None if source.val is None else len(train),
    )


def extract_task(
    backbones: Sequence[Backbone],
    task: Task,
    options: ExtractOptions,
    *,
    val_fraction: float,
    seed: int,
    own_head: bool = False,
    source_heads: bool = False,
    with_test: bool = True,
    views: Views | None = None,
    on_failure: OnFailure | None = None,
) -> TaskFeatures:
    """Features of `task` under `backbones` (of distinct names), and which rows select.

    Args:
        val_fraction: of every class of train goes to val, drawn by `seed`, when the data set stores none.
        own_head: also the logits of the backbones' own heads on test, where their class count fits.
        source_heads: also the logits of the backbones' own heads on trainval, whatever their classes.
        with_test: without it test is not read, and no row selects.
        views: also these views of trainval; test and the logits have none.
        on_failure: called with the name of a backbone that gives no features (they are not finite, or the engine cannot
            run it, or not closely enough) and the reason; the others go on without it. None raises instead, as it does
            when no backbone is left.

    Raises:
        FeatureError, EngineError: see `on_failure`.
        DatasetError: images that were skipped leave too little.
    """
    start = time.perf_counter()
    extract = partial(
        _extract,
        task=task,
        own_head=own_head,
        source_heads=source_heads,
        with_test=with_test,
        views=views,
        options=with_cache(options),
    )
    used, (trainval, test, logits, source_logits) = extract_usable(backbones, extract, on_failure)
    elapsed_s = time.perf_counter() - start
    rows = np.arange(len(trainval[0])), np.arange(0)
    if test:
        _check_what_is_left(task, trainval[0], test[0])
        rows = _select_rows(task, trainval[0], fraction=val_fraction, seed=seed)
    facts = _dataset_facts(task, [trainval[0], *test[:1]], rows, fraction=val_fraction, seed=seed)
    pool = Pool(
        trainval[0].labels.numpy(), task.trainval.class_names, *rows, val_is_stored=task.num_stored_train is not None
    )
    return TaskFeatures(tuple(used), tuple(trainval), tuple(test), logits, *rows, facts, elapsed_s, source_logits, pool)


_Extracted = tuple[list[FeatureSet], list[FeatureSet], dict[str, FeatureSet], dict[str, FeatureSet]]


def _extract(
    backbones: Sequence[Backbone],
    *,
    task: Task,
    own_head: bool,
    source_heads: bool,
    with_test: bool,
    views: Views | None,
    options: dict[str, Any],
) -> _Extracted:
    """Features of trainval and of test, logits on test of the own heads that fit, on trainval of all; by name."""
    fitting = [b for b in backbones if own_head and _has_head_for(b, task.test)]
    with_head = [b for b in backbones if source_heads and b.head is not None]
    count, requests = len(backbones), [Request(b) for b in backbones]
    source = [Request(b, "logits") for b in with_head]
    trainval = extract_layers([*requests, *source], task.trainval, views=views, **options)
    on_test = [*requests, *(Request(b, "logits") for b in fitting)]
    test = extract_layers(on_test, task.test, **options) if with_test else []
    logits = dict(zip([b.name for b in fitting], test[count:], strict=True))
    source_logits = dict(zip([b.name for b in with_head], trainval[count:], strict=True))
    return trainval[:count], test[:count], logits, source_logits


def _has_head_for(backbone: Backbone, split: Split) -> bool:
    """Whether its own head tells the classes of `split`, in their order where it names its own."""
    if backbone.num_classes != split.num_classes:
        return False
    if not backbone.class_names or backbone.class_names == split.class_names:
        return True
    logger.warning(
        "The own head of %s has no row: its classes (%s, …) are not those of %s (%s, …), or in another order.",
        backbone.name,
        ", ".join(backbone.class_names[:3]),
        split.dataset,
        ", ".join(split.class_names[:3]),
    )
    return False


def _check_what_is_left(task: Task, trainval: FeatureSet, test: FeatureSet) -> None:
    """Raises DatasetError when skipped images leave too little: no test image, or a class of test without training."""
    names, skipped = task.test.class_names, len(trainval.skipped) + len(test.skipped)
    lost = np.setdiff1d(test.labels.numpy(), trainval.labels.numpy())
    if skipped and (len(test) == 0 or lost.size or len(np.unique(trainval.labels.numpy())) < 2):
        what = f"class {names[int(lost[0])]!r} without a training image" if lost.size else "too few images"
        raise DatasetError(
            f"{task.dataset.name}: the {skipped} images that cannot be decoded and were skipped leave {what} "
            f"({len(trainval)} training and {len(test)} test images). Repair them, see the log for their names."
        )


def _select_rows(task: Task, features: FeatureSet, *, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
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
    task: Task,
    features: Sequence[FeatureSet],
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
        features=features,
        sizes=(len(rows[0]), len(rows[1]), sum(map(len, features[1:]))),
        val="as stored by the data set" if stored else f"{fraction:.0%} of train, per class, seed {seed}",
    )
