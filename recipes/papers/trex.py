"""t-ReX (arXiv 2206.15369): mean log odds of logistic regression over 15 data sets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from papers.written import NO_TIME, Row, Written, expected

LOG_ODDS = "logistic regression on frozen features"
NETWORKS = {"t-ReX (OCM-3)": "trex", "t-ReX* (OCM-1)": "trexstar"}
WEIGHTS = {
    "model zoo: paper weights": ("paper weights", ""),
    "model zoo: reproduced with released code": ("trained again with the released code", "_2"),
}
SMALL = ["fgvc_aircraft", "stanford_cars", "dtd", "eurosat", "flowers102", "oxford_pets", "food101", "sun397"]
LARGE = [*(f"imagenet_cog_l{level}" for level in range(1, 6)), "inat2018", "inat2019"]


def make(rows: list[Row]) -> Iterator[Written]:
    """One recipe a method: both published networks on 15 data sets, the small by L-BFGS, the large by SGD."""
    for method, network in NETWORKS.items():
        members = [row for row in rows if _is_measurable(row) and row["method"] == method]
        yield Written(_recipe(method, network, members), members)


def reasons(row: Row) -> Iterator[str]:
    """Why a row has no recipe."""
    if row["row"].startswith("trex:") and not _is_measurable(row):
        if row["experiment"].startswith("Figure 4"):
            yield "pretraining with other numbers of crops, for which there is no command yet; no networks published"
        else:
            yield "top-1 on the training task with its own head, which the published encoder does not hold"


def _is_measurable(row: Row) -> bool:
    return row["row"].startswith("trex:") and row["experiment"] in WEIGHTS and row["transfer"] == LOG_ODDS


def _recipe(method: str, network: str, rows: list[Row]) -> dict[str, Any]:
    cells = [cell for row in rows for cell in _cells(row, network)]
    return {
        "name": f"trex/mean15_{network}_logistic",
        "description": f"{method}: logistic regression on frozen features, mean log odds over 15 data sets.",
        "source": {
            "paper": "No Reason for No Supervision (arXiv 2206.15369)",
            "table": "model zoo of github.com/naver/trex",
        },
        "hardware": "not stated",
        "time": NO_TIME,
        "variables": {"data_root": None, "seeds": [22]},
        "metric": "log_odds",
        "command": "probe",
        "options": {"data-root": "${data_root}", "seed": "${seeds}"},
        "cells": cells,
        "expected": [expected(row, row=_label(row), **{"num-datasets": 15}) for row in rows],
    }


def _label(row: Row) -> str:
    return f"{row['method']}, {WEIGHTS[row['experiment']][0]}"


def _cells(row: Row, network: str) -> list[dict[str, Any]]:
    backbone = [f"zoo:{network}{WEIGHTS[row['experiment']][1]}"]
    return [
        {
            "name": _label(row),
            "options": {"backbone": backbone, "protocol": protocol, "dataset": datasets},
        }
        for protocol, datasets in (("trex-lbfgs", SMALL), ("trex-sgd", LARGE))
    ]
