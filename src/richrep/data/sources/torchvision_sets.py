"""The registered data sets that torchvision lists, from files under the data root; nothing is downloaded.

torchvision says which file has which label; the images are decoded here, when they are asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torchvision.datasets import (
    CIFAR10,
    CIFAR100,
    DTD,
    SUN397,
    Caltech101,
    Caltech256,
    EuroSAT,
    FGVCAircraft,
    Flowers102,
    Food101,
    OxfordIIITPet,
    StanfordCars,
)
from torchvision.datasets.utils import check_integrity

from richrep.data.sources.layout import listing, order_by_hash
from richrep.data.sources.registered import RegisteredCopy
from richrep.data.split import Split, rows_of_each_class
from richrep.data.stores import ArrayStore


def read_cifar10(copy: RegisteredCopy) -> dict[str, Split]:
    """CIFAR-10 in the official order, from the official files and no others: they are pickles.

    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """
    return _read_cifar(copy, CIFAR10)


def read_cifar100(copy: RegisteredCopy) -> dict[str, Split]:
    """CIFAR-100, as CIFAR-10, with the fine labels."""
    return _read_cifar(copy, CIFAR100)


def read_flowers102(copy: RegisteredCopy) -> dict[str, Split]:
    """Flowers-102. Source: M.-E. Nilsback and A. Zisserman, Automated Flower Classification, 2008."""
    return _read_listed(copy, {part: Flowers102(copy.data_root, split=part) for part in ("train", "val", "test")})


def read_oxford_pets(copy: RegisteredCopy) -> dict[str, Split]:
    """Oxford-IIIT Pets. Source: O. M. Parkhi et al., Cats and Dogs, 2012."""
    stored = {"train": "trainval", "test": "test"}
    return _read_listed(copy, {part: OxfordIIITPet(copy.data_root, split=name) for part, name in stored.items()})


def read_dtd(copy: RegisteredCopy) -> dict[str, Split]:
    """DTD, partition 1 to 10. Source: M. Cimpoi et al., Describing Textures in the Wild, 2014."""
    number = _partition(copy.split)
    sets = {part: DTD(copy.data_root, split=part, partition=number) for part in ("train", "val", "test")}
    return _read_listed(copy, sets)


def read_food101(copy: RegisteredCopy) -> dict[str, Split]:
    """Food-101. Source: L. Bossard et al., Food-101: Mining Discriminative Components with Random Forests, 2014."""
    return _read_listed(copy, {part: Food101(copy.data_root, split=part) for part in ("train", "test")})


def read_fgvc_aircraft(copy: RegisteredCopy) -> dict[str, Split]:
    """FGVC-Aircraft, variants. Source: S. Maji et al., Fine-Grained Visual Classification of Aircraft, 2013."""
    return _read_listed(copy, {part: FGVCAircraft(copy.data_root, split=part) for part in ("train", "val", "test")})


def read_stanford_cars(copy: RegisteredCopy) -> dict[str, Split]:
    """Stanford Cars. Source: J. Krause et al., 3D Object Representations for Fine-Grained Categorization, 2013."""
    parts = {}
    for part in ("train", "test"):
        stored = StanfordCars(copy.data_root, split=part)
        files, labels = zip(*stored._samples, strict=True)
        parts[part] = copy.make_part(part, files, labels, stored.classes)
    return parts


def read_eurosat(copy: RegisteredCopy) -> dict[str, Split]:
    """EuroSAT: of every class equally many images to test and to val, the rest to train, in hash order.

    Source: P. Helber et al., EuroSAT, 2019; the counts after t-ReX (naver/trex). Differs: the order is fixed.
    """
    stored = EuroSAT(copy.data_root)
    files, labels = zip(*stored.samples, strict=True)
    sizes = copy.entry.splits[copy.split].sizes
    per_class = {part: sizes[part] // copy.entry.num_classes for part in ("test", "val")}
    return _divide(copy, files, labels, stored.classes, first=per_class, rest="train", order=_in_hash_order)


def read_caltech101(copy: RegisteredCopy) -> dict[str, Split]:
    """Caltech-101: 30 images of every class to train, the rest to test. Source: L. Fei-Fei et al., 2004."""
    folder, stored = copy.data_root / "caltech101" / "101_ObjectCategories", Caltech101(copy.data_root)
    files = [
        str(folder / stored.categories[label] / f"image_{number:04d}.jpg")
        for label, number in zip(stored.y, stored.index, strict=True)
    ]
    return _divide_caltech(copy, files, stored)


def read_caltech256(copy: RegisteredCopy) -> dict[str, Split]:
    """Caltech-256: 60 images of every class to train, the rest to test. Source: G. Griffin et al., 2007."""
    folder, stored = copy.data_root / "caltech256" / "256_ObjectCategories", Caltech256(str(copy.data_root))
    files = [
        str(folder / stored.categories[label] / f"{label + 1:03d}_{number:04d}.jpg")
        for label, number in zip(stored.y, stored.index, strict=True)
    ]
    return _divide_caltech(copy, files, stored)


def read_sun397(copy: RegisteredCopy) -> dict[str, Split]:
    """SUN397, partition 1 to 10; torchvision knows the classes and files, the official lists the partition.

    Source: J. Xiao et al., SUN Database, 2010.
    """
    stored = SUN397(copy.data_root)
    present = set(map(str, stored._image_files))
    number = _partition(copy.split)
    parts = {}
    for part, name in (("train", "Training"), ("test", "Testing")):
        text = (copy.data_root / "SUN397" / f"{name}_{number:02d}.txt").read_text(encoding="utf-8")
        lines = [line.strip().strip("/") for line in text.splitlines() if line.strip()]
        labels = [stored.class_to_idx["/".join(line.split("/")[1:-1])] for line in lines]  # "a/abbey/sun_x.jpg"
        files = [str(copy.data_root / "SUN397" / line) for line in lines]
        absent = [file for file in files if file not in present]
        if absent:
            raise copy.error(f"is not complete: {len(absent):,} images of {part} do not exist, {listing(absent[:1])}")
        parts[part] = copy.make_part(part, files, labels, stored.classes)
    return parts


def _partition(split: str) -> int:
    """'split7' -> 7; the splits named after papers are the first."""
    return int(split.removeprefix("split")) if split.startswith("split") else 1


def _read_listed(copy: RegisteredCopy, sets: Mapping[str, Any]) -> dict[str, Split]:
    """The parts of torchvision sets that list their files and labels."""
    class_names = sets["train"].classes
    for part, stored in sets.items():
        if list(stored.classes) != list(class_names):
            raise copy.error(f"is not whole: {part} and train have different classes")
    return {
        part: copy.make_part(part, [str(file) for file in _files_of(stored)], stored._labels, class_names)
        for part, stored in sets.items()
    }


def _files_of(stored: Any) -> Sequence[Path | str]:
    files: Sequence[Path | str] = stored._images if isinstance(stored, OxfordIIITPet) else stored._image_files
    return files


def _divide_caltech(copy: RegisteredCopy, files: Sequence[str], stored: Any) -> dict[str, Split]:
    per_class = copy.entry.splits[copy.split].sizes["train"] // copy.entry.num_classes
    order = _in_hash_order if copy.split == "trex" else _as_stored
    return _divide(copy, files, stored.y, stored.categories, first={"train": per_class}, rest="test", order=order)


def _as_stored(files: Sequence[str]) -> Sequence[int]:
    return range(len(files))


def _in_hash_order(files: Sequence[str]) -> Sequence[int]:
    """By CLASS/FILE, so that the folder above plays no part."""
    return order_by_hash(["/".join(Path(file).parts[-2:]) for file in files])


def _divide(
    copy: RegisteredCopy,
    files: Sequence[str],
    labels: Sequence[int],
    class_names: Sequence[str],
    *,
    first: Mapping[str, int],
    rest: str,
    order: Callable[[Sequence[str]], Sequence[int]],
) -> dict[str, Split]:
    """Of every class, in `order`, the `first` so many images to each part, and what is left to `rest`."""
    rows: dict[str, list[int]] = {part: [] for part in (*first, rest)}
    for of_class in rows_of_each_class(np.asarray(labels)):
        ordered = of_class[np.asarray(order([files[row] for row in of_class]))].tolist()
        start = 0
        for part, count in first.items():
            rows[part] += ordered[start : start + count]
            start += count
        rows[rest] += ordered[start:]
    return {
        part: copy.make_part(part, [files[row] for row in chosen], [labels[row] for row in chosen], class_names)
        for part, chosen in rows.items()
    }


def _read_cifar(copy: RegisteredCopy, torchvision_set: Any) -> dict[str, Split]:
    _check_md5(copy, torchvision_set)
    parts = {}
    for part in ("train", "test"):
        stored = torchvision_set(root=str(copy.data_root), train=part == "train", download=False)
        parts[part] = Split(
            dataset=copy.name,
            part=part,
            images=ArrayStore(stored.data, source=f"{copy.name} {part}"),
            positions=np.arange(len(stored.data)),
            labels=np.asarray(stored.targets, dtype=np.int64),
            class_names=tuple(stored.classes),
        )
    return parts


def _check_md5(copy: RegisteredCopy, torchvision_set: Any) -> None:
    """Raises DatasetError naming every file that is missing or whose MD5 is not the official one."""
    folder = copy.data_root / torchvision_set.base_folder
    meta = torchvision_set.meta
    wanted = [*torchvision_set.train_list, *torchvision_set.test_list, (meta["filename"], meta["md5"])]
    bad = [file for file, md5 in wanted if not check_integrity(folder / file, md5)]
    if bad:
        states = ", ".join(f"{file} ({'damaged' if os.path.exists(folder / file) else 'missing'})" for file in bad)
        raise copy.error(f"in {folder} is not complete: {states}")
