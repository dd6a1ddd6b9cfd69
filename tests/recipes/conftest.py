"""Commands as the command line declares them, and recipes written to a folder of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer

from richrep.cli.declarations import declare_commands
from richrep.cli.main import app
from richrep.recipes.declaration import Commands


@pytest.fixture(scope="session")
def commands() -> Commands:
    """What the real commands take."""
    group = SimpleNamespace(command=typer.main.get_command(app))
    return declare_commands(SimpleNamespace(find_root=lambda: group))  # type: ignore[arg-type]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a recipe and gives its path; a name and a description go before the text."""

    def write_recipe(text: str, name: str = "trial") -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(f"name: {name}\ndescription: a trial\n{text}", encoding="utf-8")
        return path

    return write_recipe
