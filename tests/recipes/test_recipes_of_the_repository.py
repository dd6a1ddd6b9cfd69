"""Every recipe of the repository is valid, lies where its name says, and is what its script writes."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

from richrep.recipes.declaration import Commands
from richrep.recipes.grid import expand
from richrep.recipes.outcome import measured, published, unavailable
from richrep.recipes.recipe import Recipe, load_recipe
from richrep.recipes.store import CellStore
from richrep.reports.method_table import make_method_table

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "recipes"
PATHS = sorted(FOLDER.rglob("*.yaml"))
PUBLISHED = ROOT.parent / "shared" / "published"


@pytest.fixture(scope="module")
def recipes() -> dict[Path, Recipe]:
    """All of them, read once."""
    return {path: load_recipe(path) for path in PATHS}


def test_there_are_recipes_of_every_kind() -> None:
    assert {path.relative_to(FOLDER).parts[0] for path in PATHS} == {"small", "rrl", "timecat", "trex", "sparse"}
    assert len(PATHS) > 300


def test_every_recipe_is_valid_and_lies_where_its_name_says(
    recipes: dict[Path, Recipe], commands: Commands, tmp_path: Path
) -> None:
    for path, recipe in recipes.items():
        assert f"{recipe.name}.yaml" == path.relative_to(FOLDER).as_posix()
        assert recipe.hardware and recipe.time, path
        cells = expand(recipe, commands)
        assert len({cell.key for cell in cells}) == len(cells), path
        rows = [*measured(cells, {recipe.name: recipe.metric}, CellStore(tmp_path), {}), *unavailable([recipe])]
        assert bool(recipe.unavailable) == (not cells and not recipe.include), path
        numbers = published([recipe])
        notes = make_method_table(rows, numbers).notes
        assert not any(note.startswith("No row") for note in notes), path  # every number has its row
        assert numbers or path.parent.name == "small", path


def test_every_network_of_the_papers_recipes_is_in_the_zoo_and_every_data_set_registered(
    recipes: dict[Path, Recipe],
) -> None:
    from richrep.backbones.zoo import ZOO
    from richrep.data.registry import REGISTRY

    for path, recipe in recipes.items():
        if path.parent.name == "small":
            continue
        text = path.read_text(encoding="utf-8")
        assert set(re.findall(r"zoo:(\w+)", text)) <= set(ZOO), path
        named = [spec.options["dataset"] for spec in recipe.specs()]
        datasets = {name for value in named for name in ([value] if isinstance(value, str) else value)}
        assert datasets <= {"cifar10", "cifar100", *REGISTRY}, path


def test_the_script_writes_the_recipes_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not PUBLISHED.is_dir():
        pytest.skip("the published numbers of ../shared/published are not on this machine")
    (tmp_path / "README.md").write_text((FOLDER / "README.md").read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["make_recipes.py", str(PUBLISHED), "--to", str(tmp_path)])
    monkeypatch.syspath_prepend(FOLDER)  # as for a script, without a process that imports torch anew
    runpy.run_path(str(FOLDER / "make_recipes.py"), run_name="__main__")
    written = {path.relative_to(tmp_path): path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.*")}
    there = {path.relative_to(FOLDER): path.read_text(encoding="utf-8") for path in [*PATHS, FOLDER / "README.md"]}
    assert written == {path: text for path, text in there.items() if path.parts[0] != "small"}
