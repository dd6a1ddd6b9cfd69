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
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from richrep.evaluation.search.strategies import Subset
from richrep.evaluation.selection import Candidate, Selection

logger = logging.getLogger(__name__)

_KEY = "richrep"


class KeptProbes:
    """Selections by subset, in a folder of their own below `below`; without one, in memory.

    Args:
        identity: everything the selections depend on, as plain data; another search has another folder.
    """

    def __init__(self, below: Path | None, identity: Mapping[str, Any]) -> None:
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        self._folder = None if below is None else below / f".search-{digest[:16]}"
        self._held: dict[Subset, Selection] = {}

    def load(self, subset: Subset) -> Selection | None:
        """What was kept of `subset`; None where nothing was, or it cannot be read."""
        if self._folder is None or subset in self._held:
            return self._held.get(subset)
        try:
            with safe_open(self._file(self._folder, subset), framework="pt") as file:
                facts = json.loads(file.metadata()[_KEY])
                val_logits, weight, bias = (file.get_tensor(name) for name in ("val_logits", "weight", "bias"))
            best, *candidates = (Candidate(**fields) for fields in (facts["best"], *facts["candidates"]))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None
        return Selection(best, val_logits, (weight, bias), tuple(candidates), facts["solver"], facts["elapsed_s"])

    def save(self, subset: Subset, selection: Selection) -> None:
        """Keeps one; where the disk is full that is said, and it is held in memory."""
        if self._folder is None:
            self._held[subset] = selection
            return
        facts = {
            "best": asdict(selection.best),
            "candidates": [asdict(candidate) for candidate in selection.candidates],
            "solver": selection.solver,
            "elapsed_s": selection.elapsed_s,
        }
        weight, bias = selection.linear
        tensors = {"val_logits": selection.val_logits, "weight": weight, "bias": bias}
        path = self._file(self._folder, subset)
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            save_file({n: t.contiguous() for n, t in tensors.items()}, part, metadata={_KEY: json.dumps(facts)})
            os.replace(part, path)
        except (OSError, SafetensorError) as error:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            self._held[subset] = selection
            logger.warning("A probe cannot be kept on the disk (%s): a search that is killed now makes it anew.", error)

    def drop(self) -> None:
        """Removes what was kept: the search has ended."""
        self._held.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    @staticmethod
    def _file(folder: Path, subset: Subset) -> Path:
        return folder / f"{'-'.join(map(str, subset))}.safetensors"
