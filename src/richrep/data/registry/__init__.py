"""The registered data sets, one entry each as data, and how their names are found. To add one, write its entry."""

from __future__ import annotations

import re

from richrep.data.registry import domains, fine_grained, general, imagenet
from richrep.data.registry.entry import DatasetEntry

REGISTRY: dict[str, DatasetEntry] = {
    entry.name: entry for entry in (*general.ENTRIES, *fine_grained.ENTRIES, *imagenet.ENTRIES, *domains.ENTRIES)
}


def plain(name: str) -> str:
    """`name` without what never matters: case, dashes, underscores, dots and spaces.

    >>> plain("Oxford-IIIT_Pet")
    'oxfordiiitpet'
    """
    return re.sub(r"[-_. ]", "", name).lower()


_NAME_OF = {plain(spelling): entry.name for entry in REGISTRY.values() for spelling in (entry.name, *entry.aliases)}


def find_entry(name: str) -> DatasetEntry | None:
    """The data set of that name or alias; None when there is none.

    >>> find_entry("CIFAR-10").name
    'cifar10'
    """
    found = _NAME_OF.get(plain(name))
    return None if found is None else REGISTRY[found]
