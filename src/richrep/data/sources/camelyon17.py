"""CAMELYON17-WILDS: a folder of patches and one table that says hospital, split and tumour."""

from __future__ import annotations

import csv

from richrep.data.sources.registered import RegisteredCopy
from richrep.data.split import Split

CLASS_NAMES = ("normal", "tumor")
OOD_VAL_HOSPITAL, TEST_HOSPITAL = "1", "2"
ID_VAL = "1"  # of the column `split`, for patches of the other three hospitals; 0 is train


def read(copy: RegisteredCopy) -> dict[str, Split]:
    """Train, val (of a hospital outside train, or with the split "id" of those inside), and test; groups are hospitals.

    Source: P. W. Koh et al., WILDS, 2021, version 1.0; P. Bandi et al., From Detection of Individual Metastases, 2018.
    """
    folder = copy.data_root / "camelyon17_v1.0"
    rows: dict[str, list[tuple[str, int, str]]] = {"train": [], "id_val": [], "ood_val": [], "test": []}
    with (folder / "metadata.csv").open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            rows[_part_of(line)].append((_patch(line), int(line["tumor"]), f"hospital {line['center']}"))
    chosen = {"train": "train", "val": f"{copy.split}_val", "test": "test"}
    parts = {}
    for part, name in chosen.items():
        files, labels, groups = zip(*rows[name], strict=True)
        parts[part] = copy.make_part(part, files, labels, CLASS_NAMES, folder=folder / "patches", groups=groups)
    return parts


def _part_of(line: dict[str, str]) -> str:
    if line["center"] == OOD_VAL_HOSPITAL:
        return "ood_val"
    if line["center"] == TEST_HOSPITAL:
        return "test"
    return "id_val" if line["split"] == ID_VAL else "train"


def _patch(line: dict[str, str]) -> str:
    patient = f"patient_{line['patient'].zfill(3)}_node_{line['node']}"
    return f"{patient}/patch_{patient}_x_{line['x_coord']}_y_{line['y_coord']}.png"
