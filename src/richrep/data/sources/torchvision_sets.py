"""`cifar10`, `cifar100`: torchvision's sets, from files that lie under the data root; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import check_integrity

from richrep.data.split import Dataset, Split
from richrep.data.stores import ArrayStore
from richrep.errors import DatasetError


def load_cifar10(rest: str, *, data_root: Path) -> Dataset:
    """CIFAR-10: 50,000 train and 10,000 test images of 32x32 pixels, 10 classes, in the official order.

    Raises:
        DatasetError: the official files are not under `data_root`, or one is not the official one.

    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """
    return _load(CIFAR10, "cifar10", data_root)


def load_cifar100(rest: str, *, data_root: Path) -> Dataset:
    """CIFAR-100: as CIFAR-10, with 100 classes (the fine labels)."""
    return _load(CIFAR100, "cifar100", data_root)


def _load(torchvision_set: Any, name: str, data_root: Path) -> Dataset:
    _check_files(torchvision_set, name, data_root)
    parts = {}
    for part in ("train", "test"):
        stored = torchvision_set(root=str(data_root), train=part == "train", download=False)
        parts[part] = Split(
            dataset=name,
            part=part,
            images=ArrayStore(stored.data, source=f"{name} {part}"),
            positions=np.arange(len(stored.data)),
            labels=np.asarray(stored.targets, dtype=np.int64),
            class_names=tuple(stored.classes),
        )
    return Dataset(address=name, name=name, train=parts["train"], test=parts["test"])


def _check_files(torchvision_set: Any, name: str, data_root: Path) -> None:
    """Raises DatasetError naming every file that is missing or whose MD5 is not the official one."""
    folder = data_root / torchvision_set.base_folder
    fetch = (
        f"Fetch it once with torchvision.datasets.{torchvision_set.__name__}({str(data_root)!r}, download=True), "
        f"or unpack {torchvision_set.url} in {data_root}, or give another --data-root, the folder that holds "
        f"{torchvision_set.base_folder}."
    )
    if not folder.is_dir():
        raise DatasetError(f"{name} is not there: {folder} does not exist. {fetch}")
    meta = torchvision_set.meta
    wanted = [*torchvision_set.train_list, *torchvision_set.test_list, (meta["filename"], meta["md5"])]
    bad = [file for file, md5 in wanted if not check_integrity(folder / file, md5)]
    if bad:
        states = ", ".join(f"{file} ({'damaged' if (folder / file).exists() else 'missing'})" for file in bad)
        raise DatasetError(f"{name} in {folder} is not complete: {states}. Remove that folder. {fetch}")
