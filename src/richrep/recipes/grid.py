"""Recipe -> cells: one command line each.

A list among `options` is one value where the command lets an option be repeated (`--seed 0 --seed 1`), and a grid, one
command a value, where it does not. Under `grid` every list is a grid.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from richrep.errors import RichrepError, unknown_name_message
from richrep.recipes.declaration import CommandDeclaration, Commands, OptionDeclaration
from richrep.recipes.recipe import CellSpec, Recipe
from richrep.recipes.variables import names_in, substitute

SET_BY_RUN = ("out", "json")
MAX_CELLS = 10_000  # of one row; more is a slip of the pen, and would fill the memory
# Options that leave the result as it is: where it is computed, within which room, and what is said of it.
WITHOUT_EFFECT = frozenset({"device", "num-workers", "memory-limit", "cache-dir", "profile", "checkpoint-steps"})
# What stands in the names of runs; those that differ in anything else need names of their own.
IN_RUN_NAMES = frozenset({"backbone", "dataset", "train-size", "seed", "protocol", "student", "init-cat", "stage2"})


@dataclass(frozen=True)
class Cell:
    """One command of an experiment.

    Attributes:
        recipe: name of the recipe that lists it; folder of its state.
        row: name of the method.
        label: the row, and what tells the cell from others of its grid: "CAT2 train-size=500".
        arguments: what follows the command on the command line.
        key: 16 hex digits of command and options, those without effect left out.
        rows: as in `CellSpec`.
        memory: what it takes at most, as written; "" where the recipe does not say.
        takes: the options its command knows.
        named_by: command and options that the default names of its runs are made of; "" where it has none, or its own.
    """

    recipe: str
    row: str
    label: str
    command: str
    arguments: tuple[str, ...]
    key: str
    rows: tuple[tuple[str, tuple[str, ...]], ...] = ()
    memory: str = ""
    takes: frozenset[str] = frozenset()
    named_by: str = ""


def expand(recipe: Recipe, commands: Commands) -> list[Cell]:
    """All cells of `recipe` (not of those it includes), in the order written; the last option varies fastest.

    Raises:
        RichrepError: an unknown command, option or variable, a value of the wrong type, or a required option missing.
    """
    try:
        variables = resolve(recipe.variables)
        cells = [cell for spec in recipe.specs() for cell in _cells(recipe, spec, commands, variables)]
        return _with_run_names(cells)
    except RichrepError as error:
        raise RichrepError(f"{recipe.path}: {error}") from error


def resolve(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Variables with those above them filled in."""
    resolved: dict[str, Any] = {}
    for name, value in variables.items():
        if below := [other for other in names_in(value) if other in variables and other not in resolved]:
            raise RichrepError(
                f"The variable {name!r} refers to {below[0]!r}, which does not stand above it. Change their order; no "
                "variable may refer to itself."
            )
        resolved[name] = substitute(value, resolved)
    return resolved


def _cells(recipe: Recipe, spec: CellSpec, commands: Commands, variables: Mapping[str, Any]) -> Iterator[Cell]:
    row = spec.name or str(spec.command)
    command = commands.get(str(spec.command))
    if command is None:
        raise RichrepError(unknown_name_message("command", str(spec.command), commands, max_listed=20))
    fixed, axes = _fixed_and_axes(spec, command, variables, row)
    missing = [name for name, option in command.options.items() if option.required and name not in {**fixed, **axes}]
    if missing:
        raise RichrepError(f"{row}: {command.name} needs the option {missing[0]!r}. Add it under options.")
    if (count := math.prod(map(len, axes.values()))) > MAX_CELLS:
        lengths = " x ".join(f"{len(texts)} of {name}" for name, texts in axes.items())
        raise RichrepError(f"{row}: its lists make {count:,} commands ({lengths}), at most {MAX_CELLS:,} are possible.")
    for point in itertools.product(*axes.values()):
        chosen = dict(zip(axes, point, strict=True))
        options = {name: chosen.get(name, fixed.get(name, ())) for name in _order(spec) if name in {**fixed, **axes}}
        varying = [f"{name}={'+'.join(chosen[name])}" for name in axes if len(axes[name]) > 1]
        yield Cell(
            recipe=recipe.name,
            row=row,
            label=" ".join([row, *varying]),
            command=command.name,
            arguments=_arguments(options, command),
            key=_key(command.name, options),
            rows=tuple((name, _patterns(words)) for name, words in spec.rows.items()),
            memory=spec.memory or "",
            takes=frozenset(command.options),
            named_by=_named_by(command, options),
        )


def _named_by(command: CommandDeclaration, options: Mapping[str, Texts]) -> str:
    if "name" not in command.options or "name" in options:
        return ""
    return json.dumps([command.name, {name: list(options[name]) for name in sorted(IN_RUN_NAMES & set(options))}])


def _with_run_names(cells: Sequence[Cell]) -> list[Cell]:
    """The cells, with names for runs that would be called as those of another cell, as in a grid of epochs."""
    keys: dict[str, set[str]] = {}
    for cell in cells:
        keys.setdefault(cell.named_by, set()).add(cell.key)
    return [_with_run_name(cell) if cell.named_by and len(keys[cell.named_by]) > 1 else cell for cell in cells]


def _with_run_name(cell: Cell) -> Cell:
    name = re.sub(r"[^\w.-]+", "-", cell.label)[:100] + f"-{cell.key[:6]}"
    return replace(cell, arguments=("--name", name, *cell.arguments))


Texts = tuple[str, ...]  # the values of one option in one command; several where it is repeated


def _fixed_and_axes(
    spec: CellSpec, command: CommandDeclaration, variables: Mapping[str, Any], row: str
) -> tuple[dict[str, Texts], dict[str, list[Texts]]]:
    """Options with one value in all commands, and those that vary, each with its values."""
    fixed: dict[str, Texts] = {}
    axes: dict[str, list[Texts]] = {}
    for part, given in (("options", spec.options), ("grid", spec.grid)):
        for name, template in given.items():
            where = f"{row}: {part}.{name}"
            try:
                option = _declared(name, command)
                value = substitute(template, variables)
                if value is None:
                    continue
                if isinstance(value, list) and (part == "grid" or not option.repeatable):
                    axes[name] = [_texts(item, option) for item in _some(value)]
                elif part == "grid":
                    raise RichrepError(f"a list was expected, got {value!r}. Write a single value under options.")
                else:
                    fixed[name] = _texts(value, option)
            except RichrepError as error:
                raise RichrepError(f"{where}: {error}") from error
    return fixed, axes


def _declared(name: str, command: CommandDeclaration) -> OptionDeclaration:
    if name in SET_BY_RUN:
        raise RichrepError(f"richrep run decides {name!r} itself. Leave it out; give --out to richrep run.")
    if name not in command.options:
        known = set(command.options) - set(SET_BY_RUN)
        raise RichrepError(unknown_name_message(f"option of {command.name}", name, known, max_listed=40))
    return command.options[name]


def _some(values: list[Any]) -> list[Any]:
    if not values:
        raise RichrepError("an empty list. Give at least one value, or null to leave the option out.")
    return values


def _texts(value: Any, option: OptionDeclaration) -> Texts:
    """One value as texts; lists in a list, which variables bring, are laid flat where the option may be repeated."""
    if not isinstance(value, list):
        return (option.text(value),)
    if not option.repeatable:
        raise RichrepError(f"{option.name!r} takes one value, got {value!r}.")
    return tuple(text for item in _some(value) for text in _texts(item, option))


def _order(spec: CellSpec) -> list[str]:
    return list(dict.fromkeys([*spec.options, *spec.grid]))


def _arguments(options: Mapping[str, Texts], command: CommandDeclaration) -> tuple[str, ...]:
    named: list[str] = []
    positional: list[str] = []
    for name, texts in options.items():
        option = command.options[name]
        for text in texts:
            if option.positional:
                positional.append(text)
            elif option.kind == "flag":
                named += [f"--{name}"] if text == "true" else [option.off] if option.off else []
            else:
                named += [f"--{name}={text}"] if text.startswith("-") else [f"--{name}", text]
    return (*named, *(["--"] if any(text.startswith("-") for text in positional) else []), *positional)


def _key(command: str, options: Mapping[str, Texts]) -> str:
    matter = {name: list(texts) for name, texts in options.items() if name not in WITHOUT_EFFECT}
    return hashlib.sha256(json.dumps([command, matter], sort_keys=True).encode()).hexdigest()[:16]


def _patterns(words: str | Sequence[str]) -> tuple[str, ...]:
    return (words,) if isinstance(words, str) else tuple(words)
