"""What a protocol is told before it runs: the seed, the data set, and its own val where it has a rule for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from richrep.errors import DatasetError
from richrep.evaluation.protocols.legacy_test_selection import LegacyTestSelection
from richrep.evaluation.protocols.protocol import ProbeProtocol
from richrep.evaluation.task import TaskFeatures

Prepared = TypeVar("Prepared", bound=ProbeProtocol | LegacyTestSelection)


@runtime_checkable
class KnowsDatasets(Protocol):
    """A protocol with other options for some data sets."""

    def for_dataset(self, name: str) -> Any:
        """The protocol as it is for the data set of that name."""
        ...


@runtime_checkable
class Splits(Protocol):
    """A protocol whose val is cut by a rule of its own."""

    @property
    def name(self) -> str:
        """The key in PROTOCOLS."""
        ...

    @property
    def val_fraction(self) -> float:
        """Of every class."""
        ...

    def split(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows (train, val) of labels (N,) of trainval."""
        ...


def prepare(protocol: Prepared, features: TaskFeatures, *, seed: int) -> tuple[Prepared, TaskFeatures]:
    """The protocol with the seed of the run and for its data set, and the features with the rows it selects on.

    A twin of LEGACY_TEST_SELECTION trains on every row; its val is empty.

    Raises:
        DatasetError: the protocol's rule leaves no val.
    """
    name = features.facts.name
    told: Any = protocol
    if isinstance(told, LegacyTestSelection):
        rows = np.arange(len(features.trainval[0])), np.arange(0)
        twin: Any = told.with_base(_told(told.base, name, seed))
        return twin, _with_rows(features, rows, "none: selected on test, as the paper did")
    told = _told(told, name, seed)
    if isinstance(told, Splits):
        said = f"{told.val_fraction:.0%} of train and val, per class, by {told.name}, seed {seed}"
        features = _with_rows(features, _own_rows(told, features), said)
    prepared: Prepared = told
    return prepared, features


def _own_rows(protocol: Splits, features: TaskFeatures) -> tuple[np.ndarray, np.ndarray]:
    rows = protocol.split(features.trainval[0].labels.numpy())
    if len(rows[1]) == 0:
        raise DatasetError(
            f"{features.facts.name}: no class has two training images, so none can go to val and nothing can be tuned. "
            "Use a larger --train-size."
        )
    return rows


def _told(protocol: Any, dataset: str, seed: int) -> Any:
    """The protocol with its `seed`, where it has one, and for the data set, where that matters."""
    if "seed" in getattr(protocol, "__dataclass_fields__", {}):
        protocol = replace(protocol, seed=seed)
    return protocol.for_dataset(dataset) if isinstance(protocol, KnowsDatasets) else protocol


def _with_rows(features: TaskFeatures, rows: tuple[np.ndarray, np.ndarray], val: str) -> TaskFeatures:
    sizes = {"num_train": len(rows[0]), "num_val": len(rows[1]), "val": val}
    facts = features.facts.model_copy(update=sizes)
    return replace(features, train_rows=rows[0], val_rows=rows[1], facts=facts)
