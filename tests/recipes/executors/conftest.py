"""Cells of a command that is quick and loads no network: `richrep list datasets PATTERN`, which fails for no match."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import richrep
from richrep.recipes.grid import Cell


@pytest.fixture(autouse=True)
def cells_find_richrep(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = str(Path(richrep.__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH", "")])))
    monkeypatch.setenv("RICHREP_HOME", str(tmp_path / "home"))


@pytest.fixture
def listing() -> Callable[[str], Cell]:
    """A cell that lists the data sets that match."""

    def make(pattern: str) -> Cell:
        key = hashlib.sha256(pattern.encode()).hexdigest()[:16]
        return Cell("trial", pattern, pattern, "list", ("datasets", pattern), key)

    return make
