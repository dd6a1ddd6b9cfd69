"""One recipe, and the published rows it is of."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

Row = dict[str, str]
NO_TIME = "not published; not measured with this library"


@dataclass(frozen=True)
class Written:
    """A recipe as plain values, and the rows whose numbers it expects."""

    recipe: dict[str, Any]
    rows: list[Row]


def expected(row: Row, /, **more: Any) -> dict[str, Any]:
    """The number of a row; percent become fractions, as in records."""
    scale = 1 if row["metric"] == "mean_log_odds" else 100
    numbers = {"value": round(float(row["value"]) / scale, 8)}
    if row["std"]:
        numbers["std"] = round(float(row["std"]) / scale, 8)
    return {**numbers, "source": place(row["source"]), **more}


def place(source: str) -> str:
    """Where a number stands, in few words: the file or table, and whether it was read off a figure."""
    figure = re.match(r"figure-read from (\S+)", source)
    if figure:
        return f"read off {figure[1]}"
    if source.startswith("HTML comment table"):
        return "table in a comment of the README of github.com/TjuJianyu/RRL"
    return source.partition(", table read")[0].partition(" (")[0]
