"""The papers' choice on the test set itself, kept apart from every protocol that selects on val.

A twin has neither `select` nor `refit`, so nothing that expects a protocol can run it. Only
`evaluation/measure_on_test.py` does, asked for by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, ClassVar, Protocol

from richrep.evaluation.protocols.protocol import Choice
from richrep.features.feature_set import FeatureSet
from richrep.features.memory import FRUGAL, MemoryBudget

SUFFIX = "legacy-test-selection"
NOTE = (
    "hyper-parameters (and the epoch, where the paper's is the best one) were chosen on the test set itself; the score "
    "is optimistic and compares with numbers chosen in the same way alone."
)


class Chooses(Protocol):
    """A protocol that can be told which set it scores."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def name(self) -> str:
        """The key in PROTOCOLS."""
        ...

    @property
    def val_fraction(self) -> float:
        """Not used here: there is no val."""
        ...

    def choose(self, train: FeatureSet, val: FeatureSet, *, memory: MemoryBudget = FRUGAL) -> Choice:
        """The best hyper-parameters on `val`, the candidates fitted on all of `train`."""
        ...


@dataclass(frozen=True)
class LegacyTestSelection:
    """The twin of a protocol: fitted on train and val, chosen on test. For comparing with published numbers alone.

    Attributes:
        base: what is fitted; its grid is tried on test.

    Source: rich representations (best epoch and weight decay on test) and sparse transfer (best epoch on test). t-ReX
    selected on val, as "logistic" does: their twins show what a choice on test is worth.
    """

    base: Chooses

    @property
    def name(self) -> str:
        """As in LEGACY_TEST_SELECTION; it says what it is in every table."""
        return f"{self.base.name}-{SUFFIX}"

    @property
    def val_fraction(self) -> float:
        """Of the rows that extraction sets apart, which are trained on all the same."""
        return self.base.val_fraction

    def options(self) -> dict[str, Any]:
        """As a record states them: every option of the base, the name, and where it was selected."""
        return asdict(self.base) | {"name": self.name, "selected_on": "test", "note": NOTE}

    def with_base(self, base: Chooses) -> LegacyTestSelection:
        """The same twin of a base with other options."""
        return replace(self, base=base)


def twins(bases: Mapping[str, Callable[..., Chooses]]) -> dict[str, Callable[..., LegacyTestSelection]]:
    """A factory for the twin of each base, under its name; it takes the options of the base."""
    return {f"{name}-{SUFFIX}": partial(_twin, make) for name, make in bases.items()}


def _twin(make: Callable[..., Chooses], **options: Any) -> LegacyTestSelection:
    return LegacyTestSelection(make(**options))
