"""How a data set lies in a folder: which name is which part, and how train is split when no test part is stored."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from richrep.data.split import Dataset, Split, carve_val, interleave_by_class
from richrep.errors import DatasetError

SPLIT_SEED = 0  # one for everybody: a data set without a test part has the same test images everywhere
TEST_FRACTION = 0.2

_PARTS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def part_named(name: str) -> str | None:
    """The part a folder or file name stands for, in any case: 'Validation' -> 'val'; None for any other name."""
    return _PARTS.get(name.lower())


def absolute(path: str) -> Path:
    """The full path of what the user typed, `~` expanded, symbolic links kept."""
    return Path(os.path.abspath(os.path.expanduser(path)))


def absence(path: Path | str) -> str:
    """Why nothing can be read at `path`, 'does not exist' or the system's reason; "" when something is there."""
    try:
        os.stat(path)
    except PermissionError:
        return "cannot be read: no permission"
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL in the path
        return "does not exist"
    except OSError as error:
        return f"does not exist ({error.strerror})"
    return ""


def listing(names: Iterable[str], *, limit: int = 8) -> str:
    """The first `limit` names, quoted, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(repr(name) for name in names[:limit]) + more


def folder_entries(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in `folder`, sorted by name, without hidden entries.

    Raises:
        DatasetError: there is no such folder, or it cannot be read.
    """
    if not os.path.isdir(folder):  # unlike Path.is_dir, no error for a name that is too long or a closed parent
        what = absence(folder) or "is a file, not a folder"
        raise DatasetError(f"{folder} {what}. Give the folder that holds the data set.")
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise DatasetError(f"The folder {folder} cannot be read: {error.strerror}.") from error


def order_by_hash(names: Sequence[str]) -> list[int]:
    """The positions of `names` in a random but fixed order: that of the SHA-256 of SPLIT_SEED and name.

    It depends on nothing else, no generator and no other name, so that an image stays in its part everywhere.

    >>> order_by_hash(["a/1.jpg", "a/2.jpg", "a/3.jpg"])
    [2, 0, 1]
    """
    digests = [hashlib.sha256(f"{SPLIT_SEED}:{name}".encode()).digest() for name in names]
    return sorted(range(len(names)), key=digests.__getitem__)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether `entry` is a folder or a link to one; a link to itself is neither."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def check_parts(parts: Collection[str], *, where: Path | str) -> None:
    """Raises DatasetError unless there is a train part, and a test part wherever there is a val part.

    A val part alone is never scored as test: hyper-parameters are chosen on it.
    """
    if "train" not in parts:
        raise DatasetError(f"{where} stores {listing(sorted(parts))} but no train part. Add one named 'train'.")
    if "val" in parts and "test" not in parts:
        raise DatasetError(
            f"{where} stores train and val but no test part. Hyper-parameters are chosen on val, so its score would "
            "be too good. If val was meant for the final score (as in ImageNet), rename it to 'test'; richrep carves "
            "its own val out of train."
        )


def interleaved(split: Split) -> Split:
    """The same images with the classes taking turns, see `interleave_by_class`; the seed is SPLIT_SEED."""
    return split.take(interleave_by_class(split.labels, seed=SPLIT_SEED))


def split_by_seed(whole: Split, *, test_fraction: float = TEST_FRACTION) -> tuple[Split, Split]:
    """Train and test out of one part: `test_fraction` of every class goes to test, as `carve_val` counts it.

    The rule stands in both notes; both are interleaved by class.

    Raises:
        DatasetError: no class has a second image that could go to test.
    """
    train_rows, test_rows = carve_val(whole.labels, fraction=test_fraction, seed=SPLIT_SEED)
    if not len(test_rows):
        raise DatasetError(
            f"{whole.dataset} stores no test part, and none can be split off: its {len(whole)} images are of "
            f"{len(whole)} different classes. Add a part named 'test'."
        )
    note = f"split {100 * (1 - test_fraction):g}/{100 * test_fraction:g} per class, seed {SPLIT_SEED}"
    whole = replace(whole, note=note)
    return interleaved(whole.take(train_rows, part="train")), interleaved(whole.take(test_rows, part="test"))


def make_dataset(parts: Mapping[str, Split], *, address: str) -> Dataset:
    """The data set of the stored parts; without a test part, train is split 80/20 by the fixed seed.

    Args:
        parts: train and, where stored, val and test, with the same class names (see `check_parts`).
        address: as the user typed it.

    Raises:
        DatasetError: fewer than two classes, a class without an image in train, or nothing to split off as test.
    """
    train, test, val = parts["train"], parts.get("test"), parts.get("val")
    if train.num_classes < 2:
        raise DatasetError(
            f"{address} has one class, {train.class_names[0]!r}; classification needs at least two. "
            "If that is a folder around the classes, give that folder instead."
        )
    for other in (val, test):
        if other is not None:
            _check_classes(train, other)
    if test is None:
        train, test = split_by_seed(train)
    return Dataset(address=address, name=train.dataset, train=train, test=test, val=val)


def _check_classes(train: Split, other: Split) -> None:
    """Raises DatasetError when `other` holds images of a class that train lacks: they can never be right."""
    missing = np.setdiff1d(other.labels, train.labels)
    if len(missing):
        names = listing(other.class_names[label] for label in missing)
        raise DatasetError(
            f"{other.dataset}/{other.part} holds images of {names}, of which train has none. "
            f"Add training images, or remove the class from {other.part}."
        )
