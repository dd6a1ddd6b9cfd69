"""Data sets by address: `digits`, `cifar10`, `folder:PATH`, `parquet:PATH`, …"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from richrep.data.sources import SOURCES
from richrep.data.split import PARTS, Dataset, Split
from richrep.data.stores import JoinedStore
from richrep.errors import AddressError, DatasetError, unknown_name_message
from richrep.paths import default_data_root


def load_dataset(address: str, *, data_root: Path | str | None = None) -> Dataset:
    """All stored parts of the data set at `address`; images are read later, when asked for.

    Args:
        address: a name ("digits", "cifar10") or a source and a path ("folder:PATH", "parquet:PATH");
            `list_datasets` knows them all.
        data_root: where named data sets lie; None means `$RICHREP_HOME/data`.

    Raises:
        AddressError: the address names nothing.
        DatasetError: it does, but the files, labels or classes there do not fit together.
    """
    name, colon, rest = address.partition(":")
    source = SOURCES.get(name)
    if source is None:
        raise AddressError(_unknown_address_message(address, name if colon else address))
    if source.argument and not rest:
        raise AddressError(f"Dataset {address!r} lacks what to read. Write {name}:{source.argument}.")
    if colon and not source.argument:
        raise AddressError(f"Dataset {address!r} takes nothing after its name. Write {name!r}.")
    root = default_data_root() if data_root is None else Path(data_root).expanduser()
    return replace(source.load(rest, data_root=root), address=address)


def load_split(address: str, part: str, *, data_root: Path | str | None = None) -> Split:
    """One part of the data set at `address`: "train", "val", "trainval" or "test".

    Raises:
        AddressError, DatasetError: as `load_dataset` and `part_of`.

    >>> len(load_split("digits", "train"))
    1258
    """
    if part not in PARTS:
        raise ValueError(unknown_name_message("part", part, PARTS))
    return part_of(load_dataset(address, data_root=data_root), part)


def part_of(dataset: Dataset, part: str) -> Split:
    """The part "train", "val", "trainval" or "test" of `dataset`.

    "trainval" is train followed by the stored val, or train itself when none is stored.

    Raises:
        DatasetError: `part` is "val" and the data set stores none.
    """
    if part == "train":
        return dataset.train
    if part == "test":
        return dataset.test
    if part == "trainval":
        return _trainval(dataset)
    if part != "val":
        raise ValueError(unknown_name_message("part", part, PARTS))
    if dataset.val is None:
        raise DatasetError(
            f"{dataset.name} stores no val part. Probing carves one out of train with the seed, see "
            "richrep.data.split.carve_val; to do it yourself, take its rows of the train part."
        )
    return dataset.val


def list_datasets() -> dict[str, str]:
    """Address -> one line about it, for every known data set and source; paths stand as PATH."""
    return {f"{name}:{s.argument}" if s.argument else name: s.description for name, s in SOURCES.items()}


def _trainval(dataset: Dataset) -> Split:
    train, val = dataset.train, dataset.val
    if val is None:
        return replace(train, part="trainval")
    return replace(
        train,
        part="trainval",
        images=JoinedStore(train.images, val.images),
        positions=np.concatenate([train.positions, val.positions + len(train.images)]),
        labels=np.concatenate([train.labels, val.labels]),
        note="train followed by the stored val",
    )


def _unknown_address_message(address: str, name: str) -> str:
    if name == "hf":
        return (
            f"Dataset {address!r}: hf: is not supported yet. Download the data set as Parquet files (train, test) "
            "and use parquet:PATH."
        )
    if os.path.exists(os.path.expanduser(address)):
        return f"Dataset {address!r} is a path. Say what it holds: folder:{address} or parquet:{address}."
    return unknown_name_message("dataset", name, SOURCES)
