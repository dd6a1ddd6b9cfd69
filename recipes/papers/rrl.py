"""Rich representations (arXiv 2212.07346): linear probes, fine-tuning and two-stage fine-tuning of concatenations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from papers.written import NO_TIME, Row, Written, expected
from richrep.backbones.zoo import ZOO

PAPER = "RRL 2212.07346"
TITLE = "Rich representations (arXiv 2212.07346)"
TARGETS = {"CIFAR10": "cifar10", "CIFAR100": "cifar100", "INAT18": "inat2018", "ImageNet1k": "imagenet1k"}
TRANSFERS = {"linear probing": "linear", "fine-tuning [init]": "init", "two-stage fine-tuning [2ft]": "2ft"}
FAMILIES = {"supervised_transfer": "", "ssl_transfer_swav": "swav/", "ssl_transfer_seer": "seer/"}
# (method, architecture) -> group of rows in one file, name of the row, network or set of networks of the zoo.
METHODS: dict[tuple[str, str], tuple[str, str, str]] = {
    ("ERM", "resnet50"): ("erm", "ERM", "rrl_run0"),
    **{
        ("ERM (wide)", f"resnet50w{width}"): ("wide", f"ERM, {width} times as wide", f"rrl_resnet50w{width}")
        for width in (2, 4)
    },
    **{("wide", f"resnet50w{n}"): ("slices", f"mean of {n} slices", f"rrl_resnet50w{n}") for n in (2, 4)},
    **{
        ("ERM (joint block-diagonal)", f"{n}resnet50"): ("joint", f"{n} networks trained as one", f"rrl_{n}resnet50")
        for n in (2, 4)
    },
    **{(f"CAT{n}", f"{n} x resnet50"): ("cat", f"CAT{n}", f"rrl_cat{n}") for n in (4, 10)},
    ("DISTILL5", "resnet50"): ("distill", "DISTILL5", "rrl_distill5"),
    ("SWAV", "resnet50"): ("single", "SWAV", "swav_resnet50"),
    **{
        ("SWAV (wide)", f"resnet50w{width}"): ("wide", f"SWAV, {width} times as wide", f"swav_resnet50w{width}")
        for width in (2, 4, 5)
    },
    ("CAT7", "5 x resnet50 + w2 + w4"): ("cat", "CAT7", "swav_cat7"),
    ("CAT8", "5 x resnet50 + w2 + w4 + w5"): ("cat", "CAT8", "swav_cat8"),
    ("SEER", "regnet_y_32gf"): ("single", "SEER, RegNetY-32GF", "seer_32gf"),
    **{
        ("SEER (wide&deep)", f"regnet_y_{size}gf"): ("wide", f"SEER, RegNetY-{size}GF", f"seer_{size}gf")
        for size in (64, 128, 256)
    },
    ("CAT2", "32gf+64gf"): ("cat", "CAT2", "seer_32_64"),
    ("CAT3", "32gf+64gf+128gf"): ("cat", "CAT3", "seer_32_64_128"),
    ("CAT4", "32gf+64gf+128gf+256gf"): ("cat", "CAT4", "seer_32_64_128_256"),
}
# The same label and architecture in two families.
SHARED = {(f"CAT{n}", f"{n} x resnet50"): ("cat", f"CAT{n}", n) for n in (2, 5)}
NUM_RUNS = 10  # of ERM with linear probes
SLICES = {f"rrl_resnet50w{n}": [f"rrl_resnet50w{n}_fs{i}" for i in range(n)] for n in (2, 4)}  # of 2,048 features
SUB = "_sub"  # the mean of the logits of the members, each with a head of its own: the control of a concatenation

CIFAR_WD = [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05]
LINEAR_WD = {"cifar10": CIFAR_WD, "cifar100": CIFAR_WD, "inat2018": [1e-6, 1e-5, 1e-4], "imagenet1k": [1e-4, 5e-4]}
SEER_WD = {**LINEAR_WD, "cifar10": CIFAR_WD[1:5], "cifar100": CIFAR_WD[1:5], "imagenet1k": [5e-4]}
FINETUNE_LR = [0.005, 0.01, 0.05]
FINETUNE_WD = {"cifar10": [0, 1e-5, 1e-4, 5e-4], "cifar100": [0, 1e-5, 1e-4, 5e-4], "inat2018": [1e-6, 1e-5, 1e-4]}
STAGE1_LR = [0.01]
VIEWS = {"views": 28}  # one an epoch; 1 takes the images as they are, in a 28th of the time
CIFAR_PIXELS = [
    *("size=224", "resize=256", "interpolation=bicubic"),
    *("mean=0.4914,0.4822,0.4465", "std=0.2023,0.1994,0.201"),
]
# GPUs by transfer and target; every batch is 256 images in all.
GPUS = {"linear": {"cifar10": 1, "cifar100": 1, "inat2018": 8}, "2ft": {"cifar10": 1, "cifar100": 1, "inat2018": 8}}
SEER_GPUS = {"cifar10": 8, "cifar100": 8, "inat2018": 8, "imagenet1k": 64}
SELECTION = "The paper chose epoch and weight decay on test; this recipe chooses on val."


def make(rows: list[Row]) -> Iterator[Written]:
    """One recipe a group of methods, target and transfer; networks of a group are cells of one file."""
    groups: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in rows:
        if _is_measurable(row):
            group = _method(row)[0]
            target, transfer = TARGETS[row["target"]], TRANSFERS[row["transfer"]]
            groups.setdefault((row["experiment"], target, group, transfer), []).append(row)
    for (experiment, target, group, transfer), members in groups.items():
        name = f"rrl/{FAMILIES[experiment]}{target}_{group}_{transfer}"
        yield Written(_recipe(name, experiment, target, transfer, members), members)


def reasons(row: Row) -> Iterator[str]:
    """Why a row of the project's tables has no recipe."""
    others = row["paper"].startswith(("time-CAT", "SWAV", "ViT 2010.11929")) or "384px" in row["target"]
    if row["row"].startswith("rrl:") and not others and not _is_measurable(row):
        yield _reason(row)


def _reason(row: Row) -> str:
    if row["experiment"] == "few_shot":
        return "few-shot episodes: no command yet, and no networks published"
    if row["experiment"] == "ood_camelyon17":
        return "training for other domains: no command yet, and no networks published"
    if row["experiment"] == "weight_decay_impact":
        return "neither networks nor their training are published"
    return "a number of another paper, for comparison; not measured with this paper's protocol"


def _is_measurable(row: Row) -> bool:
    return row["paper"] == PAPER and row["experiment"] in FAMILIES and row["target"] in TARGETS


def _method(row: Row) -> tuple[str, str, str]:
    method = row["method"].removesuffix(SUB)
    key = method, row["architecture"]
    if key in SHARED:
        group, label, n = SHARED[key]
        network = f"{'swav' if 'swav' in row['experiment'] else 'rrl'}_cat{n}"
    else:
        group, label, network = METHODS[key]
    return group, label if method == "wide" else label + row["method"].removeprefix(method), network


def _recipe(name: str, experiment: str, target: str, transfer: str, rows: list[Row]) -> dict[str, Any]:
    command, options, variables = _command(experiment, target, transfer)
    methods = ", ".join(_method(row)[1] for row in rows)
    return {
        "name": name,
        "description": f"{rows[0]['transfer']} on {rows[0]['target']}, {rows[0]['pretrain']}: {methods}. {SELECTION}",
        "source": {"paper": TITLE, "table": experiment},
        "hardware": _hardware(experiment, target, transfer),
        "time": NO_TIME,
        "variables": {"data_root": None, **variables},
        "command": command,
        "options": {"dataset": target, "data-root": "${data_root}", **pixels(target), **options},
        "cells": [_cell(of_network, transfer) for of_network in _by_network(rows)],
    }


def _hardware(experiment: str, target: str, transfer: str) -> str:
    """As the released scripts ask for it."""
    if "swav" in experiment or (transfer == "linear" and target == "imagenet1k" and "seer" not in experiment):
        return "not stated"
    if "seer" in experiment:
        return f"{SEER_GPUS[target]} GPUs, batch 256"
    if transfer == "init":
        return "8 GPUs, batch 256 (128 for CAT10)"
    count = GPUS[transfer][target]
    own = f"{count} GPU{'s' if count > 1 else ''}, batch 256"
    return own if transfer == "linear" else f"stage 1: 8 GPUs, batch 256, one job a network; stage 2: {own}"


def _command(experiment: str, target: str, transfer: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Command, its options, and the variables they use."""
    if transfer == "linear":
        wd = (SEER_WD if "seer" in experiment else LINEAR_WD)[target]
        return "probe", {"protocol": "rrl-linear", "weight-decay": "${wd}", **linear_views(target)}, {"wd": wd, **VIEWS}
    variables = {"lr": FINETUNE_LR if transfer == "init" else STAGE1_LR, "wd": FINETUNE_WD.get(target, [1e-4, 5e-4])}
    options = {"protocol": "rrl-finetune", "lr": "${lr}", "weight-decay": "${wd}"}
    if transfer == "init":
        return "finetune", options, variables
    return "two-stage", options | {"stage2": "rrl-two-stage"}, variables


def pixels(target: str) -> dict[str, Any]:
    """How the papers show CIFAR to networks of 224 pixels; the other targets are shown as in pretraining."""
    return {"preprocess": CIFAR_PIXELS} if target in ("cifar10", "cifar100") else {}


def linear_views(target: str) -> dict[str, Any]:
    """Random crops, others in every epoch; of small images large ones."""
    return {"views": "${views}"} | ({"view-scale": 0.8} if target in ("cifar10", "cifar100") else {})


def _by_network(rows: list[Row]) -> list[list[Row]]:
    """The rows of each network or concatenation, its control (`SUB`) last."""
    networks: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["method"].endswith(SUB)):
        networks.setdefault(_method(row)[2], []).append(row)
    return list(networks.values())


def _cell(rows: list[Row], transfer: str) -> dict[str, Any]:
    """One command; a second row is its control, which comes out of the same command."""
    labels = [_method(row)[1] for row in rows]
    label, network = labels[0].removesuffix(SUB), _method(rows[0])[2]
    sliced = rows[0]["method"] == "wide_sub"
    members = SLICES[network] if sliced else ZOO[network].members or (network,)
    cell: dict[str, Any] = {"name": label, "options": {"backbone": [f"zoo:{member}" for member in members]}}
    shown = {label: "rrl-two-stage"} if transfer == "2ft" else {label: ["kind=probe", "together"]}
    if transfer == "linear" and network == "rrl_run0":  # the mean of all runs, each alone
        grid = {"backbone": [f"zoo:rrl_run{i}" for i in range(NUM_RUNS)]}
        return {"name": label, "grid": grid, "rows": {label: "alone"}, "expected": expected(rows[0])}
    if sliced:
        cell["options"]["ensemble"] = True
        return {**cell, "rows": {label: "kind=ensemble"}, "expected": expected(rows[0])}
    if len(rows) > 1:
        if transfer == "linear":
            cell["options"]["ensemble"] = True
        numbers = [expected(row, row=name) for row, name in zip(rows, labels, strict=True)]
        return {**cell, "rows": {**shown, label + SUB: "kind=ensemble"}, "expected": numbers}
    if transfer == "linear":
        cell["options"] = {"backbone": [f"zoo:{network}"]}
    if transfer == "init" and len(members) > 1:
        cell["options"]["init-cat"] = True
        if len(members) == 10:
            cell["options"]["batch-size"] = 128
    if transfer == "2ft":
        cell["rows"] = shown  # not its control, the mean of the members' logits
    return {**cell, "expected": expected(rows[0])}
