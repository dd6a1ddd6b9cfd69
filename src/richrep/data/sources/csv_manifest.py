"""`csv:FILE`: a table with one image a line; columns path and label, and where there are such, split and group."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from richrep.data.sources.layout import absence, absolute, check_parts, interleaved, listing, make_dataset, part_named
from richrep.data.split import PARTS, Dataset, Split
from richrep.data.stores import FileStore
from richrep.errors import DatasetError

REQUIRED, OPTIONAL = ("path", "label"), ("split", "group")
_NUMBER, _WHOLE = re.compile(r"[+-]?[0-9]{1,15}(\.[0-9]*)?"), re.compile(r"[0-9]{1,15}")


@dataclass(frozen=True)
class _Row:
    """One image; `line` counts from 1, as an editor shows it."""

    line: int
    path: str
    label: str
    part: str
    group: str


def load(rest: str) -> Dataset:
    """The images that the CSV file `rest` lists, UTF-8, with a header line.

    - `path`: of an image, absolute or from the folder of the CSV file; it may lead out of that folder.
    - `label`: the name of its class. Classes are the distinct labels of train, sorted as numbers where all are whole
      numbers, else as text. Two ways to write one number, such as 1 and 01, are an error.
    - `split`: train, val (valid, validation) or test; without the column, images are split 80/20 per class by the
      fixed seed, as for image folders.
    - `group`: domain, hospital, … of the image; kept in `Split.groups`.

    Spaces around a cell do not count, and other columns are passed over. Every part is interleaved by class.

    Raises:
        DatasetError: no such file, a missing column, an empty or strange cell, an image listed twice, a class in val
            or test only.
    """
    path = absolute(rest)
    rows, columns = _read_rows(path)
    names = {part: [row for row in rows if row.part == part] for part in PARTS}
    names = {part: of_part for part, of_part in names.items() if of_part}
    check_parts(names, where=path)
    class_names = _class_names(names["train"])
    has_groups = "group" in columns
    parts = {part: _make_split(path, part, names[part], class_names, has_groups=has_groups) for part in names}
    return make_dataset(parts, address=f"csv:{rest}")


def _read_rows(path: Path) -> tuple[list[_Row], list[str]]:
    """The rows, and the columns of the header."""
    if not os.path.isfile(path):
        what = absence(path) or f"is {'a folder' if os.path.isdir(path) else 'no regular file'}, not a CSV file"
        raise DatasetError(f"{path} {what}. Give a CSV file with the columns path and label.")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # Excel begins its CSV with a byte order mark
            reader = csv.DictReader(file, strict=True)
            columns = [name.strip().lower() for name in reader.fieldnames or ()]
            _check_columns(path, columns)
            reader.fieldnames = columns
            rows = [_make_row(path, reader.line_num, line) for line in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path} cannot be read as CSV: {error}. Write it again, as UTF-8.") from error
    if not rows:
        raise DatasetError(f"{path} lists no images. Write one line for each under the header.")
    _check_listed_once(path, rows)
    _check_numbers(path, rows)
    return rows, columns


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    known = (*REQUIRED, *OPTIONAL)
    twice = [name for name in known if columns.count(name) > 1]
    if twice or not set(REQUIRED) <= set(columns):
        problem = f"has the column {twice[0]!r} twice" if twice else f"has the columns {listing(columns) or 'none'}"
        hint = " Separate cells with commas." if any(";" in name or "\t" in name for name in columns) else ""
        raise DatasetError(
            f"{path} {problem}; wanted is a header with {listing(REQUIRED)}, and maybe {listing(OPTIONAL)}.{hint}"
        )


def _make_row(path: Path, line: int, cells: dict[str | None, str | None]) -> _Row:
    values = {name: (value or "").strip() for name, value in cells.items() if name is not None and name in _COLUMNS}
    if None in cells or None in cells.values():
        raise DatasetError(
            f"{path} line {line}: more or fewer cells than the header has. Quote cells that hold commas."
        )
    for name, value in values.items():
        if not value or "\0" in value:
            raise DatasetError(f"{path} line {line}: the {name} is {value!r}. Write it, or remove the line.")
    part = part_named(values.get("split", "train"))
    if part is None:
        raise DatasetError(f"{path} line {line}: the split is {values['split']!r}; wanted is train, val or test.")
    return _Row(line, values["path"], values["label"], part, values.get("group", ""))


_COLUMNS = frozenset((*REQUIRED, *OPTIONAL))


def _check_listed_once(path: Path, rows: Sequence[_Row]) -> None:
    """An image in two parts would be trained on and scored."""
    first: dict[str, int] = {}
    for row in rows:
        place = os.path.realpath(path.parent / os.path.expanduser(row.path))
        other = first.setdefault(place, row.line)
        if other != row.line:
            raise DatasetError(f"{path} lists {row.path!r} twice, in lines {other} and {row.line}. Remove one.")


def _check_numbers(path: Path, rows: Sequence[_Row]) -> None:
    """One class must not become two: 1, 01 and 1.0 are one number. A negative one stands for "not known"."""
    first: dict[float, _Row] = {}
    for row in rows:
        if not _NUMBER.fullmatch(row.label):
            continue
        number = float(row.label)
        other = first.setdefault(number, row)
        if other.label != row.label:
            raise DatasetError(
                f"{path} lines {other.line} and {row.line}: the labels {other.label!r} and {row.label!r} are the same "
                "number. Write one class one way."
            )
        if number < 0:
            raise DatasetError(
                f"{path} line {row.line}: the label is {row.label}; negative numbers stand for a label that is not "
                "known. Give every image its label, or remove the line."
            )


def _class_names(rows: Sequence[_Row]) -> tuple[str, ...]:
    names = {row.label for row in rows}
    return tuple(sorted(names, key=int) if all(map(_WHOLE.fullmatch, names)) else sorted(names))


def _make_split(
    path: Path, part: str, rows: Sequence[_Row], class_names: tuple[str, ...], *, has_groups: bool
) -> Split:
    label_of = {name: label for label, name in enumerate(class_names)}
    strange = next((row for row in rows if row.label not in label_of), None)
    if strange is not None:
        raise DatasetError(
            f"{path} line {strange.line}: the label {strange.label!r} is none of the {len(class_names)} classes of "
            f"train, {listing(class_names)}. Add training images of it, or remove the line."
        )
    split = Split(
        dataset=path.stem,
        part=part,
        images=FileStore(path.parent, [os.path.expanduser(row.path) for row in rows]),
        positions=np.arange(len(rows)),
        labels=np.array([label_of[row.label] for row in rows], dtype=np.int64),
        class_names=class_names,
        groups=np.array([row.group for row in rows], dtype=np.str_) if has_groups else None,
    )
    return interleaved(split)
