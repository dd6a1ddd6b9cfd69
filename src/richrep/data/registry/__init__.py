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


_PLACE_OF = {
    plain(spelling): (entry.name, split) for entry in REGISTRY.values() for spelling, split in entry.spellings.items()
}


def find_entry(name: str) -> tuple[DatasetEntry, str] | None:
    """The data set of that name or alias, and the split that it means ("": the default); None when there is none.

    >>> entry, split = find_entry("ImageNetV2-top-images")
    >>> entry.name, split
    ('imagenet_v2', 'top-images')
    """
    found = _PLACE_OF.get(plain(name))
    return None if found is None else (REGISTRY[found[0]], found[1])
