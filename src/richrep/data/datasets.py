"""Data sets by address: `digits`, `flowers102`, `sun397:split1`, `folder:PATH`, `csv:FILE`, `hf:OWNER/NAME`, …"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from richrep.data.registry import REGISTRY, find_entry, plain
from richrep.data.sources import SOURCES
from richrep.data.sources.layout import absolute
from richrep.data.sources.registered import RegisteredCopy
from richrep.data.split import PARTS, Dataset, Split
from richrep.data.stores import JoinedStore
from richrep.errors import AddressError, DatasetError, unknown_name_message
from richrep.paths import default_data_root


def load_dataset(address: str, *, data_root: Path | str | None = None) -> Dataset:
    """All stored parts of the data set at `address`; images are read later, when asked for.

    Args:
        address: a registered name, in any usual spelling ("cifar10", "CIFAR-100", "sun397:split2"), or a source and
            what it reads ("folder:PATH", "parquet:PATH", "csv:FILE", "hf:OWNER/NAME"); `list_datasets` knows them all.
        data_root: where registered data sets lie; None means `$RICHREP_HOME/data`.

    Raises:
        AddressError: the address names nothing.
        DatasetError: it does, but the files, labels or classes there do not fit together; a registered data set has not
            its stated size; or it has no train part, so that it cannot be probed.
    """
    copy = find_copy(address, data_root=data_root)
    return _load_from_source(address) if copy is None else copy.dataset(address)


def load_split(address: str, part: str, *, data_root: Path | str | None = None) -> Split:
    """One part of the data set at `address`: "train", "val", "trainval" or "test".

    Raises:
        AddressError, DatasetError: as `load_dataset` and `part_of`. A data set that cannot be probed still has parts.

    >>> len(load_split("digits", "train"))
    1258
    """
    if part not in PARTS:
        raise ValueError(unknown_name_message("part", part, PARTS))
    return part_among(load_parts(address, data_root=data_root), part)


def load_parts(address: str, *, data_root: Path | str | None = None) -> dict[str, Split]:
    """The stored parts of the data set at `address` by name; unlike for `load_dataset`, a test part alone will do.

    Raises:
        AddressError, DatasetError: as `load_dataset`, but for data sets that cannot be probed.
    """
    copy = find_copy(address, data_root=data_root)
    return parts_of(_load_from_source(address)) if copy is None else copy.load()


def part_of(dataset: Dataset, part: str) -> Split:
    """The part "train", "val", "trainval" or "test" of `dataset`.

    "trainval" is train followed by the stored val, or train itself when none is stored.

    Raises:
        DatasetError: `part` is "val" and the data set stores none.
    """
    if part not in PARTS:
        raise ValueError(unknown_name_message("part", part, PARTS))
    return part_among(parts_of(dataset), part)


def parts_of(dataset: Dataset) -> dict[str, Split]:
    """The stored parts by name: train, val where there is one, test."""
    val = {} if dataset.val is None else {"val": dataset.val}
    return {"train": dataset.train, **val, "test": dataset.test}


def find_copy(address: str, *, data_root: Path | str | None = None) -> RegisteredCopy | None:
    """The registered data set that `address` names, under the data root; None when it names a source.

    Raises:
        AddressError: the address names neither, or a split that the data set does not have.
    """
    name, colon, split = address.partition(":")
    if name in SOURCES:
        return None
    found = find_entry(name)
    if found is None:
        raise AddressError(_unknown_address_message(address, name if colon else address))
    entry, meant = found
    root = default_data_root() if data_root is None else absolute(str(data_root))
    if not colon:
        return RegisteredCopy(entry, meant or entry.default_split, root)
    if meant:
        raise AddressError(f"Dataset {address!r} takes nothing after its name: {name!r} means {entry.name}:{meant}.")
    spelled = {plain(known): known for known in entry.splits}
    if plain(split) in spelled:
        return RegisteredCopy(entry, spelled[plain(split)], root)
    if len(entry.splits) == 1:
        raise AddressError(f"Dataset {address!r} takes nothing after its name. Write {entry.name!r}.")
    raise AddressError(unknown_name_message(f"split of {entry.name}", split, entry.splits))


def list_datasets() -> dict[str, str]:
    """Address -> one line about it, for every registered data set and every source; paths stand as PATH."""
    registered = {
        entry.name: f"{entry.title.partition(',')[0]}: {entry.describe_sizes(entry.default_split)}"
        for entry in REGISTRY.values()
    }
    return {**registered, **{f"{name}:{source.argument}": source.description for name, source in SOURCES.items()}}


def _load_from_source(address: str) -> Dataset:
    name, _, rest = address.partition(":")
    if not rest:
        raise AddressError(f"Dataset {address!r} lacks what to read. Write {name}:{SOURCES[name].argument}.")
    return replace(SOURCES[name].load(rest), address=address)


def part_among(parts: Mapping[str, Split], part: str) -> Split:
    """The part `part` of the stored `parts`, as `part_of`. Raises DatasetError where there is no such part."""
    if part in parts:
        return parts[part]
    if part == "trainval" and "train" in parts:
        return _trainval(parts["train"], parts.get("val"))
    name = next(iter(parts.values())).dataset
    if part == "val" and "train" in parts:
        raise DatasetError(
            f"{name} stores no val part. Probing carves one out of train with the seed, see "
            "richrep.data.split.carve_val; to do it yourself, take its rows of the train part."
        )
    raise DatasetError(f"{name} stores no {part} part, only {' and '.join(parts)}.")


def _trainval(train: Split, val: Split | None) -> Split:
    if val is None:
        return replace(train, part="trainval")
    return replace(
        train,
        part="trainval",
        images=JoinedStore(train.images, val.images),
        positions=np.concatenate([train.positions, val.positions + len(train.images)]),
        labels=np.concatenate([train.labels, val.labels]),
        groups=_joined_groups(train, val),
        class_mask=_joined_masks(train, val),
        note="train followed by the stored val",
    )


def _joined_groups(train: Split, val: Split) -> np.ndarray | None:
    if train.groups is None or val.groups is None:
        return None
    return np.concatenate([train.groups, val.groups])


def _joined_masks(train: Split, val: Split) -> np.ndarray | None:
    if train.class_mask is None or val.class_mask is None:
        return None
    mask: np.ndarray = np.logical_or(train.class_mask, val.class_mask)
    return mask


def _unknown_address_message(address: str, name: str) -> str:
    if os.path.exists(os.path.expanduser(address)):
        sources = ("csv",) if address.lower().endswith(".csv") else ("folder", "parquet")
        return f"Dataset {address!r} is a path. Say what it holds: {' or '.join(f'{s}:{address}' for s in sources)}."
    return unknown_name_message("dataset", name, [*REGISTRY, *SOURCES])
