"""What a command takes, as plain data: `cli/` reads it off its own commands and hands it in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from richrep.errors import RichrepError, unknown_name_message

Kind = Literal["int", "float", "flag", "choice", "text"]
_EXPECTED = {"int": "a whole number", "float": "a number", "flag": "true or false", "text": "a text or a number"}


@dataclass(frozen=True)
class OptionDeclaration:
    """One option of a command.

    Attributes:
        name: long, without dashes, e.g. "train-size"; for a positional argument its name in lower case.
        repeatable: may be given several times; a list of a recipe is then one value for one command.
        off: of a flag, what turns it off, e.g. "--no-balance"; "" where leaving it out does.
        low, high: bounds of a number, both allowed themselves.
    """

    name: str
    kind: Kind = "text"
    repeatable: bool = False
    required: bool = False
    positional: bool = False
    choices: tuple[str, ...] = ()
    off: str = ""
    low: float | None = None
    high: float | None = None

    def text(self, value: object) -> str:
        """`value` as the command line takes it; equal numbers give equal texts (1e-4 and 0.0001).

        Raises:
            RichrepError: a value of another kind.
        """
        if self.kind == "choice":
            if str(value) in self.choices:
                return str(value)
            raise RichrepError(unknown_name_message("value", str(value), self.choices))
        if self.kind == "flag":
            return self._flag(value)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise self._unexpected(value)
        return str(value) if self.kind == "text" else self._number(value)

    def _flag(self, value: object) -> str:
        if not isinstance(value, bool):
            raise self._unexpected(value)
        return str(value).lower()

    def _number(self, value: str | int | float) -> str:
        """YAML 1.1 reads 1e-4 as a text, hence texts that are numbers count as numbers."""
        try:
            number = float(value)
        except ValueError:
            raise self._unexpected(value) from None
        if not math.isfinite(number) or (self.kind == "int" and number != int(number)):
            raise self._unexpected(value)
        if (self.low is not None and number < self.low) or (self.high is not None and number > self.high):
            bounds = {"at least": self.low, "at most": self.high}
            expected = " and ".join(f"{words} {bound}" for words, bound in bounds.items() if bound is not None)
            raise RichrepError(f"a number of {expected} was expected, got {value!r}.")
        return str(int(number)) if self.kind == "int" else repr(number)

    def _unexpected(self, value: object) -> RichrepError:
        return RichrepError(f"{_EXPECTED[self.kind]} was expected, got {value!r}.")


@dataclass(frozen=True)
class CommandDeclaration:
    """One command: its name and its options by name."""

    name: str
    options: Mapping[str, OptionDeclaration] = field(default_factory=dict)


Commands = Mapping[str, CommandDeclaration]
