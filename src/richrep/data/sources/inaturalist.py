"""iNaturalist 2018 and 2019: the official lists say which image is train and which val, and its category."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from richrep.data.sources.layout import listing
from richrep.data.sources.registered import RegisteredCopy
from richrep.data.split import Split


def read(copy: RegisteredCopy) -> dict[str, Split]:
    """Train, and the official val part as test; the label is the category id.

    Source: G. Van Horn et al., The iNaturalist Species Classification and Detection Dataset, 2018. Differs from
    t-ReX: image and annotation are joined by the image's id, not by their order.
    """
    year = copy.entry.name[-4:]
    folder = copy.data_root / copy.entry.name
    images = _image_folder(copy, folder, year)
    lists = {part: _read_list(folder / f"{name}{year}.json") for part, name in (("train", "train"), ("test", "val"))}
    class_names = _class_names(copy, lists["train"])
    parts = {}
    for part, content in lists.items():
        label_of = {line["image_id"]: line["category_id"] for line in content["annotations"]}
        files = [str(images / line["file_name"].partition("/")[2]) for line in content["images"]]
        labels = [label_of[line["id"]] for line in content["images"]]
        parts[part] = copy.make_part(part, files, labels, class_names)
    return parts


def _image_folder(copy: RegisteredCopy, folder: Path, year: str) -> Path:
    """Where the images lie: as the archive names the folder, or as torchvision renames it."""
    for path in (folder / f"train_val{year}", folder / year):
        if os.path.isdir(path):
            return path
    raise copy.error(f"in {folder} is not complete: neither train_val{year} nor {year} exists")


def _read_list(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _class_names(copy: RegisteredCopy, content: Any) -> list[str]:
    """Names of the categories 0 … K - 1."""
    names = {line["id"]: str(line.get("name", line["id"])) for line in content["categories"]}
    if sorted(names) != list(range(len(names))):
        strange = [str(number) for number in sorted(set(names) - set(range(len(names))))]
        raise copy.error(f"has category ids that do not count from 0 without a gap, {listing(strange)}")
    return [names[number] for number in range(len(names))]
