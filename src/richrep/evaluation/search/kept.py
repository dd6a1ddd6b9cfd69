"""Full probes while a search is at work: on the disk, so that one that was killed goes on, and memory stays free."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from richrep.evaluation.environment import richrep_version
from richrep.evaluation.search.strategies import Subset
from richrep.evaluation.selection import Candidate, Selection
from richrep.features.normalize import Normalization
from richrep.features.pca import Pca
from richrep.heads.linear import Linear

logger = logging.getLogger(__name__)

_KEY = "richrep"
_CANDIDATE = TypeAdapter(Candidate)


@dataclass(frozen=True, eq=False)
class Kept:
    """A full probe without its logits, which its head gives again.

    Attributes:
        best, linear, normalization, solver, elapsed_s: as of `Selection`.
        val_correct: (N_val,) bool.
    """

    best: Candidate
    linear: Linear
    normalization: Normalization | Pca
    val_correct: torch.Tensor
    solver: dict[str, Any]
    elapsed_s: float

    @classmethod
    def of(cls, found: Selection, val_labels: torch.Tensor) -> Kept:
        """What is kept of a selection."""
        correct = found.val_logits.argmax(1) == val_labels
        return cls(found.best, found.linear, found.normalization, correct, found.solver, found.elapsed_s)


class KeptProbes:
    """Full probes by subset, in a folder of their own below `below`; without one, in memory.

    Args:
        identity: everything they depend on, as plain data; another search has another folder.
    """

    def __init__(self, below: Path | None, identity: Mapping[str, Any]) -> None:
        whole = json.dumps({**identity, "version": richrep_version()}, sort_keys=True)
        name = f".search-{hashlib.sha256(whole.encode()).hexdigest()[:16]}"
        self._folder = None if below is None else below / name
        self._held: dict[Subset, Kept] = {}

    def load(self, subset: Subset, *, num_val: int, feature_dim: int) -> Kept | None:
        """What was kept of `subset`; None where nothing was, or it is not whole."""
        if self._folder is None or subset in self._held:
            return self._held.get(subset)
        try:
            with safe_open(_file(self._folder, subset), framework="pt") as file:
                facts = json.loads(file.metadata()[_KEY])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dictionary
            kept = _read(facts, tensors)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None
        return kept if _is_whole(kept, num_val=num_val, feature_dim=feature_dim) else None

    def save(self, subset: Subset, kept: Kept) -> None:
        """Keeps one; where the disk is full that is said, and it is held in memory."""
        if self._folder is None:
            self._held[subset] = kept
            return
        path = _file(self._folder, subset)
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        facts, tensors = _written(kept)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            save_file({n: t.contiguous() for n, t in tensors.items()}, part, metadata={_KEY: json.dumps(facts)})
            os.replace(part, path)
        except (OSError, SafetensorError) as error:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            self._held[subset] = kept
            logger.warning("A probe cannot be kept on the disk (%s): a search that is killed now makes it anew.", error)

    def drop(self) -> None:
        """Removes what was kept: the search has ended."""
        self._held.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _file(folder: Path, subset: Subset) -> Path:
    return folder / f"{'-'.join(map(str, subset))}.safetensors"


def _is_whole(kept: Kept, *, num_val: int, feature_dim: int) -> bool:
    (weight, bias), fitted = kept.linear, kept.normalization
    width = len(fitted.components) if isinstance(fitted, Pca) and not fitted.folds else feature_dim
    return (
        weight.shape == (len(bias), width)
        and fitted.blocks[-1][1] == feature_dim
        and kept.val_correct.shape == (num_val,)
        and kept.val_correct.dtype == torch.bool
    )


def _written(kept: Kept) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Plain data and tensors; a normalisation is not written as an object, but by its parts."""
    fitted = kept.normalization
    before = fitted.before if isinstance(fitted, Pca) else fitted
    tensors = {"weight": kept.linear[0], "bias": kept.linear[1], "val_correct": kept.val_correct, "scale": before.scale}
    tensors |= {"mean": fitted.mean, "components": fitted.components} if isinstance(fitted, Pca) else {}
    return {
        "best": asdict(kept.best),
        "before": before.name,
        "blocks": before.blocks,
        "solver": kept.solver,
        "elapsed_s": kept.elapsed_s,
    }, tensors


def _read(facts: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Kept:
    blocks = tuple((int(start), int(stop)) for start, stop in facts["blocks"])
    before = Normalization(str(facts["before"]), tensors["scale"], blocks)
    fitted = Pca(before, tensors["mean"], tensors["components"]) if "components" in tensors else before
    return Kept(
        best=_CANDIDATE.validate_python(facts["best"]),
        linear=(tensors["weight"], tensors["bias"]),
        normalization=fitted,
        val_correct=tensors["val_correct"],
        solver=dict(facts["solver"]),
        elapsed_s=float(facts["elapsed_s"]),
    )
