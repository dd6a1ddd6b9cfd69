"""CAMELYON17-WILDS: a folder of patches and one table that says hospital, split and tumour."""

from __future__ import annotations

import csv

from richrep.data.sources.registered import RegisteredCopy
from richrep.data.split import Split

CLASS_NAMES = ("normal", "tumor")
HOSPITALS = ("0", "1", "2", "3", "4")
OOD_VAL_HOSPITAL, TEST_HOSPITAL = "1", "2"
ID_VAL = "1"  # of the column `split`, for patches of the other three hospitals; 0 is train
_WHERE = {
    "train": "hospitals 0, 3 and 4 with split 0",
    "id_val": "hospitals 0, 3 and 4 with split 1",
    "ood_val": "hospital 1",
    "test": "hospital 2",
}


def read(copy: RegisteredCopy) -> dict[str, Split]:
    """Train, val (of a hospital outside train, or with the split "id" of those inside), and test; groups are hospitals.

    Raises:
        DatasetError: the table lists no patches for a part, a hospital but 0 … 4, or a label but 0 and 1.

    Source: P. W. Koh et al., WILDS, 2021, version 1.0; P. Bandi et al., From Detection of Individual Metastases, 2018.
    """
    folder = copy.data_root / "camelyon17_v1.0"
    rows: dict[str, list[tuple[str, int, str]]] = {"train": [], "id_val": [], "ood_val": [], "test": []}
    with (folder / "metadata.csv").open(encoding="utf-8", newline="") as file:
        for number, line in enumerate(csv.DictReader(file), start=2):
            if line["center"] not in HOSPITALS or line["tumor"] not in ("0", "1"):
                raise copy.error(
                    f"in {folder} is damaged: metadata.csv line {number} has the center {line['center']!r} and the "
                    f"tumor {line['tumor']!r}, expected a center of 0 to 4 and a tumor of 0 or 1"
                )
            rows[_part_of(line)].append((_patch(line), int(line["tumor"]), f"hospital {line['center']}"))
    chosen = {"train": "train", "val": f"{copy.split}_val", "test": "test"}
    parts = {}
    for part, name in chosen.items():
        if not rows[name]:
            raise copy.error(
                f"in {folder} is not complete: metadata.csv lists no patch of {_WHERE[name]}, the {part} part"
            )
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
