"""Rich representations at 384 pixels: networks that their publishers fine-tuned, joined; linear probes of ViTs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from papers.rrl import SELECTION
from papers.written import NO_TIME, Row, Written, expected
from richrep.backbones.zoo import ZOO

RRL, PUBLISHERS = "RRL 2212.07346", ("SEER 2202.08360", "AugReg 2106.10270", "ViT 2010.11929")
TITLES = {
    RRL: "Rich representations (arXiv 2212.07346)",
    "SEER 2202.08360": "SEER (arXiv 2202.08360)",
    "AugReg 2106.10270": "AugReg (arXiv 2106.10270)",
    "ViT 2010.11929": "Vision Transformer (arXiv 2010.11929)",
}
TARGET = "ImageNet1k (384px)"  # the page of ViT's own numbers does not repeat the pixels
PIXELS = ["size=384", "resize=384", "interpolation=bicubic"]
SEER = {
    **{f"regnet_y_{size}gf": f"seer_{size}gf_ft" for size in (32, 64, 128, 256)},
    "32gf+64gf": "seer_32_64_ft",
    "32gf+64gf+128gf": "seer_32_64_128_ft",
    "32gf+64gf+128gf+256gf": "seer_32_64_128_256_ft",
}
VIT = {"ViT-B/16": "vit_b16", "ViT-L/16": "vit_l16", "ViT-B/16 + ViT-L/16": "vit_cat2"}
NUM_TRAIN = 50_000  # where nothing is trained; a fifth of them is val
SQUASHED = ["size=384", "resize=squash", "interpolation=bilinear"]  # as google-research/vision_transformer


def make(rows: list[Row]) -> Iterator[Written]:
    """One recipe a source, family and transfer."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if _network(row) is not None:
            groups.setdefault(_name(row), []).append(row)
    for name, members in groups.items():
        yield Written(_recipe(name, members), members)


def reasons(row: Row) -> Iterator[str]:
    """Why a row at 384 pixels has no recipe."""
    if row["row"].startswith("rrl:") and "384px" in row["target"] and _network(row) is None:
        yield "the network that was fine-tuned at 384 px is in no list of published ones"


def _network(row: Row) -> str | None:
    """The network or set of the zoo that a row is of; None where it is of none, or of other rows than these."""
    own = row["target"] == TARGET or row["paper"].startswith("ViT 2010.11929")
    if not own or not row["row"].startswith("rrl:"):
        return None
    if "SEER" in row["method"] or row["experiment"].endswith("seer"):
        return SEER[row["architecture"]]
    stem = VIT.get(row["architecture"])
    kind = "augreg_" if "augreg" in row["method"] or row["experiment"].endswith("augreg") else ""
    return stem and f"{stem}_{kind}{'in21k' if _transfer(row) == 'linear' else 'in1k'}"


def _transfer(row: Row) -> str:
    if row["transfer"] == "linear probing":
        return "linear"
    return "2ft" if "two-stage" in row["transfer"] else "init"


def _name(row: Row) -> str:
    family = (_network(row) or "").partition("_")[0] + ("_augreg" if "augreg" in (_network(row) or "") else "")
    own = "_by_its_publishers" if row["paper"].startswith(PUBLISHERS) else ""
    return f"rrl/{family}/imagenet1k_384px_{_transfer(row)}{own}"


def _recipe(name: str, rows: list[Row]) -> dict[str, Any]:
    transfer, paper = _transfer(rows[0]), rows[0]["paper"].partition(" (")[0]
    command, options, note = _command(transfer)
    google = name.startswith("rrl/vit") and paper in PUBLISHERS
    pixels = SQUASHED if google else PIXELS
    variables = {"wd": [5e-4], "views": 28} if transfer == "linear" else {}
    return {
        "name": name,
        "description": f"{rows[0]['transfer']} on ImageNet1k at 384 pixels, {rows[0]['pretrain']}. {note}",
        "source": {"paper": TITLES[paper], "table": rows[0]["experiment"]},
        "hardware": "64 GPUs, batch 256" if name.startswith("rrl/seer/") and transfer == "2ft" else "not stated",
        "time": NO_TIME,
        "variables": {"data_root": None, **variables},
        "command": command,
        "options": {"dataset": "imagenet1k", "data-root": "${data_root}", "preprocess": pixels, **options},
        "cells": [_cell(row, transfer) for row in rows],
    }


def _command(transfer: str) -> tuple[str, dict[str, Any], str]:
    """Command, its options, and what to know about it."""
    if transfer == "linear":
        note = f"Positions are resampled bicubically, the paper's by order 1. {SELECTION}"
        return "probe", {"protocol": "rrl-linear", "weight-decay": "${wd}", "views": "${views}"}, note
    if transfer == "init":
        note = "As their publishers fine-tuned them: nothing is trained. Val may hold images that trained the networks."
        return "finetune", {"protocol": "as-is", "train-size": NUM_TRAIN}, note
    note = (
        "Stage 1 is the publishers' own fine-tuning; one epoch of the joint head at 0.001, weight decay 5e-4 (the "
        "paper trains that of four networks for two epochs, the second at a tenth)."
    )
    return "two-stage", {"protocol": "as-is", "stage2": "rrl-two-stage"}, note


def _cell(row: Row, transfer: str) -> dict[str, Any]:
    network = _network(row) or ""
    method = row["method"].partition(" (")[0]
    label = method if method.startswith("CAT") else f"{method}, {row['architecture']}"
    members = ZOO[network].members if transfer == "2ft" else None
    cell: dict[str, Any] = {"name": label, "options": {"backbone": [f"zoo:{m}" for m in members or (network,)]}}
    if transfer == "2ft":
        cell["rows"] = {label: "rrl-two-stage"}
    return {**cell, "expected": expected(row)}
