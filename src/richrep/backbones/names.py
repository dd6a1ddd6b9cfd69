"""Short names that tell backbones apart in a table."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import count
from pathlib import PurePath

from richrep.backbones.backbone import Backbone


def distinct_names(backbones: Sequence[Backbone]) -> list[str]:
    """One name a backbone, all different: its own where that is unique, else with what its address adds, else a number.

    Two ResNet-20 from `a/net_seed1.pth` and `a/net_seed2.pth` become `resnet20:seed1` and `resnet20:seed2`.
    """
    counts = Counter(b.name for b in backbones)
    names = [b.name for b in backbones]
    for name in (n for n, times in counts.items() if times > 1):
        members = [i for i, b in enumerate(backbones) if b.name == name]
        for i, extra in zip(members, _differences([backbones[i].address for i in members]), strict=True):
            names[i] = f"{name}:{extra}" if extra else name
    repeats = Counter(names)
    taken = set(names)
    for i, name in enumerate(names):
        if repeats[name] > 1:
            names[i] = next(n for n in (f"{name}#{k}" for k in count(1)) if n not in taken)
            taken.add(names[i])
    return names


def _differences(addresses: Sequence[str]) -> list[str]:
    """The words of each address's last part (if those are equal, with its suffix, or of its folders) not all have."""
    paths = [PurePath(address.rpartition("@")[2]) for address in addresses]
    for texts in ([p.stem for p in paths], [p.name for p in paths], [str(p.parent) for p in paths]):
        words = [[w for w in re.split(r"[^0-9A-Za-z]+", text) if w] for text in texts]
        shared = set.intersection(*(set(w) for w in words))
        extras = ["_".join(w for w in group if w not in shared) for group in words]
        if len(set(extras)) == len(extras):
            return extras
    return [""] * len(addresses)
