"""The full probe of a subset: chosen on val, refitted on train and val, scored on test once."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from richrep.errors import FeatureError, MemoryLimitError
from richrep.evaluation.search.kept import Kept, KeptProbes
from richrep.evaluation.search.strategies import Subset
from richrep.evaluation.selection import Candidate, Selection, refit_logistic, select_logistic
from richrep.features.feature_set import FeatureSet, concat_features
from richrep.features.memory import FRUGAL, MemoryBudget
from richrep.features.rows import as_rows
from richrep.heads.linear import linear_logits
from richrep.heads.logistic import LogisticHead

_DECADE = 10.001  # a factor: penalties half a decade apart, which rounding may put beside their place


@dataclass(frozen=True, eq=False)
class Fitted:
    """A head fitted on train and val, and its only look at test.

    Attributes:
        test_logits: (N_test, K).
    """

    head: LogisticHead
    test_logits: torch.Tensor
    elapsed_s: float


@dataclass(frozen=True, eq=False)
class Probed:
    """What is remembered of a full probe: the chosen candidate, and which val images it has right, (N_val,) bool."""

    best: Candidate
    val_correct: torch.Tensor
    elapsed_s: float


@dataclass(eq=False)
class Probes:
    """Full probes of subsets of M members, each made once.

    Attributes:
        trainval, test: one FeatureSet a member.
        train_rows, val_rows: rows of trainval.
        cs, normalizations: what is tried on val.
        memory: what a probe may hold beside the members; larger concatenations are not copied.
        keep_below: folder in which full probes are kept until `end`, so that the same search goes on after a kill; None
            keeps them in memory.
        probed: subset -> what was chosen on val.
        fitted: subset -> what was scored on test.
        quick_s: seconds that quick probes took.
    """

    trainval: Sequence[FeatureSet]
    test: Sequence[FeatureSet]
    train_rows: np.ndarray
    val_rows: np.ndarray
    cs: Sequence[float]
    normalizations: Sequence[str]
    memory: MemoryBudget = FRUGAL
    keep_below: Path | None = None
    probed: dict[Subset, Probed] = field(default_factory=dict)
    fitted: dict[Subset, Fitted] = field(default_factory=dict)
    quick_s: float = field(default=0.0, init=False)
    _bounds: dict[tuple[Subset, str, tuple[float, ...]], float] = field(default_factory=dict, init=False)

    def kept(self, subset: Subset) -> Kept:
        """The full probe of the concatenation of `subset`: penalty and normalisation by val accuracy; sees no test.

        Made once; its weights are read again from where they are kept.
        """
        dim = sum(self.trainval[i].feature_dim for i in subset)
        found = self._store.load(subset, num_val=len(self.val_rows), feature_dim=dim)
        if found is None:
            found = Kept.of(self._tried(subset, self.cs, self.normalizations), self.val_labels)
            self._store.save(subset, found)
        self.probed[subset] = Probed(found.best, found.val_correct, found.elapsed_s)
        return found

    def val_logits(self, subset: Subset) -> torch.Tensor:
        """(N_val, K) of the full probe of `subset`."""
        found, joint = self.kept(subset), self._joint(self.trainval, subset)
        val = as_rows(joint.features, torch.as_tensor(self.val_rows))
        return linear_logits(val, *found.linear, found.normalization)

    def known(self, subset: Subset) -> Probed:
        """What was chosen for `subset`, without its weights."""
        if subset not in self.probed:
            self.kept(subset)
        return self.probed[subset]

    @cached_property
    def _store(self) -> KeptProbes:
        return KeptProbes(
            self.keep_below,
            {
                "members": [[member.key, member.feature_dim] for member in self.trainval],
                "rows": [hashlib.sha256(rows.tobytes()).hexdigest() for rows in (self.train_rows, self.val_rows)],
                "cs": list(self.cs),
                "normalizations": list(self.normalizations),
            },
        )

    def _tried(self, subset: Subset, cs: Sequence[float], normalizations: Sequence[str]) -> Selection:
        joint = self._joint(self.trainval, subset)
        options: dict[str, Any] = {"cs": cs, "normalizations": normalizations, "memory": self.memory}
        try:
            return select_logistic(joint, self.train_rows, self.val_rows, **options)
        except (FeatureError, MemoryLimitError) as error:
            names = "+".join(block.name for block in joint.blocks)
            kept = "" if self.keep_below is None else f" What was probed before is kept in {self.keep_below}."
            raise type(error)(f"{names} cannot be probed: {error}{kept}") from error

    def end(self) -> None:
        """Nothing needs to be kept any more."""
        self._store.drop()

    def at_least(self, subset: Subset, best: Subset) -> float:
        """Val accuracy of the concatenation of `subset` by what was chosen for `best`: its normalisation, and the
        penalties within a decade of its own. The full probe tries these too, and takes some ten times as long.
        """
        if subset in self.probed:
            return self.val_accuracy(subset)
        chosen = self.known(best).best
        near = 1 / (len(self.train_rows) * chosen.l2)
        cs = tuple(c for c in self.cs if near / _DECADE <= c <= near * _DECADE)
        asked = subset, chosen.normalization, cs
        if asked not in self._bounds:
            tried = self._tried(subset, cs, [chosen.normalization])
            self._bounds[asked] = tried.best.val_accuracy
            self.quick_s += tried.elapsed_s
        return self._bounds[asked]

    def _joint(self, members: Sequence[FeatureSet], subset: Subset) -> FeatureSet:
        return concat_features([members[i] for i in subset], max_bytes=self.memory.kept)

    def val_accuracy(self, subset: Subset) -> float:
        """Of the chosen penalty and normalisation."""
        return self.known(subset).best.val_accuracy

    def val_correct(self, subset: Subset) -> torch.Tensor:
        """(N_val,) bool."""
        return self.known(subset).val_correct

    @property
    def val_labels(self) -> torch.Tensor:
        """(N_val,)."""
        return self.trainval[0].labels[torch.as_tensor(self.val_rows)]

    def score(self, subset: Subset) -> Fitted:
        """The chosen head refitted on train and val, and its logits on test."""
        if subset not in self.fitted:
            chosen, start = self.kept(subset), time.perf_counter()
            joint = self._joint(self.trainval, subset)
            best = {"l2": chosen.best.l2, "normalization": chosen.best.normalization}
            head = refit_logistic(joint, best, chosen.linear, memory=self.memory)
            logits = head.logits(self._joint(self.test, subset).features)
            self.fitted[subset] = Fitted(head, logits, time.perf_counter() - start)
        return self.fitted[subset]
