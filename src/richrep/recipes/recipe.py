"""The recipe: a YAML file of plain values, read safely and validated. Nothing it names is run as code.

What a value means is decided by the declarations of the commands, in `grid.py`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from richrep.errors import RichrepError, unknown_name_message
from richrep.features.memory import parse_size

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
FRACTIONS = ("accuracy", "mean_per_class_accuracy", "top5_accuracy")
METRICS = (*FRACTIONS, "log_odds", "nll", "ece")
_MAX_BYTES = 2**20  # a recipe is written by hand; what is larger is something else


class _Part(BaseModel):
    """Fixed once read; a key it does not know is an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, alias_generator=lambda n: n.replace("_", "-")
    )


class Source(_Part):
    """Where the published numbers stand."""

    paper: str
    table: str = ""


class Expected(_Part):
    """One published number: of the rows, data sets and training sizes it names, of all where it names none.

    Attributes:
        value, std: in the unit of the recipe's metric; accuracies are fractions.
        tolerance: a larger difference is named below the table.
        dataset: name; where several data sets or sizes of a row match, their mean is compared.
        num_datasets: of a mean over data sets; with fewer of them measured nothing is compared.
    """

    value: float
    std: float | None = None
    tolerance: float | None = Field(default=None, ge=0)
    source: str = ""
    row: str | None = None
    dataset: str | None = None
    train_size: int | None = None
    num_datasets: int | None = Field(default=None, ge=2)


class CellSpec(_Part):
    """One command, or a grid of them. What it leaves out is as the recipe says.

    Attributes:
        name: of the method, a row of the table.
        options: long option names without dashes. A list is one value for an option that may be repeated, else a grid.
        grid: lists, one command a value, also of options that may be repeated; a list in the list is one value.
        rows: row of the table -> patterns of its records (`richrep results`), or "alone", "together" for records of one
            backbone, of several; "best-on-val" for the one of each seed with the highest val accuracy. Without rows,
            every representation is one.
        memory: what one command takes at most, e.g. "2GB"; for `--memory`.
    """

    name: str | None = None
    command: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    grid: dict[str, list[Any] | str] = Field(default_factory=dict)
    rows: dict[str, str | list[str]] = Field(default_factory=dict)
    expected: list[Expected] = Field(default_factory=list)
    memory: str | None = None

    @field_validator("memory")
    @classmethod
    def _is_a_size(cls, memory: str | None) -> str | None:
        if memory is not None:
            parse_size(memory)
        return memory

    @field_validator("expected", mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, value: object) -> object:
        return [value] if isinstance(value, dict) else value


class Recipe(CellSpec):
    """An experiment. `options`, `grid`, `rows` and `memory` hold for every cell that does not say otherwise.

    Attributes:
        name: also the folder below --out that holds what became of its cells, e.g. "rrl/cifar10_cat_linear".
        variables: name -> default, for ${name} in options; key=value on the command line replaces them.
        metric: the score of the table, on test.
        hardware, time: what the published number took, or ours, in words.
        unavailable: why nothing can be run, where a recipe records published numbers alone; its cells have no command.
        include: other recipes, relative to this file; this file's variables replace theirs of the same name.
        path: of the file.
    """

    name: str
    description: str
    source: Source | None = None
    variables: dict[str, Any] = Field(default_factory=dict)
    metric: str = "accuracy"
    hardware: str = ""
    time: str = ""
    cells: list[CellSpec] = Field(default_factory=list)
    unavailable: str = ""
    include: list[str] = Field(default_factory=list)
    path: Path = Field(default=Path(), exclude=True)

    @field_validator("name")
    @classmethod
    def _is_a_folder(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name: letters, digits, '.', '_', '-' were expected, '/' between them")
        return name

    @field_validator("metric")
    @classmethod
    def _is_a_metric(cls, metric: str) -> str:
        if metric not in METRICS:
            raise ValueError(unknown_name_message("metric", metric, METRICS))
        return metric

    @field_validator("variables")
    @classmethod
    def _names_are_words(cls, variables: dict[str, Any]) -> dict[str, Any]:
        for name in variables:
            if not re.fullmatch(r"[A-Za-z_]\w*", name):
                raise ValueError(f"{name!r} is no name of a variable: letters, digits and '_' were expected")
        return variables

    def model_post_init(self, context: object) -> None:
        """Checks what concerns several fields."""
        if self.unavailable:
            self._check_records_only()
        elif self.cells and self.command is None and any(cell.command is None for cell in self.cells):
            raise ValueError("a cell has no command, and the recipe has none for all. Add `command:`")
        if not self.cells and self.command is None and not self.include and not self.unavailable:
            raise ValueError("nothing to run. Give `command:`, `cells:` or `include:`")
        numbers = [expected for part in (self, *self.cells) for expected in part.expected]
        self._check_rows(numbers)
        for number in numbers if self.metric in FRACTIONS else ():
            if not 0 <= number.value <= 1:
                raise ValueError(f"expected {number.value}: {self.metric} is a fraction in [0, 1], not percent")

    def _check_records_only(self) -> None:
        """A recipe that cannot be run names nothing to run, and a number for each of its rows."""
        if self.include or any(part.command or part.options or part.grid or part.rows for part in (self, *self.cells)):
            raise ValueError("unavailable: nothing can be run, so leave command, options, grid, rows and include out")
        if not self.cells or not all(cell.name and cell.expected for cell in self.cells):
            raise ValueError("unavailable: every cell needs a name and an expected number")

    def _check_rows(self, numbers: list[Expected]) -> None:
        """A number of a row that no part lists; where a part lists none, its rows are known once it has run."""
        parts = self.cells or [self]
        if all(part.rows or self.rows for part in parts):
            rows = {name for part in parts for name in part.rows or self.rows}
            for number in numbers:
                if number.row is not None and number.row not in rows:
                    raise ValueError(unknown_name_message("row", number.row, rows, max_listed=20))

    def specs(self) -> list[CellSpec]:
        """The cells to run, each with what it takes over from the recipe; the recipe itself where it lists none."""
        if self.unavailable:
            return []
        if not self.cells:
            own_row = self.model_copy(update={"name": self.name.rpartition("/")[2]})
            return [own_row] if self.command is not None else []
        return [_inherit(self, cell) for cell in self.cells]


def _inherit(recipe: Recipe, cell: CellSpec) -> CellSpec:
    own = {**cell.options, **cell.grid}  # what a cell says of an option replaces the recipe's option or grid
    return cell.model_copy(
        update={
            "command": cell.command or recipe.command,
            "options": {k: v for k, v in recipe.options.items() if k not in own} | cell.options,
            "grid": {k: v for k, v in recipe.grid.items() if k not in own} | cell.grid,
            "rows": cell.rows or recipe.rows,
            "memory": cell.memory or recipe.memory,
        }
    )


def load_recipe(path: str | Path) -> Recipe:
    """The recipe in the file `path`; those it includes are read by `read_all`.

    Raises:
        RichrepError: no such file, no YAML, or not a recipe; every wrong key is named.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise RichrepError(
            f"The recipe {path} {'is a folder' if path.is_dir() else 'does not exist'}. Give a YAML file."
        )
    if path.stat().st_size > _MAX_BYTES:
        raise RichrepError(f"{path} is larger than 1 MiB, that is no recipe. Give a YAML file.")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # a SafeLoader
    except (yaml.YAMLError, ValueError, OSError, RecursionError) as error:  # ValueError: no UTF-8, or no such date
        hint = " A ${name} in a [list] or {mapping} on one line needs quotes: '${name}'." if "${" in str(error) else ""
        raise RichrepError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}.{hint}") from error
    if not isinstance(content, dict):
        raise RichrepError(f"{path} is no recipe: keys such as name, command and options were expected.")
    try:
        return Recipe.model_validate({**content, "path": path})
    except ValidationError as error:
        raise RichrepError(
            f"{path}: {' '.join(_problem(problem) for problem in error.errors(include_url=False))}"
        ) from error


def read_all(path: str | Path, above: tuple[Path, ...] = ()) -> list[Recipe]:
    """The recipe and those it includes, each once, the including one's variables in place of theirs.

    Raises:
        RichrepError: as `load_recipe`, or a recipe that includes itself.
    """
    recipe = load_recipe(path)
    here = recipe.path.resolve()
    if here in above:
        raise RichrepError(f"{recipe.path} includes itself, through {' and '.join(str(step) for step in above)}.")
    found = [recipe]
    for name in recipe.include:
        for included in read_all(recipe.path.parent / name, (*above, here)):
            if all(included.path.resolve() != other.path.resolve() for other in found):
                known = {key: value for key, value in recipe.variables.items() if key in included.variables}
                found.append(included.model_copy(update={"variables": included.variables | known}))
    return found


class _Loader(yaml.SafeLoader):
    """Plain values only; a key written twice is an error, and so are aliases, which can grow without bound."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed in a recipe")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"the key {key!r} stands there twice{node.start_mark}")
        return super().construct_mapping(node, deep)


def _problem(problem: Any) -> str:
    """One sentence for one thing pydantic found wrong."""
    where = ".".join(str(step) for step in problem["loc"])
    if problem["type"] == "extra_forbidden":
        at = next((step for step in problem["loc"] if step in ("cells", "expected", "source")), None)
        at = next((step for step in reversed(problem["loc"][:-1]) if step in _PARTS), at)
        known = [field.alias or name for name, field in _PARTS.get(at, Recipe).model_fields.items() if name != "path"]
        sentence = unknown_name_message("key", str(problem["loc"][-1]), known, max_listed=20)
        return f"{where.rpartition('.')[0]}: {sentence}" if "." in where else sentence
    if problem["type"] == "missing":
        return f"The key {where!r} is missing. Add it."
    message = problem["msg"].removeprefix("Value error, ").rstrip(".")
    return f"{where}: {message}." if where else f"{message[:1].upper()}{message[1:]}."


_PARTS: dict[Any, type[_Part]] = {"cells": CellSpec, "expected": Expected, "source": Source}
