"""What the commands take, read off the commands themselves, for recipes to be checked against."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import typer

from richrep.recipes.declaration import CommandDeclaration, Kind, OptionDeclaration


def declare_commands(context: typer.Context) -> dict[str, CommandDeclaration]:
    """Every command of the program that `context` belongs to but `run` itself, which would start itself again."""
    group: Any = context.find_root().command
    return {
        name: CommandDeclaration(name, {option.name: option for option in _options(command)})
        for name, command in group.commands.items()
        if name != "run"
    }


def _options(command: Any) -> Iterator[OptionDeclaration]:
    """Names from the command, types from the annotations of its function: those are the same in every typer."""
    hints = get_type_hints(inspect.unwrap(command.callback), include_extras=True)
    for parameter in command.params:
        if parameter.name in hints:
            yield _declare(parameter, hints[parameter.name])


def _declare(parameter: Any, hint: Any) -> OptionDeclaration:
    """One parameter: what it is called, takes and allows."""
    annotated, *described = get_args(hint)
    value_type = _value_type(annotated)
    choices = get_args(value_type) if get_origin(value_type) is Literal else ()
    bounds = {bound: next((getattr(info, bound, None) for info in described), None) for bound in ("min", "max")}
    positional = parameter.param_type_name == "argument"
    return OptionDeclaration(
        name=parameter.name.lower() if positional else max(parameter.opts, key=len).removeprefix("--"),
        kind="choice" if choices else _KINDS.get(value_type, "text"),
        repeatable=bool(parameter.multiple) or parameter.nargs == -1,
        required=bool(parameter.required),
        positional=positional,
        choices=tuple(map(str, choices)),
        off=next(iter(parameter.secondary_opts), ""),
        low=bounds["min"],
        high=bounds["max"],
    )


_KINDS: dict[Any, Kind] = {int: "int", float: "float", bool: "flag"}


def _value_type(annotated: Any) -> Any:
    """`int` of `list[int] | None`: the type of one value."""
    if get_origin(annotated) is Literal:
        return annotated
    inner = [part for part in get_args(annotated) if part is not NoneType]
    return _value_type(inner[0]) if len(inner) == 1 else annotated
