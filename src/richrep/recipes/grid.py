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
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from richrep.errors import RichrepError, unknown_name_message
from richrep.recipes.declaration import CommandDeclaration, Commands, OptionDeclaration
from richrep.recipes.recipe import CellSpec, Recipe
from richrep.recipes.variables import names_in, substitute

SET_BY_RUN = ("out", "json")
MAX_CELLS = 10_000  # of one row; more is a slip of the pen, and would fill the memory
# Options that leave the result as it is: where it is computed, within which room, and what is said of it.
WITHOUT_EFFECT = frozenset(
    {"device", "num-workers", "jobs", "memory-limit", "cache-dir", "profile", "tracker", "checkpoint-steps"}
)
# What stands in the names that commands give their runs; a run that anything else decides needs a name of its own.
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
        run: name that its runs are given; "" where it makes none, or those that its command gives do.
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
    run: str = ""


def expand(recipe: Recipe, commands: Commands) -> list[Cell]:
    """All cells of `recipe` (not of those it includes), in the order written; the last option varies fastest.

    Raises:
        RichrepError: an unknown command, option or variable, a value of the wrong type, or a required option missing.
    """
    try:
        variables = resolve(recipe.variables)
        return [cell for spec in recipe.specs() for cell in _cells(recipe, spec, commands, variables)]
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
        label, key = " ".join([row, *varying]), _key(command.name, options)
        run = _run_name(row, key, command, options)
        named = ("--name", run) if run and "name" not in options else ()
        yield Cell(
            recipe=recipe.name,
            row=row,
            label=label,
            command=command.name,
            arguments=(*named, *_arguments(options, command)),
            key=key,
            rows=tuple((name, _patterns(words)) for name, words in spec.rows.items()),
            memory=spec.memory or "",
            takes=frozenset(command.options),
            run=run,
        )


def _run_name(row: str, key: str, command: CommandDeclaration, options: Mapping[str, Texts]) -> str:
    """The name it says, or one of row and key where options decide that no name would tell."""
    if "name" not in command.options:
        return ""
    if "name" in options:
        return options["name"][0]
    if set(options) <= IN_RUN_NAMES | WITHOUT_EFFECT:
        return ""
    plain = unicodedata.normalize("NFKD", row).encode("ascii", "ignore").decode()
    words = re.sub(r"[^A-Za-z0-9_.]+", "-", plain)[:100].strip("-._")
    return f"{words or 'run'}-{key[:6]}"


def check_run_names(cells: Iterable[Cell]) -> None:
    """Raises RichrepError for one name that several commands would give their runs."""
    named: dict[str, Cell] = {}
    for cell in cells:
        other = named.setdefault(cell.run, cell)
        if cell.run and other.key != cell.key:
            raise RichrepError(
                f"{other.label} ({other.recipe}) and {cell.label} ({cell.recipe}) would both call their runs "
                f"{cell.run!r}. Leave the option 'name' out, each is then given a name of its own."
            )


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
