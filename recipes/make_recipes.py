"""Writes one recipe for every row of the papers' tables, and the list of those that nothing can be run of.

    python recipes/make_recipes.py FOLDER

FOLDER holds what the papers published as rrl.csv, sparse.csv and trex.csv: paper, experiment, method, architecture,
pretrain, target, transfer, metric, value, std, source. Every row goes into one recipe. Rows that no command can measure
go into recipes that record the numbers and say why, and are counted in README.md; a row that goes nowhere, or into two
recipes, stops the script.
"""

from __future__ import annotations

import argparse
import csv
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from papers import recorded, rrl, rrl_384px, sparse, swav, timecat, trex
from papers.written import Row, Written

HERE = Path(__file__).resolve().parent
PAPERS: tuple[Any, ...] = (rrl, rrl_384px, swav, timecat, trex, sparse)
FOLDERS = ("rrl", "timecat", "trex", "sparse")
HEADER = "# Written by recipes/make_recipes.py; change that, not this file.\n"
BEGIN, END = "<!-- rows without a recipe: begin -->\n", "<!-- rows without a recipe: end -->\n"


def main() -> None:
    """Writes the recipes below --to, by default beside this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("published", type=Path, help="folder of rrl.csv, sparse.csv and trex.csv")
    parser.add_argument("--to", type=Path, default=HERE, help="folder to write to; README.md is read from there")
    options = parser.parse_args()
    rows = [row for name in ("rrl", "sparse", "trex") for row in read_rows(options.published / f"{name}.csv")]
    written = [one for paper in PAPERS for one in paper.make(rows)]
    measurable = len(written)
    left = rows_left(rows, written)
    reasons = {row["row"]: reason for row in rows for paper in PAPERS for reason in paper.reasons(row)}
    written += recorded.make([row for row in rows if row["row"] in reasons], reasons)
    for folder in FOLDERS:
        shutil.rmtree(options.to / folder, ignore_errors=True)
    for one in written:
        path = options.to / f"{one.recipe['name']}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(HEADER + to_yaml(one.recipe), encoding="utf-8")
    readme = options.to / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    readme.write_text(before + BEGIN + left + END + rest.partition(END)[2], encoding="utf-8")
    numbers = [sum(len(one.rows) for one in part) for part in (written[:measurable], written[measurable:])]
    print(f"{measurable} recipes of {numbers[0]} numbers, {len(written) - measurable} that record {numbers[1]} others.")


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of one file, each with its number in `row` (the header is line 1)."""
    with open(path, encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            yield {**row, "row": f"{path.stem}:{number}"}


def rows_left(rows: list[Row], written: list[Written]) -> str:
    """A Markdown table of the rows that nothing can be run of; stops for one in two recipes, or neither."""
    recipes = Counter(row["row"] for one in written for row in one.rows)
    left: Counter[tuple[str, str, str, str]] = Counter()
    for row in rows:
        reasons = [reason for paper in PAPERS for reason in paper.reasons(row)]
        if recipes[row["row"]] + len(reasons) != 1:
            raise SystemExit(f"{row} is in {recipes[row['row']]} recipes and has {len(reasons)} reasons to be in none.")
        if reasons:
            left[row["paper"].partition(" (")[0], row["experiment"], row["transfer"], reasons[0]] += 1
    lines = ["| paper | experiment | transfer | numbers | why |", "|:---|:---|:---|---:|:---|"]
    return "\n".join([*lines, *(f"| {' | '.join(what[:3])} | {n} | {what[3]} |" for what, n in left.items())]) + "\n"


class _Dumper(yaml.SafeDumper):
    """Mappings on lines of their own, lists of plain values on one; nothing by reference."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        plain = all(not isinstance(item, dict | list) for item in sequence)
        return super().represent_sequence(tag, sequence, flow_style=plain)


def to_yaml(recipe: dict[str, Any]) -> str:
    """The text of a recipe."""
    return yaml.dump(recipe, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)


if __name__ == "__main__":
    main()
