"""SwAV (arXiv 2006.09882): its own linear probes, for comparison with those of rich representations."""

from __future__ import annotations

from collections.abc import Iterator

from papers.written import NO_TIME, Row, Written, expected

PAPER = "SWAV 2006.09882"


def make(rows: list[Row]) -> Iterator[Written]:
    """One recipe: one network and three wider ones."""
    own = [row for row in rows if row["paper"].startswith(PAPER)]
    recipe = {
        "name": "rrl/swav/imagenet1k_linear_by_its_publishers",
        "description": "Linear probing on ImageNet1k by SwAV's own protocol: 100 epochs, a random crop in each.",
        "source": {"paper": "SwAV (arXiv 2006.09882)", "table": "README of facebookresearch/swav"},
        "hardware": "8 GPUs, batch 256",
        "time": NO_TIME,
        "variables": {"data_root": None, "views": 100},
        "command": "probe",
        "options": {
            "dataset": "imagenet1k",
            "data-root": "${data_root}",
            "protocol": "swav-linear",
            "views": "${views}",
        },
        "cells": [
            {
                "name": row["architecture"],
                "options": {"backbone": [f"zoo:swav_{row['architecture']}"]},
                "expected": expected(row),
            }
            for row in own
        ],
    }
    if own:
        yield Written(recipe, own)


def reasons(row: Row) -> Iterator[str]:
    """No row of this paper is without a recipe."""
    yield from ()
