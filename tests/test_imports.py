"""Imports point left, nothing heavy is loaded before it is needed, and no file is called utils."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import richrep

SOURCE = Path(richrep.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
# A part imports only from those before it. `errors` and `paths` are files, the others folders.
ORDER = (
    "errors",
    "paths",
    "data",
    "backbones",
    "features",
    "heads",
    "training",
    "evaluation",
    "reports",
    "recipes",
    "cli",
)
HEAVY = ("torch", "torchvision", "timm", "sklearn", "scipy", "pyarrow", "numpy", "PIL", "pydantic", "safetensors")


def part_of(module: str) -> str:
    """`richrep.data.split` -> `data`; "" for `richrep` itself."""
    return module.partition(".")[2].partition(".")[0]


def imports_of(tree: ast.AST, module: str, *, is_package: bool) -> Iterator[str]:
    """Full names of all richrep modules imported anywhere in `tree`, relative imports resolved."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "richrep")
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: -node.level or None] if node.level else []
            if node.level and is_package:
                parents = module.split(".")[: 1 - node.level or None]
            source = ".".join([*parents, *filter(None, [node.module])])
            if source == "richrep":
                yield from (f"richrep.{alias.name}" for alias in node.names)
            elif source.startswith("richrep."):
                yield source


def wrong_imports(text: str, module: str, *, is_package: bool = False) -> list[str]:
    """The imports of `module` that point right; the entry points __init__ and __main__ may import everything."""
    own = part_of(module)
    if own in ("", "__main__"):
        return []
    found = imports_of(ast.parse(text), module, is_package=is_package)
    return [name for name in found if part_of(name) not in ORDER[: ORDER.index(own) + 1]]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports_point_left(file: Path) -> None:
    names = file.relative_to(SOURCE.parent).with_suffix("").parts
    is_package = names[-1] == "__init__"
    module = ".".join(names[:-1] if is_package else names)
    assert part_of(module) in ("", "__main__", *ORDER), "a new part: give it its place in ORDER"
    assert wrong_imports(file.read_text(encoding="utf-8"), module, is_package=is_package) == []


def test_the_check_of_imports_sees_every_kind_of_import() -> None:
    text = """
import richrep.cli.main
from richrep.heads.head import Head
from richrep.data.split import Split   # points left: fine
from richrep import evaluation
from ..training import loop
from . import forward                  # its own folder: fine
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from richrep.reports import tables
def function():
    from ..evaluation.probe import probe
"""
    assert sorted(wrong_imports(text, "richrep.features.extract")) == [
        "richrep.cli.main",
        "richrep.evaluation",
        "richrep.evaluation.probe",
        "richrep.heads.head",
        "richrep.reports",
        "richrep.training",
    ]
    assert wrong_imports("from .. import cli", "richrep.data", is_package=True) == ["richrep.cli"]
    assert wrong_imports("from ...cli import main", "richrep.data.sources", is_package=True) == ["richrep.cli"]
    assert wrong_imports("from .layout import split", "richrep.data.sources", is_package=True) == []


def test_no_file_is_named_after_nothing() -> None:
    assert [file.name for file in FILES if file.stem in ("utils", "util", "common", "misc", "helpers")] == []


def test_every_folder_of_the_source_is_a_package() -> None:
    folders = {file.parent for file in FILES}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


@pytest.mark.parametrize("module", ["richrep", "richrep.cli.main"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert sorted(set(HEAVY) & set(json.loads(done.stdout))) == []
