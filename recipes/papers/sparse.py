"""How well do sparse ImageNet models transfer? (arXiv 2111.13445): linear and full fine-tuning of pruned networks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from papers.written import NO_TIME, Row, Written, expected

METHODS = {
    "Dense": "dense",
    "AC/DC": "acdc",
    "LTH-T": "lth",
    "M-FAC": "mfac",
    "RigL ERK 1x": "rigl_erk1x",
    "RigL ERK 5x": "rigl_erk5x",
    "STR": "str",
    "WoodFisher": "woodfisher",
}
METRICS = {"top1": "accuracy", "mean_per_class": "mean_per_class_accuracy"}
ARCHITECTURES = {"resnet50": "resnet50", "mobilenet_v1": "mobilenetv1"}
LR_001 = ("fgvc_aircraft", "stanford_cars")  # the others 0.001


def make(rows: list[Row]) -> Iterator[Written]:
    """One recipe a method, architecture, target and transfer; its sparsities are the cells."""
    groups: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in rows:
        if row["row"].startswith("sparse:"):
            key = row["architecture"], row["transfer"], row["target"], row["method"]
            groups.setdefault(key, []).append(row)
    for (architecture, transfer, target, method), members in groups.items():
        name = f"sparse/{architecture}_{transfer}/{target}_{METHODS[method]}"
        yield Written(_recipe(name, architecture, transfer, target, members), members)


def reasons(row: Row) -> Iterator[str]:
    """None: every row has a recipe."""
    return iter(())


def _recipe(name: str, architecture: str, transfer: str, target: str, rows: list[Row]) -> dict[str, Any]:
    linear = transfer == "linear"
    lr = {"lr": [0.01 if target in LR_001 else 0.001]}
    options: dict[str, Any] = {"dataset": target, "data-root": "${data_root}", "seed": "${seeds}"}
    options |= {"protocol": "sparse-linear"} if linear else {"protocol": "sparse-finetune", "lr": "${lr}"}
    return {
        "name": name,
        "description": f"{rows[0]['method']}, {architecture}: {'linear' if linear else 'full'} fine-tuning on "
        f"{target}. The paper took the best epoch on test.",
        "source": {
            "paper": "How Well Do Sparse ImageNet Models Transfer? (arXiv 2111.13445)",
            "table": rows[0]["experiment"],
        },
        "hardware": "not stated; batch 64",
        "time": NO_TIME,
        "variables": {
            "data_root": None,
            "seeds": list(range(max(int(row["n_seeds"]) for row in rows))),
            **({} if linear else lr),
        },
        "metric": METRICS[rows[0]["metric"]],
        "command": "probe" if linear else "finetune",
        "options": options,
        "cells": [_cell(row, architecture) for row in rows],
    }


def _cell(row: Row, architecture: str) -> dict[str, Any]:
    percent = round(100 * float(row["sparsity"]))
    network = f"sparse_{ARCHITECTURES[architecture]}_{METHODS[row['method']]}" + (f"_{percent}" if percent else "")
    label = row["method"] + (f", {percent} % pruned" if percent else "")
    return {"name": label, "options": {"backbone": [f"zoo:{network}"]}, "expected": expected(row)}
