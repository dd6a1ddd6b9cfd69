"""CUB-200-2011: the official lists, or whole classes for few-shot tasks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from richrep.data.sources.registered import RegisteredCopy
from richrep.data.split import Split


def read(copy: RegisteredCopy) -> dict[str, Split]:
    """Train and test by the official list, or for the split "fewshot" train, val and test of different classes.

    Source: C. Wah et al., The Caltech-UCSD Birds-200-2011 Dataset, 2011; the few-shot classes after W.-Y. Chen et al.,
    A Closer Look at Few-shot Classification, 2019.
    """
    folder = copy.data_root / "CUB_200_2011"
    files = _read_columns(folder / "images.txt")
    labels = {image: int(number) - 1 for image, number in _read_columns(folder / "image_class_labels.txt").items()}
    class_names = list(_read_columns(folder / "classes.txt").values())
    if copy.split == "fewshot":
        part_of = {image: ("train", "val", "train", "test")[label % 4] for image, label in labels.items()}
    else:
        is_train = _read_columns(folder / "train_test_split.txt")
        part_of = {image: "train" if is_train[image] == "1" else "test" for image in files}
    parts = {}
    for part in copy.entry.splits[copy.split].sizes:
        images = [image for image in files if part_of[image] == part]
        own = [labels[image] for image in images]
        mask = np.isin(np.arange(len(class_names)), own) if copy.split == "fewshot" else None
        paths = [files[image] for image in images]
        parts[part] = copy.make_part(part, paths, own, class_names, folder=folder / "images", class_mask=mask)
    return parts


def _read_columns(path: Path) -> dict[str, str]:
    """First column -> second column of lines such as '17 001.Black_footed_Albatross/x.jpg'."""
    columns: dict[str, str] = {}
    for line in filter(str.strip, path.read_text(encoding="utf-8").splitlines()):
        first, second = line.split()
        columns[first] = second
    return columns
