"""time-CAT (arXiv 2506.18221): one long pretraining against several short ones, at a lower total."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from papers.rrl import LINEAR_WD, SELECTION, TARGETS, VIEWS, linear_views, pixels
from papers.written import NO_TIME, Row, Written, expected

PAPER = "time-CAT 2506.18221"
SETS = {"CAT2": "timecat_2x200k", "CAT4": "timecat_4x100k", "CAT5": "timecat_5x80k"}
NUM_RUNS = 5


def make(rows: list[Row]) -> Iterator[Written]:
    """Two recipes a target: the long training alone, and the concatenations."""
    for target, dataset in TARGETS.items():
        own = [row for row in rows if row["paper"] == PAPER and row["target"] == target]
        for group in ("baseline", "cat"):
            members = [row for row in own if ("baseline" in row["method"]) == (group == "baseline")]
            yield Written(_recipe(f"timecat/{dataset}_{group}_linear", dataset, members), members)


def reasons(row: Row) -> Iterator[str]:
    """None: every row has a recipe."""
    return iter(())


def _recipe(name: str, dataset: str, rows: list[Row]) -> dict[str, Any]:
    return {
        "name": name,
        "description": f"linear probing on {rows[0]['target']}, {rows[0]['pretrain']}. {SELECTION}",
        "source": {"paper": "time-CAT (arXiv 2506.18221)", "table": "fixed total of pretraining steps"},
        "hardware": "1 GPU, batch 256"
        if "cifar" in dataset
        else "1 GPU; the scripts are written with batches of 32, here they have 256",
        "time": NO_TIME,
        "variables": {"data_root": None, "wd": LINEAR_WD[dataset], **VIEWS},
        "command": "probe",
        "options": {
            "dataset": dataset,
            "data-root": "${data_root}",
            **pixels(dataset),
            "protocol": "rrl-linear",
            "weight-decay": "${wd}",
            **linear_views(dataset),
        },
        "cells": [_cell(row) for row in rows],
    }


def _cell(row: Row) -> dict[str, Any]:
    method, steps = re.match(r"(CAT\d+).*steps/model=(\w+)", row["method"]).groups()  # type: ignore[union-attr]
    if method in SETS:
        label = f"{method} of {steps} steps"
        return {"name": label, "options": {"backbone": [f"zoo:{SETS[method]}"]}, "expected": expected(row)}
    label = f"one network of {steps} steps"
    networks = [f"zoo:timecat_full_run{i}" for i in range(NUM_RUNS)]
    return {"name": label, "grid": {"backbone": networks}, "rows": {label: "alone"}, "expected": expected(row)}
