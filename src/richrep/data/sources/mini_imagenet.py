"""miniImageNet: one folder of images, and the lists of Ravi and Larochelle."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from richrep.data.sources.registered import RegisteredCopy
from richrep.data.split import Split


def read(copy: RegisteredCopy) -> dict[str, Split]:
    """Train, val and test of 64, 16 and 20 classes; labels count in all 100, sorted by WordNet id.

    Source: S. Ravi and H. Larochelle, Optimization as a Model for Few-Shot Learning, 2017.
    """
    folder = copy.data_root / "mini_imagenet"
    rows = {part: _read_list(folder / f"{part}.csv") for part in ("train", "val", "test")}
    class_names = sorted({label for of_part in rows.values() for _, label in of_part})
    label_of = {name: label for label, name in enumerate(class_names)}
    parts = {}
    for part, of_part in rows.items():
        labels = [label_of[name] for _, name in of_part]
        mask = np.isin(np.arange(len(class_names)), labels)
        files = [file for file, _ in of_part]
        parts[part] = copy.make_part(part, files, labels, class_names, folder=folder / "images", class_mask=mask)
    return parts


def _read_list(path: Path) -> list[tuple[str, str]]:
    """File name and WordNet id of every line."""
    with path.open(encoding="utf-8", newline="") as file:
        return [(line["filename"], line["label"]) for line in csv.DictReader(file)]
