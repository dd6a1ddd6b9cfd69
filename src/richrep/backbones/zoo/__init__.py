"""The papers' published checkpoints by name, `zoo:NAME`: entry.py has the contract, published.py the list."""

from __future__ import annotations

from richrep.backbones.zoo.entry import ZooEntry
from richrep.backbones.zoo.published import ENTRIES

ZOO: dict[str, ZooEntry] = {entry.name: entry for entry in ENTRIES}
