"""Published numbers that no command can measure yet: recipes that record them, with the reason."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from papers.written import Row, Written, expected


def make(rows: list[Row], reasons: Mapping[str, str]) -> Iterator[Written]:
    """One recipe a paper, experiment and transfer.

    Args:
        reasons: number of a row -> why it cannot be measured.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((_name(row), reasons[row["row"]]), []).append(row)
    for (name, reason), members in groups.items():
        yield Written(_recipe(name, reason, members), members)


def _name(row: Row) -> str:
    words = f"{row['paper'].partition(' ')[0]} {row['experiment']} {row['transfer']}"
    return f"{row['row'].partition(':')[0]}/recorded/{re.sub(r'[^a-z0-9]+', '_', words.lower()).strip('_')}"


def _recipe(name: str, reason: str, rows: list[Row]) -> dict[str, Any]:
    first = rows[0]
    cells: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        number = expected(row, dataset=row["target"])
        cells.setdefault(_label(row, rows), []).append(number)
    return {
        "name": name,
        "description": f"{first['experiment']}, {first['transfer']}: numbers as published; nothing can be run.",
        "source": {"paper": first["paper"], "table": first["experiment"]},
        "hardware": "not stated",
        "time": "not published",
        "unavailable": reason,
        **({"metric": "log_odds"} if first["metric"] == "mean_log_odds" else {}),
        "cells": [{"name": label, "expected": numbers} for label, numbers in cells.items()],
    }


def _label(row: Row, rows: list[Row]) -> str:
    """Method, and what tells it from others of the recipe."""
    parts = [row["method"]]
    for key in ("architecture", "pretrain"):
        if row[key] and len({other[key] for other in rows}) > 1:
            parts.append(row[key])
    return ", ".join(parts)
