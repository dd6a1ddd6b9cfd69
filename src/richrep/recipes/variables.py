"""${name} in the values of a recipe, and key=value on the command line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from richrep.errors import RichrepError, unknown_name_message

REFERENCE = re.compile(r"\$\{([^}]*)\}")


def parse_overrides(words: Iterable[str]) -> dict[str, Any]:
    """key=value words as plain values: numbers, true, null, [a, b]; what is none of them is a text.

    Raises:
        RichrepError: a word without '=', or a value that is no YAML.

    >>> parse_overrides(["wd=[1e-4,1e-3]", "seed=0", "dataset=parquet:data/cifar10"])
    {'wd': ['1e-4', '1e-3'], 'seed': 0, 'dataset': 'parquet:data/cifar10'}
    """
    values = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key.strip():
            raise RichrepError(f"{word!r} is no override. Write key=value, e.g. train-size=500 or seed='[0,1,2]'.")
        try:
            values[key.strip()] = yaml.safe_load(text) if text else ""
        except (yaml.YAMLError, ValueError) as error:  # the second: a date that is none
            raise RichrepError(f"The value of {word!r} cannot be read: {' '.join(str(error).split())}.") from error
    return values


def substitute(value: Any, variables: Mapping[str, Any]) -> Any:
    """`value` with every ${name} replaced, at every depth; a value that is ${name} alone keeps the variable's type.

    Raises:
        RichrepError: no such variable, or a list inside a longer text.

    >>> substitute(["${folder}/a.pth", "${sizes}"], {"folder": "weights", "sizes": [1, 2]})
    ['weights/a.pth', [1, 2]]
    """
    if isinstance(value, dict):
        return {key: substitute(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [substitute(item, variables) for item in value]
    if not isinstance(value, str):
        return value
    whole = REFERENCE.fullmatch(value)
    if whole:
        return _lookup(whole[1], variables)

    def as_text(match: re.Match[str]) -> str:
        found = _lookup(match[1], variables)
        if isinstance(found, list | dict) or found is None:
            raise RichrepError(f"{value!r}: the variable {match[1]!r} is {found!r}, a text or a number was expected.")
        return str(found)

    return REFERENCE.sub(as_text, value)


def names_in(value: Any) -> list[str]:
    """Names of the variables that `value` refers to."""
    if isinstance(value, dict | list):
        return [name for item in (value.values() if isinstance(value, dict) else value) for name in names_in(item)]
    return REFERENCE.findall(value) if isinstance(value, str) else []


def _lookup(name: str, variables: Mapping[str, Any]) -> Any:
    if name not in variables:
        raise RichrepError(unknown_name_message("variable", name, variables))
    return variables[name]
