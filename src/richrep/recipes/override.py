"""key=value of the command line: a variable of the recipes, or else an option of every command that has it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from richrep.errors import RichrepError, unknown_name_message
from richrep.recipes.declaration import Commands
from richrep.recipes.grid import resolve
from richrep.recipes.recipe import CellSpec, Recipe
from richrep.recipes.variables import substitute

_WITHOUT_FILE = re.compile(r"(zoo|hf|run):|(timm|torchvision|random)/|\w+$")  # the last: a word, such as a precision


def override(recipes: Sequence[Recipe], values: Mapping[str, Any], commands: Commands) -> list[Recipe]:
    """The recipes with `values` in place of what they say.

    Raises:
        RichrepError: a key that is neither a variable nor an option of any command used.
    """
    changed = list(recipes)
    for key, value in values.items():
        if any(key in recipe.variables for recipe in changed):
            changed = [
                recipe.model_copy(update={"variables": recipe.variables | {key: value}})
                if key in recipe.variables
                else recipe
                for recipe in changed
            ]
            continue
        option = key.replace("_", "-")
        _check_known(key, option, changed, commands)
        changed = [_with_option(recipe, option, value, commands) for recipe in changed]
    return changed


def _check_known(key: str, option: str, recipes: Sequence[Recipe], commands: Commands) -> None:
    used = {str(spec.command) for recipe in recipes for spec in recipe.specs()} & set(commands)
    options = {name for command in used for name in commands[command].options}
    if option not in options:
        variables = {name for recipe in recipes for name in recipe.variables}
        raise RichrepError(unknown_name_message("variable or option", key, variables | options, max_listed=60))


def _with_option(recipe: Recipe, option: str, value: Any, commands: Commands) -> Recipe:
    """`recipe` with the option in every cell whose command has it; the cells say all of it themselves then."""

    def changed(spec: CellSpec) -> CellSpec:
        command = commands.get(str(spec.command))
        if command is None or option not in command.options:
            return spec
        in_grid = option in spec.grid and isinstance(value, list)
        options = {name: given for name, given in spec.options.items() if name != option}
        grid = {name: given for name, given in spec.grid.items() if name != option}
        (grid if in_grid else options)[option] = value
        return spec.model_copy(update={"options": options, "grid": grid})

    if not recipe.cells:
        return changed(recipe) if recipe.command is not None else recipe  # type: ignore[return-value]
    cells = [changed(spec) for spec in recipe.specs()]
    return recipe.model_copy(update={"cells": cells, "options": {}, "grid": {}, "rows": {}})


def check_files(recipes: Sequence[Recipe]) -> None:
    """Raises RichrepError for a file below a variable's folder that is not there; said before anything runs."""
    for recipe in recipes:
        variables = resolve(recipe.variables)
        for spec in recipe.specs():
            for text in _texts(substitute({**spec.options, **spec.grid}, variables)):
                path = _path(text)
                names = [name for name, value in variables.items() if _is_above(value, path)]
                if path and names and not Path(path).expanduser().exists():
                    name = max(names, key=lambda name: len(str(variables[name])))
                    raise RichrepError(
                        f"{recipe.path}: {path} does not exist. It lies below the variable {name!r}, which is "
                        f"{variables[name]!r}: say where it is with {name}=FOLDER on the command line."
                    )


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict | list):
        return [text for item in (value.values() if isinstance(value, dict) else value) for text in _texts(item)]
    return [value] if isinstance(value, str) else []


def _path(address: str) -> str:
    """The file or folder in an address; "" for one that names none."""
    if _WITHOUT_FILE.match(address):
        return ""
    return re.sub(r"^(folder|parquet|csv):", "", address).rpartition("@")[2].partition("#")[0]


def _is_above(folder: Any, path: str) -> bool:
    return isinstance(folder, str) and bool(folder) and (path == folder or path.startswith(folder.rstrip("/") + "/"))
